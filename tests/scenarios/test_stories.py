"""Single faults in the simulated environment of the scenarios, each with its complete outcome."""

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from batchrunner import sandbox
from batchrunner.app import takes
from batchrunner.app.environment import Environment
from batchrunner.app.runner import drive
from batchrunner.app.setup import Setup
from batchrunner.clock import LoopClock
from batchrunner.engine.loop import Engine
from batchrunner.errors import UsageError
from batchrunner.events import Event, EventBus, JobMoved, Listener, Noticed, RunStarted
from batchrunner.job import Entry, Move
from batchrunner.manifest import Batch
from batchrunner.media import decoder
from batchrunner.media.decoder_pool import Here
from batchrunner.plan.endings import StopReason
from batchrunner.providers.endpoint import Endpoint, service_name
from batchrunner.report.failure_groups import causes
from batchrunner.sandbox import Fault, SandboxConfig
from batchrunner.settings import resolve
from batchrunner.storage.lease import Lease
from batchrunner.storage.run_directory import RunDir
from batchrunner.transfer.downloader import Checks
from tests.scenarios.scenario import _job, _render
from tests.scenarios.world import EPOCH, Loop, Mortal, MortalExecutor, SimDisk, in_virtual_time, strict_bus

QUIET = SandboxConfig(seed=1, capacity=8, queue_wait_s=0.0, duration_s=60.0, spread=0.0)


@dataclass
class Simulation:
    """A service and a run directory in virtual time; `run` is the command. events: those of the latest run."""

    folder: Path
    loop: Loop
    service: Any
    statuses: list[int] = field(default_factory=list)
    history: Path | None = None
    events: list[Event] = field(default_factory=list)
    lists_on_acceptance: bool = False
    clock: LoopClock = field(default_factory=lambda: LoopClock(EPOCH))
    failing: Listener | None = None  # one more listener of the next runs, which may raise
    lease: Lease | None = None  # of the next runs

    def _bus(self) -> EventBus:
        bus = strict_bus()
        if self.failing is not None:
            bus.subscribe(self.failing, name="failing")
        bus.subscribe(self.events.append, shows_notices=True)
        return bus

    def setup(self, entries: tuple[Entry, ...], **flags: Any) -> Setup:
        """Return the loaded manifest."""
        batch = Batch("story", self.folder / "story.yaml", "0" * 64, {}, entries, ())
        recover = bool(flags.pop("recover", False))
        chosen: dict[str, Any] = {name: tuple(flags.pop(name)) for name in ("retake", "only") if name in flags}
        settings = resolve({"concurrency": 2, **flags}, {}, {})
        setup = Setup(batch, settings, RunDir(self.folder / "run"), recover=recover)
        return takes.settled(replace(setup, **chosen))

    async def run(self, entries: tuple[Entry, ...], *, interrupt_at_s: float | None = None, **flags: object) -> int:
        mortal = Mortal()
        rng = Random(7 + len(self.statuses))  # each run has its own id
        executor = MortalExecutor(mortal, rng)
        files, checks = SimDisk(mortal, rng), Checks(Here(), executor)
        outside = Environment(
            self.clock, executor, executor, files, rng, checks, history=self.history, lease=self.lease
        )
        setup = self.setup(entries, **flags)
        setup.rundir.make()
        caught: list[int] = []

        def listen(engine: Engine) -> None:
            def interrupt() -> None:
                caught.append(130)
                engine.close(StopReason("interrupted", "SIGINT received"))

            if interrupt_at_s is not None:
                self.loop.call_later(interrupt_at_s, interrupt)

        ending: Any = lambda: caught[0] if caught else None  # noqa: E731 (one expression, used once)
        self.events = []
        status = await drive(
            setup,
            Endpoint(self.service.url, "k", lists_on_acceptance=self.lists_on_acceptance),
            self._bus(),
            outside,
            (listen, ending),
        )
        self.statuses.append(status)
        return status

    @property
    def report(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "run" / "report.json").read_bytes())
        return loaded

    def states(self) -> dict[str, str]:
        return {row["id"]: row["state"] for row in self.report["jobs"]}

    def accepted(self) -> Counter[str]:
        """Return how many accepted submissions each content has, from the service's own ledger."""
        return Counter(event["fingerprint"] for event in self.service.ledger() if event["event"] == "accepted")

    def path(self, name: str) -> Path:
        return self.folder / "run" / name


