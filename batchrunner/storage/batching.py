"""Batch work: items that arrive during one batch form the next batch.

A burst of calls costs one flush of the disk, not one a call. A batch starts when the previous one has ended and this
turn of the event loop is over, because the tasks of one turn often add items together. There is no other delay. A batch
that has started is finished, even if some of its callers are cancelled.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from typing import Generic, TypeVar

from batchrunner.errors import LocalFault

_T = TypeVar("_T")
_Done = asyncio.Future[None]
_Work = Future[LocalFault | None]


class Batcher(Generic[_T]):
    """Collects items and processes them in batches, one batch at a time, in the order of arrival.

    executor: runs `work`. work: processes a batch; it returns a fault for the whole batch, or None.
    """

    def __init__(self, executor: Executor, work: Callable[[list[_T]], LocalFault | None]) -> None:
        self._executor = executor
        self._work = work
        self._items: list[_T] = []
        self._waiting: list[_Done] = []
        self._is_busy = False

    def do(self, items: Sequence[_T]) -> Awaitable[None]:
        """Process `items`. The result is awaited at once; it raises LocalFault."""
        done: _Done = asyncio.Future()
        self._items += items
        self._waiting.append(done)
        if not self._is_busy:
            self._is_busy = True
            asyncio.get_running_loop().call_soon(self._next_batch)
        return done

    def post(self, items: Sequence[_T]) -> None:
        """Process `items` without waiting for them. `work` has to keep what a fault leaves undone."""
        self._items += items
        if not self._is_busy:
            self._next_batch()

    def _next_batch(self) -> None:
        items, waiting = self._items, self._waiting
        self._items, self._waiting = [], []
        self._is_busy = bool(items or waiting)
        if self._is_busy:
            work = self._executor.submit(self._work, items)
            work.add_done_callback(partial(self._hand_back, asyncio.get_running_loop(), waiting))

    def _hand_back(self, loop: asyncio.AbstractEventLoop, waiting: list[_Done], work: _Work) -> None:
        """Wake the loop, from the executor's thread."""
        with suppress(RuntimeError):  # it is closed
            loop.call_soon_threadsafe(self._ended, waiting, work)

    def _ended(self, waiting: list[_Done], work: _Work) -> None:
        if not work.cancelled():  # otherwise the loop is closing
            error = work.exception() or work.result()
            for done in waiting:
                if done.done():  # cancelled
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)
        asyncio.get_running_loop().call_soon(self._next_batch)  # with what the woken tasks add at once
