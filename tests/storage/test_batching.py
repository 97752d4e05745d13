"""The batcher: which items share a group, their order, and who receives an error."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

import pytest

from batchrunner.errors import LocalFault
from batchrunner.storage.batching import Batcher

_T = TypeVar("_T")
FAULT = LocalFault("disk_full", "no room")


class Inline(Executor):
    """Works at once."""

    def submit(self, function: Callable[..., _T], /, *arguments: object, **options: object) -> Future[_T]:
        done = Future[_T]()
        done.set_result(function(*arguments, **options))
        return done


def test_items_of_one_turn_of_the_loop_share_a_group_and_later_ones_form_the_next_in_order() -> None:
    groups: list[list[int]] = []
    go = threading.Event()

    def work(items: list[int]) -> None:
        groups.append(list(items))
        assert go.wait(10)

    async def gather() -> None:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher[int](executor, work)
            first = [asyncio.ensure_future(batcher.do([number])) for number in range(3)]
            await asyncio.sleep(0)  # they are added
            await asyncio.sleep(0)  # the group starts
            others = [asyncio.ensure_future(batcher.do([number])) for number in (3, 4)]
            await asyncio.sleep(0)
            go.set()
            await asyncio.gather(*first, *others)
            await batcher.do([5, 6])

    asyncio.run(gather())
    assert groups == [[0, 1, 2], [3, 4], [5, 6]]


def test_tasks_that_a_group_wakes_share_the_next_one() -> None:
    groups: list[list[int]] = []

    async def gather() -> None:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher[int](executor, lambda items: groups.append(list(items)))

            async def twice(number: int) -> None:
                await batcher.do([number])
                await batcher.do([10 + number])

            await asyncio.gather(*map(twice, range(3)))

    asyncio.run(gather())
    assert groups == [[0, 1, 2], [10, 11, 12]]


def test_tasks_that_a_group_wakes_share_the_next_one_with_those_that_wait() -> None:
    groups: list[list[int]] = []
    is_waiting = threading.Event()

    def work(items: list[int]) -> None:
        groups.append(list(items))
        assert is_waiting.wait(10)

    async def gather() -> None:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher[int](executor, work)

            async def twice(number: int) -> None:
                await batcher.do([number])
                await batcher.do([10 + number])

            tasks = [asyncio.ensure_future(twice(number)) for number in range(2)]
            await asyncio.sleep(0)  # they are added
            await asyncio.sleep(0)  # the group starts
            other = asyncio.ensure_future(batcher.do([5]))
            is_waiting.set()
            await asyncio.gather(*tasks, other)

    asyncio.run(gather())
    assert groups == [[0, 1], [5, 10, 11]]


def test_the_end_of_a_group_takes_one_turn_of_the_loop() -> None:
    turns = 0

    async def gather() -> None:
        nonlocal turns
        done = asyncio.ensure_future(Batcher[int](Inline(), lambda _: None).do([1]))
        while not done.done():
            turns += 1
            await asyncio.sleep(0)

    asyncio.run(gather())
    assert turns == 2, "the group starts, and it ends"


def test_posted_work_starts_at_once() -> None:
    """The loop may have no further turn."""
    groups: list[list[int]] = []

    async def post() -> None:
        Batcher[int](executor, lambda items: groups.append(list(items))).post([1])

    with ThreadPoolExecutor(1) as executor:
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(post())
        finally:
            loop.close()
    assert groups == [[1]]


def test_a_fault_is_raised_to_its_group_only() -> None:
    async def gather() -> list[object]:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher[int](executor, lambda items: FAULT if 1 in items else None)
            first = await asyncio.gather(*(batcher.do([number]) for number in range(2)), return_exceptions=True)
            return [*first, await asyncio.gather(batcher.do([2]), return_exceptions=True)]

    assert asyncio.run(gather()) == [FAULT, FAULT, [None]]


def test_a_defect_is_reported_and_the_next_group_continues() -> None:
    def work(items: list[int]) -> None:
        if 0 in items:
            raise ZeroDivisionError

    async def gather() -> list[BaseException | None]:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher[int](executor, work)
            first = await asyncio.gather(batcher.do([0]), return_exceptions=True)
            return [*first, *await asyncio.gather(batcher.do([1]), batcher.do([2]), return_exceptions=True)]

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
