"""`status`: the run's screen while the lock is held, and its final lines otherwise, from the journal alone."""

import asyncio
import io
import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchrunner.app import status
from batchrunner.errors import JournalError, Problem, UsageError
from batchrunner.job import Record, State, TimelineEvent
from batchrunner.journal.journal import Journal
from batchrunner.storage.run_directory import Lock, RunDir
from tests.conftest import NOW, Inline, make_entries, make_record, make_run

FACE = Problem("face_detection", "no face", "Use another image.")


def journal(folder: Path, records: dict[str, Record], *timeline_events: TimelineEvent, ended: bool = True) -> RunDir:
    """Make a run directory with these records, by id."""
    rundir = RunDir(folder / "night")
    rundir.make()
    run = make_run(settings_json=json.dumps({"prices": {"480p": 1000}, "assume_length_s": 2.0}))

    async def write() -> None:
        book = Journal(rundir.journal, Inline())
        await book.begin(run, make_entries(*records), records.values())
        for timeline_event in timeline_events:
            await book.note(timeline_event)
        if ended:
            await book.finish(replace(run, finished_at=NOW + 60, exit_status=1, stopped=""))
        book.close()

    asyncio.run(write())
    return rundir


@pytest.mark.parametrize(
    "settings",
    [
        "no JSON",
        "[1]",
        "[" * 100_000,
        '{"prices": 7}',
        '{"prices": {"480p": "much"}}',
        '{"assume_length_s": "long"}',
        '{"assume_length_s": NaN}',
        '{"max_credits": [1]}',
        '{"max_generations": "3"}',
        '{"output": 1}',
        '{"options": 7}',
        '{"options": [7]}',
    ],
    ids=lambda text: text[:40],
)
def test_malformed_settings_in_a_journal_give_an_error_message(tmp_path: Path, settings: str) -> None:
    """The row has a valid checksum, so a program wrote it."""
    rundir = RunDir(tmp_path / "night")
    rundir.make()
    book = Journal(rundir.journal, Inline())
    record = make_record("a", State.IN_FLIGHT)
    asyncio.run(book.begin(make_run(settings_json=settings), make_entries("a"), [record]))
    book.close()
    for as_json in (False, True):
        with pytest.raises(JournalError, match="cannot be read as a journal") as refused:
            shown(rundir, as_json=as_json)
        assert "--recover" in refused.value.hint


def flying() -> Record:
    return make_record("b", State.IN_FLIGHT).with_attempt(
        accepted_at=NOW + 2, generating_at=NOW + 3, estimate=3_000_000.0
    )


def shown(rundir: RunDir, **more: Any) -> str:
    stream = io.StringIO()
    status.show(rundir, stream, **more)
    return stream.getvalue()


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The wall time that the command reads."""
    moments = [NOW + 100]
    monkeypatch.setattr(status, "wall_time", lambda: moments[-1])
    monkeypatch.setattr(status, "pause", lambda seconds: None)
    return moments


def test_status_of_a_finished_batch_shows_the_final_lines(tmp_path: Path, now: list[float]) -> None:
    now.append(NOW + 60 + 3 * 86_400)
    lines = shown(journal(tmp_path, {"a": make_record("a", State.FAILED, 1, error=FACE)})).splitlines()
    assert lines[0] == "✗ night (aimlapi): 0 of 1 job succeeded in 1 min 0 s, 1 failed."
    assert lines[2].split(maxsplit=3) == ["✗", "1", "failed", "no face"]
    assert "to do               The same request would fail again. Change the job first." in lines
    assert lines[-1] == "Ended 3 days ago."


def test_status_of_an_active_run_shows_the_screen(tmp_path: Path) -> None:
    records = {"a": make_record("a"), "b": flying(), "c": make_record("c", State.FAILED, 1, error=FACE)}
    bad = TimelineEvent(NOW + 40, "call_health", "poll", "down", "the service answered 502")
    cap = TimelineEvent(NOW + 41, "cap", "submit", "2", "working cap 2 of 4")
    rundir = journal(tmp_path, records, bad, cap, ended=False)
    with Lock(rundir, NOW):
        lines = shown(rundir).splitlines()
    assert lines[0].startswith("night on aimlapi")
    assert lines[1].endswith("1 of 3")
    assert lines[2] == "jobs     1 failed, 1 in flight, 1 waiting"
    # a: 2 s at 1,000 credits; b: 3 million; c failed and costs nothing.
    assert "$0.00 spent, $1.50 reserved; about $1.50 in total (your prices)" in lines[4]
    assert lines[5].startswith("service  polls down since ")
    assert lines[5].endswith(" (1 min 0 s): the service answered 502")
    assert "b  generating   1 min 38 s" in lines
    assert any("c: no face" in line for line in lines)
    assert lines[-1].startswith("running: pid ")


def test_status_names_a_killed_run_as_killed(tmp_path: Path) -> None:
    text = shown(journal(tmp_path, {"b": flying()}, ended=False))
    assert "killed before it ended. Run it again to continue" in text


def test_events_of_earlier_runs_are_not_shown_as_current(tmp_path: Path) -> None:
    old = TimelineEvent(NOW - 40, "call_health", "poll", "down", "the service answered 502")
    rundir = journal(tmp_path, {"b": flying()}, old, ended=False)
    with Lock(rundir, NOW):
        assert "service  fine; at most 4 at once" in shown(rundir)


def test_json_has_the_same_content_as_the_report(tmp_path: Path) -> None:
    rundir = journal(tmp_path, {"b": flying()}, ended=False)
    with Lock(rundir, NOW):
        report = json.loads(shown(rundir, as_json=True))
    assert (report["totals"]["in_flight"], report["finished_at"]) == (1, None)


def test_a_folder_without_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="contains no batch"):
        shown(RunDir(tmp_path))


def test_a_batch_that_was_only_rehearsed_is_found_by_the_hint(tmp_path: Path) -> None:
    rehearsed = journal(tmp_path, {"b": flying()}).path.rename(tmp_path / "batch-rehearsal")
    with pytest.raises(UsageError) as refused:
        shown(RunDir(tmp_path / "batch"))
    assert f"There is a rehearsal: name {rehearsed}, or add --provider sandbox" in refused.value.hint


def test_watch_ends_when_no_process_runs_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rundir = journal(tmp_path, {"b": flying()}, ended=False)
    running = ExitStack()
    running.enter_context(Lock(rundir, NOW))
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            running.close()

    monkeypatch.setattr(status, "pause", pause)
    stream = io.StringIO()
    status.watch(rundir, stream)
    assert len(pauses) == 3
    assert stream.getvalue().count("night (aimlapi)") == 1, "without a terminal, only the end is shown"


def test_the_lock_names_its_owner(tmp_path: Path) -> None:
    rundir = journal(tmp_path, {"b": flying()}, ended=False)
    assert rundir.holder() is None
    with Lock(rundir, NOW):
        holder = rundir.holder()
        assert holder is not None
        assert holder.startswith("pid ")
    assert rundir.holder() is None
    assert RunDir(tmp_path / "missing").holder() is None


def test_json_contains_no_control_characters_and_keeps_the_content(tmp_path: Path) -> None:
    evil = "\x7f\x9b31m\u202e\u200b 漢字 é"
    rundir = journal(tmp_path, {"a": make_record("a", State.FAILED, error=Problem("kind", evil, evil))})
    text = shown(rundir, as_json=True)
    assert all(line.isprintable() for line in text.split("\n")), ascii(text)
    assert json.loads(text)["jobs"][0]["error"]["message"] == evil
    assert "漢字 é" in text
