"""Submissions in doubt: how long each keeps its slot, and when to search for them in the service's log. Pure.

Here is also the meaning of a search that does not find one. The first search comes at once, the later ones at growing
intervals, and one more when no other work is left. Times are of the monotonic clock unless stated otherwise, in
seconds.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil

FEW = 10  # durations: fewer say little about the longest
_UPPER = 0.95  # share of the generations that take no longer
_FEW_FACTOR = 10.0


@dataclass(slots=True)
class _Doubt:
    """since: the submission. slot_since: the start of its time in the slot. earlier: of an earlier run.

    searched: by a search that could have found it.
    """

    since: float
    slot_since: float
    earlier: bool
    holds: bool = True
    searched: bool = False


class InDoubtJobs:
    """The jobs in doubt. wait_s: between the first two searches; it doubles up to cap_s.

    settle_s: the age at which a search that does not find a submission counts.
    """

    def __init__(self, wait_s: float, cap_s: float, settle_s: float = 0.0) -> None:
        self.reconcile_at: float | None = None
        self._first_wait_s = self._wait_s = wait_s
        self._cap_s = cap_s
        self._settle_s = settle_s
        self._in_doubt: dict[str, _Doubt] = {}
        self._for_later = False
        self._last_done = False

    def __iter__(self) -> Iterator[str]:
        return iter(self._in_doubt)

    def __len__(self) -> int:
        return len(self._in_doubt)

    def found(self, fingerprint: str, since: float, now: float, *, holds: bool = True) -> None:
        """Add a job in doubt of an earlier run.

        Its time in the slot starts now, because its age is known only from the wall clock, which may have been set
        since.
        """
        self._in_doubt[fingerprint] = _Doubt(since, now, earlier=True, holds=holds)
        self.reconcile_at = now

    def add(self, fingerprint: str, since: float, now: float) -> None:
        """Add a new job in doubt."""
        self._in_doubt[fingerprint] = _Doubt(since, since, earlier=False)
        self._wait_s = self._first_wait_s
        self.reconcile_at = now

    def search_for_later(self, now: float) -> None:
        """Also search for later attempts of a failed job, until the log was read."""
        self._for_later = True
        self.reconcile_at = now

    def is_earlier(self, fingerprint: str) -> bool:
        """Return whether it is in doubt from an earlier run, or not in doubt."""
        return fingerprint not in self._in_doubt or self._in_doubt[fingerprint].earlier

    def is_settled(self, fingerprint: str, now: float) -> bool:
        """Return whether a search that starts now would find it if the log listed accepted submissions at once."""
        return now >= self._in_doubt[fingerprint].since + self._settle_s

    def age_s(self, fingerprint: str, now: float) -> float:
        """Return its age; if it is of an earlier run, by the wall clock."""
        return now - self._in_doubt[fingerprint].since

    @property
    def unsearched(self) -> bool:
        """Whether any job waits for its first search that counts."""
        return any(not doubt.searched for doubt in self._in_doubt.values())

    def submitted(self) -> None:
        """Record a submission: the search at the end is still to come."""
        self._last_done = False

    def start_reconcile(self, now: float, *, at_the_end: bool) -> bool:
        """Return whether to search now; if so, it counts as done. at_the_end: no other work is left."""
        last = (bool(self._in_doubt) or self._for_later) and at_the_end and not self._last_done
        if not last and (self.reconcile_at is None or self.reconcile_at > now):
            return False
        self._last_done = last
        self.reconcile_at = None
        for doubt in self._in_doubt.values():
            doubt.searched = doubt.searched or now >= doubt.since + self._settle_s
        return True

    def reconciled(self, settled: Iterable[str], now: float, *, searched: bool = True) -> None:
        """Record that a search has ended and settled some. searched: whether the log was read to its end."""
        for fingerprint in settled:
            self._in_doubt.pop(fingerprint, None)  # a later attempt of a failed job was not in doubt before
        if searched and self.reconcile_at is None:
            self._for_later = False
        if self._in_doubt or self._for_later:
            at = now + self._wait_s
            self.reconcile_at = at if self.reconcile_at is None else min(self.reconcile_at, at)
            self._wait_s = min(2 * self._wait_s, self._cap_s)

    def over(self, now: float, slot_s: Callable[[str], float]) -> list[str]:
        """Return the jobs whose time in the slot is over, each once.

        slot_s: how long one keeps its slot, as known now.
        """
        occupying = [(name, doubt.slot_since) for name, doubt in self._in_doubt.items() if doubt.holds]
        freed = [name for name, slot_since in occupying if slot_since + slot_s(name) <= now]
        for fingerprint in freed:
            self._in_doubt[fingerprint].holds = False
        return freed

    def next_over(self, slot_s: Callable[[str], float]) -> float | None:
        """Return when the next slot becomes free, as known now."""
        ends = (doubt.slot_since + slot_s(name) for name, doubt in self._in_doubt.items() if doubt.holds)
        return min(ends, default=None)


def longest_s(seen_s: Sequence[float], running_s: Sequence[float], least_s: float, most_s: float) -> float:
    """Return the longest plausible duration of one kind: an upper quantile of the observed ones.

    seen_s: durations of completed ones. running_s: ages of running ones, which take longer than that.
    least_s: the lower limit. most_s: the upper limit, and the result if nothing is known.
    """
    if not seen_s:
        return most_s
    if len(seen_s) < FEW:
        return min(most_s, max([least_s, _FEW_FACTOR * max(seen_s), *running_s]))
    upper_s = _upper_s(seen_s)
    # One that has been running for less time than that says nothing.
    upper_s = _upper_s([*seen_s, *(age_s for age_s in running_s if age_s > upper_s)])
    return min(most_s, max(least_s, upper_s))


def _upper_s(durations_s: Sequence[float]) -> float:
    return sorted(durations_s)[ceil(_UPPER * len(durations_s)) - 1]
