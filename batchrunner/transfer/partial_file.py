"""A partial download: the bytes received, the bytes written, and a sidecar that records how many are durable.

Received blocks are gathered in memory into batches. A batch is written and hashed through aiofiles, on the downloads'
executor. The next batch is gathered after the write returns; meanwhile the connection buffers what arrives, up to its
limit. The system starts to write large files back before they are complete, so the final flush is short. A partial
file is continued only as far as its sidecar says. The sidecar is written after the bytes that it counts are on the
disk. This module does not check content.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from aiofiles.threadpool import wrap
from aiofiles.threadpool.binary import AsyncBufferedIOBase

from batchrunner.storage import durable_files
from batchrunner.storage.durable_files import Disk

_BATCH_BYTES = 256 * 1024
_BATCH_BLOCKS = 1024  # bounds the memory overhead of many tiny blocks
_STRETCH_BYTES = 8 << 20  # writeback starts this often
_READ_BYTES = 256 * 1024
_LARGEST_SIDECAR_BYTES = 64 * 1024
MOST_SET_ASIDE = 20  # different downloads of one job; each run makes six at most


class BatchFile(io.BufferedIOBase):
    """The file below a `PartialFile`: it writes and hashes whole batches, in order. aiofiles calls it in a thread.

    open_file: opens the file, called before the first write. size_bytes: bytes that the file already has.
    """

    def __init__(self, open_file: Callable[[], BinaryIO], disk: Disk, size_bytes: int, digest: Any) -> None:
        self.written_bytes = size_bytes
        self.digest = digest
        self._open_file = open_file
        self._disk = disk
        self._file: BinaryIO | None = None
        self._sent_bytes = size_bytes  # bytes whose writeback has started
        self._lock = Lock()  # a cancelled download may still be writing when its remainder is stored
        self._ended = False
        self._fault: OSError | None = None

    def writelines(self, blocks: Iterable[Any], /) -> None:
        """Write and hash a batch. Does nothing after `end`. Raises OSError, and again at every later call."""
        with self._lock:
            self._write([] if self._ended else blocks)

    def end(self, remainder: Callable[[int], Iterable[bytes]]) -> None:
        """Wait for the batch that is being written, then write the last one. Nothing is written after that.

        remainder: returns the bytes to write, from the number of bytes that are written. Raises OSError.
        """
        with self._lock:
            blocks = [] if self._ended else remainder(self.written_bytes)
            self._ended = True
            self._write(blocks)

    def flush_to_disk(self) -> None:
        """Return when the written bytes are on the disk. Raises OSError."""
        with self._lock:
            if self._file is not None:
                self._disk.flush(self._file)

    def close(self) -> None:
        """Close the file and write nothing more."""
        with self._lock:
            self._ended = True
            if self._file is not None:
                with suppress(OSError):  # a full disk may refuse the last block; durable bytes were flushed before
                    self._file.close()
                self._file = None
        super().close()

    def _write(self, blocks: Iterable[bytes]) -> None:
        if self._fault is not None:  # the file has a hole: nothing more may be written
            raise self._fault
        try:
            for block in blocks:
                if self._file is None:
                    self._file = self._open_file()
                self._file.write(block)
                self.digest.update(block)
                self.written_bytes += len(block)
            if self._file is not None:
                self._file.flush()  # to the system, which may refuse it if the disk is full
                self._start_writeback(self._file)
        except OSError as error:
            self._fault = error
            raise

    def _start_writeback(self, file: BinaryIO) -> None:
        new_bytes = self.written_bytes - self._sent_bytes
        if new_bytes >= _STRETCH_BYTES:
            self._disk.start_writeback(file, self._sent_bytes, new_bytes)
            self._sent_bytes = self.written_bytes


class PartialFile:
    """A partial download: ``<key>.part``, and the sidecar ``<key>.json`` with its ETag and its durable size.

    path_text: the path of the former. executor: runs the writes. fresh: no earlier attempt can have left anything. A
    clip smaller than a batch is written in one step and checked in memory; `keep` writes it after a cut.
    """

    def __init__(self, path_text: str, disk: Disk, executor: Executor, *, fresh: bool = False) -> None:
        self.path_text = path_text
        self.fresh = fresh
        self.etag = ""
        self.size_bytes = 0  # bytes received, written or not
        self._disk = disk
        self._executor = executor
        self._file: BatchFile | None = None
        self._writer: AsyncBufferedIOBase | None = None  # aiofiles' side of `_file`
        self._digest = hashlib.sha256()
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._batch: list[bytes] = []  # being written
        self._small: bytes | None = None  # the whole content, if it is less than a batch and written
        self._continued = self._started = False
        self._busy = Lock()  # a cancelled download may still be finishing in a thread

    @property
    def path(self) -> Path:
        """The path of the partial download."""
        return Path(self.path_text)

    @property
    def _sidecar(self) -> Path:
        return self.path.with_suffix(".json")

    @property
    def is_small(self) -> bool:
        """Whether the bytes received are less than a batch, so nothing is written yet."""
        return self._gathered_bytes == self.size_bytes

    @property
    def sha256(self) -> str:
        """The SHA-256 of the written bytes, in hex."""
        return self._digest.hexdigest()

    def recall(self) -> None:
        """Load the bytes of an earlier attempt, as far as its sidecar says that they are durable."""
        try:
            for path in (self._sidecar, self.path):
                if path.is_symlink() or (path.exists() and not path.is_file()):  # somebody else put it there
                    self._disk.remove(path)
            with durable_files.open_plain(self._sidecar) as file:
                sidecar = json.loads(file.read(_LARGEST_SIDECAR_BYTES))
            etag, size_bytes = str(sidecar["etag"]), int(sidecar["size_bytes"])
            if not etag or not 0 < size_bytes <= self.path.stat().st_size:
                return
            with durable_files.open_plain(self.path) as file:
                while block := file.read(min(_READ_BYTES, size_bytes - self.size_bytes)):
                    self._digest.update(block)
                    self.size_bytes += len(block)
            self.etag = etag
        except (OSError, ValueError, KeyError, TypeError):
            self._restart()

    def request_headers(self) -> dict[str, str]:
        """Return the headers that ask for the remaining bytes, if the file has not changed."""
        return {"Range": f"bytes={self.size_bytes}-", "If-Range": self.etag} if self.size_bytes else {}

    def start(self, continued: bool, etag: str) -> None:
        """Begin to receive. continued: the reply continues the bytes of the earlier attempt."""
        # A weak validator does not promise the same bytes, so it does not allow a continuation (RFC 9110, 13.1.5).
        self.etag = "" if etag.startswith("W/") else etag
        self._continued, self._started = continued, True
        if not continued and self.size_bytes:
            self._restart()

    def take(self, block: bytes) -> bool:
        """Gather a block. Return whether a batch is complete: call `drain` before the next block."""
        size_bytes = len(block)
        self._gathered.append(block)
        self._gathered_bytes += size_bytes
        self.size_bytes += size_bytes
        return self._gathered_bytes >= _BATCH_BYTES or len(self._gathered) >= _BATCH_BLOCKS

    async def drain(self) -> None:
        """Write and hash the gathered blocks. Raises OSError, and again at every later call."""
        self._batch, self._gathered, self._gathered_bytes = self._gathered, [], 0
        if self._writer is None:
            self._writer = wrap(self._batch_file(), executor=self._executor)
        await self._writer.writelines(self._batch)

    def drain_all(self) -> None:
        """Write the last blocks. Blocks the thread. Raises OSError."""
        with self._busy:
            if self._small is not None:
                return
            if self.is_small:
                self._create(b"".join(self._gathered))
            else:
                self._batch_file().end(self._remainder)
            self._gathered, self._gathered_bytes = [], 0

    def read(self) -> BinaryIO:
        """Open the written content for reading. Raises OSError."""
        return durable_files.open_plain(self.path) if self._small is None else io.BytesIO(self._small)

    def keep(self) -> None:
        """After a cut, flush the received bytes and write the sidecar. A failure only costs time. Blocks the thread."""
        if not self._started or not self.etag or not self.size_bytes:
            return
        try:
            self.drain_all()
            size_bytes = len(self._small or b"") if self._file is None else self._file.written_bytes
            self._flush()
            with self._disk.open(self._sidecar, "wb") as sidecar:
                sidecar.write(json.dumps({"etag": self.etag, "size_bytes": size_bytes}).encode())
        except OSError:
            self._disk.remove(self._sidecar)

    def forget(self) -> None:
        """Remove the files, so that nothing is continued."""
        self.close()
        self._disk.remove(self._sidecar)
        self._disk.remove(self.path)

    def reject(self, folder: Path) -> str | None:
        """Keep a download that failed its check in `folder`, and return its name. It is not continued.

        The name is the job's key and the content's hash, so the same bytes are kept once. Return None if the job has
        `MOST_SET_ASIDE` files there. Raises OSError.
        """
        self.close()
        self._disk.remove(self._sidecar)
        name = f"{self.path.stem}-{self.sha256[:12]}.mp4"
        earlier = {path.name for path in folder.glob(f"{self.path.stem}-*.mp4")}
        if name not in earlier and len(earlier) >= MOST_SET_ASIDE:
            self._disk.remove(self.path)
            return None
        folder.mkdir(exist_ok=True)
        self._disk.publish([(self.path, folder / name)])
        return name

    def close(self) -> None:
        """Close the file and write nothing more. Waits for the batch that is being written."""
        if self._file is not None:
            self._file.close()

    def _batch_file(self) -> BatchFile:
        if self._file is None:
            size_bytes = self.size_bytes - self._gathered_bytes - sum(map(len, self._batch))
            self._file = BatchFile(self._open, self._disk, size_bytes, self._digest)
        return self._file

    def _remainder(self, written_bytes: int) -> Iterable[bytes]:
        """Return the received bytes that are not written. A cancelled `drain` may have written its batch or not."""
        blocks = [*self._batch, *self._gathered]
        start = self.size_bytes - sum(map(len, blocks))
        return [b"".join(blocks)[written_bytes - start :]]

    def _create(self, content: bytes) -> None:
        if content:
            self._remove_sidecar()
            self._disk.create(self.path_text, content)
            self._digest.update(content)
        self._small = content

    def _remove_sidecar(self) -> None:
        """Remove an older sidecar from the disk before the bytes that it counts are overwritten."""
        if not self._continued and not self.fresh:
            self._disk.remove(self._sidecar)
            self._disk.flush_folder(self._sidecar.parent)

    def _open(self) -> BinaryIO:
        self._remove_sidecar()
        file = self._disk.open(self.path, "ab" if self._continued else "wb")
        if self._continued and self._file is not None:
            file.truncate(self._file.written_bytes)
        return file

    def _flush(self) -> None:
        if self._file is None or self._file.closed:  # complete, and closed to be checked
            self._disk.flush_all([self.path])
        else:
            self._file.flush_to_disk()

    def _restart(self) -> None:
        self._digest = hashlib.sha256()
        self.size_bytes = 0
