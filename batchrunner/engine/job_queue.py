"""Which job may be submitted next, under the cap and the pace. Pure: `now` is an argument, and nothing here waits.

The cap bounds generations in flight, counted from the intent to submit until the service says that it is over: a slot
is taken in the same step that admits a job and given back when its generation ends, so no cancel can leak one.
A submission in doubt holds a slot like any other, with one exception: it never holds the last slot of a cap that was
lowered by the service, since the service might ask for one at a time and then nothing would move.
Rule: in flight is never above the user's cap because of an admission; generations found in flight at the start count
too.
"""

import heapq
from collections import deque
from collections.abc import Iterable


class Cap:
    """The working cap: halved when the service asks for fewer generations, and crept up again while it takes them.

    limit: what the user set; it is never passed.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._size = float(limit)

    @property
    def working(self) -> int:
        """How many generations may be in flight just now; at least one."""
        return int(self._size)

    def throttled(self, in_flight: int) -> None:
        """The service asked for fewer, with so many in flight: half of what is in flight, or of what was allowed."""
        self._size = max(1.0, min(self._size, float(in_flight)) / 2)

    def accepted(self) -> None:
        """The service took one: one more is tried for as many as are allowed now."""
        self._size = min(float(self.limit), self._size + 1 / self._size)


class Pace:
    """How many calls a second may be made, on average; a burst of one second's worth at most."""

    def __init__(self, calls_per_s: float | None) -> None:
        self._rate = calls_per_s
        self._room = max(1.0, calls_per_s or 1.0)
        self._at = 0.0
        self._most = self._room

    def next_at(self, now: float) -> float:
        """When the next call may be made: `now`, or a moment to come (monotonic, s)."""
        if self._rate is None:
            return now
        self._refill(now, self._rate)
        return now if self._room >= 1.0 else now + (1.0 - self._room) / self._rate

    def take(self, now: float) -> None:
        """A call is made."""
        if self._rate is not None:
            self._refill(now, self._rate)
            self._room -= 1.0

    def _refill(self, now: float, rate: float) -> None:
        self._room = min(self._most, self._room + max(0.0, now - self._at) * rate)
        self._at = max(self._at, now)


class Scheduler:
    """Jobs that wait to be submitted, in order, and the slots of those in flight."""

    def __init__(self, cap: int) -> None:
        self.cap = Cap(cap)
        self._ready: list[tuple[int, str]] = []  # (order, fingerprint): may go now
        self._backing_off: list[tuple[float, int, str]] = []  # (not before, order, fingerprint)
        self._set_back: deque[tuple[int, str]] = deque()  # (order, fingerprint): after the others, oldest first
        self._in_flight: set[str] = set()
        self._in_doubt: set[str] = set()  # of those in flight

    @property
    def waiting(self) -> int:
        """How many jobs wait for admission."""
        return len(self._ready) + len(self._backing_off) + len(self._set_back)

    @property
    def in_flight(self) -> int:
        """How many slots are taken."""
        return len(self._in_flight)

    def add(self, fingerprint: str, order: int, not_before: float | None = None) -> None:
        """Let a job wait for admission; `order` is its place among the others, `not_before` the end of its backoff."""
        if not_before is None:
            heapq.heappush(self._ready, (order, fingerprint))
        else:
            heapq.heappush(self._backing_off, (not_before, order, fingerprint))

    @property
    def set_back(self) -> Iterable[str]:
        """The jobs that go after the others."""
        return (fingerprint for _, fingerprint in self._set_back)

    def add_last(self, fingerprint: str, order: int) -> None:
        """Let a job wait for admission after all others: the next one to be tried is another."""
        self._set_back.append((order, fingerprint))

    def restore(self) -> None:
        """Give the jobs that go last their places among the others again."""
        while self._set_back:
            heapq.heappush(self._ready, self._set_back.popleft())

    def occupy(self, fingerprint: str, *, in_doubt: bool = False) -> None:
        """Count a generation that is in flight already, or may be (`in_doubt`)."""
        self._in_flight.add(fingerprint)
        if in_doubt:
            self._in_doubt.add(fingerprint)
        else:
            self._in_doubt.discard(fingerprint)

    def release(self, fingerprint: str) -> None:
        """Give a slot back: the service refused, or the generation has ended. Harmless when it holds none."""
        self._in_flight.discard(fingerprint)
        self._in_doubt.discard(fingerprint)

    def holds(self, fingerprint: str) -> bool:
        """Whether this job holds a slot."""
        return fingerprint in self._in_flight

    @property
    def full(self) -> bool:
        """Whether no slot is free."""
        working, limit, taken = self.cap.working, self.cap.limit, len(self._in_flight)
        if working == limit or taken >= limit:
            return taken >= limit
        in_doubt = len(self._in_doubt)
        return taken - in_doubt + min(in_doubt, working - 1) >= working

    def next_at(self, now: float) -> float | None:
        """When `next` will admit something, if nothing else happens: `now`, a moment to come, or never (None)."""
        if self.full:
            return None
        if self._ready or self._set_back:
            return now
        return self._backing_off[0][0] if self._backing_off else None

    def next(self, now: float) -> str | None:
        """The job to submit at `now`, its slot taken; None where none may go. Call again for more."""
        while self._backing_off and self._backing_off[0][0] <= now:
            _, order, fingerprint = heapq.heappop(self._backing_off)
            heapq.heappush(self._ready, (order, fingerprint))
        if self.full or not (self._ready or self._set_back):
            return None
        fingerprint = heapq.heappop(self._ready)[1] if self._ready else self._set_back.popleft()[1]
        self._in_flight.add(fingerprint)
        return fingerprint
