"""A batch's summary equals the one computed from all of its records, and reads few rows."""

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from batchrunner.errors import JournalError, Problem
from batchrunner.job import REUSED, Attempt, Entry, Record, Result, Run, State
from batchrunner.journal import journal, rows, summary
from batchrunner.journal.journal import Journal
from batchrunner.report import writer
from batchrunner.report.summary import outline
from tests.conftest import NOW, Inline, make_job, make_record, make_run

FACE = Problem("face_detection", "no face in clip of gen:x", "Use another image.")
BUSY = Problem("busy", "the service is busy", "", "service")
GONE = Problem("no_link", "it gave no link", "Look there.", "service")


def stored(folder: Path, run: Run, entries: Sequence[Entry], records: Sequence[Record]) -> Path:
    path = folder / "journal.db"
    path.unlink(missing_ok=True)

    async def write() -> None:
        book = Journal(path, Inline())
        await book.begin(run, entries, [Record(record.job) for record in records])
        for record in records:
            for number in range(1, len(record.attempts)):
                await book.save(replace(record, attempts=record.attempts[:number]))
            await book.save(record)
        book.close()

    asyncio.run(write())
    return path


def said(path: Path) -> tuple[str, str]:
    """Return the status text from the summary, and the one from the whole report. Their amounts are equal."""
    found, snapshot = summary.count(path), journal.read(path)
    assert found is not None
    assert snapshot is not None
    lean, whole = outline(found, "1"), writer.build(snapshot, "1")
    assert lean["money"] == pytest.approx(whole["money"])
    assert lean["totals"]["generations"] == whole["totals"]["generations"]
    return writer.status_text(outline(found, "1")), writer.status_text(writer.build(snapshot, "1"))


def attempt(rng: Random, number: int, state: State) -> Attempt:
    outcome = {State.SUCCEEDED: "succeeded", State.FAILED: "failed", State.IN_FLIGHT: "accepted"}.get(state, "refused")
    accepted = outcome != "refused"
    start = REUSED if accepted and rng.random() < 0.2 else "run."
    return Attempt(
        number=number,
        request_id=f"{start}{rng.getrandbits(40):x}.{number}",
        submitted_at=NOW + rng.choice([-50, 5]),
        generation_id=f"gen:{rng.getrandbits(40):x}" if accepted else None,
        outcome=rng.choice([outcome, None]) if state is State.IN_FLIGHT else outcome,
        error=rng.choice([FACE, GONE, None]) if state is State.FAILED else None,
        completed_at=NOW + 9 if state is State.SUCCEEDED or rng.random() < 0.2 else None,
        credits=rng.choice([None, 0.0, 130_000.5]),
        estimate=rng.choice([None, 0.0, 99_999.25]),
        polls=rng.randrange(5),
        settled=rng.choice([None, None, 0.0, 120_000.5]) if accepted else None,
    )


def any_record(rng: Random, name: str) -> Record:
    state = rng.choice(list(State))
    attempts = tuple(attempt(rng, number, state) for number in range(1, rng.randrange(1, 3) + (state != State.PENDING)))
    result = Result(rng.randrange(10_000), "ab" * 32) if state is State.SUCCEEDED else None
    error = None
    if state is State.FAILED:
        error = rng.choice([FACE, replace(FACE, message=f"no face in {attempts[-1].generation_id}"), GONE, None])
    if state in {State.PENDING, State.IN_DOUBT}:
        error = rng.choice([BUSY, None, None])
    return Record(make_job(name), state, attempts, error, result)


