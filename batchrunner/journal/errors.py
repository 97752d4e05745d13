"""What SQLite's and the system's refusals mean for the user: a disk's fault, a full disk, or a damaged journal.

Rule: the one border at which errors of sqlite3 become words; nothing here reads or writes.
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
    "Nothing was submitted. {} Bring back the files of .batchrunner as the last run left them. Where that cannot be "
    "done, run with --recover: it continues what the journal still tells, and holds every other job in doubt, so that "
    "none is paid for twice."
)
DAMAGE_HINT = _TO_DO.format("Keep the file: it knows which generations are paid for.")
STALE_HINT = _TO_DO.format("Jobs that it calls unsubmitted may be paid for.")
_UNWRITABLE_HINT = (
    "Run with --recover: it makes the journal anew from what can be read, keeps the damaged file, and holds every "
    "other job in doubt, so that none is paid for twice."
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
# A write meets these where the file's content is at fault. A damaged index can make a new row look like an earlier one.
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
    """The border: what the disk refuses is the disk's fault; what SQLite cannot read, or makes no sense, is damage."""
    try:
        if path.exists() and not path.is_file():
            raise JournalError(f"{path} is no file", DAMAGE_HINT)
        yield
    except sqlite3.Error as error:
        # A short read is no fault of the disk: the file ends before a page that it names.
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
    """What SQLite could not do to the journal at `path`. doing: ``opened``, ``written``."""
    # On a full disk SQLite says FULL or IOERR, as it happens to need room for the log or for its shared memory.
    if _kind(error) == sqlite3.SQLITE_FULL or _is_full(path.parent):
        return no_room(doing)
    if _is_at_limit(path):
        return durable_files.fault(OSError(errno.EFBIG, ""), f"the journal could not be {doing}")
    message = f"the journal could not be {doing}: {error}"
    if _is_damage(error, path):
        return LocalFault("journal_damaged", message, _UNWRITABLE_HINT)
    return LocalFault("disk_error", message, "Check the disk, then run the same command again.")


def _is_damage(error: sqlite3.Error, path: Path) -> bool:
    """Whether the content of the file is at fault. SQLite does not write a file whose header has a later version."""
    is_header = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY and os.access(path, os.W_OK)
    return is_header or _kind(error) in _DAMAGE_ERRORS


def _is_full(folder: Path) -> bool:
    try:
        return durable_files.is_full(folder, _FULL_BYTES)
    except OSError:  # it was moved, or is out of reach
        return False


def _is_at_limit(path: Path) -> bool:
    """Whether the journal or its log cannot grow, as the process may not write larger files."""
    limit_bytes = durable_files.largest_file_bytes()
    names = (path, path.with_name(f"{path.name}-wal"))
    return limit_bytes is not None and any(
        each.exists() and each.stat().st_size + _FULL_BYTES > limit_bytes for each in names
    )


def no_room(doing: str) -> LocalFault:
    """The disk is full. doing: as for `refused`."""
    message = f"the journal could not be {doing}: the disk is full"
    return LocalFault("disk_full", message, "Make room and run the same command again.")


def _kind(error: sqlite3.Error) -> int:
    """SQLite's primary result code: extended ones carry it in their low byte. 0 for the Python module's own errors."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
