"""The service behind the HTTP server: accepts orders, drives generations, keeps the ledger.

Acceptance is one synchronous step that changes ledger and world together, so a client that leaves changes nothing. Time
comes from the injected clock and nothing depends on a thread, so it also runs in virtual time. It creates no tasks:
`spawn` starts them. HTTP does not belong here.
"""

import asyncio
import hashlib
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from batchrunner.clock import Clock
from batchrunner.sandbox.clips.marks import mark
from batchrunner.sandbox.clips.reader import measure
from batchrunner.sandbox.clips.render import RenderFailed, RenderRequest
from batchrunner.sandbox.config import SandboxConfig
from batchrunner.sandbox.faults.rules import UNREPLIED, Fault, Faults
from batchrunner.sandbox.inputs import LINK, Fetcher, FetchFailed, identity, is_fetched
from batchrunner.sandbox.models import BY_NAME, MediaField
from batchrunner.sandbox.replies import (
    BROKEN_RENDERER,
    GENERATION_ERRORS,
    Call,
    Reply,
    fal_error,
    generation_error,
    no_credits,
    too_many,
)
from batchrunner.sandbox.store import KEPT, Store
from batchrunner.sandbox.validation import STAND_IN, Input, Order
from batchrunner.sandbox.world import Event, Generation, Rules, World

# Work on more bytes than this runs off the event loop.
_LARGE_BYTES = 256 * 1024


