"""How long generations of one kind take: a distribution that is learned from each poll and follows changes. Pure.

Two polls give a span: the generation was unfinished at the first one and complete at the second one. Running ones show
that they take longer; without them, the early finishers would make the start of a batch look fast. Time is divided into
steps of equal ratio, so that nothing is assumed about the shape (two modes, a long tail) and all sizes are fixed. Times
are divided by the factor that the job's work explains (`batchrunner.plan.duration_trend`): a long clip is late at a
greater age than a short one. Only the latest spans count, and after several unexpected ones in a row, only those.
"""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate, pairwise, zip_longest
from math import exp, isfinite
from operator import sub

from batchrunner.plan.duration_estimate import Kind
from batchrunner.plan.duration_trend import FLAT, WorkTrend, trend_of, usual_of

_FIRST_S = 0.05
_PER_OCTAVE = 8
_HALF_A_STEP = 2 ** (0.5 / _PER_OCTAVE)
STEPS = 22 * _PER_OCTAVE  # to 58 hours
EDGES_S = (0.0, *(_FIRST_S * 2 ** (step / _PER_OCTAVE) for step in range(1, STEPS + 1)))
WIDTHS_S = tuple(high - low for low, high in pairwise(EDGES_S))

# Chosen by simulation, as in benchmarks/polling.py; the result depends little on them.
KEPT = 256  # spans
_ROUNDS = 8  # of expectation-maximisation
_SMOOTH = 0.4  # of the bandwidth that suits a single mode
_ANY_TIME = 0.05  # share that may complete at any time, whatever was observed
_DOUBT = 8  # spans that outweigh that share
_ODD = 0.1  # share expected to complete that early, or that late
# so many unexpected ones in a row, all early or all late: the service has changed. By chance: once in 50,000
_CHANGED = 5
_LATE = 0.25  # share that counts as late
_TINY = 1e-12
_PROPORTIONAL = 1.0  # power of the work, to compare jobs while durations say nothing

Span = tuple[float, float]
DurationKey = tuple[Kind, bool]  # the kind, and whether the duration counts from the end of a wait in the queue


class Durations:
    """The latest durations of one kind: each took longer than `span[0]` and at most `span[1]` seconds.

    works: of their jobs (`batchrunner.plan.duration_trend.work_of`), in the same order.
    """

    def __init__(self, spans: Iterable[Span] = (), works: Iterable[float | None] = ()) -> None:
        self.spans: deque[Span] = deque(maxlen=KEPT)
        self.works: deque[float | None] = deque(maxlen=KEPT)
        self._fit: Fit | None = None
        self._usual: tuple[WorkTrend, float] | None = None
        self._odd, self._in_a_row = 0, 0
        for (after_s, by_s), work in zip_longest(spans, works):
            self.learn(after_s, by_s, work)

    def learn(self, after_s: float, by_s: float, work: float | None = None) -> None:
        """Add one that took longer than `after_s` and at most `by_s`."""
        if not (isfinite(by_s) and 0 <= after_s <= by_s):
            return  # not a duration
        self.spans.append((after_s, by_s))
        self.works.append(work)
        self._usual = None
        odd = 0 if self._fit is None else self._fit.odd(after_s, by_s, work)
        self._in_a_row = self._in_a_row + 1 if odd == self._odd else 1
        self._odd = odd
        if odd and self._in_a_row >= _CHANGED:
            while len(self.spans) > self._in_a_row:
                self.spans.popleft()
                self.works.popleft()

    def fit(self, running_s: Sequence[float] = (), works: Iterable[float | None] = ()) -> "Fit":
        """Return the distribution of the observed durations and the ages of running ones. Needs at least one span.

        works: of the running ones, in the same order.
        """
        trend = trend_of(_middles(self.spans), self.works)
        factors = [trend.factor(work) for work in self.works]
        spans = [(low / factor, high / factor) for (low, high), factor in zip(self.spans, factors, strict=True)]
        ages_s = [age_s / trend.factor(work) for age_s, work in zip_longest(running_s, works)]
        self._fit = Fit(_likeliest(spans, ages_s), len(spans), trend)
        return self._fit

    def expected_s(self, work: float | None) -> float:
        """Return how long a generation of this work is expected to take. Needs at least one span."""
        if self._usual is None:
            self._usual = usual_of(_middles(self.spans), self.works, _PROPORTIONAL)
        trend, usual_s = self._usual
        return usual_s * trend.factor(work)


def expected_in(
    durations: Mapping[DurationKey, Durations], fewest: int = 1
) -> Callable[[Kind, float | None], float | None]:
    """Return a function from a kind and a work to the expected seconds, by these durations; None for unknown kinds.

    Of the durations with and without a wait in the queue, those that are more numerous count. fewest: a kind with
    fewer durations is unknown.
    """

    def expected_s(kind: Kind, work: float | None) -> float | None:
        found = [durations[key] for key in ((kind, False), (kind, True)) if key in durations]
        known = max(found, key=lambda item: len(item.spans), default=None)
        return known.expected_s(work) if known and len(known.spans) >= fewest else None

    return expected_s


