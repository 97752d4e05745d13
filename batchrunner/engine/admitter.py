"""Decide which job is submitted next: the queue, the disk, the remaining time and the budget must allow it.

This is the one sequence before a submission: a slot of the queue, space on the disk, then time and money
(`batchrunner.plan.admission`), which reserves the price. A limit that all batches of an account share belongs here too.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from batchrunner.engine.job_queue import JobQueue
from batchrunner.engine.order_switch import OrderSwitch
from batchrunner.formatting import count_text
from batchrunner.job import Record, State
from batchrunner.plan.admission import Admission, AdmissionAction, AdmissionDecision, TimeLeft
from batchrunner.plan.endings import NO_REASON, StopReason

MONEY = frozenset({"max_cost", "max_credits", "max_generations"})  # kinds of refusals for lack of money
MOST_SKIPPED = 500  # jobs in one round: the event loop goes on between two rounds


class Admitted(NamedTuple):
    """A job to submit, and the price that is reserved for it, in credits; None if it is unknown."""

    fingerprint: str
    price: float | None


class Admitter:
    """Takes jobs from the queue.

    lacks_space: why the disk lacks space for so many more clips; NO_REASON if it does not.
    switch: decides on the order; None for that of the manifest.
    held_back: why the next job has to wait for jobs in flight, in this round; NO_REASON if it does not.
    """

    def __init__(
        self,
        queue: JobQueue,
        records: Mapping[str, Record],
        admission: Admission,
        lacks_space: Callable[[int], StopReason],
        switch: OrderSwitch | None = None,
    ) -> None:
        self.held_back = NO_REASON
        self._queue = queue
        self._records = records
        self._admission = admission
        self._lacks_space = lacks_space
        self._switch = switch or OrderSwitch(queue, records, admission, lambda _kind, _work: None, 1, lambda _: None)
        self._order: Mapping[str, int] = {}
        self._skipped: Counter[StopReason] = Counter()  # jobs that this run does not submit, by reason
        self._skipped_in_round = 0

    def begin(self, order: Mapping[str, int]) -> None:
        """Begin a run. order: the place of each job, by fingerprint."""
        self._order = order

    def count(self, fingerprints: Sequence[str]) -> None:
        """Count pending jobs, before `choose_order`. Without a call of both, the order is that of the manifest."""
        self._switch.count(fingerprints)

    def choose_order(self, priorities: Mapping[str, int], left: TimeLeft | None) -> None:
        """Submit the longest first within equal priority, if it is the better order.

        priorities: those that are not 0. left: until the end of the run, None without one.
        """
        self._switch.begin(priorities, left)

    def add(self, fingerprints: Sequence[str]) -> None:
        """Let pending jobs wait for admission."""
        self._queue.add_all((self._order[fingerprint], fingerprint) for fingerprint in fingerprints)

    def begin_round(self) -> None:
        """Begin to look for jobs that may be submitted now."""
        self.held_back = NO_REASON
        self._skipped_in_round = 0

    def next(self, now: float, cap: int, left: TimeLeft | None, undelivered: int) -> Admitted | None:
        """Return the next job to submit, with its slot taken and its price reserved; None if no job may go.

        It is also None when this round has skipped many jobs. The queue then has more, for the next round.

        now: monotonic, s. cap: the working cap. left: until the end of the run, None without one. undelivered: clips
        that are complete and not yet on the disk.
        """
        self._switch.check(left)
        while self._skipped_in_round < MOST_SKIPPED and (fingerprint := self._queue.next(now, cap)) is not None:
            self._switch.removed(fingerprint)
            decision = self._decide(fingerprint, left, undelivered)
            if decision.action is AdmissionAction.GO:
                return Admitted(fingerprint, decision.price)
            self._queue.release(fingerprint)
            if decision.action is AdmissionAction.WAIT:
                self._wait(fingerprint)
                if self._switch.is_longest_first and decision.why.kind in MONEY:
                    self._switch.keep_manifest_order(decision.why.kind)
                    continue
                self.held_back = decision.why
                return None
            self._skipped[decision.why] += 1
            self._skipped_in_round += 1
        return None

    def release(self, fingerprint: str) -> None:
        """Release what is reserved for a job beyond its record: its submission was stored, or was not made."""
        record = self._records[fingerprint]
        if record.state is State.PENDING:  # otherwise the last move has released it
            self._admission.ledger.update(record)

    def requeue(self, fingerprint: str, not_before: float | None = None) -> None:
        """Give back a job's slot and let it wait for admission again, until `not_before` at least."""
        self._queue.release(fingerprint)
        self._wait(fingerprint, not_before)

    def requeue_last(self, fingerprint: str) -> None:
        """Give back a job's slot and let it wait behind all others."""
        self._queue.release(fingerprint)
        self._switch.added(fingerprint)
        self._queue.add_last(fingerprint, self._order[fingerprint])

    def account_budget_reached(self, kind: str) -> None:
        """Take in that a budget of the account does not pay for all jobs. kind: the setting."""
        self._switch.keep_manifest_order(kind)

    def _wait(self, fingerprint: str, not_before: float | None = None) -> None:
        self._switch.added(fingerprint)
        self._queue.add(fingerprint, self._order[fingerprint], not_before)

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
