"""Map errors of SQLite and of the system at the account's index to LocalFault, which names the state folder."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from batchrunner.errors import LocalFault
from batchrunner.journal.rows import RowDamaged
from batchrunner.storage import durable_files

_HINT = "Run again: if needed, the index is rebuilt from the run directories."
_FREE = "Free space on the disk of {}, then run the same command again."
_LEAST_BYTES = 64 * 1024  # a disk with less free space is full


@contextmanager
def mapped(path: Path) -> Iterator[None]:
    """Map errors of SQLite and of the system to LocalFault."""
    try:
        yield
    except sqlite3.Error as error:
        if _is_full(error, _folder(path)):
            raise _disk_full(path) from error
        raise LocalFault("account_index", f"the account's index {path} could not be used: {error}", _HINT) from error
    except RowDamaged as error:
        raise LocalFault("account_index", f"the account's index {path} is damaged: {error}", _HINT) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(path) from error
        raise durable_files.fault(error, f"the account's index {path} could not be used") from error


def _folder(path: Path) -> Path:
    """Return the state folder. path: the folder or the index in it."""
    return path if path.is_dir() else path.parent


def _is_full(error: sqlite3.Error, folder: Path) -> bool:
    """Return whether SQLite failed because the disk is full. It calls that an I/O error where a log cannot grow."""
    code = int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
    if code not in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return code == sqlite3.SQLITE_FULL
    with suppress(OSError):
        return durable_files.is_full(folder, _LEAST_BYTES)
    return False


def _disk_full(path: Path) -> LocalFault:
    folder = _folder(path)
    message = f"the disk of the state folder {folder} is full: the account's index could not be used"
    return LocalFault("state_disk_full", message, _FREE.format(folder))
