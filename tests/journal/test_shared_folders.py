"""A journal on a network file system: one process writes it without shared memory, and readers read copies."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from batchrunner.errors import LocalFault
from batchrunner.job import State
from batchrunner.journal import shared_folders
from batchrunner.journal.journal import Journal, read
from batchrunner.storage import mounts
from tests.conftest import Inline, make_entries, make_record, make_run


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a journal on a network file system, as the system says."""
    folder = tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setattr(mounts, "network_type", lambda path: "nfs4" if folder in (path, *path.parents) else "")
    return folder / "journal.db"


def begun(path: Path, guard: object = None) -> Journal:
    journal = Journal(path, Inline(), **({"guard": guard} if guard else {}))  # type: ignore[arg-type]  # a test's own
    asyncio.run(journal.begin(make_run(), make_entries("a", "b"), [make_record("a"), make_record("b")]))
    return journal


def state(path: Path, name: str) -> State:
    snapshot = read(path)
    assert snapshot is not None
    return snapshot.records[make_record(name).job.fingerprint].state


def test_a_run_uses_no_shared_memory_and_readers_see_every_commit(path: Path) -> None:
    journal = begun(path)
    asyncio.run(journal.save(make_record("a", State.SUBMITTING)))
    assert (state(path, "a"), state(path, "b")) == (State.SUBMITTING, State.PENDING)
    files = sorted(item.name for item in path.parent.iterdir())
    assert files == ["ballast", "journal.db", "journal.db-wal"], "a reader leaves nothing beside it either"
    asyncio.run(journal.save(make_record("a", State.IN_FLIGHT)))
    assert state(path, "a") is State.IN_FLIGHT
    journal.close()
    assert state(path, "a") is State.IN_FLIGHT
    again = Journal(path, Inline())
    assert again.has_run()
    again.close()


def test_a_second_writer_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_folders, "_LOCK_S", 0.0)
    journal = begun(path)
    with pytest.raises(LocalFault, match="locked"):
        Journal(path, Inline())
    journal.close()


def test_a_checkpoint_during_the_copy_is_noticed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = begun(path)
    copies: list[str] = []
    real = shutil.copyfile

    def copy(source: Path, target: Path) -> None:
        real(source, target)
        copies.append(source.name)
        if len(copies) == 1:  # between the two files
            asyncio.run(journal.save(make_record("a", State.IN_FLIGHT)))
            journal._connection.execute("PRAGMA wal_checkpoint(RESTART)")
            asyncio.run(journal.save(make_record("b", State.SUBMITTING)))

    monkeypatch.setattr(shutil, "copyfile", copy)
    assert state(path, "a") is State.IN_FLIGHT
    assert copies == ["journal.db", "journal.db-wal"] * 2
    monkeypatch.setattr(shutil, "copyfile", real)
    assert state(path, "b") is State.SUBMITTING
    journal.close()


def test_a_journal_that_never_stands_still_is_a_fault(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = begun(path)
    real = shutil.copyfile

    def copy(source: Path, target: Path) -> None:
        real(source, target)
        os.utime(source, ns=(0, source.stat().st_mtime_ns + 1000))

    monkeypatch.setattr(shutil, "copyfile", copy)
    with pytest.raises(LocalFault, match="changes too fast to be read"):
        read(path)
    journal.close()


def test_a_run_that_lost_its_lease_moves_nothing_from_the_log(path: Path) -> None:
    faults: list[LocalFault] = []
    journal = begun(path, lambda **_: faults[0] if faults else None)
    before = path.read_bytes()
    faults.append(LocalFault("lease_lost", "another run has it"))
    journal.close()
    assert path.with_name("journal.db-wal").exists()
    assert path.read_bytes() == before


LEFT = """
import sqlite3, sys
from pathlib import Path
from batchrunner.journal import shared_folders
from batchrunner.storage import mounts
mounts.network_type = lambda _: "nfs"
path = Path(sys.argv[1])
connection = shared_folders.connect(path)
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("CREATE TABLE t (x)")
shared_folders.close_untouched(connection, path)
"""


def test_the_end_of_the_process_moves_nothing_from_the_log_either(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    subprocess.run([sys.executable, "-c", LEFT, str(path)], check=True)
    assert path.with_name("t.db-wal").stat().st_size > 0
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("t",)]
    connection.close()
