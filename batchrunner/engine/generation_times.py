"""How long generations take: measures those of this run, and tells the age of those in flight.

Rule: only a generation whose acceptance this run saw is measured, by the monotonic clock. The moment of acceptance is
unknown for a generation that was found in the service's log or that an earlier run submitted.
"""

from collections.abc import Mapping

from batchrunner.clock import Clock
from batchrunner.engine.polling.duration_model import DurationKey, Durations
from batchrunner.job import Job, Record
from batchrunner.plan.duration_estimate import Forecast, kind_of


class GenerationTimes:
    """The times of generations, by fingerprint.

    forecast: learns their durations. durations: of all batches. unseen_s: a generation that was not polled for longer
    before it completed is not learned from.
    """

    def __init__(
        self, clock: Clock, forecast: Forecast, durations: Mapping[DurationKey, Durations], unseen_s: float
    ) -> None:
        self._clock = clock
        self._forecast = forecast
        self._durations = durations
        self._unseen_s = unseen_s
        self._started_at = clock.monotonic()
        self._accepted_at: dict[str, float] = {}  # monotonic, s
        self._seen_at: dict[str, float] = {}  # monotonic, s: the last poll that found it unfinished

    def submitting(self, fingerprint: str) -> None:
        """Forget the generation of a job whose next attempt begins."""
        self._accepted_at.pop(fingerprint, None)

    def accepted(self, fingerprint: str) -> None:
        """Record that the service accepted a submission now."""
        self._accepted_at[fingerprint] = self._seen_at[fingerprint] = self._clock.monotonic()

    def unfinished(self, fingerprint: str) -> None:
        """Record that a poll found a generation unfinished now."""
        self._seen_at[fingerprint] = self._clock.monotonic()

    def completed(self, record: Record) -> float:
        """Learn from a generation that a poll found complete now, and return its `completed_at`.

        It follows from the monotonic clock, so later runs read the duration that was measured.
        """
        now, fingerprint = self._clock.monotonic(), record.job.fingerprint
        unseen_s = now - self._seen_at.pop(fingerprint, float("-inf"))
        since, accepted_at = self._accepted_at.pop(fingerprint, None), record.last.accepted_at
        if since is None or accepted_at is None:
            return self._clock.now()
        if unseen_s <= self._unseen_s:
            self._forecast.add(record.job, now - since)
        return accepted_at + now - since

    def age_s(self, record: Record) -> float:
        """Return how long a generation has been in flight, s. The wall clock counts only for those of earlier runs."""
        now = self._clock.monotonic()
        since, accepted_at = self._accepted_at.get(record.job.fingerprint), record.last.accepted_at
        if since is not None or accepted_at is None:
            return now - (since or self._started_at)
        in_this_run_s = now - self._started_at
        return max(in_this_run_s, self._clock.now() - accepted_at)

    def known_s(self, job: Job) -> list[float]:
        """Return how long generations of a job's kind took, queue included: in this batch, or else in other batches.

        Never both: the durations of all batches include those of this one, which would count twice.
        """
        return list(self._forecast.seen.get(kind_of(job), ())) or self.all_batches_s(job)

    def all_batches_s(self, job: Job) -> list[float]:
        """Return how long generations of a job's kind took in any batch, for those that were not seen in a queue."""
        known = self._durations.get((kind_of(job), False))
        return [by_s for _, by_s in known.spans] if known else []
