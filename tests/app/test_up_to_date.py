"""A finished batch is left unchanged; any uncertainty about that is a reason for a run."""

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchrunner.app import setup as prepare
from batchrunner.app import up_to_date
from batchrunner.app.setup import Setup
from batchrunner.errors import Problem
from batchrunner.events import Event, Noticed, RunFinished, RunStarted
from batchrunner.job import Move, PlacedFile, Record, Result, State, TimelineEvent, advance
from batchrunner.journal import journal, migrate
from batchrunner.journal.journal import Journal
from batchrunner.journal.witness import Witness
from batchrunner.progress import json_lines
from batchrunner.progress.model import Model
from batchrunner.progress.phrases import Level
from batchrunner.report import writer
from batchrunner.storage.durable_files import Disk
from tests.conftest import NOW, Inline, make_record

SERVICE = "api.example.com"
ROWS: list[dict[str, Any]] = [
    {"id": "a", "video": "https://example.com/a.mp4", "image": "https://example.com/hero.png", "tags": {"who": "hero"}},
    {"id": "b", "video": "https://example.com/b.mp4", "image": "https://example.com/hero.png"},
    {"id": "twin", "video": "https://example.com/a.mp4", "image": "https://example.com/hero.png"},
]
BEGAN = 1000.0  # long before any file is written
CLIP = b"a clip"
FACE = Problem("face_detection", "no face", "Use another image.")


def loaded(folder: Path, rows: list[dict[str, Any]], **flags: object) -> Setup:
    path = folder / "night.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return prepare.load(path, {"output": str(folder / "out"), **flags}, {})


def succeeded(record: Record) -> Record:
    record = advance(record, Move.BEGIN_SUBMIT, request_id=f"run.{record.job.key}.1", submitted_at=BEGAN + 1)
    record = advance(record, Move.ACCEPT, generation_id=f"gen:{record.job.key}")
    return replace(advance(record, Move.DELIVER), result=Result(len(CLIP), "ab" * 32))


def failed(record: Record, error: Problem = FACE) -> Record:
    record = advance(record, Move.BEGIN_SUBMIT, request_id=f"run.{record.job.key}.1", submitted_at=BEGAN + 1)
    return advance(advance(record, Move.ACCEPT, generation_id="gen:1"), Move.FAIL, error=error)


def ran(
    setup: Setup, *others: Record, b: Callable[[Record], Record] = succeeded, status: int = 0, charges: str = ""
) -> Setup:
    """Write the result of a run in which `b` is made from job b as it is now.

    others: jobs of earlier manifests. charges: what the run learned of them, as in the timeline.
    """
    setup.rundir.make()
    jobs = {entry.job.fingerprint: entry for entry in setup.batch.entries}
    records = [(b if entry.id == "b" else succeeded)(Record(entry.job)) for entry in jobs.values()]
    run = prepare.run_of(setup, SERVICE, "run1", BEGAN)

    async def write() -> None:
        book = Journal(setup.rundir.journal, Inline(), Witness(setup.rundir.witness, Disk()))
        await book.begin(run, setup.batch.entries, [*records, *others])
        for entry in setup.batch.entries:
            if entry.id != "b" or b is succeeded:
                await book.place(entry.file, PlacedFile(entry.job.fingerprint, "ab" * 32, len(CLIP)))
                (setup.rundir.path / entry.file).write_bytes(CLIP)
        if charges:
            await book.note(TimelineEvent(BEGAN + 59, "charges", "", charges, ""))
        await book.finish(replace(run, finished_at=BEGAN + 60, exit_status=status))
        book.close()

    asyncio.run(write())
    snapshot = journal.read(setup.rundir.journal)
    assert snapshot is not None
    writer.write(snapshot, setup.rundir.path, "1")
    return setup


def is_done(setup: Setup, service: str = SERVICE) -> bool:
    return up_to_date.nothing_to_do(setup, service) is not None


def test_a_finished_batch_is_left_unchanged_and_reported(tmp_path: Path) -> None:
    setup = ran(loaded(tmp_path, ROWS))
    found = up_to_date.nothing_to_do(setup, SERVICE)
    assert found is not None
    events: list[Event] = []
    assert up_to_date.announce(setup, found, "1", NOW, events.append) == 0
    assert [type(event) for event in events] == [RunStarted, Noticed, RunFinished]
    assert "nothing to do" in events[1].message  # type: ignore[union-attr]  # of type Noticed
    assert [json_lines.level_of(event, Model()) for event in events] == [Level.INFO] * 3, "no webhook is needed"
    assert events[2].summary.startswith("3 of 3 jobs succeeded in 1 min 0 s")  # type: ignore[union-attr]  # RunFinished


