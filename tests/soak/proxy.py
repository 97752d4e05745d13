"""A TCP proxy that damages connections by seed: the network between the command and the service.

It runs in its own thread. It knows nothing of HTTP; faults occur at byte positions.
"""

import asyncio
import socket
import struct
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from types import TracebackType
from typing import Self

from tests.soak.processes import wait_for

_BLOCK_BYTES = 16 * 1024
# Requests and replies without a clip have a few hundred bytes, those with one some ten thousand.
WITHIN_BYTES = (400, 3_000, 30_000)
SHORT_BYTES = 100  # less than any request or reply: each connection fails in its first call


class Harm(StrEnum):
    """What happens to a connection after a number of bytes in one direction."""

    RESET = "reset"  # RST to both sides
    CUT = "cut"  # an orderly end to both sides, at any position
    HOLE = "black hole"  # nothing passes any more, and after a while an RST


@dataclass(frozen=True, slots=True)
class Fate:
    """harm: None for an undamaged connection. upstream: whether bytes to the service are counted."""

    harm: Harm | None = None
    upstream: bool = False
    after_bytes: int = 0


class Proxy:
    """A proxy to 127.0.0.1:`target`. Use it as a context manager; `port` is its own.

    rate: share of damaged connections. hole_s: duration of a black hole. within: a fault occurs before so many bytes
    have passed; one of them is drawn for each connection. done: counts of the faults that occurred.
    """

    def __init__(
        self,
        target: int,
        seed: int,
        *,
        rate: float = 0.3,
        hole_s: float = 2.0,
        harms: Sequence[Harm] = tuple(Harm),
        within: Sequence[int] = WITHIN_BYTES,
    ) -> None:
        self.port = 0
        self.done: Counter[tuple[Harm, bool]] = Counter()
        self._target = target
        self._rng = Random(seed)
        self._rate = rate
        self._hole_s = hole_s
        self._harms = list(harms)
        self._within = list(within)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="proxy", daemon=True)
        self._over = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def leave_alone(self) -> None:
        """Damage no connection from now on."""
        self._rate = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        wait_for(lambda: self.port, "the proxy listens")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._listen())

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        await self._over.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, near: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        far_out: asyncio.StreamWriter | None = None
        try:
            far, far_out = await asyncio.open_connection("127.0.0.1", self._target)
            await self._join(near, near_out, far, far_out)
        except OSError:
            _reset(near_out)
        finally:
            for writer in (near_out, far_out):
                if writer is not None:
                    writer.close()
            self._tasks.discard(task)

    async def _join(
        self,
        near: asyncio.StreamReader,
        near_out: asyncio.StreamWriter,
        far: asyncio.StreamReader,
        far_out: asyncio.StreamWriter,
    ) -> None:
        """Forward bytes both ways until one way ends or the fault occurs."""
        fate = self._draw()
        ways = [
            asyncio.ensure_future(_pass(near, far_out, fate.after_bytes if fate.harm and fate.upstream else None)),
            asyncio.ensure_future(_pass(far, near_out, fate.after_bytes if fate.harm and not fate.upstream else None)),
        ]
        try:
            ended, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
        met = any(way.result() for way in ended if way.exception() is None)
        if not met or fate.harm is None:
            return
        self.done[fate.harm, fate.upstream] += 1
        if fate.harm is Harm.HOLE:
            await asyncio.sleep(self._hole_s)
        if fate.harm is not Harm.CUT:
            _reset(near_out)
            _reset(far_out)

    def _draw(self) -> Fate:
        if self._rng.random() >= self._rate:
            return Fate()
        most = self._rng.choice(self._within)
        return Fate(self._rng.choice(self._harms), self._rng.random() < 0.5, self._rng.randrange(most))


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None) -> bool:
    """Forward bytes until there are no more (False), or until `limit` of them have passed (True)."""
    passed = 0
    with suppress(ConnectionError):
        while block := await reader.read(_BLOCK_BYTES):
            passing = block if limit is None else block[: limit - passed]
            writer.write(passing)
            await writer.drain()
            passed += len(passing)
            if limit is not None and passed >= limit:
                return True
    return False


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with an RST instead of an orderly end."""
    connection = writer.get_extra_info("socket")
    if connection is not None and not writer.is_closing():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
