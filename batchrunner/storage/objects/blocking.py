"""Read objects where there is no event loop: in commands that check or export delivered clips, and for readers."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, TypeVar

from batchrunner.errors import LocalFault
from batchrunner.storage.objects.address import ObjectAddress
from batchrunner.storage.objects.store import Access, Objects, open_store

_T = TypeVar("_T")


class ObjectReader:
    """Reads objects by their addresses. access: returns how buckets may be reached; called for the first address."""

    def __init__(self, access: Callable[[], Access]) -> None:
        self._access = access

    def require_allowed(self, address: str) -> None:
        """Raise UsageError if the user does not allow the bucket of an address."""
        self._access().allowed.check(ObjectAddress.parse(address))

    def open(self, address: ObjectAddress) -> Objects:
        """Return the bucket of an address. Raises UsageError, LocalFault."""
        return open_store(address, self._access())

    def read_into(self, address: str, file: BinaryIO) -> str:
        """Write an object to an open file and return its SHA-256. Raises CallError, UsageError."""
        place = ObjectAddress.parse(address)
        objects = self.open(place)  # of its own: threads read at the same time
        return blocking(lambda: objects.download(place.key, file))

    def fetch(self, address: str, sha256: str, path: Path) -> None:
        """Write an object to a new file. Raises LocalFault for another content, CallError, UsageError, OSError."""
        path.unlink(missing_ok=True)  # it may be a link
        with path.open("xb") as file:
            found = self.read_into(address, file)
        if found != sha256:
            path.unlink()
            raise LocalFault("object_differs", f"{address} has another content than the clip that was delivered")


def spooled(write: Callable[[BinaryIO], Coroutine[Any, Any, str]], sha256: str) -> BinaryIO:
    """Return an unnamed temporary file with what `write` puts there. Raises OSError for another content."""
    with ExitStack() as undo:
        file = undo.enter_context(TemporaryFile())
        if blocking(lambda: write(file)) != sha256:
            raise OSError("the object has another content than the clip that was delivered")
        file.seek(0)
        undo.pop_all()
    return file


def blocking(make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run a coroutine in a thread of its own, also while this thread has an event loop, and return its result."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="objects") as thread:
        return thread.submit(lambda: asyncio.run(make())).result()
