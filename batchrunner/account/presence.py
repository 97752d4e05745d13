"""The batches that processes run: a lock file per batch, which the kernel releases when the process ends.

The files stay when a run ends. They are empty.
"""

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from batchrunner.clock import pause

_FOLDER = "running"
_TRIES, _BETWEEN_TRIES_S = 8, 0.025


class Presence:
    """Shows, while it is open, that a process runs the batch. Use as a context manager. Raises OSError."""

    def __init__(self, state: Path, batch_id: str) -> None:
        self._path = state / _FOLDER / batch_id
        self._descriptor = -1

    def __enter__(self) -> Self:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            self._lock()
        except OSError:
            self.close()
            raise
        return self

    def _lock(self) -> None:
        """Take the lock. Try a few times, because `is_running` of another process holds it for a moment."""
        for _ in range(_TRIES - 1):
            with suppress(BlockingIOError):
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            pause(_BETWEEN_TRIES_S)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Show it no longer."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def is_running(state: Path, batch_id: str) -> bool:
    """Return whether a process runs the batch. A lock that cannot be asked counts as taken: nothing is taken over."""
    try:
        descriptor = os.open(state / _FOLDER / batch_id, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.ENOLCK)
    finally:
        with suppress(OSError):
            os.close(descriptor)
    return False
