"""A finished clip from its link to a checked file in the tool's own room.

Rules: nothing is trusted before it is checked: status, length, checksum where one is given, MP4 structure, every
frame. What was received before a cut is kept and continued with Range and If-Range when the server can; a part is
continued only as far as it is known to be on the disk. The API key never comes here: links are plain downloads, and
where they may lead is judged at every step (`batchrunner.transfer.url_guard`). Flushing the file and giving it its
final name is the store's business, and asking for a fresh link the engine's.
"""

import asyncio
import base64
import hashlib
import itertools
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL

from batchrunner.errors import CallError, NetworkFault, ServiceFault
from batchrunner.job import Result
from batchrunner.media import mp4_structure
from batchrunner.media.decoder import CheckLimit
from batchrunner.media.decoder_pool import WORKERS, Decoders
from batchrunner.net.connections import closed_ways
from batchrunner.redaction import Redactor, error_text
from batchrunner.storage import durable_files
from batchrunner.storage.batching import Batcher
from batchrunner.storage.durable_files import Disk
from batchrunner.transfer.content_coding import Unpacker, codings
from batchrunner.transfer.cookies import Cookies
from batchrunner.transfer.partial_file import MOST_SET_ASIDE, PartialFile
from batchrunner.transfer.url_guard import Guard

_RECEIVE_BYTES = 128 * 1024  # aiohttp buffers twice as much before it stops to receive
_LONGEST_FIELD_BYTES = 64 * 1024  # a header field, for example a redirect to a signed link
_LARGEST_CLIP_BYTES = 4 << 30
_CONNECT_S = 20.0
_WAY_S = 60.0  # to a connection, that of a proxy to the host included
_SILENCE_S = 60.0  # without a byte
_LONGEST_S = 3600.0  # one transfer, all in all
_REDIRECTS = 5
_WHOLE = {200, 203}  # 203: a proxy on the way changed something; the checks decide
_CONTENT_RANGE = re.compile(r"bytes[ =](\d{1,18})-", re.ASCII | re.IGNORECASE)
_MOVED = {301, 302, 303, 307, 308}
_SET_ASIDE = ".batchrunner/set_aside"  # as people should see it
_ASK_AGAIN = "The next run asks the service for the clip again, at no charge."
_EXPIRED = {401, 403, 404, 410}  # a signed link's ways of saying that its time is over


@dataclass(frozen=True, slots=True)
class Fetched:
    """A checked clip in the parts folder, not flushed yet, and what it is."""

    path: Path
    result: Result


@dataclass(frozen=True, slots=True)
class _Received:
    """What a reply said of the file. sha256: the hash that its host gives, in hex. damage: of its coding, in words."""

    sha256: str | None = None
    damage: str = ""


@dataclass(slots=True)
class _Item:
    """One of several small clips that are finished together; `outcome` is what came of it."""

    part: PartialFile
    received: "_Received"
    set_aside: Path
    outcome: Fetched | CallError | OSError = field(init=False)


@dataclass(frozen=True, slots=True)
class Checks:
    """Where whole clips are decoded, and the threads that wait for it: writing and sending do not wait for them."""

    decoders: Decoders
    executor: Executor


