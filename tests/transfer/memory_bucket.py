"""A bucket in memory with the calls of `batchrunner.storage.objects.store.Objects`, for tests.

before_call: called with the name of each call and its key, before the call and after each change; it may raise.
lists_other_etags: a list has other ETags than the reply to a HEAD.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO

from batchrunner.errors import LocalFault
from batchrunner.storage.objects.store import ObjectState, OnProgress


class MemoryBucket:
    """Objects by key, and the owners of reports."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.owners: dict[str, str] = {}
        self.puts: list[str] = []
        self.lists_other_etags = False
        self.before_call: Callable[[str, str], None] = lambda *_: None

    async def _call(self, name: str, key: str) -> None:
        self.before_call(name, key)
        await asyncio.sleep(0)

    def _state(self, key: str) -> ObjectState | None:
        content = self.objects.get(key)
        return None if content is None else ObjectState(len(content), f'"{hashlib.md5(content).hexdigest()}"')

    async def head(self, key: str) -> ObjectState | None:
        await self._call("head", key)
        return self._state(key)

    async def put_new(
        self, key: str, file: Path, sha256: str, on_progress: OnProgress | None = None, content_type: str = ""
    ) -> ObjectState:
        await self._call("put", key)
        content = file.read_bytes()  # noqa: ASYNC240 (a few bytes)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise LocalFault("input_changed", f"{file} is not the file that was checked")
        is_new = key not in self.objects
        if self.objects.setdefault(key, content) != content:
            raise LocalFault("object_differs", f"the object {key} has another content; it was not replaced")
        if is_new:
            self.puts.append(key)
            if on_progress is not None:
                on_progress(len(content))
        await self._call("stored", key)
        state = self._state(key)
        assert state is not None
        return state

    async def put_own(self, key: str, file: Path, owner: str, content_type: str) -> None:
        await self._call("put", key)
        await self.has_own(key, owner)
        self.objects[key], self.owners[key] = file.read_bytes(), owner  # noqa: ASYNC240 (a few bytes)

    async def has_own(self, key: str, owner: str) -> bool:
        await self._call("head", key)
        if key in self.objects and self.owners.get(key) != owner:
            raise LocalFault("object_differs", f"the object {key} is not of this batch; it was not replaced")
        return key in self.objects

    async def require_writable(self, key: str) -> None:
        await self._call("put", key)

    async def download(self, key: str, file: BinaryIO, etag: str | None = None) -> str:
        await self._call("download", key)
        state = self._state(key)
        if state is None:
            raise LocalFault("object_missing", f"there is no object {key}")
        if etag not in {None, state.etag}:
            raise LocalFault("input_changed", f"{key} is not the object that was checked")
        file.write(self.objects[key])
        return hashlib.sha256(self.objects[key]).hexdigest()

    async def list(self, prefix: str) -> AsyncIterator[tuple[str, ObjectState]]:
        await self._call("list", prefix)
        for key in list(self.objects):
            state = self._state(key)
            if key.startswith(f"{prefix}/") and state is not None:
                yield key, ObjectState(state.size, '"other"') if self.lists_other_etags else state

    async def delete(self, key: str) -> None:
        await self._call("delete", key)
        self.objects.pop(key, None)
        await self._call("deleted", key)
