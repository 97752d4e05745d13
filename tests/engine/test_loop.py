"""The loop's own decisions in virtual time: which call starts first, and why a run stops."""

import asyncio
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from batchrunner.clock import LoopClock
from batchrunner.engine.job_records import JobRecords
from batchrunner.engine.loop import Engine
from batchrunner.engine.policy import Policy
from batchrunner.engine.ports import Dependencies
from batchrunner.errors import JobFault, LocalFault, NetworkFault
from batchrunner.job import Record, Result, State, TimelineEvent
from batchrunner.plan.admission import Admission
from batchrunner.plan.duration_estimate import Forecast
from batchrunner.plan.endings import NO_REASON, StopReason
from batchrunner.plan.ledger import Budget, Ledger
from batchrunner.plan.prices import Prices
from batchrunner.providers.base import Accepted, Capabilities, GenerationStatus, Phase, Submissions
from batchrunner.transfer.downloader import Fetched
from tests.conftest import NOW, make_job, make_record, remote
from tests.scenarios.world import in_virtual_time

Call = tuple[str, str]  # kind of call, name of the job


class World:
    """A service, a file host and a disk for the engine. records: of the jobs, by the names that tests give them.

    complete_after: at which poll a generation is complete, by name; the first one if it is not named.
    download_s: how long a download takes, by name. defect: the name of a job whose submission meets a defect.
    """

    capabilities = Capabilities()

    def __init__(self, *records: tuple[str, Record], lacks_space: Callable[[int], str] = lambda _: "") -> None:
        self.names = {record.job.key: name for name, record in records}
        self.started = [record for _, record in records]
        self.calls: list[Call] = []
        self.times: list[float] = []
        self.complete_after: dict[str, int] = {}
        self.download_s: dict[str, float] = {}
        self.errors: dict[str, Exception] = {}
        self.lacks_space = lacks_space
        self.input_errors: dict[str, list[Exception]] = {}
        self.upload_s: dict[str, float] = {}
        self.uploaded: set[str] = set()
        self.prepared: list[tuple[str, float]] = []
        self.stop_at: float | None = None
        self.lost_at = float("inf")  # when the run directory is moved away
        self.lost_asked: list[float] = []
        self.priorities: dict[str, int] | None = None
        self.records: JobRecords
        self.stopped = ""

    def _begin(self, call: str, key: str) -> str:
        name = self.names[key]
        self.calls.append((call, name))
        self.times.append(asyncio.get_running_loop().time())
        return name

    # What the engine calls

    async def prepare(self, job: Any, is_stopped: Callable[[], bool]) -> None:
        name = self.names[job.key]
        self.prepared.append((name, asyncio.get_running_loop().time()))
        await asyncio.sleep(0.0 if name in self.uploaded else self.upload_s.get(name, 0.0))
        self.uploaded.add(name)
        if self.input_errors.get(name):
            raise self.input_errors[name].pop(0)

    async def submit(self, job: Any, request_id: str) -> Accepted:
        name = self._begin("submit", job.key)
        if name in self.errors:
            raise self.errors[name]
        return Accepted(f"gen:{name}/1", None)

    async def status(self, generation_id: str, inputs: object = ()) -> GenerationStatus:
        name = generation_id.removeprefix("gen:").partition("/")[0]
        key = next(key for key, other in self.names.items() if other == name)
        self._begin("poll", key)
        if self.calls.count(("poll", name)) < self.complete_after.get(name, 1):
            return GenerationStatus(Phase.QUEUED, "queued")
        return GenerationStatus(Phase.COMPLETED, "completed", result_url=f"https://files.example.com/{name}.mp4")

    def lost(self) -> StopReason:
        self.lost_asked.append(asyncio.get_running_loop().time())
        return StopReason("run_directory_gone", "it was moved") if self.lost_asked[-1] >= self.lost_at else NO_REASON

    async def ping(self) -> None:
        """Always answers."""

    async def find_submissions(self, since: float) -> Submissions:
        return Submissions({})

    async def fetch(self, url: str, key: str, on_progress: object) -> Fetched:
        name = self._begin("download", key)
        await asyncio.sleep(self.download_s.get(name, 0.0))
        return Fetched(name, Result(1, "00"))

    async def deliver(self, job: object, fetched: Fetched, record: Record) -> None:
        """The clip is not looked at."""

    async def save(self, record: Record, *, attempts: int = 1) -> None:
        """The disk always takes it."""

    async def note(self, timeline_event: TimelineEvent) -> None:
        """The disk always takes it."""

    # Running

    def run(self, **policy: Any) -> None:
        """Run the engine to its end, in virtual time."""

        async def main(_: object) -> None:
            world: Any = self
            deps = Dependencies(
                provider=world,
                journal=world,
                clips=world,
                store=world,
                clock=LoopClock(NOW),
                rng=Random(1),
                announce=lambda _: None,
                ids=lambda fingerprint: (fingerprint,),
                lacks_space=lambda clips: StopReason("disk_full", self.lacks_space(clips)),
                inputs=world,
                lost=self.lost,
            )
            bounds = Policy(**({"concurrency": 4, "poll_interval_s": 10.0} | policy))
            admission = Admission(Prices({}), Ledger(Budget(), self.started), Forecast(self.started))
            self.records = JobRecords({r.job.fingerprint: r for r in self.started}, deps, admission.ledger)
            engine = Engine(deps, bounds, "run", self.records, admission)
            if self.stop_at is not None:
                asyncio.get_running_loop().call_later(self.stop_at, engine.stop, StopReason("budget", "stopped"))
            order = [record.job.fingerprint for record in self.started if record.state is State.PENDING]
            await engine.run(order, priorities=self.priorities)
            self.stopped = engine.stopped

        in_virtual_time(main)

    def states(self) -> dict[str, State]:
        return {self.names[record.job.key]: record.state for record in self.records.view.values()}