class Fit:
    """A distribution over the steps of time, for generations of the usual work. trend: for others.

    late_s: after this time, an unfinished one is late.
    survival: share that takes longer than each edge. hazard: per second, in each step, of those left. It is never zero,
    because a few may complete at any time: unexpected completions must not stay unseen for long.
    """

    def __init__(self, shares: Sequence[float], seen: int, trend: WorkTrend = FLAT) -> None:
        self.trend = trend
        smooth = _smoothed(shares, seen)
        self.survival = _left(smooth)
        self.median_s, self.late_s = self._by_when(0.5), self._by_when(_LATE)
        self._odd_s = self._by_when(1 - _ODD), self._by_when(_ODD)  # earlier and later ones are unexpected
        self.mean_s = sum(
            share * (low + high) / 2 for share, (low, high) in zip(smooth, pairwise(EDGES_S), strict=True)
        )
        odd, rate = max(_ANY_TIME, _DOUBT / (_DOUBT + seen)), 0.5 / self.median_s
        left = [
            (1 - odd) * value + odd * exp(-rate * edge_s) for value, edge_s in zip(self.survival, EDGES_S, strict=True)
        ]
        self.hazard = [
            2 * (before - after) / max(before + after, 1e-9) / width_s + 1e-9
            for (before, after), width_s in zip(pairwise(left), WIDTHS_S, strict=True)
        ]

    def longer_than(self, elapsed_s: float) -> float:
        """Return the share that takes longer."""
        step = step_of(elapsed_s)
        fraction = min(1.0, (elapsed_s - EDGES_S[step]) / WIDTHS_S[step])
        return self.survival[step] + fraction * (self.survival[step + 1] - self.survival[step])

    def odd(self, after_s: float, by_s: float, work: float | None = None) -> int:
        """Return -1 if hardly any was expected to complete that early, 1 if that late, otherwise 0."""
        factor, (early_s, late_s) = self.trend.factor(work), self._odd_s
        return (after_s > late_s * factor) - (by_s < early_s * factor)

    def _by_when(self, share: float) -> float:
        """Return the time at which all but this share are complete."""
        step = next(step for step in range(STEPS) if self.survival[step + 1] <= share)
        fall = self.survival[step] - self.survival[step + 1]
        return EDGES_S[step] + (self.survival[step] - share) / fall * WIDTHS_S[step]


def _middles(spans: Iterable[Span]) -> list[float]:
    return [(after_s + by_s) / 2 for after_s, by_s in spans]


def step_of(elapsed_s: float) -> int:
    """Return the step of time that ends at or after this moment; the last one has all later times."""
    return bisect_left(EDGES_S, elapsed_s, 1, STEPS) - 1


def _edge_near(elapsed_s: float) -> int:
    """Return the edge nearest to this moment; never the last one."""
    return step_of(elapsed_s * _HALF_A_STEP)


def _likeliest(spans: Sequence[Span], running_s: Sequence[float]) -> list[float]:
    """Return nearly the likeliest shares of the steps for these spans: a few rounds of expectation-maximisation.

    More rounds would give a spike at each span.
    """
    # Many spans have the same steps: each pair of steps is counted once.
    numbers = Counter((first := _edge_near(after_s), max(_edge_near(by_s), first + 1)) for after_s, by_s in spans)
    bounds = [(first, end, float(count)) for (first, end), count in numbers.items()]
    bounds += _open_ended(running_s, len(spans))
    whole = sum(count for _, _, count in bounds)
    bounds = [(first, end, count / whole) for first, end, count in bounds]
    shares = _beforehand(max([by_s for _, by_s in spans] + list(running_s)))
    for _ in range(_ROUNDS):
        below = [0.0, *accumulate(shares)]
        change = [0.0] * (STEPS + 1)
        for first, end, weight in bounds:
            share = below[end] - below[first]
            value = weight / max(share, _TINY)
            change[first] += value
            change[end] -= value
        factors = accumulate(change[:-1])  # rounding may leave some below zero
        shares = [share * factor if factor > 0 else 0.0 for share, factor in zip(shares, factors, strict=True)]
    return _scaled(shares)


def _open_ended(running_s: Sequence[float], seen: int) -> list[tuple[int, int, float]]:
    """Return the running ones as spans without an end.

    In the long run, the running ones are not from the same time as the latest observed ones: they must not outweigh
    them.
    """
    weight = 1.0 if seen < KEPT else min(1.0, seen / (2 * len(running_s) or 1))
    counts = [0.0] * STEPS
    for elapsed_s in running_s:
        counts[_edge_near(elapsed_s)] += weight
    return [(step, STEPS, count) for step, count in enumerate(counts) if count]


def _beforehand(longest_s: float) -> list[float]:
    """Return the prior: any order of magnitude up to the longest known, with a falling tail."""
    far_s = 2 * max(longest_s, _FIRST_S)
    return _scaled(
        [
            width_s / (low_s + far_s / 32) * exp(-low_s / far_s)
            for low_s, width_s in zip(EDGES_S[:-1], WIDTHS_S, strict=True)
        ]
    )


def _scaled(shares: Sequence[float]) -> list[float]:
    whole = sum(shares) + STEPS * _TINY
    return [(share + _TINY) / whole for share in shares]


def _smoothed(shares: Sequence[float], seen: int) -> list[float]:
    """Smooth the shares over as many steps as the number of observations requires (Silverman's rule)."""
    left = _left(shares)
    low, high = (next(step for step in range(STEPS) if left[step + 1] <= share) for share in (0.75, 0.25))
    deviation = _SMOOTH * 0.9 * (high - low) / 1.349 * max(seen, 1) ** -0.2
    radius = max(1, min(STEPS // 8, round(1.2247 * deviation - 0.5)))  # two boxes of 2r+1 steps have that deviation
    return _scaled(_boxed(_boxed(shares, radius), radius))


def _boxed(shares: Sequence[float], radius: int) -> list[float]:
    """Spread each share evenly over its neighbours."""
    below = [0.0, *accumulate(shares)]
    padded = [0.0] * radius + below + below[-1:] * radius
    return list(map(sub, padded[2 * radius + 1 :], padded))


def _left(shares: Sequence[float]) -> list[float]:
    """Return the share left at each edge: from one to zero at the last."""
    return [1 - below if below < 1 else 0.0 for below in (0.0, *accumulate(shares[:-1]), 1.0)]