def test_a_different_display_option_needs_no_run(tmp_path: Path) -> None:
    ran(loaded(tmp_path, ROWS))
    assert is_done(loaded(tmp_path, ROWS, quiet=True, log_format="json", no_progress=True))
    assert not is_done(loaded(tmp_path, ROWS, concurrency="9"))
    assert not is_done(loaded(tmp_path, ROWS, max_credits="9"))
    assert not is_done(loaded(tmp_path, ROWS), "other.example.com")


@pytest.mark.parametrize("asked", ["junit", "metrics_file"])
def test_a_report_file_that_counts_runs_needs_a_run(tmp_path: Path, asked: str) -> None:
    wanted = {asked: str(tmp_path / "told")}
    assert not is_done(ran(loaded(tmp_path, ROWS, **wanted)))


@pytest.mark.parametrize(
    "rows",
    [
        ROWS[:2],
        [*ROWS, {**ROWS[1], "id": "more"}],
        [{**ROWS[0], "id": "renamed"}, *ROWS[1:]],
        [{**ROWS[0], "tags": {"who": "villain"}}, *ROWS[1:]],
        [{**ROWS[0], "priority": 5}, *ROWS[1:]],
        [{**ROWS[0], "resolution": "720p"}, *ROWS[1:]],
        [ROWS[1], ROWS[0], ROWS[2]],
    ],
)
def test_another_manifest_needs_a_run(tmp_path: Path, rows: list[dict[str, Any]], monkeypatch: Any) -> None:
    ran(loaded(tmp_path, ROWS))
    # the manifest's digest has changed: this tests the other checks
    monkeypatch.setattr(up_to_date, "_same", lambda *_: True)
    assert is_done(loaded(tmp_path, ROWS))
    assert not is_done(loaded(tmp_path, rows))


def _linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("twin.mp4", Path.unlink),
        ("b.mp4", lambda path: path.write_bytes(CLIP + b"!")),
        ("a.mp4", _linked),
        ("report.html", Path.unlink),
        ("results.csv", Path.unlink),
        ("report.json", lambda path: path.write_text(path.read_text().replace("run1", "run0"))),
        ("report.json", lambda path: path.write_text(path.read_text().replace('"finished_at"', '"told_at"'))),
        (
            "report.json",
            lambda path: path.write_text(path.read_text().replace('"schema_version": 2', '"schema_version": 1')),
        ),
        ("report.html", lambda path: os.utime(path, (BEGAN - 1, BEGAN - 1))),
    ],
)
def test_a_missing_or_changed_file_needs_a_run(tmp_path: Path, name: str, damage: Callable[[Path], object]) -> None:
    setup = ran(loaded(tmp_path, ROWS))
    assert is_done(setup)
    damage(setup.rundir.path / name)
    assert not is_done(setup)


def test_a_verdict_after_the_report_needs_a_run(tmp_path: Path) -> None:
    """The run writes the reports again, with the verdict."""
    setup = ran(loaded(tmp_path, ROWS))
    setup.rundir.review.write_text("")
    os.utime(setup.rundir.review, (BEGAN, BEGAN))
    assert is_done(setup)
    os.utime(setup.rundir.review)
    assert not is_done(setup)


@pytest.mark.parametrize(("charges", "done"), [("quoted", False), ("not_listed", True)])
def test_charges_that_a_run_may_settle_need_a_run(tmp_path: Path, charges: str, done: bool) -> None:
    setup = ran(loaded(tmp_path, ROWS), charges=charges)
    assert is_done(setup) is done


def test_a_clip_that_the_journal_assigns_to_another_job_needs_a_run(tmp_path: Path) -> None:
    setup = ran(loaded(tmp_path, ROWS))
    book = Journal(setup.rundir.journal, Inline(), Witness(setup.rundir.witness, Disk()))
    other = setup.batch.entries[1].job.fingerprint
    asyncio.run(book.place("a.mp4", PlacedFile(other, "ab" * 32, len(CLIP))))
    book.close()
    assert not is_done(setup)


