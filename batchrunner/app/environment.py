"""The environment of a run: clock, randomness, threads, file system."""

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, TypeVar

from batchrunner.app.account import Shared
from batchrunner.clock import Clock
from batchrunner.media.posters import Posters
from batchrunner.net.proxies import Proxies
from batchrunner.providers import registry
from batchrunner.providers.registry import Connect
from batchrunner.storage.durable_files import Disk
from batchrunner.storage.lease import Lease
from batchrunner.transfer.delivery import OpenStore, Store
from batchrunner.transfer.downloader import Checks
from batchrunner.workers.engines import Workers

if TYPE_CHECKING:
    from batchrunner.review.hook import Hook

# More threads than CPUs do not help: with small files they slow each other down.
_FILE_THREADS = max(2, min(4, os.cpu_count() or 1))

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Environment:
    """The clock, randomness, threads and files of a run. A simulation passes its own.

    executor: runs file work. journal_executor: one thread, which keeps commits in order. checks: decodes clips.
    posters: makes the report's pictures, None to make none. history: the file of learned durations, None to keep none
    (`batchrunner.engine.polling.duration_cache`). proxies: the proxies for other hosts. connect: creates the
    provider for the endpoint. open_store: creates the store of finished clips. shared: where the batches of a user
    meet, None for a run that shares nothing. on_clip: the user's hook for finished clips, or None. lease: of the run
    directory, None if nobody else can have it. bulk: runs work that takes long with many jobs (`in_thread`); None to do
    it at once, for a simulation.
    """

    clock: Clock
    executor: Executor
    journal_executor: Executor
    files: Disk
    rng: Random
    checks: Checks
    posters: Posters | None = None
    history: Path | None = None
    proxies: Proxies = field(default_factory=Proxies)
    connect: Connect = registry.connect
    open_store: OpenStore = Store
    shared: Shared | None = None
    on_clip: "Hook | None" = None
    lease: Lease | None = None
    bulk: Executor | None = None

    async def in_thread(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Call a function that takes long with many jobs in a thread, and return its result."""
        if self.bulk is None:
            return function(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self.bulk, function, *arguments)


@contextmanager
def real_environment(clock: Clock, workers: Workers) -> Iterator[Environment]:
    """Start the threads of a real run, and stop them at the end. workers: check the clips."""
    with (
        ThreadPoolExecutor(max_workers=_FILE_THREADS, thread_name_prefix="files") as executor,
        ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal") as journal_executor,
        ThreadPoolExecutor(max_workers=workers.width, thread_name_prefix="checks") as check_executor,
    ):
        rng = Random(int.from_bytes(os.urandom(8)))
        checks = Checks(workers.decoders, check_executor, width=workers.width, remote=workers.remote)
        try:
            yield Environment(clock, executor, journal_executor, Disk(), rng, checks, bulk=executor)
        finally:  # an abandoned check must not delay the end
            check_executor.shutdown(wait=False, cancel_futures=True)
            checks.decoders.stop()