class Downloader:
    """Fetches clips into `parts`. Use as an async context manager.

    A download that fails its check is kept in the folder `set_aside` next to `parts`.
    executor: where files are written and hashed, off the loop. guard: where links may lead. checks: of whole files.
    redactor: for what the file host says.
    """

    def __init__(
        self,
        parts: Path,
        executor: Executor,
        files: Disk,
        guard: Guard,
        checks: Checks,
        redactor: Redactor | None = None,
    ) -> None:
        self._parts = parts
        self._set_aside = parts.with_name("set_aside")
        self._guard = guard
        self._redactor = redactor or Redactor()
        self._executor = executor
        self._disk = files
        self._checks = checks
        finish = partial(_finish_each, decoders=checks.decoders)
        self._small = itertools.cycle([Batcher(checks.executor, finish) for _ in range(WORKERS)])
        self._direct: aiohttp.ClientSession | None = None
        self._proxied: aiohttp.ClientSession | None = None
        self._left: set[str] = set()  # keys of which an earlier try may have left something

    async def __aenter__(self) -> Self:
        with suppress(OSError):  # told by whoever writes there
            self._left = {path.stem for path in self._parts.iterdir()}
        # The engine bounds downloads. A proxy looks names up itself, and its own address is no link's.
        self._direct = self._session(aiohttp.TCPConnector(resolver=self._guard, limit=0))
        self._proxied = self._session(aiohttp.TCPConnector(limit=0))
        return self

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "batchrunner", "Accept-Encoding": "identity"},
            auto_decompress=False,
            read_bufsize=_RECEIVE_BYTES,
            max_field_size=_LONGEST_FIELD_BYTES,
        )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in (self._direct, self._proxied):
            if session is not None:
                await session.close()

    async def fetch(self, url: str, key: str, told: Callable[[int, int | None], None] = lambda *_: None) -> Fetched:
        """Download `url`; `key` names the part, so that a later try continues it.

        told: called as bytes come, with how many there are and how many there will be, where the host said that.

        Raises ServiceFault (``link_expired``: ask for a fresh link; ``bad_file``: what came is no whole clip;
        ``check_limit``: the check could not be finished; ``link_refused``: it leads where no download may; otherwise
        the file host is in trouble), NetworkFault (``link_certificate``: the host's certificate is not trusted;
        ``link_proxy``: a proxy gives no way to it), LocalFault.
        """
        part = PartialFile(self._parts / key, self._disk, self._executor, fresh=key not in self._left)
        self._left.add(key)
        try:
            async with asyncio.timeout(_LONGEST_S):
                received = await self._receive(url, part, told)
            fetched = await self._finished(part, received)
            self._left.discard(key)
            return fetched
        except CallError as error:
            self._redactor.fault(error)
            raise
        except (aiohttp.ClientError, TimeoutError) as error:
            await self._off_loop(part.keep)
            kind = "timed_out" if isinstance(error, TimeoutError) else "cut"
            words = self._redactor.text(error_text(error))
            raise NetworkFault(kind, f"the download broke off after {part.size_bytes} bytes: {words}") from error
        except OSError as error:
            if error.errno in durable_files.FULL:
                part.forget()  # the journal needs the room more: ids of what is in the air come before a half clip
            raise durable_files.fault(error, "a download could not be stored") from error
        except asyncio.CancelledError:
            part.keep()
            raise
        finally:
            part.close()

    async def _receive(self, url: str, part: PartialFile, told: Callable[[int, int | None], None]) -> _Received:
        """Take what comes, unpacked, and return what the host says of the whole."""
        if not part.fresh:
            await self._off_loop(part.recall)
        async with self._reach(url, part.request_headers()) as reply:
            headers = self._redactor.headers({name.lower(): value for name, value in reply.headers.items()})
            coded = codings(headers.get("content-encoding", ""))
            continued = _judge(reply.status, headers, part, coded=bool(coded))
            left = _length(headers)
            expected = None if left is None or coded else left + (part.size_bytes if continued else 0)
            if expected is not None and expected > _LARGEST_CLIP_BYTES:
                part.forget()
                raise ServiceFault("bad_file", f"the file host announces {expected} bytes, which is no clip")
            # A range counts the bytes of the coded file, and the part holds others: it cannot be continued.
            part.start(continued, "" if coded else headers.get("etag", ""))
            try:
                pieces = _unpacked(reply.content.iter_any(), coded)
                await self._take(pieces, part, lambda: told(part.size_bytes, expected))
            except ValueError as error:
                return _Received(damage=error_text(error))
        if expected is not None and part.size_bytes != expected:
            raise NetworkFault("cut", f"the download ended after {part.size_bytes} of {expected} bytes")
        return _Received(None if coded else _given_sha256(headers))

    async def _take(self, pieces: AsyncIterator[bytes], part: PartialFile, told: Callable[[], None]) -> None:
        """Write what arrives. While a batch is written, aiohttp goes on receiving into its own buffer."""
        async for piece in pieces:
            if part.take(piece):
                await part.drain()
            told()
            if part.size_bytes > _LARGEST_CLIP_BYTES:
                part.forget()
                raise ServiceFault("bad_file", f"the download does not end: over {_LARGEST_CLIP_BYTES} bytes came")

    @asynccontextmanager
    async def _reach(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """The reply at the end of `url` and its redirects, each of them judged before anything is sent there."""
        target = self._guard.target(url)
        cookies = Cookies()
        for _ in range(_REDIRECTS + 1):
            await self._guard.admit(target)
            async with self._asked(target, {**headers, **cookies.headers(target)}) as reply:
                if reply.status not in _MOVED or "Location" not in reply.headers:
                    yield reply
                    return
                cookies.observe(target, reply.headers.getall("Set-Cookie", []))
                target = self._guard.target(reply.headers["Location"], target)
        raise ServiceFault("link_refused", f"the download link is redirected more than {_REDIRECTS} times")

    @asynccontextmanager
    async def _asked(self, target: URL, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """The reply from `target`, which the guard has admitted, by the way that leads there."""
        proxy = self._guard.proxy(target)
        session = self._proxied if proxy else self._direct
        assert session is not None
        timeout = aiohttp.ClientTimeout(total=None, connect=_WAY_S, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
        with closed_ways(proxy, "link_certificate", "link_proxy"):
            async with session.get(
                target, headers=headers, timeout=timeout, allow_redirects=False, proxy=proxy.url if proxy else None
            ) as reply:
                yield reply

    async def _finished(self, part: PartialFile, received: _Received) -> Fetched:
        """Small clips go in groups: to hand over each by itself costs more than what is done to it."""
        item = _Item(part, received, self._set_aside)
        if part.is_small:
            await next(self._small).do([item])
        else:
            await part.drain()
            loop, checks = asyncio.get_running_loop(), self._checks
            await loop.run_in_executor(checks.executor, _finish_each, [item], checks.decoders)
        if not isinstance(item.outcome, Fetched):
            raise item.outcome
        return item.outcome

    async def _off_loop(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)


def _finish_each(items: "list[_Item]", decoders: Decoders) -> None:
    """Write and check whole files. What becomes of each is its outcome."""
    written = []
    for item in items:
        try:
            _write_all(item)
            written.append(item)
        except (CallError, OSError) as error:
            item.outcome = error
    clips = [{"path": str(item.part.path), "size_bytes": item.part.size_bytes} for item in written]
    found = decoders.each("clip", clips)
    for item, outcome in zip(written, found, strict=True):
        try:
            item.outcome = _fetched(item, outcome)
        except (CallError, OSError) as error:
            item.outcome = error


def _write_all(item: _Item) -> None:
    """Write what is left of a file, and compare the SHA-256 that its host gives, if it does."""
    part, given = item.part, item.received.sha256
    part.drain_all()
    if item.received.damage:
        raise _unfit(part, item.set_aside, "bad_file", f"what the link gave is no whole clip: {item.received.damage}")
    if given is not None and given != part.sha256:
        raise _unfit(part, item.set_aside, "bad_file", f"the file's SHA-256 is {part.sha256}, its host says {given}")
    part.close()
    if not part.size_bytes:  # there is no file either
        raise _unfit(part, item.set_aside, "bad_file", "what the link gave is no whole clip: it is empty")


def _fetched(item: _Item, outcome: Any) -> Fetched:
    """What a check found, or CallError or OSError for what it raised."""
    part = item.part
    if isinstance(outcome, CheckLimit):
        raise _unfit(part, item.set_aside, "check_limit", f"the clip could not be checked to its end: {outcome}")
    if isinstance(outcome, OSError):
        raise outcome
    if isinstance(outcome, Exception):
        raise _unfit(part, item.set_aside, "bad_file", f"what the link gave is no whole clip: {outcome}")
    result = result_of(part.size_bytes, part.sha256, outcome)
    return Fetched(part.path, result)


def _unfit(part: PartialFile, set_aside: Path, kind: str, what: str) -> ServiceFault:
    """The fault of a download that failed its check. It is kept, as it is paid for; a page or nothing at all is not."""
    with part.read() as file:
        is_page = mp4_structure.names_no_video(file.read(mp4_structure.HEAD_BYTES)) is not None
    if is_page:
        part.forget()
        return ServiceFault(kind, what, _ASK_AGAIN)
    name = part.set_aside(set_aside)
    if name is None:
        return ServiceFault(kind, f"{what}; {MOST_SET_ASIDE} downloads of it are in {_SET_ASIDE} already", _ASK_AGAIN)
    return ServiceFault(
        kind, f"{what}; it is kept as {_SET_ASIDE}/{name}", f"{_ASK_AGAIN} This download: {_SET_ASIDE}/{name}"
    )


def result_of(size_bytes: int, sha256: str, found: Mapping[str, Any]) -> Result:
    """A checked clip as the journal knows it. found: what the task ``clip`` returned (`decoding.Decoded` as a dict)."""
    picture = (found["width_px"], found["height_px"], found["duration_s"])
    return Result(size_bytes, sha256, *picture, warnings=tuple(found["warnings"]))


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in blocks."""
    with durable_files.open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _unpacked(blocks: AsyncIterator[bytes], coded: Sequence[str]) -> AsyncIterator[bytes]:
    """The body without its codings. Raises ValueError if they are damaged."""
    unpacker = Unpacker(coded)
    async for block in blocks:
        for piece in unpacker.feed(block):
            yield piece
    for piece in unpacker.end():
        yield piece


def _judge(status: int, headers: Mapping[str, str], part: PartialFile, *, coded: bool) -> bool:
    """Whether the reply continues the part (True) or starts over (False). Raises CallError for any other reply."""
    if status in _WHOLE:
        return False
    same = headers.get("etag", part.etag) == part.etag or not part.size_bytes  # not every host heeds If-Range
    content_range = headers.get("content-range", "")
    if status == 206 and not part.size_bytes and not content_range:  # no range was asked for, so this is the whole
        return False
    if status == 206 and same and not (coded and part.size_bytes) and _start(content_range) == part.size_bytes:
        return True
    if status in {206, 416}:
        part.forget()
        raise ServiceFault("bad_range", f"the file host answered {status} to a request for the rest: starting over")
    if status in _EXPIRED:
        raise ServiceFault("link_expired", f"the link no longer works ({status})", status=status)
    raise _trouble(status)


def _trouble(status: int) -> CallError:
    return ServiceFault("download_refused", f"the file host answered {status}", status=status)


def _length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _start(content_range: str) -> int | None:
    """The first byte's number in a Content-Range header; None where it does not say so."""
    match = _CONTENT_RANGE.match(content_range.strip())
    return int(match[1]) if match else None


def _given_sha256(headers: Mapping[str, str]) -> str | None:
    """The SHA-256 that the host gives for the whole file (RFC 9530's Repr-Digest, the older Digest), as hex.

    A value that is no base64 or has another length is no digest.
    """
    for name, mark in (("repr-digest", "sha-256=:"), ("digest", "sha-256=")):
        for item in headers.get(name, "").split(","):
            if item.strip().lower().startswith(mark):
                with suppress(ValueError):
                    digest = base64.b64decode(item.strip()[len(mark) :].rstrip(":"), validate=True)
                    if len(digest) == hashlib.sha256().digest_size:
                        return digest.hex()
    return None
