"""How the time of a generation depends on its work: the clip's seconds times the sampling steps. Pure.

Within one kind (model and resolution), the expected time grows with a power of the work. The power is learned: 0 for a
service that takes equally long for all clips, 1 for one whose time is proportional to the clip. Few or equal works say
nothing, and then the power is near 0: every generation of the kind is expected to take equally long.
"""

from collections.abc import Sequence
from math import exp, log
from typing import NamedTuple

from batchrunner.job import Job
from batchrunner.plan.prices import billed_seconds
from batchrunner.providers import registry

_STEEPEST = 2.0  # of the power
_LEAST_S = 0.05  # shorter times count as this
_NOISE = 0.25  # variance of the logarithms around the trend, as one observation before any other
_FARTHEST = 3.0  # doublings of the work beyond the known ones for which the power still counts


class WorkTrend(NamedTuple):
    """The dependence of a time on the work.

    power: of the work. unit: the work's power for which `factor` is 1. low, high: the works for which the trend counts;
    others are taken for the nearest one.
    """

    power: float = 0.0
    unit: float = 1.0
    low: float = 0.0
    high: float = 0.0

    def factor(self, work: float | None) -> float:
        """Return how much longer than usual a generation of this work takes. An unknown work is a usual one."""
        if work is None or not self.power:
            return 1.0
        return float(min(max(work, self.low), self.high) ** self.power / self.unit)


FLAT = WorkTrend()


def work_of(job: Job) -> float | None:
    """Return the work of a job, in clip seconds times steps; None if the clip's length is unknown."""
    seconds = clip_seconds(job)
    if not seconds or seconds < 0:
        return None
    spec = registry.models().get(job.model)
    steps = job.params.get(spec.steps) if spec and spec.steps else None
    return seconds * steps if isinstance(steps, int | float) and steps > 0 else seconds


def clip_seconds(job: Job) -> float | None:
    """Return the length of the clip to generate, in seconds, or None."""
    if (seconds := billed_seconds(job)) is not None:
        return seconds
    spec = registry.models().get(job.model)
    media = job.inputs.get(spec.result.length_of) if spec else None
    videos = [media] if media else [item for item in job.inputs.values() if item.kind == "video"]
    return videos[0].duration_s if videos else None


def trend_of(times_s: Sequence[float], works: Sequence[float | None], guess: float = 0.0) -> WorkTrend:
    """Return the trend of these times, by least squares of their logarithms. works: in the same order.

    guess: the power to assume as far as the times say nothing.
    """
    known = [(log(work), log(max(time_s, _LEAST_S))) for time_s, work in zip(times_s, works, strict=True) if work]
    if not known:
        return FLAT
    middle, height = (sum(column) / len(known) for column in zip(*known, strict=True))
    spread = sum((x - middle) ** 2 for x, _ in known)
    rise = sum((x - middle) * (y - height) for x, y in known)
    residue = sum((y - height) ** 2 for _, y in known) - (rise**2 / spread if spread else 0.0)
    noise = (max(residue, 0.0) + _NOISE) / max(1, len(known) - 1)
    power = (rise + noise * guess) / (spread + noise)  # as near to the guess as chance could explain
    if power <= 0:
        return FLAT
    power = min(power, _STEEPEST)
    beyond = 2.0**_FARTHEST
    least, most = exp(min(x for x, _ in known)) / beyond, exp(max(x for x, _ in known)) * beyond
    return WorkTrend(power, sum(exp(power * x) for x, _ in known) / len(known), least, most)


def usual_of(times_s: Sequence[float], works: Sequence[float | None], guess: float) -> tuple[WorkTrend, float]:
    """Return the trend of these times, and their median without it. guess: as for `trend_of`."""
    from statistics import median  # imported here: most commands do not need it

    trend = trend_of(times_s, works, guess)
    return trend, median(time_s / trend.factor(work) for time_s, work in zip(times_s, works, strict=True))
