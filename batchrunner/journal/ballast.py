"""Disk space that is reserved beside the journal, so that a full disk can still store the ids of active requests."""

import os
from pathlib import Path

from batchrunner.storage import durable_files

BALLAST_BYTES = 512 * 1024


def reserve(path: Path) -> bool:
    """Reserve disk space; False if the disk is full. Then a part of it is reserved, if that is possible.

    If the file system cannot reserve, commits show a full disk.
    """
    for size_bytes in (BALLAST_BYTES, BALLAST_BYTES // 2, BALLAST_BYTES // 4):
        try:
            if not path.exists() or path.stat().st_size < size_bytes:
                with path.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, size_bytes)
        except OSError as error:
            if error.errno not in durable_files.FULL:
                return True
        else:
            return size_bytes == BALLAST_BYTES
    return False


def release(path: Path) -> bool:
    """Give reserved disk space back; False if there is none."""
    try:
        size_bytes = path.stat().st_size
        path.unlink()
    except OSError:
        return False
    return size_bytes > 0
