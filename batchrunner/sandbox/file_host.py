"""The file host: serves results with Range, and breaks transfers where a fault says so.

Rule: like the real hosts it wants no key. What a transfer should be is decided first, as a `Plan` (pure); sending it,
or failing to, comes after.
"""

import asyncio
import gzip
import io
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from aiofiles.threadpool import wrap
from aiohttp import web

from batchrunner.clock import Clock
from batchrunner.sandbox.faults.rules import Fault

_CHUNK_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
# Zeros cover this part of the whole file, whatever range is asked for.
_ZEROED = (0.4, 0.6)
_LEAST_ZEROED_BYTES = 64  # of a resumed download: one or two zeros may be no damage that a decoder can find
_SLOW_STEPS = 16
# What a library that spells links anew would change: lower-case hex, escapes that need none, marks that could have one.
_SIGNATURE = "sig=a%2fb+c%2B%28d%29;e|f[0]%7e"
_COOKIE = "pass=a%2Fb="

Change = tuple[int, Mapping[str, str], Callable[[bytes], bytes]]
# Replies of another form, by the kind of fault: status, headers, and the body made of the file. They know no ranges.
_CHANGES: Mapping[str, Change] = {
    "foreign_coding": (200, {"Content-Encoding": "aws-chunked"}, bytes),
    "gzip": (200, {"Content-Encoding": "gzip"}, lambda content: gzip.compress(content, mtime=0)),
    "deflate": (200, {"Content-Encoding": "deflate"}, zlib.compress),
    "tail": (200, {}, lambda content: content + b'{"AIGC":{"Label":"1"}}'),
    "open_box": (200, {}, lambda content: content + b"\0\0\0\0free" + bytes(20)),
    "short_digest": (200, {"Digest": "SHA-256=AAAA", "Repr-Digest": "sha-256=:AAAA:"}, bytes),
    "status_203": (203, {}, bytes),
    "status_206": (206, {}, bytes),
}
CHANGED = frozenset(_CHANGES)


@dataclass(frozen=True, slots=True)
class Plan:
    """A transfer: status, the slice of the file, and headers. size_bytes: of the whole file."""

    status: int
    start: int
    length: int
    size_bytes: int
    etag: str
    ranges: bool = True

    @property
    def headers(self) -> dict[str, str]:
        """Headers that describe the slice. Content-Length is the sender's."""
        headers = {"ETag": self.etag, "Content-Type": "video/mp4"}
        if self.ranges:
            headers["Accept-Ranges"] = "bytes"
        if self.status == 206:
            headers["Content-Range"] = f"bytes {self.start}-{self.start + self.length - 1}/{self.size_bytes}"
        if self.status == 416:
            headers["Content-Range"] = f"bytes */{self.size_bytes}"
        return headers


def plan(size_bytes: int, etag: str, range_header: str | None, if_range: str | None) -> Plan:
    """What to send. A Range that is malformed, of several parts, or stale by If-Range is ignored, as RFC 9110 says."""
    whole = Plan(200, 0, size_bytes, size_bytes, etag)
    match = _RANGE.fullmatch(range_header.strip()) if range_header else None
    if match is None or match[0] == "bytes=-" or (if_range is not None and if_range != etag):
        return whole
    if not match[1]:
        length = min(int(match[2]), size_bytes)
        start, end = size_bytes - length, size_bytes
    else:
        start = int(match[1])
        end = min(int(match[2]) + 1, size_bytes) if match[2] else size_bytes
        if match[2] and int(match[2]) < start:
            return whole
    if start >= size_bytes or end <= start:
        return replace(whole, status=416, length=0)
    return replace(whole, status=206, start=start, length=end - start)


