"""When to look at a generation whose kind's durations are known: a plan made once for many looks. Pure.

Looks lie as densely as a power of the hazard. The square root would find most clips early for what it costs, were the
hazard known; a little less forgives what was learned wrongly, and lets no clip lie for long. All in all looks are as
many as with the plain interval. Rule: whatever was learned, no wait is longer than LONGEST intervals nor shorter than
SHORTEST, so that the worst that a wrong belief can do is bounded.
"""

from bisect import bisect_right
from itertools import accumulate, pairwise
from math import sqrt

from batchrunner.engine.polling.duration_model import EDGES_S, STEPS, WIDTHS_S, Fit, step_of

SHORTEST, LONGEST = 0.1, 3.0  # of the interval
FEWEST = 1.5  # looks at one generation, on average; one alone would have to wait for the very slowest
_POWER = 0.4  # chosen by simulation, as benchmarks/polling.py does it
_SCALES = 0.01, 100.0
_TURNS = 14
_CLOSE = 0.005  # to the budget
_MANY = 20  # looks, of which each single one no longer matters
_TAIL = 0.003  # share whose looks are not counted


class PollSchedule:
    """Waits between looks, for one kind. interval_s: what the looks may come to on average."""

    def __init__(self, fit: Fit, interval_s: float) -> None:
        self._interval_s = interval_s
        self._late_s = fit.late_s
        roots = [(hazard * interval_s) ** _POWER for hazard in fit.hazard]
        budget = max(FEWEST, fit.mean_s / interval_s + 0.5)  # a plain interval's last look is half of one late
        (low, high), scale = _SCALES, 1.0
        for _ in range(_TURNS):
            self._looks_by = self._planned(roots, scale)
            looks = self._looks(fit, budget)
            if abs(looks - budget) < _CLOSE * budget:
                break
            if looks > budget:
                high = scale
            else:
                low = scale
            wanted = scale * (budget / looks) ** 1.5
            scale = wanted if low < wanted < high else sqrt(low * high)

    def wait_s(self, elapsed_s: float, part: float = 1.0) -> float:
        """From a look after `elapsed_s` to the next one, seconds. part: how much of a full wait it shall be."""
        step = step_of(elapsed_s)
        share = min(1.0, (elapsed_s - EDGES_S[step]) / WIDTHS_S[step])
        wanted = self._looks_by[step] + share * (self._looks_by[step + 1] - self._looks_by[step]) + part
        step = min(bisect_right(self._looks_by, wanted) - 1, STEPS - 1)
        rate = (self._looks_by[step + 1] - self._looks_by[step]) / WIDTHS_S[step]
        wait_s = EDGES_S[step] + (wanted - self._looks_by[step]) / rate - elapsed_s
        longest_s = LONGEST * self._interval_s
        if elapsed_s > self._late_s:  # its age alone says how soon again
            longest_s = min(longest_s, max(self._interval_s, elapsed_s / 3))
        return min(max(wait_s, SHORTEST * self._interval_s), longest_s)

    def _planned(self, roots: list[float], scale: float) -> list[float]:
        """How many looks are due by each edge of the steps."""
        least, most = 1 / (LONGEST * self._interval_s), 1 / (SHORTEST * self._interval_s)
        scale /= self._interval_s
        rates = [scale * root for root in roots]
        return [
            0.0,
            *accumulate(
                (least if rate < least else min(rate, most)) * width_s
                for rate, width_s in zip(rates, WIDTHS_S, strict=True)
            ),
        ]

    def _looks(self, fit: Fit, budget: float) -> float:
        """How many looks at one generation the plan comes to on average; not counted far beyond the budget."""
        if budget > _MANY:
            falls = zip(pairwise(fit.survival), pairwise(self._looks_by), strict=True)
            return 0.5 + sum((left + after) / 2 * (end - begin) for (left, after), (begin, end) in falls)
        looks, elapsed_s, left = 0.0, 0.0, 1.0
        while left > _TAIL and looks <= 2 * budget:
            looks += left
            elapsed_s += self.wait_s(elapsed_s)
            left = fit.longer_than(elapsed_s)
        return looks
