"""When to look at which generation. Pure: one heap of due times for all of them; `now` and jitter are arguments.

Rule: a generation has one due time. Setting a new one leaves the old one stale in the heap, and it is dropped when it
comes up: nothing is ever searched or removed from the middle.
"""

import heapq

from batchrunner.retry import Rng


class Poller:
    """Due times (monotonic, s) of the generations in flight, and the wait between two looks."""

    def __init__(self, interval_s: float, rng: Rng) -> None:
        self._interval_s = interval_s
        self._rng = rng
        self._heap: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._due)

    def at(self, fingerprint: str, due: float) -> None:
        """Look at this generation at `due`."""
        self._due[fingerprint] = due
        heapq.heappush(self._heap, (due, fingerprint))

    def after_a_look(self, fingerprint: str, now: float) -> None:
        """Look again one interval from `now`, give or take a tenth, so that polls of one burst spread out."""
        self.at(fingerprint, now + self._interval_s * self._rng.uniform(0.9, 1.1))

    def clear(self) -> list[str]:
        """Forget every due time, and say whose they were."""
        forgotten = list(self._due)
        self._due.clear()
        return forgotten

    def pop(self, now: float) -> str | None:
        """A generation that is due, now without a due time; None where none is."""
        while self._heap and self._heap[0][0] <= now:
            due, fingerprint = heapq.heappop(self._heap)
            if self._due.get(fingerprint) == due:
                del self._due[fingerprint]
                return fingerprint
        return None

    @property
    def next_due(self) -> float | None:
        """When the next generation is due, or None."""
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None
