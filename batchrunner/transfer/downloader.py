"""Download a finished clip from its link to a checked file in the run directory.

Everything is checked: status, length, checksum if the host declares one, MP4 structure, every frame. The bytes received
before a cut are kept and continued with Range and If-Range if the server supports it. A partial file is continued only
as far as it is known to be on the disk. The API key never comes here: links are plain downloads, and
`batchrunner.transfer.url_guard` checks every address that they lead to. `batchrunner.transfer.delivery` flushes the
file and gives it its final name. The engine asks for fresh links.
"""

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import aiohttp
from yarl import URL

from batchrunner.clock import LoopClock
from batchrunner.errors import CallError, NetworkFault, ServiceFault
from batchrunner.job import Result
from batchrunner.media import mp4_structure
from batchrunner.media.decoder import CheckLimit
from batchrunner.media.decoder_pool import WORKERS, Decoders
from batchrunner.net.connections import settings_fault, unreachable_text
from batchrunner.redaction import Redactor, error_text
from batchrunner.storage import durable_files
from batchrunner.storage.batching import Batcher
from batchrunner.storage.durable_files import Disk
from batchrunner.transfer.content_coding import Unpacker, codings
from batchrunner.transfer.cookies import Cookies
from batchrunner.transfer.partial_file import MOST_SET_ASIDE, PartialFile
from batchrunner.transfer.url_guard import Guard

_RECEIVE_BYTES = 64 * 1024  # aiohttp buffers twice as much and one block before it stops receiving
_LONGEST_FIELD_BYTES = 64 * 1024  # a header field, for example a redirect to a signed link
_LARGEST_CLIP_BYTES = 4 << 30
_TIMEOUT = aiohttp.ClientTimeout(
    total=None,
    connect=60.0,  # includes the connection of a proxy to the host
    sock_connect=20.0,
)
_SILENCE_S = 60.0  # without a byte of the file, at least; twice as long at most
_LONGEST_S = 3600.0  # one transfer
_TIME = LoopClock()  # limits of the network are in the loop's own time
_DECODER_BYTES = 256 * 1024  # of small clips, which one decoder checks before the next decoder is used
_REDIRECTS = 5
_WHOLE = {200, 203}  # 203: a proxy on the way changed something; the checks decide
_CONTENT_RANGE = re.compile(r"bytes[ =](\d{1,18})-", re.ASCII | re.IGNORECASE)
_MOVED = {301, 302, 303, 307, 308}
_REJECTED = ".batchrunner/set_aside"  # as people should see it
_ASK_AGAIN = "The next run asks the service for the clip again, at no charge."
_EXPIRED = {401, 403, 404, 410}  # a signed link's ways of saying that its time is over


@dataclass(frozen=True, slots=True)
class Fetched:
    """A checked clip in the folder of partial files, not flushed yet."""

    path_text: str
    result: Result

    @property
    def path(self) -> Path:
        """The path of the file."""
        return Path(self.path_text)


class _Received(NamedTuple):
    """A reply's statements about the file. sha256: in hex, if the host declares it. damage: an error in its coding."""

    sha256: str | None = None
    damage: str = ""


@dataclass(slots=True)
class _Item:
    """One of several small clips that are finished in one batch, and its outcome."""

    key: str
    download: PartialFile
    received: "_Received"
    rejected_dir: Path
    outcome: Fetched | CallError | OSError = field(init=False)


@dataclass(frozen=True, slots=True)
class Checks:
    """The decoders of complete clips, and the threads that wait for them. Other file work uses other threads.

    further: the further fields of the task ``clip`` for a download's key. Those threads call it, so it may block.
    width: how many clips are checked at once. remote: the executor of a cluster, or None.
    """

    decoders: Decoders
    executor: Executor
    further: Callable[[str], Mapping[str, Any]] = lambda _: {}
    width: int = WORKERS
    remote: Executor | None = None


class _SmallClips:
    """Finishes small clips in batches, on few decoders: a larger batch takes fewer switches between processes."""

    def __init__(self, checks: Checks) -> None:
        finish = partial(_finish_all, checks=checks)
        self._batchers = [Batcher(checks.executor, finish) for _ in range(checks.width)]
        self._waiting_bytes = [0] * checks.width

    async def finish(self, item: _Item) -> None:
        """Finish a clip on the first decoder with little to do, or on the one with the least."""
        size_bytes = item.download.size_bytes
        waiting = self._waiting_bytes
        free = (number for number, used in enumerate(waiting) if used + size_bytes <= _DECODER_BYTES)
        chosen = next(free, waiting.index(min(waiting)))
        waiting[chosen] += size_bytes
        try:
            await self._batchers[chosen].do([item])
        finally:
            waiting[chosen] -= size_bytes


