"""The download step: a clip that cannot be downloaded is polled again, and never generated again."""

import asyncio

import pytest

from batchrunner.engine.outcomes import Finish, LeaveInFlight, PollAgain
from batchrunner.engine.steps import deliver
from batchrunner.errors import CallError, LocalFault, NetworkFault, ServiceFault
from batchrunner.events import Fetching
from batchrunner.job import Result, State
from tests.conftest import make_record
from tests.engine.steps.stepping import Clips, Stepping

RESULT = Result(5_000_000, "ab" * 32, 480, 480, 2.0)


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