def test_clips_with_names_of_their_own_are_found(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "file": "{tags.who}/{id}-{resolution}"}, {**ROWS[1], "takes": 2}, ROWS[2]]
    setup = loaded(tmp_path, rows)
    (setup.rundir.path / "hero").mkdir(parents=True)
    ran(setup)
    assert is_done(setup)
    (setup.rundir.path / "hero" / "a-480p.mp4").rename(setup.rundir.path / "a.mp4")
    assert not is_done(setup)


def test_a_clip_whose_size_differs_from_the_journal_needs_a_run(tmp_path: Path) -> None:
    setup = ran(loaded(tmp_path, ROWS))
    book = Journal(setup.rundir.journal, Inline(), Witness(setup.rundir.witness, Disk()))
    asyncio.run(book.place("b.mp4", PlacedFile(setup.batch.entries[1].job.fingerprint, "ab" * 32, 3)))
    book.close()
    (setup.rundir.path / "b.mp4").write_bytes(CLIP[:3])
    assert not is_done(setup)


@pytest.mark.parametrize("state", [State.PENDING, State.SUBMITTING, State.IN_FLIGHT, State.IN_DOUBT])
def test_an_unfinished_job_needs_a_run(tmp_path: Path, state: State) -> None:
    setup = ran(loaded(tmp_path, ROWS), b=lambda record: make_record("b", state, job=record.job), status=1)
    assert not is_done(setup)


def test_a_failed_job_needs_a_run_only_with_retry_failed(tmp_path: Path) -> None:
    setup = ran(loaded(tmp_path, ROWS), b=failed, status=1)
    found = up_to_date.nothing_to_do(setup, SERVICE)
    assert found is not None
    assert up_to_date.announce(setup, found, "1", NOW, lambda _: None) == 1
    again = replace(setup, settings=replace(setup.settings, retry_failed=True))
    assert not up_to_date._is_over(found, again.settings)
    assert not is_done(again)


def test_a_job_that_the_service_withheld_needs_a_run(tmp_path: Path) -> None:
    withheld = Problem("no_link", "completed without a link", "")
    assert not is_done(ran(loaded(tmp_path, ROWS), b=lambda record: failed(record, withheld), status=1))


def test_jobs_of_earlier_manifests_need_a_run(tmp_path: Path) -> None:
    assert not is_done(ran(loaded(tmp_path, ROWS), make_record("gone", State.IN_FLIGHT)))


def test_a_stopped_run_needs_a_run(tmp_path: Path) -> None:
    assert not is_done(ran(loaded(tmp_path, ROWS), status=130))


def test_a_journal_that_was_not_closed_needs_a_run(tmp_path: Path) -> None:
    setup = ran(loaded(tmp_path, ROWS))
    book = Journal(setup.rundir.journal, Inline(), Witness(setup.rundir.witness, Disk()))
    assert not is_done(setup)
    book.close()
    assert is_done(setup)
    setup.rundir.journal.unlink()
    assert not is_done(setup)


def test_a_journal_of_an_older_version_needs_a_run_which_upgrades_it(tmp_path: Path) -> None:
    """Otherwise each later command would convert a copy of it."""
    setup = ran(loaded(tmp_path, ROWS))
    with closing(sqlite3.connect(setup.rundir.journal)) as connection:
        connection.execute(f"PRAGMA user_version = {migrate.VERSION - 1}")
    assert not is_done(setup)
    with closing(sqlite3.connect(setup.rundir.journal)) as connection:
        connection.execute(f"PRAGMA user_version = {migrate.VERSION}")
    assert is_done(setup)


def test_a_journal_that_differs_from_its_witness_needs_a_run(tmp_path: Path) -> None:
    """The run then says why it cannot continue, or warns."""
    setup = ran(loaded(tmp_path, ROWS))
    assert is_done(setup)
    whole = setup.rundir.witness.read_bytes()
    setup.rundir.witness.unlink()
    assert not is_done(setup)
    newer = Witness(setup.rundir.witness, Disk())
    setup.rundir.witness.write_bytes(whole)
    mark = newer.read()
    assert mark is not None
    newer.create(mark._replace(sequence=mark.sequence + 1))
    assert not is_done(setup)


def test_a_plan_names_the_clips_of_removed_rows(tmp_path: Path) -> None:
    ran(loaded(tmp_path, ROWS, provider="sandbox"))
    plan, _, _ = prepare.plan_batch(loaded(tmp_path, ROWS[:1], provider="sandbox"))
    assert [clip.file for clip in plan.kept] == ["b.mp4", "twin.mp4"]
    assert prepare.plan_batch(loaded(tmp_path, ROWS, provider="sandbox"))[0].kept == ()
