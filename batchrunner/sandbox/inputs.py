"""Fetches the inputs that an order names by URL, when its generation starts, as the hosted service does.

By default only links to this machine are fetched: a rehearsal sends nothing to another machine, and bundled media
replace the other inputs. Links may be signed, so a link is stored only until its input is fetched or its generation
ends, and never in the ledger.
"""

import asyncio
import hashlib
import ipaddress
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from aiofiles.threadpool import wrap
from yarl import URL

from batchrunner.clock import Clock
from batchrunner.sandbox.clips.render import RenderFailed
from batchrunner.sandbox.faults.rules import Fault

LINK = "link:"  # in the ledger: an input that is fetched; the digest of its URL follows
_ANY, _NONE = "all", "none"
_MOST_REDIRECTS = 5
_CHUNK_BYTES = 1 << 20
# What the host of an input replies, by the kind of fault.
STATUSES = {"link_expired": 403, "forbidden": 403, "not_found": 404, "unavailable": 503}


class FetchFailed(RenderFailed):
    """An input could not be fetched. status: of the reply, or None without one."""

    def __init__(self, input_kind: str, status: int | None) -> None:
        super().__init__(input_kind, "file_download_error", "Failed to download the file.")
        self.status = status


def is_fetched(url: str, fetch: str) -> bool:
    """Return whether the sandbox fetches an input. fetch: ``local``, ``all`` or ``none``."""
    if fetch in {_ANY, _NONE}:
        return fetch == _ANY
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def identity(url: str) -> str:
    """Return a link without its query, which may be a signature."""
    return url.partition("?")[0].partition("#")[0]


class Fetcher:
    """The connections to the hosts of inputs. fetch: see `is_fetched`. timeout_s: of one input."""

    def __init__(self, clock: Clock, fetch: str, timeout_s: float) -> None:
        self._clock = clock
        self._fetch = fetch
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def apply(self, fault: Fault | None, kind: str) -> None:
        """Apply the fault of an input of this kind. Raises FetchFailed."""
        if fault is None:
            return
        if fault.kind in STATUSES:
            raise FetchFailed(kind, STATUSES[fault.kind])
        await self._clock.sleep(min(fault.seconds, self._timeout_s))
        if fault.seconds >= self._timeout_s:
            raise FetchFailed(kind, None)

    async def fetch(self, url: str, kind: str, partial: Path) -> tuple[str, int]:
        """Fetch an input into the file `partial`. Return its SHA-256 and its number of bytes.

        Raises FetchFailed, and OSError if it cannot be stored.
        """
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=self._timeout_s)
            self._session = aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
        target = URL(url, encoded=True)
        try:
            for _ in range(_MOST_REDIRECTS):
                async with self._session.get(target, allow_redirects=False) as reply:
                    if reply.status == 200:
                        return await _stored(reply.content.iter_chunked(_CHUNK_BYTES), partial)
                    place = reply.headers.get("Location")
                    if not 300 <= reply.status < 400 or not place:
                        raise FetchFailed(kind, reply.status)
                    target = target.join(URL(place, encoded=True))
                    if not is_fetched(str(target), self._fetch):
                        raise FetchFailed(kind, reply.status)
        except (aiohttp.ClientError, TimeoutError, ValueError):
            raise FetchFailed(kind, None) from None
        raise FetchFailed(kind, None)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


async def _stored(chunks: AsyncIterator[bytes], partial: Path) -> tuple[str, int]:
    digest, size_bytes = hashlib.sha256(), 0
    loop = asyncio.get_running_loop()
    file = wrap(partial.open("wb"))
    try:
        async for chunk in chunks:
            await loop.run_in_executor(None, digest.update, chunk)
            await file.write(chunk)
            size_bytes += len(chunk)
    finally:
        await file.close()
    return digest.hexdigest(), size_bytes
