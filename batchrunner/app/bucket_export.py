"""Upload an exported data set to a bucket: its files first, SHA256SUMS last.

Rules: until SHA256SUMS is there, the place has no data set. A place with other objects is refused before anything is
uploaded, and no object is replaced. Objects that an interrupted upload left are compared and not uploaded again.
"""

import hashlib
import mimetypes
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from batchrunner.datasets.sums import SUMS
from batchrunner.datasets.workspace import WrittenFile
from batchrunner.errors import UsageError
from batchrunner.formatting import count_text, printable
from batchrunner.storage.objects.address import ObjectAddress
from batchrunner.storage.objects.blocking import ObjectReader, blocking
from batchrunner.storage.objects.store import ObjectState

_AT_ONCE = 4  # each has up to 64 MB in memory
_CHOOSE = "Nothing was uploaded. Choose a prefix without objects."


def folder_of(run_dir: Path, address: ObjectAddress) -> Path:
    """Return the folder in which the data set is made: beside the run directory, on the disk that has the clips."""
    real = Path(os.path.realpath(run_dir))
    return real.parent / f"{real.name}.export-{hashlib.sha256(str(address).encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class BucketPlace:
    """The place of a data set in a bucket. objects: reaches the bucket."""

    address: ObjectAddress
    objects: ObjectReader

    def __str__(self) -> str:
        return str(self.address)

    def check(self) -> None:
        """Find out before the data set is made whether the bucket can be reached. Raises UsageError, CallError."""
        self._listed()

    def upload(self, folder: Path, files: Mapping[str, WrittenFile], on_bytes: Callable[[int], None]) -> int:
        """Upload the files of a complete data set. Return how many were not there. Raises UsageError, CallError.

        on_bytes: gets numbers of bytes, of objects that are there too; called by several threads, one at a time.
        """
        complete = {**files, SUMS: files.get(SUMS) or _sums(folder)}
        self._require_own(complete)
        transfer = _Transfer(self, folder, on_bytes)
        others = [file for name, file in complete.items() if name != SUMS]
        with ThreadPoolExecutor(_AT_ONCE, "upload") as threads:
            try:
                new = sum(threads.map(transfer.put, others))
            finally:  # the first failure ends the upload
                threads.shutdown(cancel_futures=True)
        return new + transfer.put(complete[SUMS])

    def _listed(self) -> dict[str, ObjectState]:
        async def read() -> dict[str, ObjectState]:
            found = self.objects.open(self.address).list(self.address.key.rstrip("/"))
            return {key: state async for key, state in found}

        return blocking(read)

    def _require_own(self, files: Mapping[str, WrittenFile]) -> None:
        """Refuse a place that has objects which are not of this data set, as far as names and sizes tell."""
        wanted = {self.address.child(name).key: file.bytes for name, file in files.items()}
        listed = self._listed()
        if others := sorted(listed.keys() - wanted.keys()):
            number = count_text(len(others), "other object")
            raise UsageError(f"{self} has {number}, such as {printable(others[0])}", _CHOOSE)
        for key, state in listed.items():
            if state.size != wanted[key]:
                raise UsageError(f"{self} is another data set: {printable(key)} has another size", _CHOOSE)


@dataclass(frozen=True)
class _Transfer:
    """The uploads of one data set. Threads share it."""

    place: BucketPlace
    folder: Path
    on_bytes: Callable[[int], None]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, file: WrittenFile) -> bool:
        """Upload a file, and return whether it was not there. Raises CallError."""
        address, sent_bytes = self.place.address.child(file.name), 0

        def progress(size_bytes: int) -> None:
            nonlocal sent_bytes
            sent_bytes += size_bytes
            with self.lock:
                self.on_bytes(size_bytes)

        objects = self.place.objects.open(address)  # of its own, because each thread has a loop of its own
        mime, _ = mimetypes.guess_type(file.name)
        path = self.folder / file.name
        blocking(lambda: objects.put_new(address.key, path, file.sha256, progress, mime or ""))
        if not sent_bytes:
            progress(file.bytes)
            return False
        return True


def _sums(folder: Path) -> WrittenFile:
    content = (folder / SUMS).read_bytes()
    return WrittenFile(SUMS, hashlib.sha256(content).hexdigest(), len(content))


def remove(folder: Path, names: Iterable[str]) -> None:
    """Remove the files of a data set that was uploaded, and the folders that are then empty. A rest does no harm."""
    with suppress(OSError):
        for name in (*names, SUMS):
            (folder / name).unlink(missing_ok=True)
        for path in sorted(_folders(folder), reverse=True):
            path.rmdir()


def _folders(folder: Path) -> Iterator[Path]:
    yield folder
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            yield path
