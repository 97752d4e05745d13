"""The ledger: what a batch has cost, may still cost, and whether the budget allows one more generation. Pure.

Everything follows from the jobs' attempts, so it holds across restarts: a hold when a submission is admitted, released
where the service refused it or the generation failed (which is billed nothing, says the service), settled by what the
service named, else by the estimate. What is in doubt may have been accepted and counts.
Rule: the worst case never passes the budget because of an admission.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from batchrunner.job import Attempt, Record
from batchrunner.plan.resume import RECHECKED


@dataclass(frozen=True, slots=True)
class Budget:
    """Bounds over the life of a batch, all its runs together; None for no bound. credits: the service's unit."""

    credits: float | None = None
    generations: int | None = None


@dataclass(frozen=True, slots=True)
class Spend:
    """What was, and may be, paid. Credits.

    spent: for completed generations. reserved: for those in flight or in doubt. unpriced: completed, in flight or in
    doubt generations for which neither the service nor the table gave a figure; they are in no sum.
    generations: accepted or in doubt, whatever became of them.
    """

    spent: float = 0.0
    reserved: float = 0.0
    unpriced: int = 0
    generations: int = 0

    @property
    def worst(self) -> float:
        """What is paid if everything that was submitted completes."""
        return self.spent + self.reserved

    def __add__(self, other: "Spend") -> "Spend":
        return Spend(
            self.spent + other.spent,
            self.reserved + other.reserved,
            self.unpriced + other.unpriced,
            self.generations + other.generations,
        )

    def __sub__(self, other: "Spend") -> "Spend":
        return self + Spend(-other.spent, -other.reserved, -other.unpriced, -other.generations)


_NOTHING = Spend()


class Ledger:
    """The spend of a batch, kept up record by record."""

    def __init__(self, budget: Budget, records: Iterable[Record] = ()) -> None:
        self.total = Spend()
        self._budget = budget
        self._by_job: dict[str, Spend] = {}
        for record in records:
            self.update(record)

    def update(self, record: Record) -> None:
        """Take in a job's record as it stands now. A hold for it is dissolved: the record says more."""
        self._set(record.job.fingerprint, spend_of(record))

    def hold(self, record: Record, estimate: float | None) -> None:
        """Count a submission that is about to be made, until its record says so itself."""
        one = Spend(reserved=estimate or 0.0, unpriced=int(estimate is None), generations=1)
        self._set(record.job.fingerprint, spend_of(record) + one)

    def refuses(self, estimate: float | None) -> str:
        """Why one more generation at this price would pass the budget, in words; "" where it does not."""
        budget, total = self._budget, self.total
        if budget.generations is not None and total.generations + 1 > budget.generations:
            return f"the budget of {budget.generations:,} generations is reached"
        if budget.credits is not None and round(total.worst + (estimate or 0.0) - budget.credits, 2) > 0:
            left = max(0.0, budget.credits - total.worst)
            return f"the budget of {budget.credits:,.0f} credits is reached: the {left:,.0f} left are not enough"
        return ""

    def needs_a_price(self) -> bool:
        """Whether a job of unknown price cannot be submitted: nothing would bound what it costs."""
        return self._budget.credits is not None

    def _set(self, fingerprint: str, spend: Spend) -> None:
        before = self._by_job.get(fingerprint, _NOTHING)
        if spend != before:
            self.total = self.total + spend - before
            self._by_job[fingerprint] = spend


def spend_of(record: Record) -> Spend:
    """What a job's attempts cost, all together."""
    if len(record.attempts) == 1:  # as good as always
        return _spend(record.attempts[0])
    return sum(map(_spend, record.attempts), _NOTHING)


def spend_of_alike(whole: Attempt, number: int) -> Spend:
    """What so many attempts cost that differ in their figures alone. whole: one, with the sums of the figures."""
    one = _spend(whole)
    return Spend(one.spent, one.reserved, number * one.unpriced, number * one.generations)


def _spend(attempt: Attempt) -> Spend:
    if attempt.outcome == "refused":
        return Spend()
    # What the service accepted and then did not show may well be charged.
    withheld = attempt.error is not None and attempt.error.kind in RECHECKED
    if attempt.outcome == "failed" and not withheld:
        return Spend(generations=1)
    over = attempt.outcome == "succeeded" or attempt.completed_at is not None
    figure = attempt.estimate if attempt.credits is None else attempt.credits
    if not over:  # a quote of nothing is no reason to hold nothing
        figure = attempt.credits or attempt.estimate
    return _of_one(figure, over)


@lru_cache(maxsize=4096)
def _of_one(figure: float | None, over: bool) -> Spend:
    """What one generation costs. Jobs of one kind cost the same: with many, one object for all of them."""
    credits_ = figure or 0.0
    return Spend(credits_ if over else 0.0, 0.0 if over else credits_, int(figure is None), 1)
