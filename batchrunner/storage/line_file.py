"""Append lines to a text file durably. Lines are never changed or removed.

The caller allows one writer at a time. A torn last line stays as it is, and the next line begins after it.
"""

import os
from contextlib import suppress
from pathlib import Path


def append_line(path: Path, line: bytes, mode: int = 0o666) -> None:
    """Append a line, or several, given with line ends, and flush them. Creates the file with `mode`. Blocks.

    After a failure, what was written of the line is removed. Raises OSError, also for a link, a device or a pipe. The
    name of a new file is not flushed.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, mode)
    try:
        _append(descriptor, line)
    finally:
        os.close(descriptor)


def _append(descriptor: int, line: bytes) -> None:
    start_bytes = os.fstat(descriptor).st_size
    if start_bytes and os.pread(descriptor, 1, start_bytes - 1) != b"\n":
        line = b"\n" + line  # the last line is torn
    written_bytes = 0
    try:
        while written_bytes < len(line):
            written_bytes += os.write(descriptor, line[written_bytes:])
        os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            if written_bytes and os.fstat(descriptor).st_size == start_bytes + written_bytes:
                os.ftruncate(descriptor, start_bytes)
        raise
