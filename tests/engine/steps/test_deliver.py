"""The download step: a clip that cannot be downloaded is polled again, and never generated again."""

import asyncio
from dataclasses import replace

import pytest

from batchrunner.engine.outcomes import CopyToBucket, Finish, LeaveInFlight, PollAgain
from batchrunner.engine.steps import deliver
from batchrunner.errors import CallError, LocalFault, NetworkFault, ServiceFault
from batchrunner.events import Fetching
from batchrunner.job import Job, Record, Result, State
from tests.conftest import make_record
from tests.engine.steps.stepping import Clips, Stepping

RESULT = Result(5_000_000, "ab" * 32, 480, 480, 2.0)


class Bucket:
    """A bucket that raises or returns what a test says."""

    def __init__(self, *replies: CallError | Result | None) -> None:
        self.replies = list(replies)
        self.released: list[Record] = []

    async def publish(self, _: Job, result: Result) -> Result | None:
        reply = self.replies.pop(0)
        if isinstance(reply, CallError):
            raise reply
        return reply

    async def release(self, record: Record) -> None:
        self.released.append(record)


def downloading(error: CallError) -> Stepping:
    return Stepping(make_record("a", State.IN_FLIGHT), clips=Clips(error))


def test_a_download_that_fails_polls_again_for_a_fresh_link() -> None:
    stepping = downloading(NetworkFault("cut", "broke off"))
    assert stepping.take("download") == PollAgain(2.0, over=True)
    assert stepping.record.state is State.IN_FLIGHT


@pytest.mark.parametrize("kind", ["bad_file", "check_limit"])
def test_a_clip_that_is_never_whole_fails_its_job(kind: str) -> None:
    stepping = downloading(ServiceFault(kind, "no clip"))
    steps = [stepping.take("download") for _ in range(1 if kind == "check_limit" else 6)]
    assert all(isinstance(step, PollAgain) for step in steps[:-1])
    assert steps[-1] == Finish()
    assert stepping.record.error is not None
    assert stepping.record.error.kind == kind


def test_a_clip_whose_host_never_answers_is_left_for_the_next_run() -> None:
    stepping = downloading(NetworkFault("cut", "broke off"))
    for _ in range(6):
        step = stepping.take("download")
        stepping.answer_another("download")
    assert isinstance(step, LeaveInFlight)
    assert "the next run fetches it" in step.why
    assert stepping.record.state is State.IN_FLIGHT


def test_a_full_disk_is_raised() -> None:
    stepping = downloading(LocalFault("disk_full", "the disk is full"))
    with pytest.raises(LocalFault):
        stepping.take("download")


@pytest.mark.parametrize(
    ("state", "result", "after"),
    [
        (State.IN_FLIGHT, RESULT, State.SUCCEEDED),
        (State.IN_FLIGHT, None, State.IN_FLIGHT),
        (State.SUCCEEDED, None, State.IN_FLIGHT),
    ],
)
def test_the_run_directory_settles_jobs(state: State, result: Result | None, after: State) -> None:
    stepping = Stepping(make_record("a", state))
    asyncio.run(deliver.settle(stepping.context, {stepping.fingerprint: result}))
    assert stepping.record.state is after


def test_progress_is_announced_twice_a_second_at_most() -> None:
    stepping = Stepping(make_record("a", State.IN_FLIGHT))
    on_progress = deliver.progress_of(stepping.context, stepping.fingerprint)
    for received_bytes in range(0, 1000, 100):
        stepping.clock.at_s += 0.2
        on_progress(received_bytes, 1000)
    received = [event.received_bytes for event in stepping.announced if isinstance(event, Fetching)]
    assert received == [200, 500, 800]


COPIED = replace(RESULT, objects={"s3://clips/a.mp4": "etag"})
UNREACHABLE = NetworkFault("bucket_unreachable", "the store cannot be reached")


def copying(*replies: CallError | Result | None) -> tuple[Stepping, Bucket]:
    bucket = Bucket(*replies)
    record = replace(make_record("a", State.IN_FLIGHT), result=RESULT)
    return Stepping(record, bucket=bucket), bucket


def test_a_job_succeeds_when_its_copy_is_confirmed_and_then_its_file_is_freed() -> None:
    stepping, bucket = copying(COPIED)
    assert stepping.take("deliver") == Finish()
    assert stepping.record.state is State.SUCCEEDED
    assert stepping.record.result is not None
    assert stepping.record.result.objects == COPIED.objects
    assert bucket.released == [stepping.record]


def test_a_bucket_that_is_down_is_tried_again_and_the_job_stays_in_flight() -> None:
    stepping, bucket = copying(UNREACHABLE, UNREACHABLE, COPIED)
    assert stepping.take("deliver") == CopyToBucket(2.0)
    assert isinstance(stepping.take("deliver"), CopyToBucket)
    assert stepping.record.state is State.IN_FLIGHT
    assert bucket.released == []
    assert stepping.take("deliver") == Finish()


def test_a_copy_that_fails_alone_is_left_for_the_next_run() -> None:
    stepping, _ = copying(*[UNREACHABLE] * 12)
    for _ in range(12):
        step = stepping.take("deliver")
        stepping.answer_another("deliver")
    assert isinstance(step, LeaveInFlight)
    assert "the next run copies it" in step.why
    assert stepping.record.state is State.IN_FLIGHT


def test_a_refusal_of_the_bucket_says_that_the_clip_is_safe() -> None:
    stepping, _ = copying(LocalFault("bucket_refused", "the bucket refuses this access (403)"))
    with pytest.raises(LocalFault, match="the clip is in the run directory, and is not paid for again"):
        stepping.take("deliver")
    assert stepping.record.state is State.IN_FLIGHT


def test_a_clip_of_which_no_copy_is_left_is_downloaded_again() -> None:
    stepping, _ = copying(None)
    assert stepping.take("deliver") == PollAgain(0.0, over=True)


@pytest.mark.parametrize("state", [State.IN_FLIGHT, State.SUCCEEDED])
def test_with_a_bucket_a_clip_that_is_found_waits_for_its_copy(state: State) -> None:
    stepping = Stepping(make_record("a", state), bucket=Bucket())
    waiting = asyncio.run(deliver.settle(stepping.context, {stepping.fingerprint: RESULT}))
    assert waiting == [stepping.fingerprint]
    assert stepping.record.state is State.IN_FLIGHT
    assert stepping.record.result == RESULT
