"""Journals on network file systems, where other hosts can read them and locks may not be shared.

SQLite's index of the write-ahead log is shared memory, which hosts cannot share: a reader on another host could damage
the log of a run. So on a network file system the run opens its journal exclusively and has this index in its own
memory, and readers read a copy. One host at a time writes, because the run has the lease of its directory.
"""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from batchrunner.storage import durable_files, mounts

_TRIES = 8
_LOCK_S = 100.0  # the locks of a host that is gone last until its NFS lease has ended, 90 s as a rule
_LOCAL_LOCK_S = 5.0
_HEADER_BYTES = 32  # of the log: it changes when the log starts again


def is_shared(path: Path) -> bool:
    """Return whether the file is on a network file system, as far as this system says."""
    return bool(mounts.network_type(path.absolute().parent))


def connect(path: Path, **options: Any) -> sqlite3.Connection:
    """Open a database for writing: exclusively on a network file system. options: of `sqlite3.connect`."""
    shared = is_shared(path)
    timeout_s = _LOCK_S if shared else _LOCAL_LOCK_S
    connection: sqlite3.Connection = sqlite3.connect(path, timeout=timeout_s, isolation_level=None, **options)
    if shared:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    return connection


@contextmanager
def copied(path: Path) -> Iterator[Path]:
    """Yield a consistent copy of a journal that another host may write. Raises OSError."""
    with tempfile.TemporaryDirectory(prefix="batchrunner-") as folder:
        copy = Path(folder) / path.name
        for _ in range(_TRIES):
            before = _state(path)
            for end in ("", "-wal"):
                target = copy.with_name(copy.name + end)
                target.unlink(missing_ok=True)
                try:
                    shutil.copyfile(path.with_name(path.name + end), target)
                except FileNotFoundError:
                    if not end:
                        raise
            # The log may have grown meanwhile: SQLite ignores an incomplete commit at its end.
            if before == _state(path):
                break
        else:
            raise OSError(f"{path} changes too fast to be read; try again")
        yield copy


def _state(path: Path) -> tuple[int, int, bytes]:
    """Return values that change when commits move from the log to the database."""
    with durable_files.open_plain(path) as file:  # NFS shows the present attributes of a file that is opened
        status = os.fstat(file.fileno())
    try:
        with durable_files.open_plain(path.with_name(f"{path.name}-wal")) as log:
            header = log.read(_HEADER_BYTES)
    except FileNotFoundError:
        header = b""
    return status.st_mtime_ns, status.st_size, header


def close_untouched(connection: sqlite3.Connection, path: Path) -> None:
    """Close without a checkpoint. SQLite makes one when the last connection that can write closes."""
    option = getattr(sqlite3, "SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE", None)  # since Python 3.12
    if option is not None:
        changeable: Any = connection
        changeable.setconfig(option, True)
    elif is_shared(path):
        import ctypes  # loaded only where it is needed

        # No second connection can be opened. This one is never collected, so SQLite never closes it.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
        return
    else:
        # If the file was renamed, its log is not found under this name either.
        with suppress(sqlite3.Error), closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as other:
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            connection.close()
    connection.close()
