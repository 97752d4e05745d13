"""The base64 texts of local inputs that are sent in request bodies: each input is read and encoded once.

The text lies in an unlinked temporary file and is mapped, so all submissions of an input share it, it takes no
memory, and it cannot change between two submissions. The content is checked by its hash while it is read
(`batchrunner.media.probe.read_data_uri`). A text is dropped when nobody uses it and the space is needed. Where the
temporary folder has too little space, an input is read for each submission.
"""

import asyncio
import errno
import io
import mmap
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import IO

from aiofiles.threadpool import wrap

from batchrunner.formatting import size_text
from batchrunner.job import Media
from batchrunner.media import probe
from batchrunner.storage import durable_files

LIMIT_BYTES = 2 << 30  # of all texts together
_MOST_IDLE = 32  # each has an open file
_FREE_SHARE = 0.5  # of the free disk space that one text may take: journal and clips may be on the same disk

Key = tuple[str | None, str | None]


@dataclass(slots=True)
class _Text:
    """The text of one input. users: submissions that use it or wait for it. view: None until it is encoded."""

    length_bytes: int
    users: int = 0
    view: memoryview | None = None
    encoding: asyncio.Lock = field(default_factory=asyncio.Lock)


class EncodedInputs:
    """The texts of one run's inputs. Used on one event loop.

    executor: reads, encodes and writes. folder: for the temporary files; None for the system's own (``TMPDIR``).
    limit_bytes: the size of all texts; 0 to keep none. problem: why inputs are read for each submission, or "".
    """

    def __init__(self, executor: Executor, folder: Path | None = None, limit_bytes: int = LIMIT_BYTES) -> None:
        self._executor = executor
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._texts: dict[Key, _Text] = {}  # those without a user in order of their last use
        self._too_large_bytes = limit_bytes + 1
        self.problem = ""

    @property
    def size_bytes(self) -> int:
        """The size of the texts that are kept or are being written."""
        return sum(text.length_bytes for text in self._texts.values())

    def has(self, media: Media) -> bool:
        """Return whether the text of a local file is there, or is too large to be kept."""
        text = self._texts.get((media.sha256, media.mime))
        return (text is not None and text.view is not None) or probe.data_uri_length(media) >= self._too_large_bytes

    @asynccontextmanager
    async def use(self, media: Media) -> AsyncIterator[memoryview | None]:
        """Return the data URI of a local file for the block, or None where it cannot be kept. Raises LocalFault."""
        key = (media.sha256, media.mime)
        text = self._texts.get(key) or self._reserve(key, probe.data_uri_length(media))
        if text is None:
            yield None
            return
        text.users += 1
        try:
            async with text.encoding:
                if text.view is None and text.length_bytes < self._too_large_bytes:
                    text.view = await self._encode(media)
            yield text.view
        finally:
            text.users -= 1
            self._released(key, text)

    def _reserve(self, key: Key, length_bytes: int) -> _Text | None:
        """Reserve the space of a text, at the cost of unused ones; None if there is too little."""
        if length_bytes >= self._too_large_bytes:
            return None
        self._drop_unused(self._limit_bytes - length_bytes, _MOST_IDLE)
        if self.size_bytes + length_bytes > self._limit_bytes:
            return None
        return self._texts.setdefault(key, _Text(length_bytes))

    def _released(self, key: Key, text: _Text) -> None:
        if text.users or self._texts.get(key) is not text:
            return
        del self._texts[key]
        if text.view is not None:
            self._texts[key] = text
            self._drop_unused(self._limit_bytes, _MOST_IDLE)

    def _drop_unused(self, most_bytes: int, most: int) -> None:
        unused = [key for key, text in self._texts.items() if not text.users]
        while unused and (self.size_bytes > most_bytes or len(unused) > most):
            del self._texts[unused.pop(0)]  # the last reference to a mapping frees the file

    async def _encode(self, media: Media) -> memoryview | None:
        """Encode an input into a mapped file; None, and the reason in `problem`, if the folder cannot take it."""
        loop, length_bytes = asyncio.get_running_loop(), probe.data_uri_length(media)
        try:
            scratch = _Scratch(self._folder, length_bytes)
            file = wrap(scratch, loop=loop, executor=self._executor)
            try:
                async with aclosing(probe.read_data_uri(media, self._executor)) as chunks:
                    async for chunk in chunks:
                        await file.write(chunk)
                return await loop.run_in_executor(self._executor, scratch.mapped)
            finally:
                await file.close()
        except OSError as error:
            self._too_large_bytes = min(length_bytes, self._too_large_bytes)
            reason = f"{size_text(length_bytes)} cannot be stored in the temporary folder: {error.strerror or error}"
            self.problem = f"large inputs are read again for each submission: {reason}. TMPDIR names another folder"
            return None


class _Scratch(io.BufferedIOBase):
    """An unlinked temporary file below aiofiles. The first write creates it. Raises OSError."""

    def __init__(self, folder: Path | None, length_bytes: int) -> None:
        self._folder = folder
        self._length_bytes = length_bytes
        self._file: IO[bytes] | None = None
        self._lock = Lock()  # a cancelled task may close while a thread writes

    def write(self, data: bytes) -> int:  # type: ignore[override] # only bytes are written here
        """Write all of `data`."""
        with self._lock:
            if self.closed:
                return 0
            if self._file is None:
                self._file = self._created()
            return self._file.write(data)

    def mapped(self) -> memoryview:
        """Return the content, mapped. It remains after `close`, until its last reference is gone."""
        with self._lock:
            assert self._file is not None
            self._file.flush()
            return memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))

    def close(self) -> None:
        """Close the file, after the write that is under way."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            super().close()

    def _created(self) -> IO[bytes]:
        folder = self._folder or Path(tempfile.gettempdir())
        free = durable_files.free_bytes(folder)
        if free is not None and self._length_bytes > free * _FREE_SHARE:
            raise OSError(errno.ENOSPC, f"it has {size_text(free)} of free space")
        return tempfile.TemporaryFile(dir=folder, prefix="batchrunner-")
