"""Automatic verdicts of a run, from marks and from the hook: once for each clip, and never over a person's verdict."""

import asyncio
import json
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from batchrunner.app import clip_checks
from batchrunner.app import setup as prepare
from batchrunner.app.clip_checks import ClipChecks
from batchrunner.errors import BatchLocked
from batchrunner.events import Event, EventBus, JobMoved, Noticed
from batchrunner.job import Entry, Move, Record, Result, State
from batchrunner.plan.endings import NO_REASON, StopReason
from batchrunner.review.hook import Outcome, Outcomes
from batchrunner.review.verdicts import NONE, Verdict, VerdictLog, load
from batchrunner.storage.run_directory import RunDir
from tests.conftest import MEDIA, NOW, make_run

MEASURES: dict[str, Any] = {"version": 1, "measured_frames": 150, "digest": None}
CLEAN = Result(10, "aa" * 32, quality=MEASURES)
FROZEN = Result(10, "bb" * 32, quality=MEASURES | {"frozen_frames": 89, "black_frames": 20})
JOBS = """
jobs:
  - {id: a, video: bunny.mp4, image: hopper.jpg, tags: {who: admiral}}
  - {id: b, video: bunny.mp4, image: hopper.jpg, resolution: 720p}
  - {id: twin, video: bunny.mp4, image: hopper.jpg, resolution: 720p}
"""


@dataclass
class FakeHook:
    """A hook that decides by the row's id, in this process."""

    decide: Callable[[str], Outcome] = lambda name: Outcome(is_decided=True)
    rows: list[Mapping[str, Any]] = field(default_factory=list)
    digest: str = "h"
    stopped: int = 0

    def run(self, row: Mapping[str, Any]) -> Outcome:
        self.rows.append(row)
        return Outcome(is_decided=False) if self.stopped else self.decide(row["id"])

    def stop(self) -> None:
        self.stopped += 1


def reject(reason: str) -> Callable[[str], Outcome]:
    return lambda name: Outcome(is_decided=True, reason=reason)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("bunny.mp4", "hopper.jpg"):
        shutil.copy(MEDIA / name, name)
    RunDir(Path("out")).make()


class Clock:
    """A clock that can be read only in the event loop, as that of a rehearsal."""

    def now(self) -> float:
        asyncio.get_running_loop()
        return NOW


class Batch:
    """A run whose engine is the test. seen: what its listeners saw."""

    def __init__(self, quality: str = "warn", hook: FakeHook | None = None) -> None:
        Path("m.yaml").write_text(f"provider: sandbox\noutput: out\nquality: {quality}\n{JOBS}")
        self.setup = prepare.load(Path("m.yaml"), {}, {})
        self.hook = hook
        self.records = {entry.job.fingerprint: Record(entry.job, State.IN_FLIGHT) for entry in self.setup.batch.entries}
        self.seen: list[Event] = []

    def deliver(self, name: str, result: Result) -> JobMoved:
        entry = next(entry for entry in self.setup.batch.entries if entry.id == name)
        record = Record(entry.job, State.SUCCEEDED, (), None, result)
        self.records[entry.job.fingerprint] = record
        return JobMoved(NOW, (name,), Move.DELIVER, record)

    def run(
        self, *clips: tuple[str, Result], reason: StopReason = NO_REASON, during: Callable[[ClipChecks], object] = id
    ) -> "Batch":
        """Deliver clips in one run, from its start to its end."""

        async def main() -> None:
            if self.hook is not None:
                self.hook.stopped = 0
            bus = EventBus(print)
            bus.subscribe(self.seen.append, shows_notices=True)
            with ThreadPoolExecutor(2) as threads:
                outside = SimpleNamespace(on_clip=self.hook, executor=threads, clock=Clock())
                with clip_checks.opened(self.setup, make_run(), cast(Any, outside), bus) as checks:
                    await checks.begin(self.records.values())
                    for clip in clips:
                        bus.publish(self.deliver(*clip))
                    during(checks)
                    await checks.finish(cast(Any, SimpleNamespace(view=self.records)), reason)

        asyncio.run(main())
        return self

    @property
    def notices(self) -> list[str]:
        return [event.message for event in self.seen if isinstance(event, Noticed) and not event.routine]


