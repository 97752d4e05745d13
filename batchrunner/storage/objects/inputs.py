"""The inputs in buckets, while a manifest is loaded: find, list and probe objects.

An object is probed by ranges: its format, and for an MP4 or MOV the index and the first frames. The remainder is a hole
in a temporary file that the decoder reads. Objects that a pattern lists are probed several at once.
"""

import re
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Self, TypeVar
from uuid import uuid4

from batchrunner.errors import BatchrunnerError, CallError
from batchrunner.job import Media
from batchrunner.media.probe import Kind, MediaProblem, inspect_copy, sniff
from batchrunner.storage.objects.address import ObjectAddress

if TYPE_CHECKING:
    from tempfile import TemporaryDirectory

    from batchrunner.storage.objects.store import Access, Objects, ObjectState

_AT_ONCE = 8
_WHOLE_BYTES = 4 << 20  # a smaller object is read whole
_MOST_WHOLE_BYTES = 64 << 20  # a larger picture, or video without an index, is not read
_HEAD_BYTES = 1 << 20
_FRAME_BYTES = 4 << 20  # from the start of the samples: the first frames
_MOST_INDEX_BYTES = 64 << 20
_MOST_BOXES = 1000
_MOST_LISTED = 1_000_000
_WILDCARD = re.compile(r"[*?\[]")
_TOKEN = re.compile(r"\[!?\]?[^\]]*\]|.", re.DOTALL)
_INDEXED = ("mp4", "mov")
_T = TypeVar("_T")


class _Copy(NamedTuple):
    """An object's state and its copy. is_whole: without holes."""

    state: "ObjectState"
    path: Path
    is_whole: bool


