"""Run directories of older journal versions, killed with jobs in every state, continue with nothing paid again."""

import json
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from batchrunner.errors import JournalError
from batchrunner.job import TimelineEvent
from batchrunner.journal import salvage
from batchrunner.journal.journal import Journal, create, read
from batchrunner.journal.migrate import VERSION
from tests.conftest import ROOT, Inline
from tests.soak.processes import call

OLDER = range(1, VERSION)


@pytest.fixture(params=OLDER, ids=lambda version: f"version{version}")
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def copied(version: int, folder: Path) -> Path:
    return Path(shutil.copytree(ROOT / "tests" / "runs" / f"version{version}", folder / "old"))


def version_in(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def columns(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return the name, type, NOT NULL and key of each column, by table."""
    with closing(sqlite3.connect(path)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        found = {}
        for table in tables:
            rows = connection.execute('SELECT name, type, "notnull", pk FROM pragma_table_info(?)', (table,))
            found[table] = sorted(rows)
        return found


def test_the_fixture_has_the_older_version_and_jobs_in_every_state(version: int, tmp_path: Path) -> None:
    path = copied(version, tmp_path) / "run" / ".batchrunner" / "journal.db"
    snapshot = read(path)
    assert snapshot is not None
    assert len(snapshot.records) == 6
    assert version_in(path) == version
    with closing(sqlite3.connect(path)) as connection:
        states = {row[0] for row in connection.execute("SELECT state FROM jobs")}
    assert states == {"pending", "submitting", "in_flight", "in_doubt", "succeeded", "failed"}


def test_an_older_run_directory_continues_and_nothing_is_paid_twice(version: int, tmp_path: Path) -> None:
    place = copied(version, tmp_path)
    (place / "faults.yaml").write_text("service: {render: tiny}\n")
    done = call("run", "night.yaml", "--output", "run", "--quiet", "--faults", "faults.yaml", cwd=place)
    assert done.returncode == 1, done.stderr
    report = json.loads((place / "run" / "report.json").read_bytes())
    assert report["schema_version"] == 2
    states = {row["id"]: row["state"] for row in report["jobs"]}
    assert states == dict.fromkeys(states, "succeeded") | {"failed": "failed"}
    ledger = (place / "run" / ".batchrunner" / "sandbox" / "ledger.jsonl").read_text().splitlines()
    accepted = Counter(row["fingerprint"] for row in map(json.loads, ledger) if row["event"] == "accepted")
    assert list(accepted.values()) == [1] * 6
    assert version_in(place / "run" / ".batchrunner" / "journal.db") == VERSION
    assert (place / "run" / ".batchrunner.witness").exists()


@pytest.mark.parametrize("command", ["verify", "report", "status"])
def test_commands_read_an_older_run_directory(version: int, tmp_path: Path, command: str) -> None:
    run = copied(version, tmp_path) / "run"
    assert json.loads((run / "report.json").read_bytes())["schema_version"] == 1
    done = call(command, run, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert version_in(run / ".batchrunner" / "journal.db") == version
    assert json.loads((run / "report.json").read_bytes())["schema_version"] == (2 if command == "report" else 1)


def test_a_migrated_journal_has_the_columns_of_a_new_one(version: int, tmp_path: Path) -> None:
    path = copied(version, tmp_path) / "run" / ".batchrunner" / "journal.db"
    Journal(path, Inline()).close()
    create(tmp_path / "new.db")
    assert columns(path) == columns(tmp_path / "new.db")


def test_the_timeline_of_version_2_keeps_its_events_and_their_order(tmp_path: Path) -> None:
    path = copied(2, tmp_path) / "run" / ".batchrunner" / "journal.db"
    journal = Journal(path, Inline())
    story = journal.story()
    journal.close()
    start = story.run.started_at
    assert list(story.timeline_events) == [
        TimelineEvent(start + 1.5, "call_health", "submit", "down", "the service answered 502"),
        TimelineEvent(start + 2.5, "call_health", "submit", "fine", ""),
        TimelineEvent(start + 3.5, "cap", "", "2", "the service asks for fewer: at most 2 at once"),
        TimelineEvent(start + 4.5, "stopping", "", "", "interrupted"),
    ]


def test_a_damaged_row_of_version_2_is_also_refused_after_its_migration(tmp_path: Path) -> None:
    path = copied(2, tmp_path) / "run" / ".batchrunner" / "journal.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        table = next(
            name
            for name, sql in connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table'")
            if "message TEXT" in sql
        )
        connection.execute(f"UPDATE {table} SET message = 'changed' WHERE kind = 'stopping'")
    with pytest.raises(JournalError, match="fails its checksum"):
        read(path)


def test_jobs_of_version_6_are_in_the_order_of_the_manifest(tmp_path: Path) -> None:
    path = copied(6, tmp_path) / "run" / ".batchrunner" / "journal.db"
    before = read(path)
    Journal(path, Inline()).close()
    assert before is not None
    assert read(path) == before
    order = [entry.job.fingerprint for entry in before.entries]
    assert sorted(order) != order
    assert [name for name in before.records if name in order] == order


def test_an_attempt_of_version_6_without_a_job_is_refused(tmp_path: Path) -> None:
    path = copied(6, tmp_path) / "run" / ".batchrunner" / "journal.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM jobs WHERE state = 'in_flight'")
    for _ in range(2):
        with pytest.raises(JournalError):
            Journal(path, Inline())
    assert version_in(path) == 6


def test_a_damaged_journal_of_version_6_is_recovered_from_its_rows(tmp_path: Path) -> None:
    path = copied(6, tmp_path) / "run" / ".batchrunner" / "journal.db"
    whole = read(path)
    assert whole is not None
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE attempts SET polls = polls + 1 WHERE outcome = 'failed'")
    with pytest.raises(JournalError, match="fails its checksum"):
        read(path)
    found = salvage.readable(path, lambda _: {}).records
    assert found.keys() == whole.records.keys()
    assert {name for name, record in found.items() if record != whole.records[name]} == {
        name for name, record in whole.records.items() if record.attempts and record.last.outcome == "failed"
    }
