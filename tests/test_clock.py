"""The accelerated clock. (Every test in virtual time exercises the loop's own clock.)"""

import asyncio
from typing import Any

import async_solipsism
import pytest

from batchrunner.clock import FastClock, LoopClock, SystemClock


def in_virtual_time(main: Any) -> None:
    with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
        runner.run(main())


def test_the_system_clock_agrees_with_a_real_loop() -> None:
    async def main() -> None:
        clock, loops = SystemClock(), LoopClock()
        for first, second in ((clock, loops), (loops, clock)):
            assert first.now() <= second.now()
            assert first.monotonic() <= second.monotonic()

    asyncio.run(main())


def test_a_fast_clock_accelerates_all_waits_on_it() -> None:
    async def main() -> None:
        loop, clock = asyncio.get_running_loop(), FastClock(60.0, epoch=1000.0)
        began = loop.time()
        assert (clock.monotonic(), clock.now()) == (0.0, 1000.0)
        await clock.sleep(3600)
        assert loop.time() - began == pytest.approx(60)
        assert clock.monotonic() == pytest.approx(3600)
        assert clock.now() == pytest.approx(4600)

    in_virtual_time(main)


def test_a_fast_clock_waits_until_its_own_time_or_the_event() -> None:
    async def main() -> None:
        loop, clock = asyncio.get_running_loop(), FastClock(60.0)
        began, event = loop.time(), asyncio.Event()
        await clock.wait(event, clock.monotonic() + 600)
        assert loop.time() - began == pytest.approx(10, abs=0.01)
        assert clock.monotonic() >= 600
        event.clear()
        loop.call_later(1, event.set)
        await clock.wait(event, None)
        assert loop.time() - began == pytest.approx(11, abs=0.01)

    in_virtual_time(main)
