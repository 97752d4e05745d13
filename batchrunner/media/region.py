"""A range of an open file as a file of its own, for a clip inside a tar."""

import io
import os
from typing import BinaryIO


class Region(io.RawIOBase):
    """Reads `size_bytes` bytes of `file` from `start_bytes`. Use it alone while it is open: it moves `file`."""

    def __init__(self, file: BinaryIO, start_bytes: int, size_bytes: int) -> None:
        self._file = file
        self._start = start_bytes
        self._size = size_bytes
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position in the region. Raises ValueError for one before its start."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError("a position before the start")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]  # the stub asks for less
        """Read into `buffer`. Return the number of bytes, 0 at the end."""
        count = max(0, min(len(buffer), self._size - self._at))
        self._file.seek(self._start + self._at)
        content = self._file.read(count)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)
