"""The batcher: which items share a group, their order, and who receives an error."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from batchrunner.errors import LocalFault
from batchrunner.storage.batching import Batcher

FAULT = LocalFault("disk_full", "no room")


def test_items_that_arrive_during_a_group_form_the_next_one_in_order() -> None:
    groups: list[list[int]] = []

    async def gather() -> None:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher[int](executor, lambda items: groups.append(list(items)))
            await asyncio.gather(*(batcher.do([number]) for number in range(5)))
            await batcher.do([5, 6])

    asyncio.run(gather())
    assert groups == [[0], [1, 2, 3, 4], [5, 6]]


def test_a_fault_is_raised_to_its_group_only() -> None:
    async def gather() -> list[BaseException | None]:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher[int](executor, lambda items: FAULT if 1 in items else None)
            return await asyncio.gather(*(batcher.do([number]) for number in range(3)), return_exceptions=True)

    assert asyncio.run(gather()) == [None, FAULT, FAULT]


def test_a_defect_is_reported_and_the_next_group_continues() -> None:
    def work(items: list[int]) -> None:
        if 0 in items:
            raise ZeroDivisionError

    async def gather() -> list[BaseException | None]:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher[int](executor, work)
            return await asyncio.gather(*(batcher.do([number]) for number in range(3)), return_exceptions=True)

    first, *others = asyncio.run(gather())
    assert isinstance(first, ZeroDivisionError)
    assert others == [None, None]


def test_a_cancelled_caller_leaves_the_group_to_the_others() -> None:
    done: list[int] = []
    go = threading.Event()

    def work(items: list[int]) -> None:
        assert go.wait(10)
        done.extend(items)

    async def gather() -> None:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher[int](executor, work)
            tasks = [asyncio.ensure_future(batcher.do([number])) for number in range(4)]
            await asyncio.sleep(0)
            for gone in (tasks[0], tasks[2]):
                gone.cancel()
            go.set()
            await asyncio.gather(tasks[1], tasks[3])
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]

    asyncio.run(gather())
    assert done == [0, 1, 2, 3], "requested work is still done"
