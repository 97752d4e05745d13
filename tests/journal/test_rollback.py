"""A rollback journal that an earlier version left: SQLite may use it only where no later commit is lost."""

import asyncio
import shutil
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import pytest

from batchrunner.errors import JournalError
from batchrunner.job import State
from batchrunner.journal import journal as module
from batchrunner.journal import salvage
from batchrunner.journal.journal import Journal, read
from batchrunner.journal.witness import Witness
from batchrunner.storage.durable_files import Disk
from tests.conftest import Inline, make_entries, make_record, make_run

PAGE_BYTES = 4096
JOBS = [f"job-{number}" for number in range(200)]  # more than fit into the pages of an empty journal


def in_mode(path: Path, mode: str) -> bytes:
    """Bring a journal into this mode of SQLite, and return its content."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
    return path.read_bytes()


def leave_rollback_journal(path: Path, before: bytes) -> None:
    """Write the file that SQLite keeps while it changes page 1 of `before` (https://sqlite.org/fileformat2.html)."""
    nonce, page = 7, before[:PAGE_BYTES]
    head = bytes.fromhex("d9d505f920a163d7") + struct.pack(
        ">IIIII", 1, nonce, len(before) // PAGE_BYTES, 512, PAGE_BYTES
    )
    checksum = (nonce + sum(page[at] for at in range(PAGE_BYTES - 200, 0, -200))) & 0xFFFFFFFF
    content = head.ljust(512, b"\0") + struct.pack(">I", 1) + page + struct.pack(">I", checksum)
    path.with_name(f"{path.name}-journal").write_bytes(content)


def opened(path: Path) -> Journal:
    return Journal(path, Inline(), Witness(path.parent / "witness", Disk()))


def states(path: Path) -> list[State]:
    snapshot = read(path)
    return [record.state for record in snapshot.records.values()] if snapshot else []


@pytest.fixture
def earlier(tmp_path: Path) -> tuple[Path, bytes]:
    """A journal of an earlier version, and its content before it got its write-ahead log."""
    path = tmp_path / "run" / "journal.db"
    path.parent.mkdir()
    module.create(path)
    before = in_mode(path, "DELETE")
    in_mode(path, "WAL")
    return path, before


def run_once(path: Path) -> None:
    with closing(opened(path)) as journal:
        records = [make_record(name, State.IN_FLIGHT) for name in JOBS]
        asyncio.run(journal.begin(make_run(), make_entries(*JOBS), records))


@pytest.mark.parametrize("first_page", ["old", "new", "torn"])
def test_a_journal_whose_first_change_was_cut_is_rolled_back(earlier: tuple[Path, bytes], first_page: str) -> None:
    path, before = earlier
    after = path.read_bytes()
    path.write_bytes({"old": before, "new": after, "torn": bytes(512) + after[512:]}[first_page])
    leave_rollback_journal(path, before)
    assert states(path) == []
    assert path.with_name("journal.db-journal").exists(), "a command that reads changes nothing"
    run_once(path)
    assert states(path) == [State.IN_FLIGHT] * len(JOBS)
    assert not path.with_name("journal.db-journal").exists()


@pytest.mark.parametrize("has_log", [False, True], ids=["closed", "killed"])
def test_a_rollback_journal_that_is_back_after_a_power_failure_undoes_no_commit(
    earlier: tuple[Path, bytes], tmp_path: Path, *, has_log: bool
) -> None:
    path, before = earlier
    with closing(opened(path)) as journal:
        records = [make_record(name, State.IN_FLIGHT) for name in JOBS]
        asyncio.run(journal.begin(make_run(), make_entries(*JOBS), records))
        killed = shutil.copytree(path.parent, tmp_path / "killed") / path.name
    place = killed if has_log else path
    assert place.with_name("journal.db-wal").exists() is has_log
    leave_rollback_journal(place, before)
    assert states(place) == [State.IN_FLIGHT] * len(JOBS)
    with closing(opened(place)) as journal:
        assert journal.mark.sequence == 1
    assert states(place) == [State.IN_FLIGHT] * len(JOBS)


def test_a_rolled_back_journal_that_is_older_than_its_witness_is_refused_and_left_unchanged(
    earlier: tuple[Path, bytes],
) -> None:
    path, before = earlier
    run_once(path)
    path.write_bytes(bytes(512) + before[512:])  # the commit is lost from both states
    leave_rollback_journal(path, before)
    files = {item.name: item.read_bytes() for item in path.parent.iterdir()}
    with pytest.raises(JournalError, match="witness") as refused:
        opened(path)
    assert "--recover" in (refused.value.hint or "")
    assert str(path) in refused.value.message
    assert {item.name: item.read_bytes() for item in path.parent.iterdir()} == files


def test_rows_are_read_from_a_damaged_journal_with_a_rollback_journal(earlier: tuple[Path, bytes]) -> None:
    path, before = earlier
    run_once(path)
    with closing(sqlite3.connect(path)) as connection:
        [row] = connection.execute("SELECT rowid FROM runs")
        connection.execute("UPDATE runs SET started_at = 0 WHERE rowid = ?", row)
        connection.commit()
    leave_rollback_journal(path, before)
    with pytest.raises(JournalError):
        opened(path)
    assert len(salvage.readable(path, lambda retakes: {}).records) == len(JOBS)
