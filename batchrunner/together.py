"""Work that is done together: whoever gets the turn takes along all that gathered while the last group was at work.

So what costs a flush of the disk costs one a burst, not one a call, and without a timer nobody waits for company.
Rule: a group's work may be done anew. Should the one who does it be cancelled, the next of its group does it again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from batchrunner.errors import LocalFault

_T = TypeVar("_T")


class Together(Generic[_T]):
    """Gathers items and does them in groups, one group at a time, each in the order in which its items came.

    work: does a group. It returns what went wrong, which then went wrong for all of the group, or None.
    """

    def __init__(self, work: Callable[[list[_T]], Awaitable[LocalFault | None]]) -> None:
        self._work = work
        self._filling: _Group[_T] = _Group()
        self._turn = asyncio.Lock()

    async def do(self, items: list[_T]) -> None:
        """Return when `items` are done. Raises LocalFault."""
        group = self._filling
        group.items += items
        async with self._turn:
            if not group.tried:
                if self._filling is group:
                    self._filling = _Group()
                group.error = await self._work(group.items)
                group.tried = True
        if group.error is not None:
            raise group.error


class _Group(Generic[_T]):
    """Items that are done together."""

    def __init__(self) -> None:
        self.items: list[_T] = []
        self.tried = False
        self.error: LocalFault | None = None
