"""Submissions in doubt: until when each holds its slot, and when to search for them in the service's log. Pure.

The first search comes soon after a doubt, the later ones at growing waits, one when a slot's time is over, and one more
when nothing else is left to do. Moments are of the monotonic clock, seconds.
"""

import math
from collections.abc import Iterable, Iterator


class Doubts:
    """The jobs in doubt. wait_s: before the first search. cap_s: the longest wait between two."""

    def __init__(self, wait_s: float, cap_s: float) -> None:
        self.review_at: float | None = None
        self._first_wait_s = self._wait_s = wait_s
        self._cap_s = cap_s
        self._until: dict[str, float] = {}
        self._last_done = False

    def __iter__(self) -> Iterator[str]:
        return iter(self._until)

    def found(self, fingerprint: str, until: float, now: float) -> None:
        """A doubt of an earlier run: it is searched for at once."""
        self._until[fingerprint] = until
        self.review_at = now

    def add(self, fingerprint: str, until: float, now: float) -> None:
        """A new doubt, holding its slot until then."""
        self._until[fingerprint] = until
        self._wait_s = self._first_wait_s
        # A search that is due is not put off: where doubts keep coming, it would never be made.
        self.review_at = min(now + self._wait_s, math.inf if self.review_at is None else self.review_at)

    def submitted(self) -> None:
        """Something was submitted: the search at the end is yet to come."""
        self._last_done = False

    def start_review(self, now: float, *, at_the_end: bool) -> bool:
        """Whether to search now; if so, it counts as done. at_the_end: nothing else is left to do."""
        last = bool(self._until) and at_the_end and not self._last_done
        if not last and (self.review_at is None or self.review_at > now):
            return False
        self._last_done = last
        self.review_at = None
        return True

    def reviewed(self, adopted: Iterable[str], now: float) -> list[str]:
        """A search has ended and settled some; those are returned that hold their slots no longer."""
        for fingerprint in adopted:
            del self._until[fingerprint]
        if self._until:
            ends = (until for until in self._until.values() if until > now)
            self.review_at = min([now + self._wait_s, *ends])
            self._wait_s = min(2 * self._wait_s, self._cap_s)
        return [fingerprint for fingerprint, until in self._until.items() if until <= now]