class Renderer(Protocol):
    """Makes a clip: its bytes, or the path of a file that may be moved. Raises RenderFailed."""

    def __call__(self, request: RenderRequest, /) -> Awaitable[bytes | Path]:
        """Return the clip for `request`."""
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
        self.store = Store(root)
        with ExitStack() as undo:
            undo.callback(self.store.close)
            past: list[Event] = list(self.store.events())
            # An earlier hurried sandbox may have reached a later time: time continues from there.
            self._wall0_s: float = max([clock.now(), *(event["at"] for event in past)])
            self.world = World(_rules(config, self._wall0_s))
            for event in past:
                self.world.apply(event)
            undo.pop_all()
        self._config = config
        self._outages = Faults(config.conditions.rules())  # certain, so no seed
        self._faults = Faults(config.faults, config.seed)
        self._clock = clock
        self._mono0_s = clock.monotonic()
        self._calls = Allowance()
        self._render = render
        self._spawn = spawn
        self._wake = asyncio.Event()
        self._frames: dict[str, int | None] = {}
        self._fetcher = Fetcher(clock, config.fetch, config.input_timeout_s)
        self._has_input_faults = any(fault.on == "input" for fault in config.faults)

    async def close(self) -> None:
        """Close the connections and the store."""
        await self._fetcher.close()
        self.store.close()

    def now(self) -> float:
        """Wall time, seconds since the epoch, that never jumps."""
        return self._wall0_s + self.elapsed()

    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock.monotonic() - self._mono0_s

    def befalls(self, on: str, identity: str, state: str = "any") -> Fault | None:
        """Return the fault of this call, or None. See `Faults.decide`."""
        elapsed_s = self.elapsed()
        return self._outages.decide(on, identity, elapsed_s, state) or self._faults.decide(
            on, identity, elapsed_s, state
        )

    async def admit(self, call: Call) -> Reply | None:
        """Admit a call to the API after the present delay, or return the reply that refuses it."""
        if late_s := self._config.conditions.reply_s(self.elapsed()):
            await self._clock.sleep(late_s)
        _, rate = self._limits()
        return None if rate is None or self._calls.take(self.elapsed(), rate) else self._too_many(call)

    def _limits(self) -> tuple[int | None, float | None]:
        config = self._config
        return config.conditions.limits(self.elapsed(), config.concurrency_limit, config.requests_per_second)

    def _too_many(self, call: Call) -> Reply:
        return too_many(call, self._config.retry_after, self._config.retry_delay_s)

    def record(self, event: Event) -> None:
        """Record `event` on disk, then apply it to the world. `at` is now."""
        event = {"event": event["event"], "at": self.now(), **event}
        self.store.append(event)
        self.world.apply(event)

    def settle(self) -> None:
        """Apply every due event."""
        while event := self.world.next_event(self.now()):
            self.record(event)
            if event["event"] == "started":
                self._begin(self.world.generations[event["generation_id"]])
            elif event["event"] in {"completed", "failed"}:
                self.store.forget_links(_stem(event["generation_id"]))
            self._wake.set()

    async def drive(self) -> None:
        """Resume the generations that a restart interrupted, then apply each event when it is due. Never returns."""
        for generation in self.world.running():
            self._begin(generation)
        while True:
            self.settle()
            self._wake.clear()
            due = self.world.next_due()
            await self._clock.wait(self._wake, None if due is None else due - self._wall0_s + self._mono0_s)

    async def take_in(self, order: Order) -> int | None:
        """Put the order's data URIs on disk. Returns the reference clip's number of frames, if it is known."""
        for medium in order.inputs.values():
            if medium.data is not None:
                await aside(len(medium.data), self.store.keep_input, medium.sha256, medium.data)
        video = order.inputs.get(BY_NAME[order.model].name_of("video") or "")
        if video and self._is_fetched(video):
            return None
        return await self._measured(self.store.input("video", video.name if video else STAND_IN))

    async def _measured(self, path: Path) -> int | None:
        """Return the number of frames of a kept clip, or None if it is not a clip."""
        if path.name not in self._frames:
            measured = await asyncio.get_running_loop().run_in_executor(None, measure, path)
            self._frames[path.name] = measured and measured[0]
        return self._frames[path.name]

    def _is_fetched(self, medium: Input) -> bool:
        return bool(medium.url) and is_fetched(medium.url, self._config.fetch)

    def accept(self, order: Order, call: Call, frames: int | None, fault: Fault | None) -> Generation | Reply:
        """Accept `order`, its inputs taken in, and hold its price; or the refusal. fault: the submission's."""
        self.settle()
        concurrency, _ = self._limits()
        if not self.world.has_room() or (concurrency is not None and self.world.unfinished >= concurrency):
            return self._too_many(call)
        if self.world.price(order, frames) > self.world.available:
            return no_credits(call)
        pace = self._config.conditions.pace(self.elapsed(), self.world.rules)
        event = self.world.accept(order, self.now(), request_id=call.client_request_id, frames=frames, pace=pace)
        doom = self._faults.decide("generation", event["generation_id"], self.elapsed())
        event["request_id"] = call.request_id
        event["fault"] = doom.kind if doom else None
        event["replied"] = not (fault and fault.kind in UNREPLIED)
        self._note_links(order, event)
        self.record(event)
        self._wake.set()
        return self.world.generations[event["generation_id"]]

    def _note_links(self, order: Order, event: Event) -> None:
        """Name the inputs that are fetched later in the event that accepts `order`, and keep their links."""
        links = {name: medium.url for name, medium in order.inputs.items() if medium.url}
        fetched = [name for name in links if self._is_fetched(order.inputs[name])]
        event |= {name: f"{LINK}{order.inputs[name].sha256}" for name in fetched}
        if BY_NAME[order.model].name_of("video") in fetched:
            event["unmeasured"] = True
        if fetched or (links and self._has_input_faults):
            self.store.keep_links(_stem(event["generation_id"]), links)

    def _begin(self, generation: Generation) -> None:
        fault = generation.accepted["fault"]
        if fault in GENERATION_ERRORS:
            error = generation_error(fault, BY_NAME[generation.accepted["model"]])
            self.world.decide(generation, {"event": "failed", "error": error})
        elif fault != "stuck":
            self._spawn(self._make(generation))

    async def _make(self, generation: Generation) -> None:
        ended_at: float | None = None
        try:
            inputs = await self._inputs(generation)
            frames = {"frames": await self._measured(inputs["video"])} if generation.is_unmeasured else {}
            rendered = self.store.finished(generation.file) or await self._render(self._request(generation, inputs))
            data = self.store.keep_result(generation.file, rendered)
        except RenderFailed as failure:
            field = BY_NAME[generation.accepted["model"]].field_of(failure.input_kind)
            error = fal_error(field, failure.message, failure.kind) if field else BROKEN_RENDERER
            outcome: Event = {"event": "failed", "error": error}
            ended_at = self.now() if isinstance(failure, FetchFailed) else None
        except OSError as failure:  # a full disk: this generation fails, and says why
            outcome = {"event": "failed", "error": {"name": "Error", "message": str(failure)}}
        else:
            digest = hashlib.sha256(data).hexdigest()
            outcome = {"event": "completed", "file": generation.file, "bytes": len(data), "sha256": digest, **frames}
        self.world.decide(generation, outcome, ended_at)
        self._wake.set()

    async def _inputs(self, generation: Generation) -> dict[str, Path]:
        """Fetch what the order names by URL. Return the files by kind. Raises FetchFailed and OSError."""
        accepted, links = generation.accepted, self.store.links(_stem(generation.id))
        model, files = BY_NAME[accepted["model"]], dict[str, Path]()
        for item in model.media:
            name, link = accepted.get(item.name, STAND_IN), links.get(item.name, "")
            if link.startswith(KEPT):
                name = link
            elif link:
                fault = self._faults.decide("input", identity(link), self.elapsed())
                await self._fetch_event(generation, item, self._fetcher.apply(fault, item.kind))
            if name.startswith(LINK):
                partial = self.store.partial_input(f"{_stem(generation.id)}.{item.name}")
                fetch = self._fetcher.fetch(link, item.kind, partial)
                digest, _ = await self._fetch_event(generation, item, fetch)
                file = self.store.adopt_input(partial, digest)
                links[item.name] = f"{KEPT}{digest}"
                self.store.keep_links(_stem(generation.id), links)  # the link is not needed again
            else:
                file = self.store.input(item.kind, name)
            files.setdefault(item.kind, file)
        return {kind: files.get(kind) or self.store.input(kind, STAND_IN) for kind in ("video", "image")}

    async def _fetch_event(self, generation: Generation, item: MediaField, work: Awaitable[Any]) -> Any:
        """Await a fetch and record it. Raises what it raises."""
        event: Event = {"event": "input_fetched", "generation_id": generation.id, "input": item.name}
        try:
            found = await work
        except FetchFailed as failure:
            self.record({**event, "status": failure.status})
            raise
        if found is not None:
            self.record({**event, "status": 200, "sha256": found[0], "bytes": found[1]})
        return found

    def _request(self, generation: Generation, inputs: Mapping[str, Path]) -> RenderRequest:
        accepted = generation.accepted
        return RenderRequest(
            video=inputs["video"],
            image=inputs["image"],
            out=self.store.result(generation.file + ".part"),
            resolution=accepted["resolution"],
            quality=accepted["params"].get("video_quality", "high"),
            write_mode=accepted["params"].get("video_write_mode", "balanced"),
            odd_length=accepted["fault"] == "odd_length",
            mark=mark(generation.id, accepted["fingerprint"], accepted["client_request_id"]),
            steps=int(accepted["params"].get("num_inference_steps", 20)),
            variation=_variation(accepted),
            composite=self._config.render != "transcode",
        )


