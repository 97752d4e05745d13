"""Estimate how long a generation takes, from completed generations. Pure.

Durations run from the service's acceptance to the poll that saw the generation complete. They include the queue,
because a job that is submitted now also waits. The latest durations are kept by model and resolution, because a service
slows down and recovers. Only generations that one run watched from acceptance to completion are counted. A generation
that completed between two runs is seen complete by the next run, maybe a day later. Such a duration would make every
time limit look too short for any job. The acceptance time of a submission in doubt is unknown, because the generation
was found in the service's log.
"""

from bisect import bisect
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from batchrunner.job import Job, Record
from batchrunner.plan.duration_trend import WorkTrend, usual_of, work_of

_KEPT = 64  # durations per kind
ENOUGH = 3  # fewer durations are not significant

Kind = tuple[str, str]  # model, resolution


class Forecast:
    """Learns durations from records and estimates those of jobs. starts: start times of the runs (wall time, s)."""

    def __init__(self, records: Iterable[Record] = (), starts: Iterable[float] = ()) -> None:
        self._starts = sorted(starts)
        self._seen: dict[Kind, deque[float]] = {}
        self._jobs: dict[Kind, deque[Job]] = {}  # in the same order
        self._usual: dict[Kind, tuple[WorkTrend, float]] = {}  # of the durations so far
        for record in self._latest(sorted([record for record in records if record.attempts], key=_completed_at)):
            self.learn(record)

    def _latest(self, records: Sequence[Record]) -> list[Record]:
        """Return the last records of each kind with a duration, as many as are kept. The others are not learned."""
        found, counts = list[Record](), dict[Kind, int]()
        for record in reversed(records):
            kind = kind_of(record.job)
            count = counts.get(kind, 0)
            if count < _KEPT and self._took_s(record) is not None:
                counts[kind] = count + 1
                found.append(record)
        return found[::-1]

    def learn(self, record: Record) -> None:
        """Add the duration of the latest attempt of `record`, if one run saw it from acceptance to completion."""
        took_s = self._took_s(record)
        if took_s is not None:
            self.add(record.job, took_s)

    def _took_s(self, record: Record) -> float | None:
        """Return the duration of the latest attempt, s; None if no run saw it, or if the clock was set back."""
        if not record.attempts:
            return None
        attempt = record.attempts[-1]
        if attempt.accepted_at is None or attempt.completed_at is None or attempt.completed_at < attempt.accepted_at:
            return None
        if attempt.error is not None:
            return None  # its submission or its end was in doubt
        if bisect(self._starts, attempt.accepted_at) != bisect(self._starts, attempt.completed_at):
            return None  # not seen by one run
        return attempt.completed_at - attempt.accepted_at

    def add(self, job: Job, took_s: float) -> None:
        """Add a generation's duration, in seconds. It is ignored if negative, because the wall clock was set back."""
        if took_s >= 0:
            kind = kind_of(job)
            if kind not in self._seen:
                self._seen[kind], self._jobs[kind] = deque(maxlen=_KEPT), deque(maxlen=_KEPT)
            self._seen[kind].append(took_s)
            self._jobs[kind].append(job)
            self._usual.pop(kind, None)

    @property
    def seen(self) -> Mapping[Kind, Sequence[float]]:
        """The latest durations of each kind, s, oldest first."""
        return self._seen

    @property
    def works(self) -> Mapping[Kind, Sequence[float | None]]:
        """The works of their jobs (`batchrunner.plan.duration_trend`), in the same order."""
        return {kind: list(map(work_of, jobs)) for kind, jobs in self._jobs.items()}

    @property
    def lacking(self) -> int:
        """The number of durations that are still needed for an estimate of any job."""
        return max(0, ENOUGH - sum(map(len, self._seen.values())))

    def expected_s(self, job: Job) -> float | None:
        """Return what is usual for the job's kind and work, the median of all kinds, or None with too few durations."""
        from statistics import median  # imported here: most commands do not need it

        kind = kind_of(job)
        if len(self._seen.get(kind, ())) >= ENOUGH:
            return self.of_kind(kind, work_of(job))
        every = [took_s for seen in self._seen.values() for took_s in seen]
        return median(every) if len(every) >= ENOUGH else None

    def of_kind(self, kind: Kind, work: float | None) -> float | None:
        """Return how long a generation of this kind and work is expected to take, s; None for an unknown kind."""
        seen = self._seen.get(kind)
        if not seen:
            return None
        if kind not in self._usual:
            self._usual[kind] = usual_of(seen, list(map(work_of, self._jobs[kind])), 0.0)
        trend, usual_s = self._usual[kind]
        return usual_s * trend.factor(work)


def kind_of(job: Job) -> Kind:
    """Return the kind of a job. Generations of one kind are expected to take equally long."""
    return job.model, str(job.params.get("resolution", ""))


def _completed_at(record: Record) -> float:
    return record.attempts[-1].completed_at or 0.0