class ObjectInputs:
    """The objects that one manifest names: a `batchrunner.manifest.inputs.Objects`. Use as a context manager.

    access: returns how buckets may be reached; called once, for the first address. Raises its errors then.
    """

    def __init__(self, access: "Callable[[], Access]") -> None:
        self._access = access
        self._known: Access | None = None
        self._stores: dict[str, Objects] = {}
        self._problems: dict[str, MediaProblem] = {}  # by bucket: a failure that concerns each of its objects
        self._listed: dict[str, ObjectState] = {}
        self._following: dict[str, tuple[list[str], int]] = {}  # the matches of its pattern, and its place there
        self._copies: dict[tuple[Kind, str], Future[_Copy]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._folder: TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if self._folder is not None:
            self._folder.cleanup()

    def get(self, kind: Kind, text: str) -> Media:
        """Return the input at an address. Its identity is the address and the ETag. Raises MediaProblem."""
        with self._as_problems(text) as address:
            shown = str(address)
            if not address.key or address.key.endswith("/"):
                raise MediaProblem(f"{shown} names no object", "Name one; in a matrix row, a pattern such as in/*.mp4")
            copy = self._copy(kind, shown)
            try:
                findings = inspect_copy(copy.path, kind, shown, excerpt=not copy.is_whole)
            except OSError as error:
                raise MediaProblem(f"{shown} cannot be checked: {error.strerror or error}") from None
            finally:
                copy.path.unlink(missing_ok=True)
            etag = (copy.state.etag or copy.state.version or "").strip('"')
            if not etag:
                raise MediaProblem(f"the store names no ETag and no version for {shown}", "Use a link or a local file.")
            return Media(kind=kind, source=shown, uri=shown, size_bytes=copy.state.size, etag=etag, **findings)

    def glob(self, pattern: str) -> list[str]:
        """Return the addresses of the objects that match a pattern, as for local files. Raises MediaProblem."""
        with self._as_problems(pattern) as address:
            objects = self._open(address)
            found = self._run(_matching(objects, address.key)).result()
            if address.key in found:
                found = {address.key: found[address.key]}  # an object whose key contains wildcards
            states = {f"{address.place}/{key}": state for key, state in sorted(found.items())}
            self._listed.update(states)
            matches = list(states)
            self._following.update((name, (matches, at)) for at, name in enumerate(matches))
            return matches

    def _copy(self, kind: Kind, text: str) -> _Copy:
        """Return the copy of an object, and begin to copy the next ones of the same pattern."""
        names, begin = self._following.get(text, ([text], 0))
        for name in islice(names, begin, begin + _AT_ONCE):
            if (kind, name) not in self._copies:
                address = ObjectAddress.parse(name)
                state = self._listed.get(name)
                self._copies[kind, name] = self._run(self._fetched(self._open(address), address, kind, state))
        return self._copies.pop((kind, text)).result()

    async def _fetched(
        self, objects: "Objects", address: ObjectAddress, kind: Kind, state: "ObjectState | None"
    ) -> _Copy:
        state = state or await objects.head(address.key)
        if state is None:
            hint = "patterns are expanded in 'matrix' rows only" if _WILDCARD.search(address.key) else ""
            raise MediaProblem(f"there is no object {address}", hint or "Correct the key, or upload the object.")
        if not state.size:
            raise MediaProblem(f"{address} is empty")
        assert self._folder is not None
        path = Path(self._folder.name) / uuid4().hex
        with path.open("wb") as file:
            is_whole = await _Reader(objects, address.key, state, file).copy(kind, str(address))
            file.truncate(state.size)
        return _Copy(state, path, is_whole)

    def _open(self, address: ObjectAddress) -> "Objects":
        from batchrunner.storage.objects.store import open_store  # here, as most manifests name no object

        if address.place not in self._stores:
            if self._known is None:
                self._known = self._access()
            self._stores[address.place] = open_store(address, self._known)
        return self._stores[address.place]

    def _run(self, work: Coroutine[Any, Any, _T]) -> "Future[_T]":
        """Run a coroutine in a thread with a loop of its own: a manifest may be loaded inside a running loop."""
        import asyncio  # here: manifests without addresses load neither
        import tempfile

        if self._pool is None:
            self._pool = ThreadPoolExecutor(_AT_ONCE, "objects")
            self._folder = tempfile.TemporaryDirectory(prefix="batchrunner-")
        return self._pool.submit(asyncio.run, work)

    @contextmanager
    def _as_problems(self, text: str) -> Iterator[ObjectAddress]:
        """Turn failures into MediaProblem. A bucket that failed once is not asked again."""
        place = text
        try:
            address = ObjectAddress.parse(text)
            place = address.place
            if place in self._problems:
                raise self._problems[place]
            yield address
        except MediaProblem:
            raise
        except BatchrunnerError as error:
            problem = MediaProblem(error.message, error.hint)
            if not isinstance(error, CallError) or error.kind.startswith("bucket_"):
                self._problems[place] = problem
            raise problem from None


class _Reader:
    """Copies the necessary ranges of an object into a file."""

    def __init__(self, objects: "Objects", key: str, state: "ObjectState", file: IO[bytes]) -> None:
        self._objects = objects
        self._key = key
        self._state = state
        self._file = file

    async def copy(self, kind: Kind, shown: str) -> bool:
        """Copy what the check needs. Return whether that is the whole object. Raises CallError, MediaProblem."""
        size = self._state.size
        head = await self._take(0, _WHOLE_BYTES if size <= _WHOLE_BYTES else _HEAD_BYTES)
        if size <= _WHOLE_BYTES:
            return True
        found = sniff(head[:64])
        if found is None or found.kind != kind:
            return False  # the check refuses it by its first bytes
        if kind == "video" and found.decoder in _INDEXED:
            await self._take_index(head)
            return False
        if size > _MOST_WHOLE_BYTES:
            hint = "Use an MP4 file, whose length can be read from its index, or a smaller file."
            raise MediaProblem(f"{shown} is too large to be checked: {size:,} bytes", hint)
        for start in range(len(head), size, _WHOLE_BYTES):
            await self._take(start, _WHOLE_BYTES)
        return True

    async def _take_index(self, head: bytes) -> None:
        """Copy the index and the first samples of an MP4. Layout: ISO/IEC 14496-12, boxes at the top level."""
        at = 0
        for _ in range(_MOST_BOXES):
            if at + 8 > self._state.size:
                return
            top = head[at : at + 16] if at + 16 <= len(head) else await self._take(at, 16)
            size, name = int.from_bytes(top[:4], "big"), top[4:8]
            if size == 1:
                size = int.from_bytes(top[8:16], "big")
            size = size or self._state.size - at
            if size < 8:
                return  # damaged: the decoder says so
            if name in {b"moov", b"moof"}:
                await self._take(at, min(size, _MOST_INDEX_BYTES))
            elif name == b"mdat":
                await self._take(at, min(size, _FRAME_BYTES))
            at += size

    async def _take(self, start: int, size: int) -> bytes:
        end = min(start + size, self._state.size)
        data = await self._objects.read(self._key, start, end, self._state.etag)
        self._file.seek(start)
        self._file.write(data)
        return data


async def _matching(objects: "Objects", pattern: str) -> "dict[str, ObjectState]":
    """Return the keys that match a pattern, with their states."""
    folders = pattern.split("/")
    plain = next((at for at, folder in enumerate(folders) if _WILDCARD.search(folder)), len(folders) - 1)
    matches = re.compile(_regex(folders)).fullmatch
    found: dict[str, ObjectState] = {}
    count = 0
    async for key, state in objects.list("/".join(folders[:plain])):
        count += 1
        if count > _MOST_LISTED:
            raise MediaProblem(f"more than {_MOST_LISTED:,} objects lie below the pattern", "Name a deeper folder.")
        if state.size and (matches(key) or key == pattern):
            found[key] = state
    return found


def _regex(folders: list[str]) -> str:
    """Return a regular expression: ``*`` stays within a folder, ``**`` spans folders, neither matches a hidden name."""
    pieces = []
    for at, folder in enumerate(folders):
        is_last = at == len(folders) - 1
        if folder == "**":
            pieces.append(r"(?:[^./][^/]*/)*" + (r"[^./][^/]*" if is_last else ""))
        else:
            hidden = "" if folder.startswith(".") else r"(?!\.)"
            pieces.append(hidden + "".join(map(_expression, _TOKEN.findall(folder))) + ("" if is_last else "/"))
    return "".join(pieces)


def _expression(piece: str) -> str:
    if piece in {"*", "?"}:
        return "[^/]*" if piece == "*" else "[^/]"
    if len(piece) == 1:
        return re.escape(piece)
    inner = piece[1:-1].replace("\\", "\\\\")
    return f"[^{inner[1:]}/]" if inner.startswith("!") else f"[{inner}]".replace("[^", "[\\^")
