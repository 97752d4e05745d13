"""When to look at a generation of which the distribution of durations is known. Pure."""

from bisect import bisect_right
from math import sqrt

from batchrunner.durations import EDGES_S, STEPS, Fit, step_of

SHORTEST, LONGEST = 0.1, 3.0
FEWEST = 1.25
_TURNS = 14


class Rhythm:
    """Looks lie as densely as the square root of the hazard, scaled to the looks that the plain interval would take."""

    def __init__(self, fit: Fit, interval_s: float) -> None:
        self._interval_s = interval_s
        self._median_s = fit.median_s
        roots = [sqrt(hazard) for hazard in fit.hazard]
        budget = max(FEWEST, fit.mean_s / interval_s + 0.5)
        low, high = 0.01, 100.0
        for _ in range(_TURNS):
            scale = sqrt(low * high)
            self._due = self._cumulated(roots, scale / sqrt(interval_s))
            if self._looks(fit, budget) > budget:
                high = scale
            else:
                low = scale

    def _cumulated(self, roots: list[float], scale: float) -> list[float]:
        most, least = 1 / (SHORTEST * self._interval_s), 1 / (LONGEST * self._interval_s)
        sums, total = [0.0], 0.0
        for step, root in enumerate(roots):
            total += min(most, max(least, scale * root)) * (EDGES_S[step + 1] - EDGES_S[step])
            sums.append(total)
        return sums

    def _looks(self, fit: Fit, most: float) -> float:
        """How many looks one takes on average."""
        looks, at_s, left = 0.0, 0.0, 1.0
        while left > 0.003 and looks <= most:
            looks += left
            at_s += self.wait_s(at_s)
            left = fit.longer_than(at_s)
        return looks

    def wait_s(self, elapsed_s: float, part: float = 1.0) -> float:
        """From a look after `elapsed_s` to the next. part: of a full wait."""
        step = step_of(elapsed_s)
        width_s = EDGES_S[step + 1] - EDGES_S[step]
        here = self._due[step] + (elapsed_s - EDGES_S[step]) / width_s * (self._due[step + 1] - self._due[step])
        wanted = here + part
        step = min(bisect_right(self._due, wanted) - 1, STEPS - 1)
        rate = (self._due[step + 1] - self._due[step]) / (EDGES_S[step + 1] - EDGES_S[step])
        wait_s = EDGES_S[step] + (wanted - self._due[step]) / rate - elapsed_s
        longest_s = LONGEST * self._interval_s
        if elapsed_s > self._median_s:
            longest_s = min(longest_s, max(self._interval_s, elapsed_s / 3))
        return min(max(wait_s, SHORTEST * self._interval_s), longest_s)
