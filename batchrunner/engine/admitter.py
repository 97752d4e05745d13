"""Decide which job is submitted next: the queue, the disk, the remaining time and the budget must allow it.

This is the one sequence before a submission: a slot of the queue, space on the disk, then time and money
(`batchrunner.plan.admission`), which reserves the price. A limit that all batches of an account share belongs here too.
"""

from collections import Counter
from collections.abc import Callable, Mapping

from batchrunner.engine.job_queue import JobQueue
from batchrunner.formatting import count_text
from batchrunner.job import Record
from batchrunner.plan.admission import Admission, AdmissionAction, AdmissionDecision, TimeLeft
from batchrunner.plan.endings import NO_REASON, StopReason


class Admitter:
    """Takes jobs from the queue.

    lacks_space: why the disk lacks space for so many more clips; NO_REASON if it does not.
    held_back: why the next job has to wait for jobs in flight, in this round; NO_REASON if it does not.
    """

    def __init__(
        self,
        queue: JobQueue,
        records: Mapping[str, Record],
        admission: Admission,
        lacks_space: Callable[[int], StopReason],
    ) -> None:
        self.held_back = NO_REASON
        self._queue = queue
        self._records = records
        self._admission = admission
        self._lacks_space = lacks_space
        self._order: Mapping[str, int] = {}
        self._skipped: Counter[StopReason] = Counter()  # jobs that this run does not submit, by reason

    def begin(self, order: Mapping[str, int]) -> None:
        """Set the place of each job in the order of submission, by fingerprint."""
        self._order = order

    def begin_round(self) -> None:
        """Begin to look for jobs that may be submitted now."""
        self.held_back = NO_REASON

    def next(self, now: float, cap: int, left: TimeLeft | None, undelivered: int) -> str | None:
        """Return the next job to submit, with its slot taken and its price reserved; None if no job may go.

        now: monotonic, s. cap: the working cap. left: until the end of the run, None without one. undelivered: clips
        that are complete and not yet on the disk.
        """
        while (fingerprint := self._queue.next(now, cap)) is not None:
            decision = self._decide(fingerprint, left, undelivered)
            if decision.action is AdmissionAction.GO:
                return fingerprint
            self._queue.release(fingerprint)
            if decision.action is AdmissionAction.WAIT:
                self._queue.add(fingerprint, self._order[fingerprint])
                self.held_back = decision.why
                return None
            self._skipped[decision.why] += 1
        return None

    def release(self, fingerprint: str) -> None:
        """Release what is reserved for a job beyond its record: its submission was stored, or was not made."""
        self._admission.ledger.update(self._records[fingerprint])

    def requeue(self, fingerprint: str, not_before: float | None = None) -> None:
        """Give back a job's slot and let it wait for admission again, until `not_before` at least."""
        self._queue.release(fingerprint)
        self._queue.add(fingerprint, self._order[fingerprint], not_before)

    def requeue_last(self, fingerprint: str) -> None:
        """Give back a job's slot and let it wait behind all others."""
        self._queue.release(fingerprint)
        self._queue.add_last(fingerprint, self._order[fingerprint])

    def skip_reason(self) -> StopReason:
        """Return how many jobs this run does not submit and why; NO_REASON if there are none."""
        text = "; ".join(f"{count_text(jobs, 'job')} not submitted: {why}" for why, jobs in self._skipped.items())
        kinds = [why.kind for why, _ in self._skipped.most_common(1)]
        return StopReason(kinds[0], text) if kinds else NO_REASON

    def _decide(self, fingerprint: str, left: TimeLeft | None, undelivered: int) -> AdmissionDecision:
        lack = self._lacks_space(self._queue.in_flight + undelivered)
        if lack:
            return AdmissionDecision(AdmissionAction.WAIT, lack)
        return self._admission.decide(self._records[fingerprint], left)
