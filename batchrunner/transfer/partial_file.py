"""A download that is not whole yet: what came, what of it is written, and the note that vouches for it.

Rules: what comes is gathered in memory, handed over in batches and written and hashed off the loop, in the order in
which it came, while the next batch is gathered; so a download holds two batches at most, however slow the disk is.
What is written is sent on its way to the disk from time to time, so that flushing a large file at its end is short. A
part is continued only as far as its note says, and the note is written after what it vouches for is on the disk.
Judging what came is no business of this room.
"""

import hashlib
import json
from collections import deque
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from batchrunner.storage import durable_files
from batchrunner.storage.durable_files import Disk

_BATCH_BYTES = 256 * 1024
_BATCH_BLOCKS = 1024  # a host that drips bytes would fill the memory with the blocks' own weight
_STRETCH_BYTES = 8 << 20
_READ_BYTES = 256 * 1024
_LARGEST_NOTE_BYTES = 64 * 1024
MOST_SET_ASIDE = 20  # different downloads of one job; each run makes six at most


class PartialFile:
    """A partial download: ``<key>.part``, and ``<key>.json`` with its ETag and how much of it is on the disk.

    fresh: nothing of it can be there yet. A clip of less than a batch is written in one go, and checked in memory; what
    a cut leaves there is written then.
    """

    def __init__(self, stem: Path, files: Disk, *, fresh: bool = False) -> None:
        self.path = stem.with_suffix(".part")
        self.fresh = fresh
        self.etag = ""
        self.size_bytes = 0  # what came, written or not
        self._note = stem.with_suffix(".json")
        self._disk = files
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._batches: deque[list[bytes]] = deque()  # handed over
        self._written_bytes = self._sent_bytes = 0
        self._small: bytes | None = None  # all that came, where it was less than a batch
        self._continued = self._started = self._closed = False
        self._busy = Lock()  # a cancelled fetch may still be writing when what it left is stored
        self._fault: OSError | None = None  # after which there is a hole: nothing more is written

    @property
    def is_small(self) -> bool:
        """Whether all that came is less than a batch, and not handed over."""
        return self._gathered_bytes == self.size_bytes

    @property
    def sha256(self) -> str:
        """Of what is written, in hex."""
        return self._hash.hexdigest()

    def recall(self) -> None:
        """Take up what an earlier try left on the disk, if its note vouches for it."""
        try:
            for path in (self._note, self.path):
                if path.is_symlink() or (path.exists() and not path.is_file()):  # put there by somebody else
                    self._disk.remove(path)
            with durable_files.open_plain(self._note) as file:
                note = json.loads(file.read(_LARGEST_NOTE_BYTES))
            etag, size_bytes = str(note["etag"]), int(note["size_bytes"])
            if not etag or not 0 < size_bytes <= self.path.stat().st_size:
                return
            with durable_files.open_plain(self.path) as file:
                while self.size_bytes < size_bytes:
                    block = file.read(min(_READ_BYTES, size_bytes - self.size_bytes))
                    self._hash.update(block)
                    self.size_bytes += len(block)
            self._written_bytes = self._sent_bytes = self.size_bytes
            self.etag = etag
        except (OSError, ValueError, KeyError, TypeError):
            self._restart()

    def request_headers(self) -> dict[str, str]:
        """Ask for the rest, on the condition that the file is still the same one."""
        return {"Range": f"bytes={self.size_bytes}-", "If-Range": self.etag} if self.size_bytes else {}

    def start(self, continued: bool, etag: str) -> None:
        """Go on from where the reply continues, or from nothing."""
        # A weak validator does not promise the same bytes, so it cannot vouch for a continuation (RFC 9110, 13.1.5).
        self.etag = "" if etag.startswith("W/") else etag
        self._continued, self._started = continued, True
        if not continued:
            self._restart()

    def take(self, block: bytes) -> bool:
        """Gather a block. Returns whether a batch was handed over: `drain` is due, and the one before must be over."""
        self._gathered.append(block)
        self._gathered_bytes += len(block)
        self.size_bytes += len(block)
        if self._gathered_bytes < _BATCH_BYTES and len(self._gathered) < _BATCH_BLOCKS:
            return False
        self._hand_over()
        return True

    def drain(self) -> None:
        """Write what was handed over. Blocks; raises OSError, again at every later call."""
        with self._busy:
            self._write()

    def drain_all(self) -> None:
        """The same with what is gathered: nothing more will come."""
        with self._busy:
            if self.is_small:
                self._small = b"".join(self._gathered)
            self._hand_over()
            self._write()

    def read(self) -> BinaryIO:
        """What was written, once it is whole. Raises OSError."""
        return durable_files.open_plain(self.path) if self._small is None else BytesIO(self._small)

    def keep(self) -> None:
        """After a cut: flush what came and note it, so that the next try can continue. Failing costs only time."""
        if not self._started or not self.etag or not self.size_bytes:
            return
        try:
            self.drain_all()
            size_bytes = self._written_bytes
            self._flush()
            with self._disk.open(self._note, "wb") as note:
                note.write(json.dumps({"etag": self.etag, "size_bytes": size_bytes}).encode())
        except OSError:
            self._disk.remove(self._note)

    def forget(self) -> None:
        """What came is no good: nothing of it is continued."""
        self.close()
        self._disk.remove(self._note)
        self._disk.remove(self.path)

    def set_aside(self, folder: Path) -> str | None:
        """Keep a download that failed its check in `folder`, and return its name; nothing of it is continued.

        The name is made of the job's key and the content's hash, so the same bytes are kept once. None where the job
        has as many there as it may. Raises OSError.
        """
        self.close()
        self._disk.remove(self._note)
        name = f"{self.path.stem}-{self.sha256[:12]}.mp4"
        earlier = {path.name for path in folder.glob(f"{self.path.stem}-*.mp4")}
        if name not in earlier and len(earlier) >= MOST_SET_ASIDE:
            self._disk.remove(self.path)
            return None
        folder.mkdir(exist_ok=True)
        self._disk.publish([(self.path, folder / name)])
        return name

    def close(self) -> None:
        """Write nothing more."""
        with self._busy:
            self._closed = True
            if self._file is not None:
                with suppress(OSError):  # a full disk takes no last block either; what counts was flushed before
                    self._file.close()
                self._file = None

    def _hand_over(self) -> None:
        if self._gathered:
            self._batches.append(self._gathered)
            self._gathered, self._gathered_bytes = [], 0

    def _write(self) -> None:
        if self._fault is not None:
            raise self._fault
        try:
            while self._batches and not self._closed:
                self._write_batch(self._batches.popleft())
        except OSError as error:
            self._fault = error
            raise

    def _write_batch(self, blocks: list[bytes]) -> None:
        if self._small is not None:
            self._clear()
            self._disk.create(self.path, self._small)
            self._hash.update(self._small)
            self._written_bytes = len(self._small)
            return
        if self._file is None:
            self._file = self._open()
        for block in blocks:
            self._file.write(block)
            self._hash.update(block)
            self._written_bytes += len(block)
        self._file.flush()  # to the system, which may refuse it for want of room
        if self._written_bytes - self._sent_bytes >= _STRETCH_BYTES:
            self._disk.start_writeback(self._file, self._sent_bytes, self._written_bytes - self._sent_bytes)
            self._sent_bytes = self._written_bytes

    def _clear(self) -> None:
        """What an older note vouches for is about to be overwritten: it must be gone from the disk before."""
        if not self._continued and not self.fresh:
            self._disk.remove(self._note)
            self._disk.flush_folder(self._note.parent)

    def _open(self) -> BinaryIO:
        self._clear()
        file = self._disk.open(self.path, "ab" if self._continued else "wb")
        if self._continued:
            file.truncate(self._written_bytes)
        return file

    def _flush(self) -> None:
        if self._file is None:  # whole, and closed to be checked
            self._disk.flush_all([self.path])
        else:
            self._disk.flush(self._file)

    def _restart(self) -> None:
        self._hash = hashlib.sha256()
        self.size_bytes = self._written_bytes = self._sent_bytes = 0
