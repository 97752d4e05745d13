"""Clips in the run directory that wait to be copied to the bucket. Pure."""

import heapq


class DeliveryQueue:
    """Fingerprints by the moment at which their clip may be copied (monotonic, s)."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, str]] = []
        self._waiting: set[str] = set()

    def __len__(self) -> int:
        return len(self._heap)

    def __contains__(self, fingerprint: str) -> bool:
        return fingerprint in self._waiting

    @property
    def next_due(self) -> float | None:
        """When the next clip may be copied; None if none waits."""
        return self._heap[0][0] if self._heap else None

    def add(self, fingerprint: str, due: float) -> None:
        """Let a clip wait. One that waits already stays where it is."""
        if fingerprint not in self._waiting:
            self._waiting.add(fingerprint)
            heapq.heappush(self._heap, (due, fingerprint))

    def pop(self, now: float) -> str | None:
        """Remove the first clip that may be copied now and return its fingerprint; None if none may."""
        if not self._heap or self._heap[0][0] > now:
            return None
        _, fingerprint = heapq.heappop(self._heap)
        self._waiting.discard(fingerprint)
        return fingerprint

    def clear(self) -> list[str]:
        """Remove all clips and return their fingerprints."""
        removed = [fingerprint for _, fingerprint in self._heap]
        self._heap.clear()
        self._waiting.clear()
        return removed