class _Result(io.BufferedIOBase):
    """A result file below aiofiles, read from `start`.

    The first read opens it: `aiofiles.open` leaks the file if the client leaves at that moment.
    """

    def __init__(self, path: Path, start: int) -> None:
        self._path = path
        self._start = start
        self._file: BinaryIO | None = None
        self._lock = Lock()  # a cancelled transfer may close while a thread reads

    def read(self, size: int | None = -1, /) -> bytes:
        """Read `size` bytes, less only at the end of the file."""
        with self._lock:
            if self.closed:
                return b""
            if self._file is None:
                self._file = self._path.open("rb")
                self._file.seek(self._start)
            return self._file.read(-1 if size is None else size)

    def close(self) -> None:
        """Close the file, after the read that is under way."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            super().close()


@dataclass(slots=True)
class Transfer:
    """One transfer of the file at `path`, bent by `fault`. sent_bytes: of the file, so far."""

    path: Path
    plan: Plan
    fault: Fault | None
    clock: Clock
    sent_bytes: int = 0

    async def send(self, request: web.Request) -> web.StreamResponse:
        """Send it."""
        kind = self.fault.kind if self.fault else ""
        response = web.StreamResponse(status=self.plan.status, headers=self.plan.headers)
        if kind == "short":
            response.enable_chunked_encoding()  # no length that would give the cut away
        else:
            response.content_length = self.plan.length
        try:
            await response.prepare(request)
            if request.method == "HEAD":
                return response
            await self._write(response, kind)
            if kind == "truncated" and request.transport:
                request.transport.close()  # not abort: what was written goes out, and then nothing more comes
            else:
                await response.write_eof()
        except ConnectionError:
            pass  # the client has left
        return response

    async def _write(self, response: web.StreamResponse, kind: str) -> None:
        length = self.plan.length // 2 if kind in {"truncated", "short"} else self.plan.length
        step = max(1, -(-length // _SLOW_STEPS)) if kind == "slow" else _CHUNK_BYTES
        file = wrap(_Result(self.path, self.plan.start))  # in the loop's default executor
        try:
            while self.sent_bytes < length:
                start = self.plan.start + self.sent_bytes
                data = await file.read(min(step, length - self.sent_bytes))
                if not data:
                    raise ConnectionError("the file is shorter than its ledger says")
                await response.write(_zeroed(data, start, self.plan.size_bytes) if kind == "zeros" else data)
                self.sent_bytes += len(data)
                if self.fault and kind == "slow":
                    await self.clock.sleep(self.fault.seconds / _SLOW_STEPS)
        finally:
            await file.close()


async def changed(path: Path, kind: str, etag: str) -> web.Response:
    """Return the file at `path` in another form: compressed, with bytes after its end, or with another status."""
    status, headers, change = _CHANGES[kind]
    file = wrap(_Result(path, 0))
    try:
        content = await file.read()
    finally:
        await file.close()
    body = await asyncio.get_running_loop().run_in_executor(None, change, content)
    return web.Response(status=status, body=body, headers={"ETag": etag, **headers}, content_type="video/mp4")


def detour(request: web.Request, kind: str) -> web.Response | None:
    """Return a redirect if the fault asks for one, a refusal if its URL was changed, or None to send the file."""
    path = request.rel_url.raw_path
    if kind == "cookie_redirect" and _COOKIE not in request.headers.get("Cookie", ""):
        return web.Response(status=302, headers={"Location": path, "Set-Cookie": f"{_COOKIE}; Path=/"})
    _, mark, query = request.raw_path.partition("?")
    if kind == "signed_redirect" and not mark:
        return web.Response(status=302, headers={"Location": f"{path}?{_SIGNATURE}"})
    return web.Response(status=403) if kind == "signed_redirect" and query != _SIGNATURE else None


def _zeroed(data: bytes, at: int, size_bytes: int) -> bytes:
    first, last = (int(size_bytes * share) for share in _ZEROED)
    low, high = max(first - at, 0), min(last - at, len(data))
    return data if high - low < _LEAST_ZEROED_BYTES else data[:low] + bytes(high - low) + data[high:]
