"""Runs `render` in a bounded set of worker processes, off the event loop.

Rule: workers never outlive the sandbox, however it ends, and an input that kills its worker fails its own generation
alone. Creates no tasks.
"""

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from batchrunner.sandbox.clips.render import RenderFailed, RenderRequest, render

# Ctrl-C at a terminal and the stop of a service manager reach the whole group; the parent decides when its workers end.
_TO_ALL = (signal.SIGINT, signal.SIGTERM)


class RenderPool:
    """A renderer, as `server.Renderer` wants it. Workers start with the first request."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._context = multiprocessing.get_context("spawn")
        # The workers hold the other end: it closes when this process closes it, and also when this process is killed.
        self._lifeline_end, self._lifeline = self._context.Pipe(duplex=False)
        self._executor: ProcessPoolExecutor | None = None

    async def __call__(self, request: RenderRequest) -> Path:
        """Make the clip. Raises RenderFailed."""
        executor = self._executor = self._executor or ProcessPoolExecutor(
            self._workers, self._context, initializer=_prepare_worker, initargs=(self._lifeline_end,)
        )
        try:
            with _signals_held_back():
                rendered = asyncio.get_running_loop().run_in_executor(executor, render, request)
            return await rendered
        except BrokenProcessPool:
            if self._executor is executor:
                self._executor = None
            executor.shutdown(wait=False, cancel_futures=True)
            raise RenderFailed("", "internal_server_error", "The renderer was killed.") from None

    def close(self) -> None:
        """End the workers at once; what they are at is abandoned."""
        if self._executor:
            self._executor.shutdown(wait=False, cancel_futures=True)
        self._lifeline.close()
        self._lifeline_end.close()


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Workers started meanwhile are deaf to these signals from birth, also while their interpreter starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TO_ALL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare_worker(lifeline_end: Connection) -> None:
    # Before numpy is imported: on a small machine BLAS threads only get into each other's way.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    for number in _TO_ALL:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, args=(lifeline_end,), daemon=True).start()


def _die_with_parent(lifeline_end: Connection) -> None:
    try:
        lifeline_end.recv_bytes()
    except (EOFError, OSError):
        os._exit(0)
