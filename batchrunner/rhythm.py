"""When to look at a generation whose kind's durations are known: a plan made once for many looks. Pure.

Looks lie as densely as the square root of the hazard: that is where a look finds most clips early for what it costs.
All in all they are as many as with the plain interval. Rule: whatever was learned, no wait is longer than LONGEST
intervals nor shorter than SHORTEST, so that the worst that a wrong belief can do is bounded.
"""

from bisect import bisect_right
from itertools import pairwise
from math import sqrt

from batchrunner.durations import EDGES_S, STEPS, WIDTHS_S, Fit, step_of

SHORTEST, LONGEST = 0.1, 3.0  # of the interval
FEWEST = 1.5  # looks at one generation, on average; one alone would have to wait for the very slowest
_TURNS = 14
_MANY = 40  # looks, of which each single one no longer matters
_TAIL = 0.003  # share whose looks are not counted


class Rhythm:
    """Waits between looks, for one kind. interval_s: what the looks may come to on average."""

    def __init__(self, fit: Fit, interval_s: float) -> None:
        self._interval_s = interval_s
        self._median_s = fit.median_s
        roots = [sqrt(hazard * interval_s) for hazard in fit.hazard]
        budget = max(FEWEST, fit.mean_s / interval_s + 0.5)  # a plain interval's last look is half of one late
        low, high = 0.01, 100.0
        for _ in range(_TURNS):
            scale = sqrt(low * high)
            self._looks_by = self._planned(roots, scale)
            if self._looks(fit, budget) > budget:
                high = scale
            else:
                low = scale

    def wait_s(self, elapsed_s: float, part: float = 1.0) -> float:
        """From a look after `elapsed_s` to the next one, seconds. part: how much of a full wait it shall be."""
        step = step_of(elapsed_s)
        share = min(1.0, (elapsed_s - EDGES_S[step]) / WIDTHS_S[step])
        wanted = self._looks_by[step] + share * (self._looks_by[step + 1] - self._looks_by[step]) + part
        step = min(bisect_right(self._looks_by, wanted) - 1, STEPS - 1)
        rate = (self._looks_by[step + 1] - self._looks_by[step]) / WIDTHS_S[step]
        wait_s = EDGES_S[step] + (wanted - self._looks_by[step]) / rate - elapsed_s
        longest_s = LONGEST * self._interval_s
        if elapsed_s > self._median_s:  # it is due: its age alone says how soon again
            longest_s = min(longest_s, max(self._interval_s, elapsed_s / 3))
        return min(max(wait_s, SHORTEST * self._interval_s), longest_s)

    def _planned(self, roots: list[float], scale: float) -> list[float]:
        """How many looks are due by each edge of the steps."""
        least, most = 1 / (LONGEST * self._interval_s), 1 / (SHORTEST * self._interval_s)
        planned = [0.0]
        for root, width_s in zip(roots, WIDTHS_S, strict=True):
            planned.append(planned[-1] + min(most, max(least, scale * root / self._interval_s)) * width_s)
        return planned

    def _looks(self, fit: Fit, most: float) -> float:
        """How many looks at one generation the plan comes to on average; not counted beyond `most`."""
        if most > _MANY:
            falls = zip(pairwise(fit.survival), pairwise(self._looks_by), strict=True)
            return 0.5 + sum((left + after) / 2 * (end - begin) for (left, after), (begin, end) in falls)
        looks, elapsed_s, left = 0.0, 0.0, 1.0
        while left > _TAIL and looks <= most:
            looks += left
            elapsed_s += self.wait_s(elapsed_s)
            left = fit.longer_than(elapsed_s)
        return looks