def in_flight(name: str) -> tuple[str, Record]:
    return name, make_record(name, State.IN_FLIGHT)


def pending(name: str) -> tuple[str, Record]:
    return name, make_record(name)


def clip(name: str, seconds: float) -> tuple[str, Record]:
    job = make_job(name, remote()._replace(duration_s=seconds), resolution="480p", num_inference_steps=20)
    return name, make_record(name, job=job)


def test_a_slot_is_free_when_the_generation_ends_and_not_when_its_clip_is_stored() -> None:
    world = World(pending("a"), pending("b"))
    world.download_s["a"] = 600.0
    world.run(concurrency=1)
    submitted, complete, next_one = (
        world.calls.index(call) for call in (("submit", "a"), ("poll", "a"), ("submit", "b"))
    )
    assert submitted < complete < next_one
    assert world.times[next_one] - world.times[complete] < 0.1
    assert set(world.states().values()) == {State.SUCCEEDED}


def test_the_inputs_of_the_next_submission_are_ready_when_a_slot_becomes_free() -> None:
    world = World(pending("a"), pending("b"), pending("c"))
    world.upload_s = dict.fromkeys("abc", 20.0)
    world.complete_after = dict.fromkeys("abc", 9)
    world.run(concurrency=1)
    ends = {name: world.times[index] for index, (call, name) in enumerate(world.calls) if call == "poll"}
    begins = {name: world.times[index] for index, (call, name) in enumerate(world.calls) if call == "submit"}
    assert begins["b"] - ends["a"] < 0.1
    assert begins["c"] - ends["b"] < 0.1
    assert [name for name, at in world.prepared if at < ends["a"]] == ["a", "b"], "not more than the next one"