Story = Callable[[Simulation], Coroutine[Any, Any, None]]


def play(folder: Path, story: Story, *faults: Fault, **config: Any) -> None:
    async def main(loop: Loop) -> None:
        settings = replace(QUIET, faults=faults, state_dir=folder / "sandbox", **config)
        service = await sandbox.start(settings, clock=LoopClock(EPOCH), render=_render)
        try:
            await story(Simulation(folder, loop, service))
        finally:
            await service.close()

    in_virtual_time(main)


def entries(*names: str) -> tuple[Entry, ...]:
    """Make entries ``id`` or ``id=content``: equal contents are equal jobs."""
    pairs = [(name.split("=") * 2)[:2] for name in names]
    jobs = {content: _job(f"https://example.com/{content}.mp4") for _, content in pairs}
    return tuple(Entry(place, name, jobs[content]) for place, (name, content) in enumerate(pairs))


def test_a_lost_reply_is_found_in_the_log_and_adopted(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a")) == 0
        assert list(sim.accepted().values()) == [1]
        assert sim.report["totals"]["generations"] == 1

    play(tmp_path, story, Fault(on="submit", kind="lost_reply", first=1))


@pytest.mark.parametrize("kind", ["lost_reply", "hang", "no_id", "empty_200", "edge_502_html_accepted"])
def test_without_a_log_a_job_in_doubt_waits_for_the_user(tmp_path: Path, kind: str) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a", "b")) == 1
        assert sorted(sim.states().values()) == ["in_doubt", "succeeded"]
        assert await sim.run(entries("a", "b")) == 1, "running again does not pay again"
        assert sorted(sim.accepted().values()) == [1, 1]
        doubtful = next(row for row in sim.report["jobs"] if row["state"] == "in_doubt")
        assert "--in-doubt resubmit" in doubtful["error"]["hint"]
        assert await sim.run(entries("a", "b"), in_doubt="resubmit") == 0
        assert sorted(sim.accepted().values()) == [1, 2], "once more, on request"

    play(tmp_path, story, Fault(on="submit", kind=kind, first=1), logs=False)


def test_a_listener_that_raises_is_dropped_and_the_run_continues(tmp_path: Path) -> None:
    received: list[Event] = []

    def fail(event: Event) -> None:
        received.append(event)
        assert not isinstance(event, JobMoved), "a defect in a listener"

    async def story(sim: Simulation) -> None:
        sim.failing = fail
        assert await sim.run(entries("a", "b")) == 0
        assert set(sim.states().values()) == {"succeeded"}
        assert [type(event) for event in received].count(JobMoved) == 1, "it receives no more events"
        notices = [event for event in sim.events if isinstance(event, Noticed) and event.urgent]
        [notice] = [event for event in notices if "the listener failing failed" in event.message]
        assert "a defect in a listener" in notice.message
        assert sum(isinstance(event, JobMoved) for event in sim.events) > 2

    play(tmp_path, story)


def test_a_late_log_settles_the_job_in_doubt_in_a_later_run(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a")) == 1
        assert sim.states() == {"a": "in_doubt"}
        await asyncio.sleep(8000)
        assert await sim.run(entries("a")) == 0
        assert list(sim.accepted().values()) == [1]

    play(tmp_path, story, Fault(on="submit", kind="lost_reply", first=1), log_delay_s=7200.0)


def test_out_of_credits_stops_the_batch_and_the_next_run_continues(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a", "b", "c")) == 5
        assert "credits" in sim.report["stopped"]
        assert sim.report["totals"]["failed"] == 0, "an account failure is no job's failure"
        assert await sim.run(entries("a", "b", "c")) == 0
        assert sorted(sim.accepted().values()) == [1, 1, 1]

    play(tmp_path, story, Fault(on="submit", kind="out_of_credits", between_s=(0.0, 1800.0)))


@pytest.mark.parametrize("kind", ["cut_before", "hang_before", "server_error", "edge_502_html"])
def test_a_submission_missing_from_a_complete_log_was_not_accepted(tmp_path: Path, kind: str) -> None:
    async def story(sim: Simulation) -> None:
        sim.lists_on_acceptance = True
        assert await sim.run(entries("a", "b")) == 0
        assert set(sim.accepted().values()) == {1}
        [first, second] = next(row for row in sim.report["jobs"] if len(row["attempts"]) == 2)["attempts"]
        assert (first["outcome"], second["outcome"]) == ("refused", "succeeded")
        assert "log does not list" in first["error"]["message"]
        assert sim.report["totals"]["generations"] == 2

    play(tmp_path, story, Fault(on="submit", kind=kind, first=1))


@pytest.mark.parametrize("kind", ["cut_before", "server_error"])
def test_a_submission_missing_from_another_log_stays_in_doubt(tmp_path: Path, kind: str) -> None:
    async def story(sim: Simulation) -> None:
        for _ in range(2):
            assert await sim.run(entries("a", "b")) == 1
            assert sorted(sim.states().values()) == ["in_doubt", "succeeded"]

    play(tmp_path, story, Fault(on="submit", kind=kind, first=1))


@pytest.mark.parametrize("logs", ["unavailable", "html_200", "not_found", "hang"])
def test_an_unreadable_log_proves_nothing(tmp_path: Path, logs: str) -> None:
    async def story(sim: Simulation) -> None:
        sim.lists_on_acceptance = True
        assert await sim.run(entries("a")) == 1
        assert sim.states() == {"a": "in_doubt"}
        assert list(sim.accepted().values()) == [1]

    play(tmp_path, story, Fault(on="submit", kind="lost_reply", first=1), Fault(on="logs", kind=logs))


def test_the_slot_of_a_job_in_doubt_does_not_depend_on_the_wall_clock(tmp_path: Path) -> None:
    """The reply of the first job is lost, and the service works on it for half an hour."""

    async def story(sim: Simulation) -> None:
        await sim.run(entries("a"), concurrency=1)
        sim.clock = LoopClock(EPOCH + 86_400.0)
        assert await sim.run(entries("a", "b"), concurrency=1) == 1
        first, second = (event["at"] for event in sim.service.ledger() if event["event"] == "accepted")
        assert second - first >= 1800.0

    play(tmp_path, story, Fault(on="submit", kind="lost_reply", first=1), logs=False, duration_s=1700.0)


def test_adopted_submissions_give_no_durations(tmp_path: Path) -> None:
    """It is found when it is nearly complete. The next reply is lost too, and its job occupies the only slot."""

    async def story(sim: Simulation) -> None:
        await sim.run(entries("a"), concurrency=1)
        await asyncio.sleep(595.0)
        assert await sim.run(entries("a", "b", "c"), concurrency=1) == 0
        accepted = [event["at"] for event in sim.service.ledger() if event["event"] == "accepted"]
        assert len(accepted) == 3
        assert accepted[2] - accepted[1] >= 600.0

    lost = Fault(on="submit", kind="lost_reply", first=2)
    play(tmp_path, story, lost, duration_s=600.0, log_delay_s=300.0)


def test_resubmit_searches_first_and_adopts_listed_submissions(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a", "b")) == 1
        await asyncio.sleep(700)
        assert await sim.run(entries("a", "b"), in_doubt="resubmit") == 0
        assert set(sim.accepted().values()) == {1}

    play(tmp_path, story, Fault(on="submit", kind="lost_reply", first=1), log_delay_s=600.0)


def test_resubmit_pays_again_for_unlisted_submissions(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a")) == 1
        assert await sim.run(entries("a"), in_doubt="resubmit") == 0
        assert list(sim.accepted().values()) == [1]
        assert [attempt["outcome"] for attempt in sim.report["jobs"][0]["attempts"]] == ["in_doubt", "succeeded"]

    play(tmp_path, story, Fault(on="submit", kind="cut_before", first=1))


@pytest.mark.parametrize("kind", ["unavailable", "server_error", "html_200", "unauthorized", "cut", "rate_limited"])
def test_resubmit_keeps_the_job_in_doubt_if_the_search_fails(tmp_path: Path, kind: str) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a", "b")) == 1
        assert await sim.run(entries("a", "b"), in_doubt="resubmit") == 1
        assert set(sim.accepted().values()) == {1}
        assert sorted(sim.states().values()) == ["in_doubt", "succeeded"]

    play(tmp_path, story, Fault(on="submit", kind="lost_reply", first=1), Fault(on="logs", kind=kind))


def test_evidence_frees_an_unlisted_submission_once_later_ones_are_listed_as_finished(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a", "b", "c"), in_doubt="evidence") == 1
        await asyncio.sleep(1000)
        assert await sim.run(entries("a", "b", "c"), in_doubt="evidence") == 1, "it might still be active"
        await asyncio.sleep(20_000)
        assert await sim.run(entries("a", "b", "c")) == 1, "evidence was not requested"
        assert await sim.run(entries("a", "b", "c"), in_doubt="evidence") == 0
        assert set(sim.accepted().values()) == {1}
        attempts = [row["attempts"] for row in sim.report["jobs"] if len(row["attempts"]) == 2]
        assert "lacks the one in doubt" in attempts[0][0]["error"]["message"]

    play(tmp_path, story, Fault(on="submit", kind="cut_before", first=1), logs_in_flight=False)


@pytest.mark.parametrize("log_delay_s", [0.0, 60.0, 7200.0])
@pytest.mark.parametrize("wait_s", [100.0, 2000.0, 5000.0, 7230.0, 8000.0, 50_000.0])
def test_evidence_never_pays_twice_for_an_accepted_submission(
    tmp_path: Path, log_delay_s: float, wait_s: float
) -> None:
    """Durations differ, so that a later submission may be listed as finished before the one in doubt."""

    async def story(sim: Simulation) -> None:
        jobs = entries("a", "b", "c", "d", "e", "f")
        await sim.run(jobs, in_doubt="evidence", concurrency=4)
        await asyncio.sleep(wait_s)
        await sim.run(jobs, in_doubt="evidence", concurrency=4)
        await asyncio.sleep(9000.0)
        assert await sim.run(jobs, in_doubt="evidence") == 0
        assert set(sim.accepted().values()) == {1}

    lost = Fault(on="submit", kind="lost_reply", first=2)
    play(tmp_path, story, lost, logs_in_flight=False, log_delay_s=log_delay_s, duration_s=120.0, spread=0.8)


def test_unclear_answers_pause_after_three_submissions_and_probe_every_half_hour(
    tmp_path: Path,
) -> None:
    async def story(sim: Simulation) -> None:
        jobs = entries(*(f"job-{number}" for number in range(12)))
        await sim.run(jobs, concurrency=8, max_runtime="25m")
        assert Counter(sim.states().values()) == {"in_doubt": 3, "pending": 9}
        await sim.run(jobs, concurrency=8, outage_wait="2h")
        assert set(sim.accepted().values()) == {1}
        accepted = [event["at"] for event in sim.service.ledger() if event["event"] == "accepted"]
        assert len(accepted) == 3 + 3 + 3, "three more, and then another job every half hour"
        assert all(after - before >= 1800.0 for before, after in pairwise(accepted[5:]))
        assert "ended in doubt" in sim.report["stopped"]

    play(tmp_path, story, Fault(on="submit", kind="server_error_accepted"), logs=False)


def test_an_answer_ends_the_wait_after_three_jobs_in_doubt(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        jobs = entries(*(f"job-{number}" for number in range(12)))
        assert await sim.run(jobs, concurrency=8) == 1
        assert Counter(sim.states().values()) == {"in_doubt": 3, "succeeded": 9}
        assert sim.loop.time() < 3000.0

    play(tmp_path, story, Fault(on="submit", kind="server_error", between_s=(0.0, 600.0)), logs=False)


def test_a_readable_log_shortens_the_wait_after_three_jobs_in_doubt(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        jobs = entries(*(f"job-{number}" for number in range(12)))
        assert await sim.run(jobs, concurrency=8) == 1
        assert Counter(sim.states().values()) == {"in_doubt": 3, "succeeded": 9}
        assert sim.loop.time() < 300.0

    play(tmp_path, story, Fault(on="submit", kind="server_error", between_s=(0.0, 20.0)))


def test_with_a_readable_log_the_waits_grow_to_half_an_hour(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        jobs = entries(*(f"job-{number}" for number in range(30)))
        await sim.run(jobs, concurrency=30, outage_wait="2h")
        sent = sorted(row["attempts"][0]["submitted_at"] for row in sim.report["jobs"] if row["attempts"])
        times = [datetime.fromisoformat(moment).timestamp() for moment in sent]
        waits = [after - before for before, after in pairwise(times[2:])]
        assert [round(wait, -1) for wait in waits] == [30.0, 120.0, 480.0, 1800.0, 1800.0, 1800.0]

    play(tmp_path, story, Fault(on="submit", kind="server_error"))


@pytest.mark.parametrize("concurrency", [1, 2, 8])
@pytest.mark.parametrize("poisoned", [1, 2])
def test_a_single_refused_job_never_stops_the_batch(tmp_path: Path, concurrency: int, poisoned: int) -> None:
    """A content filter that answers 403 once paused the batch, and each probe was the same job again."""
    names = [f"job-{number}" for number in range(8)]
    jobs = entries(*names)

    async def story(sim: Simulation) -> None:
        assert await sim.run(jobs, concurrency=concurrency, account_wait="2m") == 1
        expected = ["failed"] * poisoned + ["succeeded"] * (8 - poisoned)
        assert [sim.states()[name] for name in names] == expected
        error = sim.report["jobs"][0]["error"]
        assert "403" in error["message"]
        assert "while other jobs were accepted" in error["message"]
        assert "--retry-failed" in error["hint"]
        assert sim.loop.time() < 3600
        assert set(sim.accepted().values()) == {1}

    play(tmp_path, story, *(Fault(on="submit", kind="locked", match=job.job.key) for job in jobs[:poisoned]))


def test_a_failed_generation_is_paid_again_only_on_request(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a")) == 1
        row = sim.report["jobs"][0]
        assert row["error"]["kind"] == "face_detection_error"
        assert "face" in row["error"]["message"]
        assert await sim.run(entries("a")) == 1
        assert list(sim.accepted().values()) == [1]
        await sim.run(entries("a"), retry_failed=True)
        assert list(sim.accepted().values()) == [2]
        assert len(sim.report["jobs"][0]["attempts"]) == 2

    play(tmp_path, story, Fault(on="generation", kind="face_detection"))


def test_only_failures_of_the_named_kinds_are_paid_again(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a", "b")) == 1
        first, second = sim.report["jobs"]
        assert {first["error"]["kind"], second["error"]["kind"]} == {"face_detection_error", "content_refused"}
        await sim.run(entries("a", "b"), retry_failed=("no_such_kind",))
        assert sorted(sim.accepted().values()) == [1, 1]
        await sim.run(entries("a", "b"), retry_failed=("content_refused",))
        assert sorted(sim.accepted().values()) == [1, 2]
        faces = [row for row in (first, second) if row["error"]["kind"] == "face_detection_error"]
        assert sim.states()[faces[0]["id"]] == "failed"

    rules = (
        Fault(on="generation", kind="face_detection", first=1),
        Fault(on="generation", kind="content_policy", first=1),
    )
    play(tmp_path, story, *rules)


@pytest.mark.parametrize("kind", ["not_found", "gone_410", "forbidden", "html_200", "truncated", "short", "zeros"])
def test_a_bad_download_requests_a_new_link_and_no_new_generation(tmp_path: Path, kind: str) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a")) == 0
        assert list(sim.accepted().values()) == [1]

    play(tmp_path, story, Fault(on="download", kind=kind, first=3))


@pytest.mark.parametrize(
    "kind",
    [
        *("foreign_coding", "gzip", "deflate", "short_digest", "status_203", "status_206"),
        *("signed_redirect", "cookie_redirect", "tail", "open_box"),
    ],
)
def test_a_host_that_sends_a_valid_clip_in_another_way_costs_nothing(tmp_path: Path, kind: str) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a")) == 0
        assert list(sim.accepted().values()) == [1]
        [row] = sim.report["jobs"]
        odd = [warning for warning in row["warnings"] if "last box" in warning]
        assert len(odd) == (kind in {"tail", "open_box"})
        assert not [event for event in sim.service.ledger() if event["event"] == "leak"]
        assert len([event for event in sim.service.ledger() if event["event"] == "fetched"]) == 1

    play(tmp_path, story, Fault(on="download", kind=kind))


def test_a_clip_that_never_arrives_complete_is_kept_or_fails_with_a_reason(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a")) == 1
        row = sim.report["jobs"][0]
        assert (row["state"], row["error"]["kind"]) == ("failed", "bad_file")
        assert not list(sim.path("").glob("*.mp4"))
        [kept] = sim.path(".batchrunner/set_aside").iterdir()
        for text in (row["error"]["message"], row["error"]["hint"]):
            assert f".batchrunner/set_aside/{kept.name}" in text
        [cause] = causes(sim.report)
        assert "--retry-failed" not in f"{cause.command} {cause.hints}"
        assert "at no further charge" in cause.note
        assert await sim.run(entries("a")) == 1
        assert list(sim.accepted().values()) == [1]
        assert [job.name for job in sim.path(".batchrunner/set_aside").iterdir()] == [kept.name]

    play(tmp_path, story, Fault(on="download", kind="zeros"))


def test_a_clip_whose_check_reached_its_limit_is_checked_again_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = decoder.check_decodes
    checked: list[Path] = []

    def bounded(path: Path, allow: decoder.Allow, observe: decoder.Observe) -> decoder.Decoded:
        checked.append(path)
        if len(checked) == 1:
            raise decoder.CheckLimit("it took more than 60 s")
        return check(path, allow, observe)

    monkeypatch.setattr(decoder, "check_decodes", bounded)

    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a")) == 1
        assert sim.report["jobs"][0]["error"]["kind"] == "check_limit"
        assert len(checked) == 1, "the same check of the same bytes is not repeated in one run"
        assert await sim.run(entries("a")) == 0
        assert list(sim.accepted().values()) == [1]

    play(tmp_path, story)


def test_a_file_host_that_is_down_for_hours_costs_nothing(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a")) == 5
        assert sim.states() == {"a": "in_flight"}
        assert await sim.run(entries("a")) == 0
        assert list(sim.accepted().values()) == [1]

    play(tmp_path, story, Fault(on="download", kind="unavailable", between_s=(0.0, 15_000.0)))


def test_equal_jobs_are_paid_once_and_delivered_twice(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a", "b=a", "c")) == 0
        assert sorted(sim.accepted().values()) == [1, 1]
        assert sim.path("a.mp4").read_bytes() == sim.path("b.mp4").read_bytes()
        assert sim.report["totals"]["jobs"] == 3
        assert sim.report["totals"]["generations"] == 2

    play(tmp_path, story)


def test_after_reordering_and_renaming_only_the_new_job_is_submitted(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a", "b")) == 0
        before = {name: sim.path(f"{name}.mp4").read_bytes() for name in "ab"}
        assert await sim.run(entries("c", "b=a", "a=b")) == 0, "the two ids changed places, and one job is new"
        assert sorted(sim.accepted().values()) == [1, 1, 1]
        assert sim.path("b.mp4").read_bytes() == before["a"]
        assert sim.path("a.mp4").read_bytes() == before["b"]

    play(tmp_path, story)


def test_a_changed_job_with_an_old_id_keeps_the_old_clip(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a")) == 0
        old = sim.path("a.mp4").read_bytes()
        assert await sim.run(entries("a=other")) == 0
        assert sim.path("a.mp4").read_bytes() != old
        assert [path.read_bytes() for path in sim.path(".batchrunner/kept").iterdir()] == [old]
        assert await sim.run(entries("a")) == 0, "and back again, at no charge"
        assert sim.path("a.mp4").read_bytes() == old
        assert sorted(sim.accepted().values()) == [1, 1]

    play(tmp_path, story)


def test_a_deleted_clip_is_downloaded_again_at_no_charge(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a")) == 0
        clip = sim.path("a.mp4").read_bytes()
        sim.path("a.mp4").unlink()
        assert await sim.run(entries("a")) == 0
        assert isinstance(sim.events[0], RunStarted), "the first event is the start"
        assert next(event.move for event in sim.events if isinstance(event, JobMoved)) is Move.FILE_MISSING
        assert sim.path("a.mp4").read_bytes() == clip
        assert list(sim.accepted().values()) == [1]

    play(tmp_path, story)


def test_an_interrupted_run_stops_cleanly_and_continues(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a", "b", "c"), interrupt_at_s=30.0) == 130
        assert Counter(sim.states().values()) == {"in_flight": 2, "pending": 1}
        assert await sim.run(entries("a", "b", "c")) == 0
        assert sorted(sim.accepted().values()) == [1, 1, 1]

    play(tmp_path, story)


def test_a_job_removed_from_the_manifest_is_still_downloaded(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a", "b"), interrupt_at_s=30.0) == 130
        assert await sim.run(entries("b")) == 0
        assert len(list(sim.path(".batchrunner/kept").glob("*.mp4"))) == 1
        assert len(sim.report["earlier_jobs"]) == 1

    play(tmp_path, story)


def test_a_generation_that_takes_too_long_is_continued_by_the_next_run(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a", "b", "c"), job_timeout="1h") == 3
        assert Counter(sim.states().values()) == {"in_flight": 2, "pending": 1}
        assert all(row["error"]["hint"] for row in sim.report["jobs"])
        await asyncio.sleep(10_000)
        assert await sim.run(entries("a", "b", "c"), job_timeout="3h") == 0
        assert sorted(sim.accepted().values()) == [1, 1, 1]

    play(tmp_path, story, duration_s=9000.0)


def test_completed_without_a_link_is_polled_a_few_times_and_then_fails_with_its_id(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a")) == 1
        row = sim.report["jobs"][0]
        assert row["error"]["kind"] == "no_link"
        assert row["generation_id"] in row["error"]["message"]

    play(tmp_path, story, Fault(on="poll", kind="no_url"))


def test_a_generation_that_the_service_denies_is_given_up_only_after_a_while(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a")) == 1
        row = sim.report["jobs"][0]
        assert row["error"]["kind"] == "unknown_generation"
        assert row["attempts"][0]["polls"] == 0

    play(tmp_path, story, Fault(on="poll", kind="not_found"))


def test_early_404s_are_tolerated(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a", "b")) == 0

    play(tmp_path, story, Fault(on="poll", kind="not_found", each_first=3))


@pytest.mark.parametrize("kind", ["unavailable_retry_after", "rate_limited"])
def test_an_unavailable_service_fails_no_job_and_the_next_run_continues(tmp_path: Path, kind: str) -> None:
    async def story(sim: Simulation) -> None:
        jobs = entries(*(f"job-{number}" for number in range(40)))
        assert await sim.run(jobs) == 5
        assert set(sim.states().values()) == {"pending"}
        assert "waited 4 h 0 min" in sim.report["stopped"]
        await asyncio.sleep(20_000)
        assert await sim.run(jobs) == 0
        assert set(sim.accepted().values()) == {1}

    play(tmp_path, story, Fault(on="submit", kind=kind, between_s=(0.0, 20_000.0)), queue_limit=100)


@pytest.mark.parametrize("kind", ["unavailable", "server_error"])
def test_a_silent_outage_leaves_few_jobs_in_doubt(tmp_path: Path, kind: str) -> None:
    async def story(sim: Simulation) -> None:
        jobs = entries(*(f"job-{number}" for number in range(40)))
        await sim.run(jobs)
        states = Counter(sim.states().values())
        assert set(states) == {"pending", "in_doubt"}
        assert states["in_doubt"] < 20
        await asyncio.sleep(20_000)
        await sim.run(jobs)
        assert set(sim.accepted().values()) == {1}, "nothing is paid twice"
        assert set(sim.states().values()) <= {"succeeded", "in_doubt"}

    play(tmp_path, story, Fault(on="submit", kind=kind, between_s=(0.0, 20_000.0)), queue_limit=100)


def test_a_refused_request_fails_once_with_the_services_message(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a")) == 1
        row = sim.report["jobs"][0]
        assert (row["state"], row["error"]["kind"], len(row["attempts"])) == ("failed", "bad_request", 1)
        assert not sim.accepted()

    play(tmp_path, story, Fault(on="submit", kind="legacy_error"))


def test_a_denied_generation_is_polled_again_by_the_next_run(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a")) == 1
        assert sim.report["jobs"][0]["error"]["kind"] == "unknown_generation"
        await asyncio.sleep(3000)
        assert await sim.run(entries("a")) == 0, "the service had it all the time"
        assert list(sim.accepted().values()) == [1]

    play(tmp_path, story, Fault(on="poll", kind="not_found", between_s=(0.0, 3000.0)))


@pytest.mark.parametrize("gone", [".batchrunner/journal.db", ".batchrunner"])
def test_a_report_without_its_journal_is_not_paid_again(tmp_path: Path, gone: str) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a")) == 0
        path = sim.path(gone)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        with pytest.raises(UsageError, match="no journal"):
            await sim.run(entries("a"))
        assert list(sim.accepted().values()) == [1]

    play(tmp_path, story)


def test_generation_ids_of_one_service_are_not_sent_to_another() -> None:
    real, other = (service_name(resolve({}, {}, {}), url) for url in ("https://api.aimlapi.com", "https://x.example"))
    local = {service_name(resolve({}, {}, {}), f"http://127.0.0.1:{port}") for port in (1, 2)}
    embedded = service_name(resolve({"provider": "sandbox"}, {}, {}), "http://127.0.0.1:1")
    assert len({real, other, *local, embedded}) == 4


def test_durations_are_kept_for_the_next_batch_if_a_place_is_given(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        names = [f"job-{number}" for number in range(8)]
        assert await sim.run(entries(*names[:6])) == 0
        assert not (tmp_path / "cache").exists(), "off unless a place is given"
        sim.history = tmp_path / "cache" / "durations.json"
        assert await sim.run(entries(*names)) == 0
        [row] = json.loads(sim.history.read_bytes())["kinds"]
        assert row["service"] == "this machine"
        assert len(row["spans"]) == 8, "six from the journal, two of its own"
        assert all(after_s < 62.0 and by_s >= 60.0 for after_s, by_s in row["spans"])

    play(tmp_path, story)


@pytest.mark.parametrize(
    "kind",
    [
        *("envelope", "stray_bytes", "in_queue", "complete", "done_in_capitals", "null_status", "link_elsewhere"),
        *("link_relative", "links_beside"),
    ],
)
def test_a_poll_reply_of_another_shape_is_read(tmp_path: Path, kind: str) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a")) == 0
        assert set(sim.accepted().values()) == {1}

    play(tmp_path, story, Fault(on="poll", kind=kind))


@pytest.mark.parametrize("kind", ["envelope", "stray_bytes"])
def test_the_id_in_a_damaged_reply_to_a_submission_is_kept(tmp_path: Path, kind: str) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a")) == 0
        assert set(sim.accepted().values()) == {1}

    play(tmp_path, story, Fault(on="submit", kind=kind))


@pytest.mark.parametrize("kind", ["completed_with_error", "rejected", "error_list", "error_msg", "error_beside"])
def test_a_failure_of_another_shape_keeps_its_message(tmp_path: Path, kind: str) -> None:
    async def story(sim: Simulation) -> None:
        assert await sim.run(entries("a")) == 1
        message = sim.report["jobs"][0]["error"]["message"]
        assert "face" in message

    play(tmp_path, story, Fault(on="generation", kind="face_detection"), Fault(on="poll", kind=kind))
