"""A proxy to an object store that delays uploads, and knows which of them are active."""

import asyncio
from contextlib import suppress
from random import Random

from tests.soak.proxy import _BLOCK_BYTES, Proxy

_LATEST_S = 0.08  # of a delay before a request that writes, and before its answer
_WRITES = (b"PUT ", b"POST ")


class SlowStore(Proxy):
    """A proxy to 127.0.0.1:`target`. A run that is killed can be between any two steps of an upload.

    The store may have an object of which its writer never gets an answer.
    """

    def __init__(self, target: int, seed: int) -> None:
        super().__init__(target, seed, rate=0.0)
        self._delays = Random(seed)
        self._active: dict[asyncio.StreamReader, str] = {}

    @property
    def active(self) -> list[str]:
        """The paths of the objects whose upload has begun and is not answered."""
        return list(self._active.values())

    async def _join(
        self,
        near: asyncio.StreamReader,
        near_out: asyncio.StreamWriter,
        far: asyncio.StreamReader,
        far_out: asyncio.StreamWriter,
    ) -> None:
        ways = [asyncio.ensure_future(self._up(near, far_out)), asyncio.ensure_future(self._down(far, near_out, near))]
        try:
            with suppress(asyncio.CancelledError):  # the proxy ends
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._active.pop(near, None)

    async def _up(self, near: asyncio.StreamReader, far_out: asyncio.StreamWriter) -> None:
        while block := await near.read(_BLOCK_BYTES):
            if near not in self._active and block.startswith(_WRITES):
                self._active[near] = block.split(b" ", 2)[1].decode()
                await self._delay()
            far_out.write(block)
            await far_out.drain()

    async def _down(
        self, far: asyncio.StreamReader, near_out: asyncio.StreamWriter, near: asyncio.StreamReader
    ) -> None:
        while block := await far.read(_BLOCK_BYTES):
            if near in self._active:
                await self._delay()
                self._active.pop(near, None)
            near_out.write(block)
            await near_out.drain()

    async def _delay(self) -> None:
        await asyncio.sleep(self._delays.uniform(0.0, _LATEST_S))