def test_inputs_that_cannot_be_prepared_ahead_are_the_submissions_matter() -> None:
    world = World(pending("a"), pending("b"))
    world.complete_after = {"a": 3}
    world.input_errors["b"] = [LocalFault("bucket_refused", "no", ""), NetworkFault("cut", "cut")]
    world.run(concurrency=1)
    assert [name for name, _ in world.prepared] == ["a", "b", "b", "b"]
    assert set(world.states().values()) == {State.SUCCEEDED}


@pytest.mark.parametrize("is_longest_first", [True, False])
def test_the_longest_clips_are_submitted_first_unless_the_manifests_order_is_wanted(*, is_longest_first: bool) -> None:
    world = World(clip("a", 3.0), clip("b", 9.0), clip("c", 5.0), clip("d", 9.0))
    world.priorities = {} if is_longest_first else None
    world.run(concurrency=1)
    assert [name for call, name in world.calls if call == "submit"] == list("bdca" if is_longest_first else "abcd")


def test_a_priority_goes_before_the_length() -> None:
    world = World(clip("a", 3.0), clip("b", 9.0), clip("c", 5.0))
    world.priorities = {world.started[0].job.fingerprint: 1}
    world.run(concurrency=1)
    assert [name for call, name in world.calls if call == "submit"] == ["a", "b", "c"]


def test_every_job_is_driven_to_its_end() -> None:
    world = World(in_flight("f"), pending("n"))
    world.run()
    assert set(world.states().values()) == {State.SUCCEEDED}
    assert world.stopped == ""


def test_a_job_whose_inputs_cannot_be_uploaded_waits_and_the_others_go_on() -> None:
    world = World(pending("n"), pending("m"))
    world.input_errors["n"] = [NetworkFault("bucket_unreachable", "the bucket cannot be reached")] * 2
    world.run()
    assert set(world.states().values()) == {State.SUCCEEDED}
    at = {call: time for call, time in zip(world.calls, world.times, strict=True) if call[0] == "submit"}
    assert at["submit", "m"] < 1
    assert at["submit", "n"] == pytest.approx(120, abs=1)


def test_a_bucket_that_refuses_stops_the_run_and_what_is_in_flight_ends() -> None:
    world = World(in_flight("f"), pending("n"))
    world.input_errors["n"] = [LocalFault("bucket_refused", "the bucket refuses this access", "Allow it.")]
    world.run()
    assert world.states() == {"f": State.SUCCEEDED, "n": State.PENDING}
    assert "refuses this access" in world.stopped


def test_a_run_that_is_stopped_during_an_upload_submits_nothing() -> None:
    world = World(pending("n"))
    world.upload_s["n"], world.stop_at = 100.0, 50.0
    world.run()
    assert (world.calls, world.states()) == ([], {"n": State.PENDING})


def test_a_job_waits_while_the_disk_has_no_space_for_its_clip() -> None:
    asked: list[int] = []

    def lacks(clips: int) -> str:
        asked.append(clips)
        return "" if ("poll", "f") in world.calls[1:] else "the disk is small"

    world = World(in_flight("f"), in_flight("d"), pending("n"), lacks_space=lacks)
    world.complete_after["f"], world.download_s["d"] = 3, 1000.0
    world.run()
    assert set(asked) == {3}, "the one in flight, the one that is polled and then downloaded, and this one"
    assert world.calls.index(("submit", "n")) > world.calls.index(("poll", "f"))
    assert world.states()["n"] is State.SUCCEEDED
    assert world.stopped == ""


def test_a_job_that_never_gets_space_is_left_for_the_next_run() -> None:
    world = World(in_flight("d"), pending("n"), lacks_space=lambda _: "the disk is small")
    world.run()
    assert world.stopped == "the disk is small"
    assert world.states() == {"d": State.SUCCEEDED, "n": State.PENDING}


def test_without_a_job_that_waits_the_disk_is_not_asked() -> None:
    asked: list[int] = []

    def lacks(clips: int) -> str:
        asked.append(clips)
        return "the disk is small"

    world = World(in_flight("f"), lacks_space=lacks)
    world.run()
    assert asked == []
    assert world.stopped == ""


