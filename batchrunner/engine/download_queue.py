"""Downloads that wait for a slot. Pure.

The clip whose link expires first is downloaded first: a link that has expired costs another poll.
"""

import heapq
from collections.abc import Iterator

from batchrunner.transfer.link_expiry import expires_at


class DownloadQueue:
    """Clips that are ready to be downloaded, by fingerprint. Iteration gives the fingerprints in no order."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, str, str]] = []  # (expiry of the link, fingerprint, url)

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[str]:
        return (fingerprint for _, fingerprint, _ in self._heap)

    def add(self, fingerprint: str, url: str) -> None:
        """Let a clip wait."""
        heapq.heappush(self._heap, (expires_at(url), fingerprint, url))

    def pop(self) -> tuple[str, str]:
        """Remove the clip whose link expires first and return its fingerprint and URL. IndexError if there is none."""
        _, fingerprint, url = heapq.heappop(self._heap)
        return fingerprint, url

    def clear(self) -> list[str]:
        """Remove all clips and return their fingerprints."""
        removed = list(self)
        self._heap.clear()
        return removed
