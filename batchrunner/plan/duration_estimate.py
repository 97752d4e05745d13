"""How long a generation is expected to take, from those that were seen to their end. Pure.

Durations run from the service's acceptance to the poll that saw it complete, queue included: what a job that is
submitted now has to expect. They are kept by model and resolution, the latest few: a service slows down and recovers.
Rule: only what was watched from its acceptance on counts. A generation that completed between two runs was seen
complete by the next one, maybe a day later; taken for a duration, that would leave no night long enough for any job.
One whose submission was in doubt was found in the service's log: when it was accepted is not known.
"""

from bisect import bisect
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from batchrunner.job import Job, Record

_KEPT = 64  # of each kind
_ENOUGH = 3  # fewer say nothing

Kind = tuple[str, str]  # model, resolution


class Forecast:
    """Learns from records, and answers for jobs. starts: when runs of this batch started (wall time, s)."""

    def __init__(self, records: Iterable[Record] = (), starts: Iterable[float] = ()) -> None:
        self._starts = sorted(starts)
        self._seen: dict[Kind, deque[float]] = {}
        for record in sorted(records, key=_completed_at):
            self.learn(record)

    def learn(self, record: Record) -> None:
        """Take in how long the latest attempt of `record` took, if it was seen to complete."""
        if not record.attempts:
            return
        attempt = record.last
        if attempt.accepted_at is None or attempt.completed_at is None:
            return
        if attempt.error is not None:
            return  # its submission was in doubt, or its end
        if bisect(self._starts, attempt.accepted_at) != bisect(self._starts, attempt.completed_at):
            return  # not by one run
        self.add(record.job, attempt.completed_at - attempt.accepted_at)

    def add(self, job: Job, took_s: float) -> None:
        """Take in how long a generation took, in seconds; less than nothing where the wall clock was set back."""
        if took_s >= 0:
            self._seen.setdefault(kind_of(job), deque(maxlen=_KEPT)).append(took_s)

    @property
    def seen(self) -> Mapping[Kind, Sequence[float]]:
        """The latest durations of each kind, s, oldest first."""
        return self._seen

    def expected_s(self, job: Job) -> float | None:
        """The median of its kind; of all kinds where too few of its own were seen; None where nothing is known."""
        from statistics import median  # here, as most commands do without it

        own = self._seen.get(kind_of(job), ())
        if len(own) >= _ENOUGH:
            return median(own)
        every = [took_s for seen in self._seen.values() for took_s in seen]
        return median(every) if len(every) >= _ENOUGH else None


def kind_of(job: Job) -> Kind:
    """Generations of one kind are expected to take equally long."""
    return job.model, str(job.params.get("resolution", ""))


def _completed_at(record: Record) -> float:
    return (record.attempts and record.last.completed_at) or 0.0