def test_polls_and_downloads_start_before_submissions() -> None:
    def lacks(_: int) -> str:
        return "" if world.calls.count(("poll", "f")) > 1 else "the disk is small"

    world = World(in_flight("f"), in_flight("d"), in_flight("e"), pending("n"), lacks_space=lacks)
    world.complete_after["f"] = 9
    world.download_s = {"d": 1.0, "e": 1.0}
    world.run(downloads=1)
    first = world.calls.index(("submit", "n"))
    assert {("download", "d"), ("download", "e"), ("poll", "f")} <= set(world.calls[:first])


@pytest.mark.parametrize("calls_per_s", [None, 2.0])
def test_a_poll_that_is_due_starts_before_a_submission(calls_per_s: float | None) -> None:
    world = World(pending("n"), in_flight("f"))
    world.run(calls_per_s=calls_per_s)
    assert world.calls.index(("poll", "f")) < world.calls.index(("submit", "n"))


def test_the_pace_delays_submissions_and_never_downloads() -> None:
    world = World(pending("n"), in_flight("d"), in_flight("f"))
    world.complete_after["f"] = 2
    world.run(calls_per_s=1.0)
    at = dict(zip(reversed(world.calls), reversed(world.times), strict=True))  # of the first call of each kind
    paced = sorted(time for (call, _), time in zip(world.calls, world.times, strict=True) if call != "download")
    assert all(after - before >= 1.0 - 1e-6 for before, after in pairwise(paced))
    assert at["download", "d"] - at["poll", "d"] < 0.5
    assert at["submit", "n"] - min(world.times) >= 2.0 - 1e-6, "after the polls of both generations"


def test_a_defect_in_a_step_ends_neither_the_run_nor_the_other_jobs() -> None:
    world = World(pending("bad"), pending("good"))
    world.errors["bad"] = RuntimeError("a defect")
    world.run()
    assert world.states() == {"bad": State.SUBMITTING, "good": State.SUCCEEDED}


def test_a_defect_outside_of_a_step_stops_the_run_and_what_is_in_flight_ends() -> None:
    world = World(pending("a"), pending("b"))
    world.complete_after = {"a": 3}
    world.input_errors["b"] = [RuntimeError("unexpected")]
    world.run(concurrency=1)
    assert world.states() == {"a": State.SUCCEEDED, "b": State.PENDING}
    assert world.stopped == ("a defect in batchrunner during the prepare, please report it: RuntimeError('unexpected')")


def test_a_run_without_its_directory_closes_and_the_directory_is_asked_for_a_few_times_a_second() -> None:
    names = [f"n{number}" for number in range(1000)]
    world = World(*map(pending, names))
    world.download_s = dict.fromkeys(names, 0.01)
    world.lost_at = 1.0
    world.run(concurrency=2, poll_interval_s=0.05)
    assert world.stopped == "it was moved"
    assert 1.0 <= world.times[-1] <= 1.25, "the last call"
    assert all(after - before >= 0.25 for before, after in pairwise(world.lost_asked))


def test_a_fault_of_this_machine_is_put_down_to_the_lost_directory() -> None:
    world = World(pending("a"))
    world.errors["a"] = LocalFault("disk_error", "the disk answers with an error")
    world.lost_at = 0.001
    world.upload_s["a"] = 0.1
    world.run()
    assert world.stopped == "it was moved"


def test_a_run_stops_after_so_many_failed_jobs() -> None:
    world = World(pending("a"), pending("b"), pending("c"))
    world.errors = dict.fromkeys("abc", JobFault("bad_request", "no"))
    world.run(concurrency=1, most_failures=2)
    assert world.stopped == "stop_after_failures reached: 2 jobs failed"
    assert world.states() == {"a": State.FAILED, "b": State.FAILED, "c": State.PENDING}
