"""Work on many jobs in chunks leaves turns of the event loop to others, and work on few jobs does not."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from batchrunner.engine.chunks import in_chunks


async def turns(chunks: AsyncIterator[list[int]]) -> tuple[list[list[int]], int]:
    """Return the chunks, and how many turns another task had meanwhile."""
    number = 0

    async def count() -> None:
        nonlocal number
        while True:
            await asyncio.sleep(0)
            number += 1

    other = asyncio.create_task(count())
    found = [chunk async for chunk in chunks]
    other.cancel()
    return found, number


@pytest.mark.parametrize(
    ("items", "expected"),
    [(0, []), (2, [[0, 1]]), (5, [[0, 1], [2, 3], [4]])],
    ids=["none", "one chunk", "several chunks"],
)
def test_the_loop_runs_between_two_chunks_only(items: int, expected: list[list[int]]) -> None:
    found, others = asyncio.run(turns(in_chunks(range(items), 2)))
    assert found == expected
    assert others == max(0, len(expected) - 2)  # its first turn begins it
