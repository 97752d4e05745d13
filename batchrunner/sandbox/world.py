"""The state of the simulated service: queue, capacity, durations, billing. Pure: every method takes `now`.

State changes only when an event is applied, and every event is a line of the ledger. A restart applies the lines again
and reaches the same state. Times are wall seconds. HTTP does not belong here.
"""

import heapq
import math
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from statistics import NormalDist
from typing import Any

from batchrunner.sandbox.faults.rules import uniform
from batchrunner.sandbox.models import RESOLUTIONS
from batchrunner.sandbox.validation import Order

CREDITS_PER_USD = 2_000_000  # documented by the service
# INVENTED for the sandbox: the service's price of this model is not published. Per second of video at 16 frames a
# second, which is how the upstream counts; the upstream's prices with the service's usual mark-up: 0.052, 0.078 and
# 0.104 USD.
CREDITS_PER_SECOND: Mapping[str, int] = {"480p": 104_000, "580p": 156_000, "720p": 208_000}
BALANCE_CREDITS = 1_000_000 * CREDITS_PER_USD  # large enough never to run out by accident
BILLED_FPS = 16
OVERCHARGE = 1.5
UNKNOWN_LENGTH_S = 5.0  # billed for a clip that cannot be probed
# Two clocks are converted into each other (wall and monotonic): a due time may be missed by rounding, never by more.
ROUNDING_S = 1e-6

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TopUp:
    """At `at_s` seconds since the start, `credits` are paid into the account."""

    at_s: float
    credits: int


@dataclass(frozen=True, slots=True)
class Movement:
    """A movement of the balance. at: when, s since the epoch. credits: above 0; `direction` carries the sign.

    direction, type: as the service names them. reference_id: the generation's id, for a charge.
    """

    at: float
    direction: str
    type: str
    credits: int
    model: str | None = None
    reference_id: str | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """The world's constants: as in SandboxConfig. top_ups: in order; their times are seconds since `started_at`."""

    seed: int = 0
    capacity: int = 8
    queue_limit: int = 64
    queue_wait_s: float = 0.3
    duration_s: float = 2.0
    spread: float = 0.4
    balance_credits: int = BALANCE_CREDITS
    prices: Mapping[str, int] = field(default_factory=lambda: CREDITS_PER_SECOND)
    overcharge: float = OVERCHARGE
    top_ups: tuple[TopUp, ...] = ()
    started_at: float = 0.0


@dataclass(slots=True)
class Generation:
    """One accepted request and its state.

    accepted: its ledger event. status: as the service names it. ends_at: earliest end of generating.
    outcome: the event that will end it, when rendering is done: completed with sha256 and bytes, or failed with error.
    """

    accepted: Event
    status: str = "queued"
    ends_at: float = math.inf
    ended_at: float | None = None
    outcome: Event | None = None

    @property
    def id(self) -> str:
        """The service's id: ``<uuid>:<model>``."""
        return str(self.accepted["generation_id"])

    @property
    def file(self) -> str:
        """Name of its result."""
        return self.id.split(":")[0] + ".mp4"

    @property
    def is_unmeasured(self) -> bool:
        """Whether the length of its clip, and so its price, was not known when it was accepted."""
        return bool(self.accepted.get("unmeasured"))