@pytest.mark.parametrize("seed", range(30))
def test_the_text_equals_the_whole_reports(tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    names = [f"j{number}" for number in range(rng.choice([1, 6, 40]))]
    records = [any_record(rng, name) for name in names]
    named = names if seed % 2 else [*rng.sample(names, len(names) * 3 // 4 or 1), rng.choice(names)]
    if rng.random() < 0.5:
        named = list(dict.fromkeys(named))
    entries = [Entry(place, f"id{place}", make_job(name)) for place, name in enumerate(named)]
    ended: dict[str, Any] = {
        "finished_at": NOW + 60,
        "exit_status": 1,
        "stopped": rng.choice(["", "the budget is reached"]),
    }
    run = make_run(settings_json=json.dumps({"output": "night"}), **(ended if rng.random() < 0.7 else {}))
    lean, whole = said(stored(tmp_path, run, entries, records))
    assert sorted(lean.splitlines()) == sorted(whole.splitlines())


def test_the_order_equals_the_whole_reports(tmp_path: Path) -> None:
    names = ["p1", "f1", "p2", "f2", "d1", "b1", "p3"]
    states = {"p": State.PENDING, "f": State.FAILED, "d": State.IN_DOUBT, "b": State.PENDING}
    errors = {"f": FACE, "d": None, "p": None, "b": BUSY}
    records = [make_record(name, states[name[0]], error=errors[name[0]]) for name in names]
    entries = [Entry(place, name, make_job(name)) for place, name in enumerate(names)]
    lean, whole = said(stored(tmp_path, make_run(finished_at=NOW + 5, exit_status=1), entries, records))
    assert lean == whole
    assert "3 not submitted" in lean


def test_jobs_that_only_left_out_are_counted_apart(tmp_path: Path) -> None:
    names = [f"{kind}{number}" for number in range(5) for kind in "ab"]
    records = [make_record(name, State.PENDING) for name in names]
    entries = [Entry(place, name, make_job(name)) for place, name in enumerate(names)]
    run = make_run(finished_at=NOW + 5, exit_status=3, settings_json='{"only": ["a*", "b4"]}')
    lean, whole = said(stored(tmp_path, run, entries, records))
    assert lean == whole
    assert "6 not submitted" in lean
    assert "4 not submitted   was not selected with --only" in lean


def test_one_of_several_equal_jobs_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{state}{number:03d}" for state in "spf" for number in range(100)]
    states = {"s": State.SUCCEEDED, "p": State.PENDING, "f": State.FAILED}
    results = {"s": Result(10, "ab" * 32), "p": None, "f": None}
    records = [make_record(name, states[name[0]], 1, result=results[name[0]]) for name in names[:202]]
    entries = [Entry(place, name, make_job(name)) for place, name in enumerate(names[:202])]
    path = stored(tmp_path, make_run(), entries, records)
    count = 0
    make = rows.record

    def counted(*arguments: object) -> Record:
        nonlocal count
        count += 1
        return make(*arguments)  # type: ignore[arg-type]  # handed through

    monkeypatch.setattr(rows, "record", counted)
    found = summary.count(path)
    assert found is not None
    assert count == 3, "one that waits, and two that failed"
    assert [(entry.id, number) for entry, _, number in found.plain] == [("p000", 100)]
    assert (found.size_bytes, found.states[State.SUCCEEDED]) == (1000, 100)


def test_before_the_first_run_there_is_no_summary(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    assert summary.count(path) is None
    Journal(path, Inline()).close()
    assert summary.count(path) is None


@pytest.mark.parametrize("size_bytes", [1, 16, 512])
def test_damage_is_reported_or_harmless(tmp_path: Path, size_bytes: int) -> None:
    records = [make_record(f"j{number}", State.FAILED, error=FACE) for number in range(20)]
    entries = [Entry(place, f"id{place}", record.job) for place, record in enumerate(records)]
    path = stored(tmp_path, make_run(), entries, records)
    whole, rng, refusals = path.read_bytes(), Random(size_bytes), 0
    for _ in range(60):
        place = rng.randrange(len(whole) - size_bytes)
        path.write_bytes(whole[:place] + rng.randbytes(size_bytes) + whole[place + size_bytes :])
        try:
            summary.count(path)
        except JournalError:
            refusals += 1
    assert refusals > {1: 0, 16: 5, 512: 15}[size_bytes]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE jobs SET state = 'wandering'",
        "UPDATE jobs SET result_json = '{'",
        "UPDATE jobs SET error_json = '{'",
        "UPDATE jobs SET error_json = '5'",
        "UPDATE attempts SET error_json = '{'",
        "DROP TABLE attempts",
        "DROP TABLE mark",
    ],
)
def test_impossible_values_are_damage(tmp_path: Path, statement: str) -> None:
    path = stored(tmp_path, make_run(), [Entry(0, "a", make_job("a"))], [make_record("a", State.FAILED, error=FACE)])
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()
    with pytest.raises(JournalError, match=str(path)):
        summary.count(path)
