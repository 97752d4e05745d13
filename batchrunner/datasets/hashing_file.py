"""A file that hashes what is written to it."""

import hashlib
import io
from collections.abc import Callable
from typing import Any, BinaryIO


class HashingFile(io.RawIOBase):
    """A file that only takes bytes: it counts and hashes them, and passes them on. to: None writes nothing."""

    def __init__(self, to: BinaryIO | None, on_bytes: Callable[[int], None]) -> None:
        super().__init__()
        self.size_bytes = 0
        self._to = to
        self._digest = hashlib.sha256()
        self._on_bytes = on_bytes

    def writable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Return the number of bytes written, for `tell`. The file cannot seek elsewhere. Raises OSError."""
        if (offset, whence) not in {(0, io.SEEK_CUR), (self.size_bytes, io.SEEK_SET)}:
            raise io.UnsupportedOperation("this file only grows")
        return self.size_bytes

    def write(self, content: Any) -> int:
        """Write all bytes."""
        view = memoryview(content).cast("B")
        self._digest.update(view)
        if self._to is not None:
            self._to.write(view)
        self.size_bytes += len(view)
        self._on_bytes(len(view))
        return len(view)

    @property
    def sha256(self) -> str:
        """The SHA-256 of all bytes, in hex."""
        return self._digest.hexdigest()