class World:
    """All generations, by id, in order of acceptance, and the account.

    credits_held: of generations that have not ended. credits_charged: of completed ones. topped_up: paid in since.
    movements: charges and payments, oldest first.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.generations: dict[str, Generation] = {}
        self.by_file: dict[str, Generation] = {}
        self.credits_held = 0
        self.credits_charged = 0
        self.topped_up = 0
        self.movements: list[Movement] = []
        self._top_ups_done = 0
        self._accepted_of: Counter[str] = Counter()
        self._waiting: list[tuple[float, int, Generation]] = []
        self._running: dict[str, Generation] = {}
        self._ends: list[tuple[float, int, Generation]] = []  # of what runs and whose outcome is known
        self._outcomes = 0

    @property
    def unfinished(self) -> int:
        """Return how many generations are queued or generating."""
        return len(self._waiting) + len(self._running)

    @property
    def available(self) -> int:
        """Return the credits that can be spent. Held credits count as spent."""
        return self.rules.balance_credits + self.topped_up - self.credits_held - self.credits_charged

    def has_room(self) -> bool:
        """Return whether the queue has a free place."""
        return self.unfinished < self.rules.capacity + self.rules.queue_limit

    def other_than(self, generation: Generation) -> Generation | None:
        """The latest other one that is completed, else the latest other one, or None: for replies that mix them up."""
        others = [one for one in reversed(self.generations.values()) if one is not generation]
        return next((one for one in others if one.status == "completed"), others[0] if others else None)

    def running(self) -> list[Generation]:
        """What is being generated now."""
        return list(self._running.values())

    def price(self, order: Order, frames: int | None) -> int:
        """Credits that `order` costs. frames: of the reference clip, or None if unknown."""
        return price(order.params.get("resolution", RESOLUTIONS[0]), frames, self.rules.prices)

    def accept(
        self, order: Order, now: float, *, request_id: str | None, frames: int | None, pace: Rules | None = None
    ) -> Event:
        """Return the event that accepts `order` and holds its price. It takes effect when it is applied.

        request_id: the client's. frames: length of the reference clip, or None if unknown. pace: the
        durations in force, if they differ from the configured ones.
        """
        pace = pace or self.rules
        identity = request_id or order.fingerprint
        key = (self.rules.seed, identity, order.fingerprint, self._accepted_of[identity])
        number = uuid.UUID(bytes=sha256(repr(key).encode()).digest()[:16], version=4)
        return {
            "event": "accepted",
            "at": now,
            "generation_id": f"{number}:{order.model}",
            "client_request_id": request_id,
            "fingerprint": order.fingerprint,
            "model": order.model,
            "resolution": order.params.get("resolution", RESOLUTIONS[0]),
            "credits": self.price(order, frames),
            "params": dict(order.params),
            **{name: medium.name for name, medium in order.inputs.items()},
            "eligible_at": now + self._draw(pace.queue_wait_s, "wait", *key),
            "duration_s": self._draw(pace.duration_s, "duration", *key),
        }

    def decide(self, generation: Generation, outcome: Event, now: float | None = None) -> None:
        """`generation`, which runs, will end so: completed with sha256 and bytes, or failed with error.

        now: end it at once, at this time.
        """
        generation.outcome = outcome
        if now is not None:
            generation.ends_at = min(generation.ends_at, now)
        self._outcomes += 1
        heapq.heappush(self._ends, (generation.ends_at, self._outcomes, generation))

    def next_event(self, now: float) -> Event | None:
        """Return the next event due by `now`: a top-up, a generation's end, or a start if a slot is free."""
        by = now + ROUNDING_S
        top_up = self._next_top_up()
        if top_up and self.rules.started_at + top_up.at_s <= by:
            return {"event": "topped_up", "at": now, "credits": top_up.credits}
        if self._ends and self._ends[0][0] <= by:
            generation = self._ends[0][2]
            outcome = generation.outcome or {}
            bill = self._bill(generation.accepted, outcome)
            return {"at": now, "generation_id": generation.id, **outcome, **bill}
        if self._waiting and self._waiting[0][0] <= by and len(self._running) < self.rules.capacity:
            return {"event": "started", "at": now, "generation_id": self._waiting[0][2].id}
        return None

    def next_due(self) -> float | None:
        """Return the time of the next known event."""
        due = [self._ends[0][0]] if self._ends else []
        if self._waiting and len(self._running) < self.rules.capacity:
            due.append(self._waiting[0][0])
        if top_up := self._next_top_up():
            due.append(self.rules.started_at + top_up.at_s)
        return min((at for at in due if at < math.inf), default=None)

    def _next_top_up(self) -> TopUp | None:
        left = self.rules.top_ups[self._top_ups_done :]
        return left[0] if left else None

    def apply(self, event: Event) -> None:
        """Apply `event`. Events that do not change a generation (fetched, leak) have no effect."""
        move = {
            "accepted": self._enqueue,
            "started": self._begin,
            "completed": self._finish,
            "failed": self._finish,
            "topped_up": self._top_up,
        }.get(event["event"])
        if move:
            move(event)

    def _enqueue(self, event: Event) -> None:
        generation = Generation(event)
        self._accepted_of[event["client_request_id"] or event["fingerprint"]] += 1
        heapq.heappush(self._waiting, (event["eligible_at"], len(self.generations), generation))
        self.generations[generation.id] = generation
        self.by_file[generation.file] = generation
        self.credits_held += event["credits"]

    def _begin(self, event: Event) -> None:
        generation = heapq.heappop(self._waiting)[2]
        generation.status = "generating"
        # A stuck one never ends: its fault was drawn when it was accepted.
        stuck = generation.accepted.get("fault") == "stuck"
        generation.ends_at = math.inf if stuck else event["at"] + generation.accepted["duration_s"]
        self._running[generation.id] = generation

    def _finish(self, event: Event) -> None:
        generation = self._running.pop(event["generation_id"])
        if self._ends and self._ends[0][2] is generation:  # a restart finds its end in the ledger, not here
            heapq.heappop(self._ends)
        generation.outcome = event
        generation.ended_at = event["at"]
        generation.status = "completed" if event["event"] == "completed" else "error"
        self.credits_held -= generation.accepted["credits"]
        if generation.status == "completed":
            charged = event["charged"]
            self.credits_charged += charged
            model = generation.accepted["model"]
            self.movements.append(Movement(event["at"], "CHARGE", "MODEL_USAGE", charged, model, generation.id))

    def _bill(self, accepted: Event, outcome: Event) -> Event:
        """Return what the end of a generation does to its reservation, in credits."""
        quoted = accepted["credits"]
        if outcome["event"] != "completed":
            return {"rolled_back": quoted}
        if accepted.get("unmeasured"):
            quoted = price(accepted["resolution"], outcome["frames"], self.rules.prices)
        is_above = accepted.get("fault") == "overcharged"
        return {"charged": round(quoted * self.rules.overcharge) if is_above else quoted}

    def _top_up(self, event: Event) -> None:
        self.topped_up += event["credits"]
        self.movements.append(Movement(event["at"], "TOPUP", "PAYMENT", event["credits"]))
        self._top_ups_done += 1

    def _draw(self, median_s: float, *key: object) -> float:
        chance = max(uniform(*key), 1e-12)
        return median_s * math.exp(self.rules.spread * NormalDist().inv_cdf(chance))


def price(resolution: str, frames: int | None, prices: Mapping[str, int] = CREDITS_PER_SECOND) -> int:
    """Credits of a clip of so many frames: by the second, at 16 frames a second. The rate is invented."""
    seconds = UNKNOWN_LENGTH_S if frames is None else frames / BILLED_FPS
    return round(prices[resolution] * seconds)
