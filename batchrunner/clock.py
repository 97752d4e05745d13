"""Time. The only reader of the clock and the only sleeper in the package: everything else takes `now` or a `Clock`.

`now()` is wall time (seconds since the epoch) and goes into journal and report; `monotonic()` measures waiting and
never jumps. What waits, waits on `monotonic()`, so that a changed clock or a daylight-saving night moves nothing.
"""

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

# A loop fires a timer up to one tick of its clock early, and what is due then is not due yet: this much later it is.
_LATE_S = 0.001


class Clock(Protocol):
    """What the rooms need of time. Tests give one that runs in virtual time."""

    def now(self) -> float:
        """Wall time, seconds since the epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary point; never goes back, not even when the wall clock does."""
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
        import asyncio  # here, as commands that only look have no loop and do without its weight

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


class FastClock(LoopClock):
    """A clock that runs `speed` times as fast as the real one: a night's waits are over in minutes.

    For rehearsals. Whoever shares it (client and sandbox do) agrees on the time, so poll intervals, backoffs, queues
    and outages keep their proportions; wall time runs ahead of the real one. It hurries what waits on a clock and
    nothing else: sockets, time-outs of the network, disks and rendering take the time that they take, so that a busy
    machine does not make a rehearsal see failures that nobody wrote down.
    """

    def __init__(self, speed: float, epoch: float | None = None) -> None:
        super().__init__()
        self._speed = speed
        self._wall0_s = time.time() if epoch is None else epoch
        self._loop0_s: float | None = None

    def now(self) -> float:
        """Wall time since the clock was first read, hurried; seconds since the epoch."""
        return self._wall0_s + self.monotonic()

    def monotonic(self) -> float:
        """Hurried seconds since the clock was first read."""
        loop_s = super().monotonic()
        if self._loop0_s is None:
            self._loop0_s = loop_s
        return (loop_s - self._loop0_s) * self._speed

    async def sleep(self, seconds: float) -> None:
        """Sleep for `seconds` of hurried time."""
        await super().sleep(seconds / self._speed)

    async def wait(self, event: "asyncio.Event", until: float | None) -> None:
        """Return when `event` is set or `until` is reached, whichever comes first."""
        left_s = None if until is None else (until - self.monotonic()) / self._speed
        await super().wait(event, None if left_s is None else super().monotonic() + left_s)


def wall_time() -> float:
    """Wall time outside any loop (commands that only read), seconds since the epoch."""
    return time.time()


def pause(seconds: float) -> None:
    """Sleep outside any loop (commands that only watch)."""
    time.sleep(seconds)
