"""Decide during a run in which order jobs are submitted: the longest first, or in the order of the manifest.

The longest jobs go first while all pending jobs fit into the budget and the time that is left. Otherwise some jobs will
not be submitted, and the longest ones first would give the fewest clips: the manifest's order applies, for the rest of
the run. With an end of the run, it also applies until it is known how long generations take.
"""

from collections.abc import Callable, Mapping, Sequence

from batchrunner.engine.job_queue import JobQueue
from batchrunner.job import Job, Record
from batchrunner.plan.admission import Admission, TimeLeft
from batchrunner.plan.submission_order import (
    LONGEST_FIRST,
    NOT_ALL,
    Backlog,
    Expected,
    LongestFirst,
    ManifestOrder,
    money_shortage,
    time_shortage,
)


class OrderSwitch:
    """The order of a queue. expected: how long generations take, to compare jobs. slots: the user's cap.

    notify: shows a change. reliable: the same as `expected`, to compare all jobs with the time that is left. None for
    `expected`.
    """

    def __init__(
        self,
        queue: JobQueue,
        records: Mapping[str, Record],
        admission: Admission,
        expected: Expected,
        slots: int,
        notify: Callable[[str], None],
        reliable: Expected | None = None,
    ) -> None:
        self._queue = queue
        self._records = records
        self._admission = admission
        self._expected = expected
        self._reliable = reliable or expected
        self._slots = slots
        self._notify = notify
        self._backlog = Backlog()
        self._priorities: Mapping[str, int] = {}
        self._is_open = False  # whether the longest may go first
        self._longest_first = False
        self._has_budget = admission.ledger.budget.limit is not None
        self._needed = 0.0  # credits for all jobs that wait
        self._prices = admission.prices

    @property
    def is_longest_first(self) -> bool:
        """Whether the longest jobs go first now."""
        return self._is_open and self._longest_first

    def count(self, fingerprints: Sequence[str]) -> None:
        """Count jobs that this run may submit, before `begin`."""
        jobs = [self._job(fingerprint) for fingerprint in fingerprints]
        for job in jobs:
            self._backlog.add(job)
        if self._has_budget:  # at once: one by one takes several times as long
            self._needed += sum(estimate.credits or 0.0 for estimate in self._prices.estimates(jobs))

    def begin(self, priorities: Mapping[str, int], left: TimeLeft | None) -> None:
        """Choose the order before the jobs are added to the queue. Without a call, it is that of the manifest.

        priorities: of those jobs whose priority is not 0.
        """
        self._is_open, self._priorities = True, priorities
        if self._backlog.jobs <= self._slots or self._backlog.is_uniform:
            self._is_open = False  # any order ends as soon
        else:
            self.check(left)

    def added(self, fingerprint: str) -> None:
        """Count a job that waits for its submission."""
        if self._is_open:
            self._backlog.add(self._job(fingerprint))
            if self._has_budget:
                self._needed += self._credits(fingerprint)

    def removed(self, fingerprint: str) -> None:
        """Count a job that waits no longer."""
        if self._is_open:
            self._backlog.remove(self._job(fingerprint))
            if self._has_budget:
                self._needed -= self._credits(fingerprint)

    def check(self, left: TimeLeft | None) -> None:
        """Change the order if it has to. left: the time until the end of the run, None without an end."""
        if not self._is_open:
            return
        limit = self._money_shortage() or time_shortage(self._backlog, self._reliable, self._slots, left)
        if limit:
            self.keep_manifest_order(limit)
        elif limit is not None and not self._longest_first:
            self._longest_first = True
            self._queue.reorder(LongestFirst(self._job, self._priorities, self._expected))
            self._notify(LONGEST_FIRST)

    def keep_manifest_order(self, limit: str) -> None:
        """Submit in the order of the manifest from now on. limit: the setting into which not all jobs fit."""
        if not self._is_open:
            return
        self._is_open = False
        if self._longest_first:
            self._queue.reorder(ManifestOrder())
        self._notify(NOT_ALL.format(limit))

    def _job(self, fingerprint: str) -> Job:
        return self._records[fingerprint].job

    def _money_shortage(self) -> str:
        needed, prices = self._needed, self._admission.prices
        if prices is not self._prices:
            needed *= prices.raised_since(self._prices)
        return money_shortage(self._admission.ledger, needed, self._backlog.jobs)

    def _credits(self, fingerprint: str) -> float:
        return self._prices.estimate(self._job(fingerprint)).credits or 0.0