class Allowance:
    """Calls per second: as many at once as a second allows, and never less than one."""

    def __init__(self) -> None:
        self._left = math.inf
        self._at_s = 0.0

    def take(self, now_s: float, rate: float) -> bool:
        """Count a call. Return False, without counting it, if the limit is reached. rate: calls per second."""
        self._left = min(self._left + (now_s - self._at_s) * rate, max(rate, 1.0))
        self._at_s = now_s
        if self._left < 1.0 - 1e-9:  # sums of fractions
            return False
        self._left -= 1.0
        return True


def _stem(generation_id: str) -> str:
    """Return the part of a generation's id that can be a file name."""
    return generation_id.partition(":")[0]


def _variation(accepted: Event) -> str:
    """Return the seed of the clip: equal orders differ by their request, unless they have a seed.

    The part of the request id before the first dot is left out: batchrunner writes its run there, and the same manifest
    should give the same clips in another run.
    """
    if "seed" in accepted["params"]:
        return str(accepted["fingerprint"])
    run, dot, request = (accepted["client_request_id"] or "").partition(".")
    return f"{accepted['fingerprint']}.{request if dot else run}"


def _rules(config: SandboxConfig, started_at: float) -> Rules:
    names = set(SandboxConfig.__dataclass_fields__) & set(Rules.__dataclass_fields__)
    shared = {name: getattr(config, name) for name in names}
    return Rules(**shared, top_ups=config.conditions.top_ups, started_at=started_at)


async def aside(size_bytes: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call `function(*arguments)`, off the event loop if `size_bytes` is large."""
    if size_bytes < _LARGE_BYTES:
        return function(*arguments)
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)