def verdicts() -> dict[str, tuple[str, tuple[str, ...], str]]:
    return {name: (one.verdict, one.reasons, one.by) for name, one in load(Path("out")).items()}


def lines() -> int:
    path = Path("out/review.jsonl")
    return path.read_bytes().count(b"\n") if path.exists() else 0


# Marks


def test_a_mark_that_rejects_sets_the_verdict_for_every_name_of_the_job() -> None:
    batch = Batch("{frozen: reject}").run(("a", CLEAN), ("b", FROZEN))
    rejected = ("reject", ("frozen",), "quality")
    assert verdicts() == {"b": rejected, "twin": rejected}
    stored = load(Path("out"))["b"]
    assert (stored.sha256, stored.at) == (FROZEN.sha256, "2027-01-15T08:00:00.000Z")
    assert stored.fingerprint == batch.setup.batch.entries[1].job.fingerprint


@pytest.mark.parametrize("quality", ["warn", "off", "{frozen: warn, echo: reject}", "{frozen: off}"])
def test_marks_that_do_not_reject_set_none(quality: str) -> None:
    Batch(quality).run(("a", FROZEN))
    assert verdicts() == {}


def test_every_mark_that_rejects_is_a_reason() -> None:
    Batch("reject").run(("a", FROZEN))
    assert verdicts()["a"][1] == ("black", "frozen")


def test_the_later_one_of_two_equal_clips_is_the_duplicate() -> None:
    """In the manifest's order, as in the report, whichever came first."""
    Batch("{duplicate: reject}").run(("b", CLEAN), ("a", CLEAN))
    assert verdicts() == dict.fromkeys(("b", "twin"), ("reject", ("duplicate",), "quality"))


@pytest.mark.parametrize("earlier", ["accept", "none"])
def test_a_person_s_verdict_on_the_clip_stands(earlier: str) -> None:
    with VerdictLog(Path("out")) as log:
        log.append(Verdict("a", 1, "", FROZEN.sha256, earlier, by="ann"))
        log.append(Verdict("b", 1, "", CLEAN.sha256, earlier, by="ann"))
    Batch("{frozen: reject}", FakeHook(reject("no face"))).run(("a", FROZEN), ("b", FROZEN))
    found = verdicts()
    assert found["a"] == (earlier, (), "ann")
    assert found["b"][0] == "reject", "that was another clip"
    assert set(found["b"][1]) == {"frozen", "no face"}


def test_clips_of_earlier_runs_are_checked_at_the_end_of_the_next_one() -> None:
    """The setting is new, or the earlier run was killed."""
    batch = Batch("warn").run(("a", FROZEN))
    again = Batch("{frozen: reject}")
    again.records = batch.records
    again.run()
    assert set(verdicts()) == {"a"}
    again.run()
    assert lines() == 1, "once"


def test_each_take_has_a_verdict_of_its_own() -> None:
    batch = Batch("{frozen: reject}")
    first = batch.setup.batch.entries[0]
    second = Entry(3, "a.t2", replace(first.job, take=2, fingerprint=f"sha256:{'22' * 32}"))
    entries = (*batch.setup.batch.entries, second)
    batch.setup = replace(batch.setup, batch=replace(batch.setup.batch, entries=entries))
    batch.run(("a", CLEAN), ("a.t2", FROZEN))
    assert {name: one.take for name, one in load(Path("out")).items()} == {"a.t2": 2}


# The hook


def test_the_hook_gets_the_row_of_the_report_and_the_path() -> None:
    hook = FakeHook()
    Batch(hook=hook).run(("a", FROZEN))
    [row] = hook.rows
    assert (row["id"], row["file"], row["sha256"], row["tags"]) == ("a", "a.mp4", FROZEN.sha256, {"who": "admiral"})
    assert row["path"] == str(Path("out/a.mp4").absolute())
    assert [mark["kind"] for mark in row["quality"]["marks"]] == ["black", "frozen"]
    json.dumps(row)


