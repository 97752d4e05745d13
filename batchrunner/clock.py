"""Time. Only this module reads the clock and sleeps; all other code takes `now` or a `Clock`.

`now()` is wall time (seconds since the epoch), for journal and report. `monotonic()` measures waits and never jumps.
All waits use `monotonic()`, so a changed clock or a switch to daylight saving time has no effect on them.
"""

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

# A loop may fire a timer up to one tick of its clock early. With this delay the due time has passed.
_LATE_S = 0.001


class Clock(Protocol):
    """The clock that all packages use. Tests pass one that runs in virtual time."""

    def now(self) -> float:
        """Wall time, seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary point. Never goes back, even if the wall clock does."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Sleep for `seconds` of monotonic time."""
        ...

    async def wait(self, event: "asyncio.Event", until: float | None) -> None:
        """Return when `event` is set, or at `until` on the monotonic clock, whichever comes first."""
        ...


class LoopClock:
    """A clock whose monotonic time is the event loop's: real in a real loop, virtual in a virtual one.

    epoch: wall time at loop time zero; None reads the system's clock at each call.
    """

    def __init__(self, epoch: float | None = None) -> None:
        import asyncio  # imported here: commands without a loop do not need it

        self._asyncio = asyncio
        self._epoch = epoch

    def now(self) -> float:
        """Wall time, seconds since the epoch."""
        return time.time() if self._epoch is None else self._epoch + self.monotonic()

    def monotonic(self) -> float:
        """The running loop's time, seconds."""
        return self._asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Sleep for `seconds`."""
        await self._asyncio.sleep(seconds)

    async def wait(self, event: "asyncio.Event", until: float | None) -> None:
        """Return when `event` is set or `until` is reached, whichever comes first."""
        timer = None
        if until is not None:
            timer = self._asyncio.get_running_loop().call_at(until + _LATE_S, event.set)
        try:
            await event.wait()
        finally:
            if timer is not None:
                timer.cancel()


class SystemClock(LoopClock):
    """The clock of a run in real time. A real loop's time is the system's, so a reading needs no loop."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


class FastClock(LoopClock):
    """A clock that runs `speed` times as fast as the real one: the waits of a night take minutes.

    For rehearsals. Client and sandbox share one instance and so agree on the time: poll intervals, backoffs, queues
    and outages keep their proportions. Wall time runs ahead of the real one. Only waits on the clock are faster:
    sockets, network time-outs, disks and rendering take real time. So a slow machine does not cause failures that are
    not in the rehearsal's configuration.
    """

    def __init__(self, speed: float, epoch: float | None = None) -> None:
        super().__init__()
        self._speed = speed
        self._wall0_s = time.time() if epoch is None else epoch
        self._loop0_s: float | None = None

    def now(self) -> float:
        """Accelerated wall time, seconds since the epoch."""
        return self._wall0_s + self.monotonic()

    def monotonic(self) -> float:
        """Accelerated seconds since the clock was first read."""
        loop_s = super().monotonic()
        if self._loop0_s is None:
            self._loop0_s = loop_s
        return (loop_s - self._loop0_s) * self._speed

    async def sleep(self, seconds: float) -> None:
        """Sleep for `seconds` of accelerated time."""
        await super().sleep(seconds / self._speed)

    async def wait(self, event: "asyncio.Event", until: float | None) -> None:
        """Return when `event` is set or `until` is reached, whichever comes first."""
        left_s = None if until is None else (until - self.monotonic()) / self._speed
        await super().wait(event, None if left_s is None else super().monotonic() + left_s)


async def yield_to_loop() -> None:
    """Let the event loop run everything that is ready. It takes no time on any clock."""
    import asyncio  # imported here: commands without a loop do not need it

    await asyncio.sleep(0)


def wall_time() -> float:
    """Return the wall time outside a loop (commands that only read), in seconds since the epoch."""
    return time.time()


def pause(seconds: float) -> None:
    """Sleep outside a loop (commands that only watch)."""
    time.sleep(seconds)


def monotonic_time() -> float:
    """Return the monotonic time outside a loop, in seconds from an arbitrary point."""
    return time.monotonic()


def monotonic_with_suspension() -> float:
    """Return seconds from an arbitrary point. They include the time for which the machine was suspended (Linux)."""
    boot_time = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot_time is None else time.clock_gettime(boot_time)
