"""How long generations of one kind take: a distribution that is learned look by look and follows the times. Pure.

What a look tells is an interval: at the last one it was not complete yet, at this one it is. What is still running tells
that it takes longer: left out, the early finishers would make a batch's beginning look fast. Time is cut into steps of
equal ratio, so that nothing is assumed about the shape (two humps, a long tail) and everything has a fixed size.
Rule: what was seen long ago fades, and what nobody expected makes it fade at once.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import isfinite

_FIRST_S = 0.05
_PER_OCTAVE = 8
STEPS = 22 * _PER_OCTAVE  # to 58 hours
EDGES_S = [0.0, *(_FIRST_S * 2 ** (step / _PER_OCTAVE) for step in range(1, STEPS + 1))]

_MEMORY = 64.0  # how many generations count; twice as many as run at once, where those are more
_UNEXPECTED = 0.02  # on either side of what was known
_TRUSTED_THEN = 0.7  # share of what was known, after something that unexpected
_MOST_SEEN = 100_000.0


class Durations:
    """Durations seen, as weights of the steps of time. seen: how many, the faded ones in part."""

    def __init__(self, weights: Iterable[float] = ()) -> None:
        self._weights = [*weights][:STEPS] or [0.0] * STEPS
        self._weights += [0.0] * (STEPS - len(self._weights))
        self.seen = sum(self._weights)
        self._fit: Fit | None = None

    @property
    def weights(self) -> list[float]:
        """What `Durations(weights)` starts from again."""
        return list(self._weights)

    def learn(self, after_s: float, by_s: float, running: int = 0) -> None:
        """One took longer than `after_s` and at most `by_s`, while so many of its kind were running."""
        if not (isfinite(after_s) and isfinite(by_s)) or by_s < 0:
            return
        by_s = max(by_s, EDGES_S[1])
        after_s = min(max(after_s, 0.0), 0.999 * by_s)
        kept = 1 - 1 / max(_MEMORY, 2.0 * running)
        if self._fit is not None and self._fit.odd(after_s, by_s):
            kept *= _TRUSTED_THEN
        self._weights = [kept * weight for weight in self._weights]
        first, last = step_of(after_s), step_of(by_s)
        shares = [self._share(step, after_s, by_s) for step in range(first, last + 1)]
        whole = sum(shares)
        for step, share in enumerate(shares, first):
            self._weights[step] += share / whole
        self.seen = kept * self.seen + 1

    def _share(self, step: int, after_s: float, by_s: float) -> float:
        """How likely it ended in this step of the interval, unscaled: evenly in time, until more is known."""
        low_s, high_s = EDGES_S[step], EDGES_S[step + 1]
        inside = min(by_s, high_s) - max(after_s, low_s)
        return inside * (1.0 if self._fit is None else self._fit.density[step])

    def fit(self, running_s: Sequence[float] = ()) -> "Fit":
        """The distribution by what was seen and by how long others are running already."""
        self._fit = Fit.of(_with_running(self._weights, running_s), self.seen)
        return self._fit


@dataclass(frozen=True, slots=True)
class Fit:
    """A distribution. survival: share that takes longer than each edge. density: a second, in each step.

    hazard: a second, in each step: of what is not complete at its beginning. Nowhere nought, nowhere without bound.
    """

    survival: tuple[float, ...]
    density: tuple[float, ...]
    hazard: tuple[float, ...]
    median_s: float
    mean_s: float

    @classmethod
    def of(cls, weights: Sequence[float], seen: float) -> "Fit":
        """The smoothed weights, with a few that come any time: what nobody expects must not go unseen for long."""
        smooth = _smoothed(weights, seen)
        survival = _survival(smooth)
        median_s = _quantile(survival, 0.5)
        mean_s = sum(share * _middle_s(step) for step, share in enumerate(smooth))
        any_time = max(0.05, 1 / (1 + seen))
        rate = 1 / (2 * median_s)
        mixed, left = [], 1.0
        from math import exp

        density, hazard = [], []
        for step, share in enumerate(smooth):
            low_s, high_s = EDGES_S[step], EDGES_S[step + 1]
            part = (1 - any_time) * share + any_time * (exp(-rate * low_s) - exp(-rate * high_s))
            width_s = high_s - low_s
            density.append(part / width_s + 1e-12)
            mean_left = max(left - part / 2, 1e-9)
            hazard.append(part / width_s / mean_left + 1e-12)
            left -= part
        return cls(tuple(survival), tuple(density), tuple(hazard), median_s, mean_s)

    def longer_than(self, elapsed_s: float) -> float:
        """Share that takes longer."""
        step = step_of(elapsed_s)
        low_s, high_s = EDGES_S[step], EDGES_S[step + 1]
        part = min(1.0, (elapsed_s - low_s) / (high_s - low_s))
        return self.survival[step] + part * (self.survival[step + 1] - self.survival[step])

    def odd(self, after_s: float, by_s: float) -> bool:
        """Whether hardly any was expected to complete that early, or that late."""
        return 1 - self.longer_than(by_s) < _UNEXPECTED or self.longer_than(after_s) < _UNEXPECTED


def step_of(elapsed_s: float) -> int:
    """The step of time that holds this moment; the last one holds all that is later."""
    return min(bisect_right(EDGES_S, elapsed_s) - 1, STEPS - 1)


def _middle_s(step: int) -> float:
    return (EDGES_S[step] + EDGES_S[step + 1]) / 2


def _with_running(weights: Sequence[float], running_s: Sequence[float]) -> list[float]:
    """The weights, with those of the running spread over the steps they may still end in (product-limit estimate)."""
    if not running_s:
        return list(weights)
    leaving = [0.0] * (STEPS + 1)
    for elapsed_s in running_s:
        leaving[step_of(elapsed_s)] += 1
    at_risk = sum(weights) + len(running_s)
    spread, left = [], 1.0
    for weight, gone in zip(weights, leaving, strict=False):
        at_risk -= gone
        hazard = min(1.0, weight / at_risk) if at_risk > 1e-9 else 0.0
        spread.append(left * hazard)
        left *= 1 - hazard
        at_risk -= weight
    spread[-1] += left
    return spread


def _smoothed(weights: Sequence[float], seen: float) -> list[float]:
    """The weights as shares, smoothed over as many steps as so few of them call for (Silverman's rule)."""
    whole = sum(weights)
    shares = [weight / whole for weight in weights]
    low, high = (_place(shares, share) for share in (0.25, 0.75))
    spread = (high - low) / 1.349
    wanted = 0.9 * spread * max(seen, 1.0) ** -0.2
    radius = max(1, min(STEPS // 8, round(wanted * 1.2247 - 0.5)))  # two boxes of 2r+1: sd = sqrt((2r+1)^2/6)
    return _boxed(_boxed(shares, radius), radius)


def _place(shares: Sequence[float], share: float) -> float:
    """In which step, and how far into it, this share is reached."""
    below = 0.0
    for step, each in enumerate(shares):
        if below + each >= share:
            return step + (share - below) / each if each else float(step)
        below += each
    return float(STEPS)


def _boxed(shares: Sequence[float], radius: int) -> list[float]:
    """Each share spread evenly over its neighbours; at either end it stays where it can."""
    padded = [shares[0]] * 0 + list(shares)
    sums = [0.0, *accumulate(padded)]
    width = 2 * radius + 1
    spread = [(sums[min(STEPS, step + radius + 1)] - sums[max(0, step - radius)]) / width for step in range(STEPS)]
    lost = 1 - sum(spread)
    spread[0] += max(0.0, lost) * (shares[0] > shares[-1])
    spread[-1] += max(0.0, lost) * (shares[0] <= shares[-1])
    return spread


def _survival(shares: Sequence[float]) -> list[float]:
    return [max(0.0, 1 - below) for below in (0.0, *accumulate(shares))]


def _quantile(survival: Sequence[float], share: float) -> float:
    for step in range(STEPS):
        if survival[step + 1] <= 1 - share:
            fall = survival[step] - survival[step + 1]
            part = (survival[step] - (1 - share)) / fall if fall > 0 else 0.0
            return max(EDGES_S[1] / 2, EDGES_S[step] + part * (EDGES_S[step + 1] - EDGES_S[step]))
    return EDGES_S[-1]
