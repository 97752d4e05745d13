"""Map errors of SQLite and of the system to this program's errors: disk error, full disk, or damaged journal.

All errors of sqlite3 are mapped here. Nothing here reads or writes the journal.
"""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batchrunner.errors import JournalError, LocalFault
from batchrunner.journal import rows
from batchrunner.storage import durable_files

_FULL_BYTES = 64 * 1024

_TO_DO = (
    "Nothing was submitted. {} Restore the files of .batchrunner as the last run left them. If that is not possible, "
    "run with --recover: it continues the jobs that the journal still knows and keeps every other job in doubt, so "
    "that no job is paid for twice."
)
DAMAGE_HINT = _TO_DO.format("Keep the file: it lists the paid generations.")
STALE_HINT = _TO_DO.format("Jobs that it lists as unsubmitted may be paid.")
NO_WITNESS = (
    "the journal has no readable witness, so an old copy of the journal cannot be detected; a new witness is written "
    "now. If the journal is an old copy, stop this run and run again with --recover"
)
_UNWRITABLE_HINT = (
    "Run with --recover: it makes a new journal from the readable rows, keeps the damaged file, and keeps every other "
    "job in doubt, so that no job is paid for twice."
)

_DISK_ERRORS = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
}
# A write raises these errors if the file is damaged. A damaged index can make a new row look like an earlier one.
_DAMAGE_ERRORS = {
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
}


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Map errors: an error of the disk is a LocalFault; a file that SQLite cannot read or invalid rows are damage."""
    try:
        if path.exists() and not path.is_file():
            raise JournalError(f"{path} is not a file", DAMAGE_HINT)
        yield
    except sqlite3.Error as error:
        # A short read is not a disk error: the file ends before a page that it refers to.
        is_cut = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_SHORT_READ
        if _kind(error) in _DISK_ERRORS and not is_cut and not _is_damage(error, path):
            raise refused(error, path, "opened") from error
        raise JournalError(f"{path} cannot be read as a journal: {error}", DAMAGE_HINT) from error
    except OSError as error:
        raise durable_files.fault(error, f"the journal {path} could not be opened") from error
    except rows.RowDamaged as error:
        raise JournalError(f"{path} is damaged: {error}", DAMAGE_HINT) from error
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise JournalError(f"{path} cannot be read as a journal: {error!r}", DAMAGE_HINT) from error


def refused(error: sqlite3.Error, path: Path, doing: str) -> LocalFault:
    """Return the error for a refused operation on the journal at `path`. doing: ``opened`` or ``written``."""
    # On a full disk SQLite returns FULL or IOERR, depending on whether the log or the shared memory needs space.
    if _kind(error) == sqlite3.SQLITE_FULL or _is_full(path.parent):
        return no_room(doing)
    if _is_at_limit(path):
        return durable_files.fault(OSError(errno.EFBIG, ""), f"the journal could not be {doing}")
    message = f"the journal could not be {doing}: {error}"
    if _is_damage(error, path):
        return LocalFault("journal_damaged", message, _UNWRITABLE_HINT)
    return LocalFault("disk_error", message, "Check the disk, then run the same command again.")


def _is_damage(error: sqlite3.Error, path: Path) -> bool:
    """Return whether the file is damaged. SQLite does not write a file whose header has a later version."""
    is_header = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY and os.access(path, os.W_OK)
    return is_header or _kind(error) in _DAMAGE_ERRORS


def _is_full(folder: Path) -> bool:
    try:
        return durable_files.is_full(folder, _FULL_BYTES)
    except OSError:  # the folder was moved or is not reachable
        return False


def _is_at_limit(path: Path) -> bool:
    """Return whether the process's file size limit keeps the journal or its log from growing."""
    limit_bytes = durable_files.largest_file_bytes()
    names = (path, path.with_name(f"{path.name}-wal"))
    return limit_bytes is not None and any(
        file.exists() and file.stat().st_size + _FULL_BYTES > limit_bytes for file in names
    )


def no_room(doing: str) -> LocalFault:
    """Return the error for a full disk. doing: as for `refused`."""
    message = f"the journal could not be {doing}: the disk is full"
    return LocalFault("disk_full", message, "Free some disk space and run the same command again.")


def _kind(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code, the low byte of an extended one. 0 for errors of the Python module."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
