"""SQLite's rollback journal beside a journal: when it is used, and when it must not be used.

A process that dies while it changes a journal without a write-ahead log leaves a rollback journal. SQLite undoes the
change with it when it opens the journal for writing. But SQLite does not make its removal durable. After a power
failure it may be back, and would undo commits that came later. Journals of this version are created with their log and
never have one; those of earlier versions may.

Rule: both states, with and without the rollback, are examined in a copy. The rollback counts, unless its result is
damaged or has fewer commits. The caller compares the result with the witness, as for any journal.
"""

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from batchrunner.errors import BatchrunnerError
from batchrunner.storage.durable_files import Disk

SequenceOf = Callable[[Path], int]  # the number of the last commit of a sound journal; it raises for any other file
_UNSOUND = -1


def is_left(path: Path) -> bool:
    """Return whether a rollback journal is beside the journal at `path`."""
    left = _of(path)
    return left.exists() and left.stat().st_size > 0


@contextmanager
def settled_copy(path: Path, sequence: SequenceOf) -> Iterator[Path]:
    """Yield a copy of the journal in the state that counts. Raises OSError."""
    with tempfile.TemporaryDirectory(prefix="batchrunner-") as folder:
        yield _settled(path, Path(folder), sequence)


@contextmanager
def plain_copy(path: Path) -> Iterator[Path]:
    """Yield a copy without the rollback journal, to read undamaged rows from; the journal itself if it has none."""
    if not is_left(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="batchrunner-") as folder:
        yield _copy(path, Path(folder), "-wal")


def settle(path: Path, sequence: SequenceOf) -> None:
    """Remove a rollback journal that must not be used. Any other is left for SQLite. Raises OSError."""
    if not is_left(path):
        return
    with settled_copy(path, sequence) as copy:
        is_rolled_back = copy.parent.name == _ROLLED_BACK
    if not is_rolled_back:
        _of(path).unlink()
        Disk().flush_folder(path.parent)


_ROLLED_BACK = "rolled-back"


def _settled(path: Path, folder: Path, sequence: SequenceOf) -> Path:
    rolled_back = _copy(path, folder / _ROLLED_BACK, "-wal", "-journal")
    plain = _copy(path, folder / "plain", "-wal")
    with_rollback = _sequence_after(_roll_back, rolled_back, sequence)
    without = _sequence_after(lambda _: None, plain, sequence)
    return plain if without > with_rollback else rolled_back


def _sequence_after(change: Callable[[Path], None], copy: Path, sequence: SequenceOf) -> int:
    try:
        change(copy)
        return sequence(copy)
    except (BatchrunnerError, sqlite3.Error, ValueError, TypeError, LookupError, RecursionError):
        return _UNSOUND


def _roll_back(copy: Path) -> None:
    """Let SQLite use the rollback journal."""
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("COMMIT")


def _copy(path: Path, folder: Path, *ends: str) -> Path:
    """Copy the journal, and SQLite's files beside it that have these endings."""
    folder.mkdir(exist_ok=True)
    for end in ("", *ends):
        source = path.with_name(f"{path.name}{end}")
        if source.exists():
            shutil.copyfile(source, folder / source.name)
    return folder / path.name


def _of(path: Path) -> Path:
    return path.with_name(f"{path.name}-journal")
