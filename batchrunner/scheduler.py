"""Which job may be submitted now. Pure: `now` is an argument, and nothing here waits.

The cap bounds generations in flight, counted from the intent to submit until the service says that it is over: a slot
is taken in the same step that admits a job and given back when its generation ends, so no cancel can leak one.
Rule: in flight is never above the cap because of an admission; generations found in flight at the start count too.
"""

import heapq
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Admit:
    """Submit this job now; its slot is taken."""

    fingerprint: str


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Nothing may go before this moment of monotonic time (s)."""

    at: float


class Idle:
    """Nothing can be admitted until something else happens: no slot is free, or nothing waits."""


IDLE = Idle()


class Scheduler:
    """Jobs that wait to be submitted, in order, and the slots of those in flight."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._ready: list[tuple[int, str]] = []  # (order, fingerprint): may go now
        self._backing_off: list[tuple[float, int, str]] = []  # (not before, order, fingerprint)
        self._in_flight: set[str] = set()

    @property
    def waiting(self) -> int:
        """How many jobs wait for admission."""
        return len(self._ready) + len(self._backing_off)

    def add(self, fingerprint: str, order: int, not_before: float | None = None) -> None:
        """Let a job wait for admission; `order` is its place among the others, `not_before` the end of its backoff."""
        if not_before is None:
            heapq.heappush(self._ready, (order, fingerprint))
        else:
            heapq.heappush(self._backing_off, (not_before, order, fingerprint))

    def occupy(self, fingerprint: str) -> None:
        """Count a generation that is in flight already, or may be."""
        self._in_flight.add(fingerprint)

    def release(self, fingerprint: str) -> None:
        """Give a slot back: the service refused, or the generation has ended. Harmless when it holds none."""
        self._in_flight.discard(fingerprint)

    def holds(self, fingerprint: str) -> bool:
        """Whether this job holds a slot."""
        return fingerprint in self._in_flight

    @property
    def full(self) -> bool:
        """Whether no slot is free."""
        return len(self._in_flight) >= self._cap

    def next_at(self, now: float) -> float | None:
        """When `next` will admit something, if nothing else happens: `now`, a moment to come, or never (None)."""
        if self.full:
            return None
        if self._ready:
            return now
        return self._backing_off[0][0] if self._backing_off else None

    def next(self, now: float) -> Admit | WaitUntil | Idle:
        """The next step at `now`. Call again after an Admit: there may be room for more."""
        while self._backing_off and self._backing_off[0][0] <= now:
            _, order, fingerprint = heapq.heappop(self._backing_off)
            heapq.heappush(self._ready, (order, fingerprint))
        if self.full:
            return IDLE
        if self._ready:
            fingerprint = heapq.heappop(self._ready)[1]
            self._in_flight.add(fingerprint)
            return Admit(fingerprint)
        return WaitUntil(self._backing_off[0][0]) if self._backing_off else IDLE
