"""The lower bound of a poll schedule that knows the distribution of the durations, but not the single durations.

The best ages for polls are a shortest path over a fine grid: the cost of a poll against the average time that clips are
unseen. Each cost of a poll gives one point of a curve.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_GRID = 700
_PRICES = 16


@dataclass(frozen=True, slots=True)
class Floor:
    """The same figures as `polling.Figures`."""

    poll_count: float
    unseen_s: float
    unseen_95_s: float


def curve(known_s: Sequence[float], played_s: Sequence[float]) -> dict[float, Floor]:
    """Return the curve by the cost of a poll, in seconds of unseen time. known_s: a large sample. played_s: the polled
    durations.
    """
    import numpy as np

    known, played = np.sort(known_s), np.asarray(played_s)
    ages = np.concatenate([[0.0], np.geomspace(known[0] / 2, 1.001 * max(known[-1], played.max()), _GRID)])
    until = np.searchsorted(known, ages, side="right")
    by, early = until / len(known), np.concatenate([[0.0], np.cumsum(known)])[until] / len(known)
    found = {}
    for price in np.geomspace(2, 2e-3, _PRICES) * np.median(known):
        cost_to_go, then = np.zeros(_GRID + 1), np.zeros(_GRID + 1, int)
        for here in range(_GRID - 1, -1, -1):
            later = slice(here + 1, None)
            costs = ages[later] * (by[later] - by[here]) - (early[later] - early[here]) + cost_to_go[later]
            then[here] = here + 1 + costs.argmin()
            cost_to_go[here] = price * (1 - by[here]) + costs.min()
        poll_count = [0]
        while poll_count[-1] < _GRID:
            poll_count.append(int(then[poll_count[-1]]))
        last = np.searchsorted(ages[poll_count], played)
        unseen = np.sort(ages[poll_count][last] - played)
        at_95 = unseen[int(np.ceil(0.95 * len(unseen))) - 1]
        found[float(price)] = Floor(float(last.mean()), float(unseen.mean()), float(at_95))
    return found
