"""Work on many jobs in chunks, so that the event loop goes on between them.

Rule: what grows with the number of jobs never runs in one callback of the event loop. What only reads runs in a thread
(`Dependencies.in_thread`). What changes the engine's state runs here, because no other thread may change it.
"""

from collections.abc import AsyncIterator, Iterable
from itertools import islice
from typing import TypeVar

from batchrunner.clock import yield_to_loop

CHUNK = 500  # jobs: a few milliseconds of work

_T = TypeVar("_T")


async def in_chunks(items: Iterable[_T], size: int = CHUNK) -> AsyncIterator[list[_T]]:
    """Yield the items in lists of at most `size`. Between two lists, the event loop runs what is ready."""
    left = iter(items)
    chunk = list(islice(left, size))
    while chunk:
        yield chunk
        chunk = list(islice(left, size))
        if chunk:
            await yield_to_loop()