class Downloader:
    """Fetches clips into `folder`. Use as an async context manager.

    A download that fails its check is kept in the folder ``set_aside`` beside `folder`.
    executor: writes and hashes files. guard: checks links. checks: decode complete files. redactor: removes secrets
    from the file host's texts.
    """

    def __init__(
        self,
        folder: Path,
        executor: Executor,
        files: Disk,
        guard: Guard,
        checks: Checks,
        redactor: Redactor | None = None,
    ) -> None:
        self._folder = folder
        self._rejected_dir = folder.with_name("set_aside")
        self._guard = guard
        self._redactor = redactor or Redactor()
        self._executor = executor
        self._disk = files
        self._checks = checks
        self._small = _SmallClips(checks)
        self._direct: aiohttp.ClientSession | None = None
        self._proxied: aiohttp.ClientSession | None = None
        self._left: set[str] = set()  # keys with possible files of an earlier attempt

    async def __aenter__(self) -> Self:
        with suppress(OSError):  # the write reports it
            self._left = {path.stem for path in self._folder.iterdir()}
        # The engine bounds downloads. A proxy looks names up itself, and its own address is no link's.
        self._direct = self._session(aiohttp.TCPConnector(resolver=self._guard, limit=0))
        self._proxied = self._session(aiohttp.TCPConnector(limit=0))
        return self

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "batchrunner", "Accept-Encoding": "identity"},
            timeout=_TIMEOUT,
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

    async def fetch(
        self, url: str, key: str, on_progress: Callable[[int, int | None], None] = lambda *_: None
    ) -> Fetched:
        """Download `url`. `key` names the partial file, so a later attempt continues it.

        on_progress: called with the bytes received and the expected size, or None if the host does not declare it.

        Raises ServiceFault (``link_expired``: ask for a fresh link; ``bad_file``: the file is not a complete clip;
        ``check_limit``: the check could not be finished; ``link_refused``: the address is not allowed; other kinds: the
        file host has an error), NetworkFault (``link_certificate``: the host's certificate is not trusted;
        ``link_proxy``: a proxy refuses the connection), LocalFault.
        """
        download = PartialFile(f"{self._folder}/{key}.part", self._disk, self._executor, fresh=key not in self._left)
        self._left.add(key)
        try:
            async with asyncio.timeout(2 * _SILENCE_S) as limit:
                arrived = _arrival(limit, _TIME.monotonic() + _LONGEST_S, on_progress)
                received = await self._receive(url, download, arrived)
            fetched = await self._finished(key, download, received)
            self._left.discard(key)
            return fetched
        except CallError as error:
            self._redactor.fault(error)
            raise
        except (aiohttp.ClientError, TimeoutError) as error:
            await self._off_loop(download.keep)
            kind = "timed_out" if isinstance(error, TimeoutError) else "cut"
            cause = self._redactor.text(unreachable_text(error))
            raise NetworkFault(kind, f"the download broke off after {download.size_bytes} bytes: {cause}") from error
        except OSError as error:
            if error.errno in durable_files.FULL:
                download.forget()  # frees space: ids of active requests matter more
            raise durable_files.fault(error, "a download could not be stored") from error
        except asyncio.CancelledError:
            download.keep()
            raise
        finally:
            download.close()

    async def _receive(
        self, url: str, download: PartialFile, on_progress: Callable[[int, int | None], None]
    ) -> _Received:
        """Receive the decoded body, and return what the host says about the file."""
        if not download.fresh:
            await self._off_loop(download.recall)
        async with await self._reach(url, download.request_headers()) as reply:
            headers = self._redactor.headers(reply.headers)
            coded = codings(headers["content-encoding"]) if "content-encoding" in headers else []
            continued = _continues(reply.status, headers, download, coded=bool(coded))
            left = _length(headers)
            expected = None if left is None or coded else left + (download.size_bytes if continued else 0)
            if expected is not None and expected > _LARGEST_CLIP_BYTES:
                download.forget()
                raise ServiceFault("bad_file", f"the file host announces {expected} bytes, which is no clip")
            # A range counts bytes of the encoded file. The partial file has decoded bytes, so it cannot be continued.
            download.start(continued, "" if coded else headers.get("etag", ""))
            try:
                blocks = reply.content.iter_any()
                pieces = _unpacked(blocks, coded) if coded else blocks
                await self._take(pieces, download, lambda: on_progress(download.size_bytes, expected))
            except ValueError as error:
                return _Received(damage=error_text(error))
        if expected is not None and download.size_bytes != expected:
            raise NetworkFault("cut", f"the download ended after {download.size_bytes} of {expected} bytes")
        return _Received(None if coded else _declared_sha256(headers))

    async def _take(self, pieces: AsyncIterator[bytes], download: PartialFile, on_progress: Callable[[], None]) -> None:
        """Write the received bytes. While a batch is written, aiohttp continues to receive into its own buffer."""
        async for piece in pieces:
            if download.take(piece):
                await download.drain()
            on_progress()
            if download.size_bytes > _LARGEST_CLIP_BYTES:
                download.forget()
                raise ServiceFault("bad_file", f"the download does not end: over {_LARGEST_CLIP_BYTES} bytes came")

    async def _reach(self, url: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """Follow `url` and its redirects, and return the reply, which the caller closes.

        Each address is checked before a request is sent.
        """
        target = self._guard.target(url)
        cookies = Cookies()
        for _ in range(_REDIRECTS + 1):
            await self._guard.admit(target)
            reply = await self._request(target, {**headers, **cookies.headers(target)})
            if reply.status not in _MOVED or "Location" not in reply.headers:
                return reply
            async with reply:
                cookies.observe(target, reply.headers.getall("Set-Cookie", []))
                target = self._guard.target(reply.headers["Location"], target)
        raise ServiceFault("link_refused", f"the download link is redirected more than {_REDIRECTS} times")

    async def _request(self, target: URL, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """Request `target`, which the guard has admitted, directly or through its proxy."""
        proxy = self._guard.proxy(target)
        session = self._proxied if proxy else self._direct
        assert session is not None
        try:
            return await session.get(target, headers=headers, allow_redirects=False, proxy=proxy.url if proxy else None)
        except (aiohttp.ClientError, TimeoutError) as error:
            fault = settings_fault(error, proxy, "link_certificate", "link_proxy")
            if fault is None:
                raise
            raise fault from error

    async def _finished(self, key: str, download: PartialFile, received: _Received) -> Fetched:
        """Check a complete file. Small clips are checked in batches: a thread switch costs more than the work."""
        item = _Item(key, download, received, self._rejected_dir)
        if download.is_small:
            await self._small.finish(item)
        else:
            await download.drain()
            loop, checks = asyncio.get_running_loop(), self._checks
            await loop.run_in_executor(checks.executor, _finish_all, [item], checks)
        if not isinstance(item.outcome, Fetched):
            raise item.outcome
        return item.outcome

    async def _off_loop(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)


def _arrival(
    limit: asyncio.Timeout, end: float, on_progress: Callable[[int, int | None], None]
) -> Callable[[int, int | None], None]:
    """Return `on_progress` that also lets the transfer continue, but not beyond `end`. Its timer is rarely set anew."""

    def arrived(received_bytes: int, expected_bytes: int | None) -> None:
        now, until = _TIME.monotonic(), limit.when()
        if until is not None and until < min(now + _SILENCE_S, end):
            limit.reschedule(min(now + 2 * _SILENCE_S, end))
        on_progress(received_bytes, expected_bytes)

    return arrived


def _finish_all(items: "list[_Item]", checks: Checks) -> None:
    """Write and check complete files. Each item gets its outcome."""
    written = []
    for item in items:
        try:
            _write_all(item)
            written.append(item)
        except (CallError, OSError) as error:
            item.outcome = error
    clips = [
        {
            **checks.further(item.key),
            "path": item.download.path_text,
            "size_bytes": item.download.size_bytes,
            "sha256": item.download.sha256,
        }
        for item in written
    ]
    found = checks.decoders.run_all("clip", clips)
    for item, outcome in zip(written, found, strict=True):
        try:
            item.outcome = _fetched(item, outcome)
        except (CallError, OSError) as error:
            item.outcome = error


def _write_all(item: _Item) -> None:
    """Write the remaining bytes of a file, and compare the SHA-256 that its host declares."""
    download, expected_sha256 = item.download, item.received.sha256
    download.drain_all()
    if item.received.damage:
        raise _rejected(
            download, item.rejected_dir, "bad_file", f"the download is not a complete clip: {item.received.damage}"
        )
    if expected_sha256 is not None and expected_sha256 != download.sha256:
        raise _rejected(
            download,
            item.rejected_dir,
            "bad_file",
            f"the file's SHA-256 is {download.sha256}, its host says {expected_sha256}",
        )
    download.close()
    if not download.size_bytes:  # there is no file either
        raise _rejected(download, item.rejected_dir, "bad_file", "the download is not a complete clip: it is empty")


def _fetched(item: _Item, outcome: Any) -> Fetched:
    """Return the checked clip. Raises CallError or OSError if the check failed."""
    download = item.download
    if not isinstance(outcome, Exception):
        return Fetched(download.path_text, result_of(download.size_bytes, download.sha256, outcome))
    if isinstance(outcome, CheckLimit):
        raise _rejected(
            download, item.rejected_dir, "check_limit", f"the clip could not be checked to its end: {outcome}"
        )
    if isinstance(outcome, OSError):
        raise outcome
    raise _rejected(download, item.rejected_dir, "bad_file", f"the download is not a complete clip: {outcome}")


def _rejected(download: PartialFile, rejected_dir: Path, kind: str, what: str) -> ServiceFault:
    """Return the fault of a download that failed its check. It is kept, as it is paid for, unless it is a web page."""
    with download.read() as file:
        is_page = mp4_structure.names_no_video(file.read(mp4_structure.HEAD_BYTES)) is not None
    if is_page:
        download.forget()
        return ServiceFault(kind, what, _ASK_AGAIN)
    name = download.reject(rejected_dir)
    if name is None:
        return ServiceFault(kind, f"{what}; {MOST_SET_ASIDE} downloads of it are in {_REJECTED} already", _ASK_AGAIN)
    return ServiceFault(
        kind, f"{what}; it is kept as {_REJECTED}/{name}", f"{_ASK_AGAIN} This download: {_REJECTED}/{name}"
    )


def result_of(size_bytes: int, sha256: str, found: Mapping[str, Any]) -> Result:
    """Return a checked clip's journal record. found: the result of the task ``clip`` (`decoder.Decoded` as a dict)."""
    picture = (found["width_px"], found["height_px"], found["duration_s"])
    return Result(
        size_bytes,
        sha256,
        *picture,
        warnings=tuple(found["warnings"]),
        quality=found.get("quality"),
        synthetic_marks=tuple(found["synthetic_marks"]) if "synthetic_marks" in found else None,
    )


def file_sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in blocks."""
    with durable_files.open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _unpacked(blocks: AsyncIterator[bytes], coded: Sequence[str]) -> AsyncIterator[bytes]:
    """Decode the body. Raises ValueError if its coding is damaged."""
    unpacker = Unpacker(coded)
    async for block in blocks:
        for piece in unpacker.feed(block):
            yield piece
    for piece in unpacker.end():
        yield piece


def _continues(status: int, headers: Mapping[str, str], download: PartialFile, *, coded: bool) -> bool:
    """Return whether the reply continues the partial file or starts over. Raises CallError for any other reply."""
    if status in _WHOLE:
        return False
    same = headers.get("etag", download.etag) == download.etag or not download.size_bytes
    content_range = headers.get("content-range", "")
    if status == 206 and not download.size_bytes and not content_range:  # the complete file
        return False
    if status == 206 and same and not (coded and download.size_bytes) and _start(content_range) == download.size_bytes:
        return True
    if status in {206, 416}:
        download.forget()
        raise ServiceFault("bad_range", f"the file host answered {status} to a request for the rest: starting over")
    if status in _EXPIRED:
        raise ServiceFault("link_expired", f"the link no longer works ({status})", status=status)
    raise _host_refused(status)


def _host_refused(status: int) -> CallError:
    return ServiceFault("download_refused", f"the file host answered {status}", status=status)


def _length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _start(content_range: str) -> int | None:
    """Return the number of the first byte in a Content-Range header, or None."""
    match = _CONTENT_RANGE.match(content_range.strip())
    return int(match[1]) if match else None


def _declared_sha256(headers: Mapping[str, str]) -> str | None:
    """Return the SHA-256 that the host declares (RFC 9530's Repr-Digest, or the older Digest), in hex.

    A value that is not base64 or has another length is ignored.
    """
    for name, mark in (("repr-digest", "sha-256=:"), ("digest", "sha-256=")):
        if name not in headers:
            continue
        for item in headers[name].split(","):
            if item.strip().lower().startswith(mark):
                with suppress(ValueError):
                    digest = base64.b64decode(item.strip()[len(mark) :].rstrip(":"), validate=True)
                    if len(digest) == hashlib.sha256().digest_size:
                        return digest.hex()
    return None
