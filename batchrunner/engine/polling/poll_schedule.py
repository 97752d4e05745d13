"""When to poll a generation of a kind with known durations: a schedule, computed once for many polls. Pure.

The density of polls is a power of the hazard. The square root would find most clips early for its cost if the hazard
were known; a smaller power tolerates errors in it, and leaves no clip unseen for long. On average there are as many
polls as with the plain interval. No wait is longer than LONGEST intervals or shorter than SHORTEST, so that a wrong
estimate does limited harm.
"""

from bisect import bisect_right
from itertools import accumulate, pairwise
from math import sqrt
from operator import mul

from batchrunner.engine.polling.duration_model import EDGES_S, STEPS, WIDTHS_S, Fit, step_of

SHORTEST, LONGEST = 0.1, 3.0  # of the interval
FEWEST = 1.5  # polls of one generation, on average; a single one would have to wait for the very slowest
_POWER = 0.4  # chosen by simulation, as in benchmarks/polling.py
_SCALES = 0.01, 100.0
_TURNS = 14
_CLOSE = 0.005  # to the budget
_MANY = 20  # polls, of which a single one no longer matters
_TAIL = 0.003  # share whose polls are not counted


class PollSchedule:
    """Waits between polls, for one kind. interval_s: the average cost of the polls is that of this interval.

    Its ages are those of generations of the usual work; those of others are converted by the trend.
    """

    def __init__(self, fit: Fit, interval_s: float) -> None:
        self.trend = fit.trend
        self._interval_s = interval_s
        self._late_s, self._mean_s = fit.late_s, fit.mean_s
        roots = [(hazard * interval_s) ** _POWER for hazard in fit.hazard]
        self._usual_budget = budget = self._budget(1.0)
        left = [(before + after) / 2 for before, after in pairwise(fit.survival)]
        (low, high), scale = _SCALES, 1.0
        for _ in range(_TURNS):
            planned = self._planned(roots, scale)
            self._polls_by = [0.0, *accumulate(planned)]
            polls = 0.5 + sum(map(mul, left, planned)) if budget > _MANY else self._count(fit, budget)
            if abs(polls - budget) < _CLOSE * budget:
                break
            if polls > budget:
                high = scale
            else:
                low = scale
            wanted = scale * (budget / polls) ** 1.5
            scale = wanted if low < wanted < high else sqrt(low * high)

    def wait_s(self, elapsed_s: float, share: float = 1.0, work: float | None = None) -> float:
        """Return the wait from a poll after `elapsed_s` to the next one, in seconds.

        share: of a full wait. work: of the job.
        """
        factor = self.trend.factor(work)
        more = self._budget(factor) / self._usual_budget
        wait_s = factor * self._usual_wait_s(elapsed_s / factor, share / more)
        longest_s = LONGEST * self._interval_s
        if elapsed_s > factor * self._late_s:  # its age alone gives the next wait
            longest_s = min(longest_s, max(self._interval_s, elapsed_s / 3))
        return min(max(wait_s, SHORTEST * self._interval_s), longest_s)

    def _budget(self, factor: float) -> float:
        """Return how many polls a generation gets, on average, that takes longer than usual by this factor."""
        return max(FEWEST, factor * self._mean_s / self._interval_s + 0.5)  # a plain interval's last poll comes late

    def _usual_wait_s(self, elapsed_s: float, share_of_wait: float) -> float:
        step = step_of(elapsed_s)
        share = min(1.0, (elapsed_s - EDGES_S[step]) / WIDTHS_S[step])
        wanted = self._polls_by[step] + share * (self._polls_by[step + 1] - self._polls_by[step]) + share_of_wait
        step = min(bisect_right(self._polls_by, wanted) - 1, STEPS - 1)
        rate = (self._polls_by[step + 1] - self._polls_by[step]) / WIDTHS_S[step]
        return EDGES_S[step] + (wanted - self._polls_by[step]) / rate - elapsed_s

    def _planned(self, roots: list[float], scale: float) -> list[float]:
        """Return how many polls are due in each of the steps."""
        least, most = 1 / (LONGEST * self._interval_s), 1 / (SHORTEST * self._interval_s)
        scale /= self._interval_s
        rates = [scale * root for root in roots]
        bounded = [rate if least < rate < most else least if rate <= least else most for rate in rates]
        return list(map(mul, bounded, WIDTHS_S))

    def _count(self, fit: Fit, budget: float) -> float:
        """Return the average polls of one generation in this schedule; counting stops far beyond the budget."""
        polls, elapsed_s, left = 0.0, 0.0, 1.0
        while left > _TAIL and polls <= 2 * budget:
            polls += left
            elapsed_s += self.wait_s(elapsed_s)
            left = fit.longer_than(elapsed_s)
        return polls
