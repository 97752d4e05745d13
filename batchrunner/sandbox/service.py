"""The service behind the HTTP server: accepts orders, drives generations, keeps the ledger.

Rule: accepting is one synchronous step, ledger line and world together, so a client that leaves in the middle changes
nothing. Time is the injected clock's, and nothing depends on a thread, so it also runs in virtual time. It creates no
tasks: what runs beside is handed to `spawn`. HTTP does not belong here.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from batchrunner.clock import Clock
from batchrunner.sandbox.check import Order
from batchrunner.sandbox.config import SandboxConfig
from batchrunner.sandbox.faults import UNREPLIED, Fault, Faults
from batchrunner.sandbox.render import RenderFailed, RenderRequest, count_frames
from batchrunner.sandbox.replies import BROKEN_RENDERER, GENERATION_ERRORS, Call, fal_error
from batchrunner.sandbox.store import Store
from batchrunner.sandbox.world import Event, Generation, Rules, World

# More bytes than this are worked on off the event loop.
_LARGE_BYTES = 256 * 1024


class Renderer(Protocol):
    """Makes a clip: its bytes, or the path of a file that may be moved. Raises RenderFailed."""

    def __call__(self, request: RenderRequest, /) -> Awaitable[bytes | Path]:
        """The clip of `request`."""
        ...


class Service:
    """World, ledger and renderer, tied together.

    spawn: runs a coroutine beside the caller.
    Raises OSError, ValueError, LookupError or TypeError where the ledger cannot be used.
    """

    def __init__(
        self,
        config: SandboxConfig,
        root: Path,
        clock: Clock,
        render: Renderer,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        rules = Rules(
            config.seed,
            config.capacity,
            config.queue_limit,
            config.queue_wait_s,
            config.duration_s,
            config.spread,
        )
        self.store = Store(root)
        self.world = World(rules)
        with ExitStack() as undo:
            undo.callback(self.store.close)
            for event in self.store.events():
                self.world.apply(event)
            undo.pop_all()
        self.faults = Faults(config.faults, config.seed)
        self._clock = clock
        self._wall0_s, self._mono0_s = clock.now(), clock.monotonic()
        self._render = render
        self._spawn = spawn
        self._wake = asyncio.Event()
        self._frames: dict[str, int | None] = {}

    def now(self) -> float:
        """Wall time, seconds since the epoch, that never jumps."""
        return self._wall0_s + self.elapsed()

    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock.monotonic() - self._mono0_s

    def record(self, event: Event) -> None:
        """Make `event` so: on disk first, then in the world. `at` is now."""
        event = {"event": event["event"], "at": self.now(), **event}
        self.store.append(event)
        self.world.apply(event)

    def settle(self) -> None:
        """Let everything happen that is due."""
        while event := self.world.next_event(self.now()):
            self.record(event)
            if event["event"] == "started":
                self._begin(self.world.generations[event["generation_id"]])
            self._wake.set()

    async def drive(self) -> None:
        """Take up what a restart left unfinished, then let things happen when they are due, for ever."""
        for generation in self.world.running():
            self._begin(generation)
        while True:
            self.settle()
            self._wake.clear()
            due = self.world.next_due()
            await self._clock.wait(self._wake, None if due is None else due - self._wall0_s + self._mono0_s)

    async def take_in(self, order: Order) -> int | None:
        """Put the order's data URIs on disk. Returns the reference clip's number of frames, if it can be told."""
        for medium in (order.video, order.image):
            if medium.data is not None:
                await aside(len(medium.data), self.store.keep_input, medium.sha256, medium.data)
        name = order.video.name
        if name not in self._frames:
            path = self.store.input("video", name)
            self._frames[name] = await asyncio.get_running_loop().run_in_executor(None, count_frames, path)
        return self._frames[name]

    def accept(self, order: Order, call: Call, frames: int | None, fault: Fault | None) -> Generation | None:
        """Accept `order`, its inputs taken in, or return None where the queue is full. fault: the submission's."""
        self.settle()
        if not self.world.has_room():
            return None
        event = self.world.accept(order, self.now(), request_id=call.client_request_id, frames=frames)
        doom = self.faults.decide("generation", event["generation_id"], self.elapsed())
        event["request_id"] = call.request_id
        event["fault"] = doom.kind if doom else None
        event["replied"] = not (fault and fault.kind in UNREPLIED)
        self.record(event)
        self._wake.set()
        return self.world.generations[event["generation_id"]]

    def _begin(self, generation: Generation) -> None:
        fault = generation.accepted["fault"]
        if fault in GENERATION_ERRORS:
            generation.outcome = {"event": "failed", "error": GENERATION_ERRORS[fault]}
        elif fault != "stuck":
            self._spawn(self._make(generation))

    async def _make(self, generation: Generation) -> None:
        try:
            made = self.store.finished(generation.file) or await self._render(self._request(generation))
            data = self.store.keep_result(generation.file, made)
        except RenderFailed as failure:
            error = fal_error(failure.field, failure.message, failure.kind) if failure.field else BROKEN_RENDERER
            generation.outcome = {"event": "failed", "error": error}
        except OSError as failure:  # a full disk: this generation fails, and says why
            generation.outcome = {"event": "failed", "error": {"name": "Error", "message": str(failure)}}
        else:
            digest = hashlib.sha256(data).hexdigest()
            generation.outcome = {
                "event": "completed",
                "file": generation.file,
                "bytes": len(data),
                "sha256": digest,
            }
        self._wake.set()

    def _request(self, generation: Generation) -> RenderRequest:
        accepted = generation.accepted
        return RenderRequest(
            video=self.store.input("video", accepted["video"]),
            image=self.store.input("image", accepted["image"]),
            out=self.store.result(generation.file + ".part"),
            resolution=accepted["resolution"],
            quality=accepted["params"]["video_quality"],
            write_mode=accepted["params"]["video_write_mode"],
            odd_length=accepted["fault"] == "odd_length",
        )


async def aside(size_bytes: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)`, off the event loop where `size_bytes` are many."""
    if size_bytes < _LARGE_BYTES:
        return function(*arguments)
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)
