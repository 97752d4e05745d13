"""Which job is submitted next, and which jobs hold a slot. Pure: `now` and the working cap are arguments.

The cap limits the generations in flight, from the intent to submit until the service says that the generation ended. A
slot is taken in the same step that admits a job and given back when its generation ends, so a cancel leaks no slot.
A submission in doubt holds a slot like any other, with one exception: it never holds the last slot of a cap that the
service lowered. The service might ask for one generation at a time, and then nothing would be submitted.
Rule: no admission puts more generations in flight than the user's limit. Generations that are in flight at the start of
a run count too.
"""

import heapq
from collections import deque
from collections.abc import Iterable

from batchrunner.plan.submission_order import LongestFirst, ManifestOrder


class JobQueue:
    """Jobs that wait to be submitted, in order, and the slots of those in flight. limit: the cap that the user set."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ready: ManifestOrder | LongestFirst = ManifestOrder()
        self._backing_off: list[tuple[float, int, str]] = []  # heap: (not before, order, fingerprint)
        self._set_back: deque[tuple[int, str]] = deque()  # (order, fingerprint): after the others, oldest first
        self._in_flight: set[str] = set()
        self._in_doubt: set[str] = set()  # a subset of those in flight

    @property
    def waiting(self) -> int:
        """The number of jobs that wait for admission."""
        return len(self._ready) + len(self._backing_off) + len(self._set_back)

    @property
    def in_flight(self) -> int:
        """The number of slots that are taken."""
        return len(self._in_flight)

    @property
    def set_back(self) -> Iterable[str]:
        """The jobs that wait behind all others."""
        return (fingerprint for _, fingerprint in self._set_back)

    def add(self, fingerprint: str, order: int, not_before: float | None = None) -> None:
        """Let a job wait for admission. order: its place among the others. not_before: the end of its backoff."""
        if not_before is None:
            self._ready.add(order, fingerprint)
        else:
            heapq.heappush(self._backing_off, (not_before, order, fingerprint))

    def add_all(self, jobs: Iterable[tuple[int, str]]) -> None:
        """Let many jobs wait for admission, as pairs of order and fingerprint."""
        self._ready.extend(jobs)

    def reorder(self, ready: ManifestOrder | LongestFirst) -> None:
        """Admit jobs in another order from now on. ready: without jobs."""
        ready.extend(self._ready)
        self._ready = ready

    def upcoming(self, now: float) -> str | None:
        """Return the job that `next` will admit when a slot is free, as far as is known at `now`; None for none."""
        self._end_backoffs(now)
        if self._ready:
            return self._ready.first()
        return self._set_back[0][1] if self._set_back else None

    def add_last(self, fingerprint: str, order: int) -> None:
        """Let a job wait behind all others, so that the next submission is another job's."""
        self._set_back.append((order, fingerprint))

    def restore(self) -> None:
        """Give the jobs that wait behind all others their old places back."""
        while self._set_back:
            self._ready.add(*self._set_back.popleft())

    def occupy(self, fingerprint: str, *, in_doubt: bool = False) -> None:
        """Take a slot for a generation that is in flight already, or that may be (`in_doubt`)."""
        self._in_flight.add(fingerprint)
        if in_doubt:
            self._in_doubt.add(fingerprint)
        else:
            self._in_doubt.discard(fingerprint)

    def release(self, fingerprint: str) -> None:
        """Give a slot back. A job without a slot is ignored."""
        self._in_flight.discard(fingerprint)
        self._in_doubt.discard(fingerprint)

    def holds(self, fingerprint: str) -> bool:
        """Return whether this job holds a slot."""
        return fingerprint in self._in_flight

    def is_full(self, cap: int) -> bool:
        """Return whether no slot is free under the working cap `cap`."""
        taken = len(self._in_flight)
        if cap == self._limit or taken >= self._limit:
            return taken >= self._limit
        in_doubt = len(self._in_doubt)
        return taken - in_doubt + min(in_doubt, cap - 1) >= cap

    def next_at(self, now: float, cap: int) -> float | None:
        """Return when `next` would admit a job: `now`, a later moment, or None while every slot is taken."""
        if self.is_full(cap):
            return None
        if self._ready or self._set_back:
            return now
        return self._backing_off[0][0] if self._backing_off else None

    def next(self, now: float, cap: int) -> str | None:
        """Return the job to submit at `now`, with its slot taken, or None. Call it again for more."""
        self._end_backoffs(now)
        if self.is_full(cap):
            return None
        if self._ready:
            fingerprint = self._ready.pop()
        elif self._set_back:
            fingerprint = self._set_back.popleft()[1]
        else:
            return None
        self._in_flight.add(fingerprint)
        return fingerprint

    def _end_backoffs(self, now: float) -> None:
        while self._backing_off and self._backing_off[0][0] <= now:
            _, order, fingerprint = heapq.heappop(self._backing_off)
            self._ready.add(order, fingerprint)
