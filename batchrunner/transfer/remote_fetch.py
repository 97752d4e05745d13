"""Fetch clips again on a cluster's workers: clips that were delivered once, and whose files are missing.

A worker gets the link, downloads and checks the clip beside the partial files, and gives it a name there. It gets no
key: links are plain downloads. What a worker cannot fetch, this machine fetches, and only its errors count.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from batchrunner.errors import BatchrunnerError
from batchrunner.events import Event, JobMoved
from batchrunner.job import Move, Result
from batchrunner.media import decoder_pool
from batchrunner.net.proxies import read_proxies
from batchrunner.storage.durable_files import Disk
from batchrunner.transfer.downloader import Checks, Downloader, Fetched, file_sha256
from batchrunner.transfer.url_guard import Guard

_PREFIX = "sent-"  # of the folders of downloads that grow
Further = Callable[[str], Mapping[str, Any]]


def fetch_clip(
    url: str, key: str, folder: str, service_url: str, further: Mapping[str, Any]
) -> tuple[str, dict[str, Any]] | None:
    """Download and check a clip in any process. Return its name in `folder` and its result, or None if that failed.

    service_url: the address of the service, whose links may lead to private addresses only if it has one itself.
    further: fields of the task ``clip``.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=folder) as growing:
            (partial := Path(growing, "partial")).mkdir()
            fetched = asyncio.run(_fetch(url, key, partial, service_url, further))
            with fetched.path.open("rb") as file:
                os.fsync(file.fileno())
            name = f"{_PREFIX}{key}-{fetched.result.sha256[:16]}.mp4"  # the same for each download of this content
            fetched.path.replace(Path(folder, name))
    except (BatchrunnerError, OSError):
        return None
    return name, asdict(fetched.result)


async def _fetch(url: str, key: str, folder: Path, service_url: str, further: Mapping[str, Any]) -> Fetched:
    guard = Guard(service_url, proxies=read_proxies(os.environ))
    with ThreadPoolExecutor(max_workers=2) as threads:
        checks = Checks(decoder_pool.pool(), threads, lambda _: further, width=1)
        async with Downloader(folder, threads, Disk(), guard, checks) as clips:
            return await clips.fetch(url, key)


class Fetching(Protocol):
    """A downloader."""

    async def fetch(self, url: str, key: str, on_progress: Callable[[int, int | None], None]) -> Fetched:
        """See `batchrunner.transfer.downloader.Downloader.fetch`."""
        ...


class RemoteFetch:
    """Downloads as `near` does, and lets a cluster fetch clips again.

    remote: the cluster's executor. folder: of the partial files. checks: the fields of the task ``clip``, and threads.
    `on_event` gets the events of the run: they say which files are missing.
    """

    def __init__(self, near: Fetching, remote: Executor, folder: Path, service_url: str, checks: Checks) -> None:
        self._near, self._remote = near, remote
        self._folder, self._service_url, self._checks = folder, service_url, checks
        self._missing: set[str] = set()
        for path in folder.glob(f"{_PREFIX}*"):  # of workers that were killed
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def on_event(self, event: Event) -> None:
        """Note a clip whose file is missing."""
        if isinstance(event, JobMoved) and event.move is Move.FILE_MISSING:
            self._missing.add(event.record.job.key)

    async def fetch(
        self, url: str, key: str, on_progress: Callable[[int, int | None], None] = lambda *_: None
    ) -> Fetched:
        """Download and check a clip. Raises CallError."""
        if key in self._missing:
            self._missing.discard(key)
            found = await self._fetch_there(url, key)
            if found is not None:
                on_progress(found.result.size_bytes, found.result.size_bytes)
                return found
        return await self._near.fetch(url, key, on_progress)

    async def _fetch_there(self, url: str, key: str) -> Fetched | None:
        loop = asyncio.get_running_loop()
        further = dict(await loop.run_in_executor(self._checks.executor, self._checks.further, key))
        arguments = (url, key, str(self._folder.absolute()), self._service_url, further)
        try:
            found = await asyncio.wrap_future(self._remote.submit(fetch_clip, *arguments))
        except RuntimeError:  # the run ends
            return None
        if found is None:
            return None
        name, fields = found
        return await loop.run_in_executor(self._checks.executor, self._received, name, fields)

    def _received(self, name: str, fields: dict[str, Any]) -> Fetched | None:
        """Return the clip if it is here with the content that the worker checked."""
        path = self._folder / Path(name).name
        result = Result(**fields)
        with suppress(OSError):
            if file_sha256(path) == result.sha256:
                return Fetched(str(path), result)
        return None
