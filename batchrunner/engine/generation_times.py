"""How long generations take as far as this run can tell: which it learns from, and how old those in flight are.

Rule: only a generation whose acceptance this run saw is measured, on the clock that never jumps. When one was accepted
that was found in the service's log, or that an earlier run submitted, is not known.
"""

from collections.abc import Mapping

from batchrunner.clock import Clock
from batchrunner.engine.polling.duration_model import DurationKey, Durations
from batchrunner.job import Job, Record
from batchrunner.plan.duration_estimate import Forecast, kind_of


class GenerationTimes:
    """The times of generations, by fingerprint. forecast: learns their durations. durations: those of all batches.

    unseen_s: a generation that was not polled for so long before it completed is not learned from.
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
        """A new attempt begins."""
        self._accepted_at.pop(fingerprint, None)

    def accepted(self, fingerprint: str) -> None:
        """The service accepted it just now."""
        self._accepted_at[fingerprint] = self._seen_at[fingerprint] = self._clock.monotonic()

    def unfinished(self, fingerprint: str) -> None:
        """A poll found it unfinished."""
        self._seen_at[fingerprint] = self._clock.monotonic()

    def completed(self, record: Record) -> Record:
        """The record of a generation that was found complete just now, with `completed_at`; it is learned from.

        By the clock that never jumps, so that later runs read the duration that was measured.
        """
        now, fingerprint = self._clock.monotonic(), record.job.fingerprint
        unseen_s = now - self._seen_at.pop(fingerprint, float("-inf"))
        since, accepted_at = self._accepted_at.pop(fingerprint, None), record.last.accepted_at
        if since is None or accepted_at is None:
            return record.with_attempt(completed_at=self._clock.now())
        if unseen_s <= self._unseen_s:
            self._forecast.add(record.job, now - since)
        return record.with_attempt(completed_at=accepted_at + now - since)

    def age_s(self, record: Record) -> float:
        """How long a generation has been in flight, s. The wall clock counts only for what earlier runs accepted."""
        now = self._clock.monotonic()
        since, accepted_at = self._accepted_at.get(record.job.fingerprint), record.last.accepted_at
        if since is not None or accepted_at is None:
            return now - (since or self._started_at)
        in_this_run_s = now - self._started_at
        return max(in_this_run_s, self._clock.now() - accepted_at)

    def known_s(self, job: Job) -> list[float]:
        """How long generations of a job's kind took, queue included: in this batch, or in others if it knows none.

        Never both: what this batch saw is among what is known of all batches, and would count twice.
        """
        return list(self._forecast.seen.get(kind_of(job), ())) or self.all_batches_s(job)

    def all_batches_s(self, job: Job) -> list[float]:
        """How long they took in any batch, where no queue was seen."""
        known = self._durations.get((kind_of(job), False))
        return [by_s for _, by_s in known.spans] if known else []
