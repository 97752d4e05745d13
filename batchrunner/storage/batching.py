"""Work that is done together: what gathers while one group is at work is the next group, and goes at once after it.

So what costs a flush of the disk costs one a burst, not one a call, and without a timer nobody waits for company.
Rule: a group that has begun is finished, whoever of those who wait for it is cancelled meanwhile.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Generic, TypeVar

from batchrunner.errors import LocalFault

_T = TypeVar("_T")
_Future = asyncio.Future[LocalFault | None]


class Batcher(Generic[_T]):
    """Gathers items and does them in groups, one group at a time, each in the order in which its items came.

    executor: where groups are done. work: does a group; it returns what went wrong, for all of the group, or None.
    """

    def __init__(self, executor: Executor, work: Callable[[list[_T]], LocalFault | None]) -> None:
        self._executor = executor
        self._work = work
        self._items: list[_T] = []
        self._waiting: list[_Future] = []
        self._is_busy = False

    async def do(self, items: list[_T]) -> None:
        """Return when `items` are done. Raises LocalFault."""
        done: _Future = asyncio.get_running_loop().create_future()
        self._items += items
        self._waiting.append(done)
        if not self._is_busy:
            self._next_group()
        fault = await done
        if fault is not None:
            raise fault

    def _next_group(self) -> None:
        items, waiting = self._items, self._waiting
        self._items, self._waiting = [], []
        self._is_busy = bool(waiting)
        if waiting:
            work = asyncio.get_running_loop().run_in_executor(self._executor, self._work, items)
            work.add_done_callback(partial(self._ended, waiting))

    def _ended(self, waiting: list[_Future], work: _Future) -> None:
        self._next_group()
        if work.cancelled():  # the loop is being closed, and with it all who wait
            return
        error = work.exception()
        for done in waiting:
            if done.done():  # cancelled
                continue
            if error is None:
                done.set_result(work.result())
            else:
                done.set_exception(error)