def test_the_hook_rejects_with_its_reason_and_accepts_nothing() -> None:
    hook = FakeHook(lambda name: Outcome(is_decided=True, reason="no face" if name == "b" else ""))
    Batch(hook=hook).run(("a", CLEAN), ("b", FROZEN))
    assert verdicts() == dict.fromkeys(("b", "twin"), ("reject", ("no face",), "on_clip"))
    assert len(hook.rows) == 2, "once for a job with two names"


def test_reasons_of_marks_and_hook_are_kept_together() -> None:
    Batch("{frozen: reject}", FakeHook(reject("no face"))).run(("a", FROZEN))
    assert set(verdicts()["a"][1]) == {"frozen", "no face"}


def test_the_hook_runs_once_for_each_clip_over_all_runs() -> None:
    hook = FakeHook(reject("no face"))
    batch = Batch(hook=hook).run(("a", CLEAN))
    with VerdictLog(Path("out")) as log:
        log.append(Verdict("a", 1, "", CLEAN.sha256, NONE, by="ann"))
    batch.run(("a", CLEAN))
    assert len(hook.rows) == 1
    assert verdicts()["a"] == (NONE, (), "ann")
    batch.run(("a", FROZEN))
    assert len(hook.rows) == 2, "another clip"
    hook.digest = "another command"
    batch.run()
    assert len(hook.rows) == 3


def test_a_clip_of_an_earlier_run_without_an_outcome_is_checked_at_the_start() -> None:
    batch = Batch().run(("a", CLEAN))
    batch.hook = FakeHook()
    batch.run()
    assert [row["id"] for row in batch.hook.rows] == ["a"]


def test_a_hook_that_fails_is_one_warning_and_runs_again_in_the_next_run() -> None:
    hook = FakeHook(lambda name: Outcome(is_decided=False, problem="ended with status 1: no model"))
    batch = Batch(hook=hook).run(("a", CLEAN), ("b", FROZEN))
    [notice] = batch.notices
    assert notice.startswith("--on-clip ended with status 1: no model (clip of ")
    assert verdicts() == {}
    hook.decide = reject("no face")
    batch.run()
    assert set(verdicts()) == {"a", "b", "twin"}


def test_a_kill_between_verdict_and_outcome_adds_no_second_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Outcomes, "add", lambda *_: None)
        Batch(hook=FakeHook(reject("no face"))).run(("a", CLEAN))
    Batch(hook=FakeHook(reject("no face"))).run(("a", CLEAN))
    assert lines() == 1


def test_the_loop_goes_on_while_the_hook_runs() -> None:
    go, began = threading.Event(), threading.Event()

    def wait(name: str) -> Outcome:
        began.set()
        assert go.wait(20)
        return Outcome(is_decided=True, reason="late")

    def during(checks: ClipChecks) -> None:
        assert began.wait(20), "it runs in a thread"
        assert verdicts() == {}
        go.set()

    Batch(hook=FakeHook(wait)).run(("a", CLEAN), during=during)
    assert verdicts()["a"][1] == ("late",), "the end of the run waits for it"


def test_a_defect_is_one_warning_and_the_run_ends_as_usual() -> None:
    def fail(name: str) -> Outcome:
        raise RuntimeError(f"defect at {name}")

    batch = Batch(hook=FakeHook(fail)).run(("a", CLEAN), ("b", FROZEN))
    [notice] = batch.notices
    assert notice.startswith("a finished clip could not be checked: RuntimeError('defect at ")


@pytest.mark.parametrize("kind", ["deadline", "max_runtime", "interrupted", "max_cost", ""])
def test_only_a_run_without_time_ends_the_hook(kind: str) -> None:
    hook = FakeHook()
    Batch(hook=hook).run(("a", CLEAN), reason=StopReason(kind, kind))
    assert hook.stopped == (2 if kind in {"deadline", "max_runtime", "interrupted"} else 1), "close stops it too"


@pytest.mark.parametrize("hook", [None, FakeHook(reject("no face"))])
def test_a_verdict_that_cannot_be_stored_is_one_warning(hook: FakeHook | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise BatchLocked("another process keeps the lock")

    monkeypatch.setattr(VerdictLog, "propose", fail)
    batch = Batch("{frozen: reject}", hook).run(("a", FROZEN), ("b", FROZEN))
    assert batch.notices == ["another process keeps the lock"]
