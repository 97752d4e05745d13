"""Work done together: who shares a group, in what order, and who hears what went wrong."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from batchrunner.errors import LocalFault
from batchrunner.storage.batching import Batcher

FAULT = LocalFault("disk_full", "no room")


def test_what_gathers_meanwhile_is_one_group_in_the_order_in_which_it_came() -> None:
    groups: list[list[int]] = []

    async def gather() -> None:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher[int](executor, lambda items: groups.append(list(items)))
            await asyncio.gather(*(batcher.do([number]) for number in range(5)))
            await batcher.do([5, 6])

    asyncio.run(gather())
    assert groups == [[0], [1, 2, 3, 4], [5, 6]]


def test_a_fault_is_everybodys_of_its_group_and_nobody_elses() -> None:
    async def gather() -> list[BaseException | None]:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher[int](executor, lambda items: FAULT if 1 in items else None)
            return await asyncio.gather(*(batcher.do([number]) for number in range(3)), return_exceptions=True)

    assert asyncio.run(gather()) == [None, FAULT, FAULT]


def test_a_defect_is_told_and_the_next_group_goes_on() -> None:
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


def test_who_is_cancelled_leaves_the_group_to_the_others() -> None:
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
    assert done == [0, 1, 2, 3], "what was asked for is done all the same"
