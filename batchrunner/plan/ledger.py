"""The ledger: the cost of a batch so far, its possible further cost, and the decision on the budget. Pure.

All figures follow from the jobs' attempts, so they survive restarts. An admitted submission reserves its price. The
reservation is released if the service refuses the submission or the generation fails (the service says that it does not
bill these). Otherwise the charge that the service quotes counts, or the estimate; and finally the charge that the
service's transactions list. A submission in
doubt may have been accepted and counts as reserved.
An admission never lets the worst case exceed the budget.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, NamedTuple

from batchrunner.job import Attempt, Record
from batchrunner.plan.endings import NO_REASON, StopReason
from batchrunner.plan.prices import dollars, overrun
from batchrunner.plan.resume import RECHECKED
from batchrunner.providers.base import CREDITS_PER_USD


class Budget(NamedTuple):
    """Limits for a batch over all its runs; None for no limit. Of `credits` and `usd`, the stricter one holds."""

    credits: float | None = None
    generations: int | None = None
    usd: float | None = None

    @property
    def limit(self) -> float | None:
        """The stricter limit of money, in credits."""
        if self.usd is None or self.credits is None:
            return self.credits if self.usd is None else self._usd_in_credits
        return min(self.credits, self.usd * CREDITS_PER_USD)

    @property
    def setting(self) -> str:
        """The name of the setting with the stricter limit of money; "" without one."""
        if self.limit is None:
            return ""
        return "max_cost" if self.limit == self._usd_in_credits else "max_credits"

    @property
    def _usd_in_credits(self) -> float | None:
        return None if self.usd is None else self.usd * CREDITS_PER_USD

    def stop(self, worst: float) -> str:
        """Return the message for a limit without enough money left. worst: credits spent or reserved."""
        limit = self.limit or 0.0
        amount = f"{self.setting} ({dollars(limit)})"
        if self.setting == "max_credits":
            amount = f"{self.setting} ({limit:,.0f} credits, {dollars(limit)})"
        if worst > limit:
            return f"{amount} is exceeded: {dollars(worst)} is spent or reserved"
        return f"{amount} is reached: the remaining {dollars(limit - worst)} is not enough for the next job"


def budget_of(settings: Mapping[str, Any]) -> Budget:
    """Return the budget in a run's stored settings."""
    return Budget(settings.get("max_credits"), settings.get("max_generations"), settings.get("max_cost"))


@dataclass(frozen=True, slots=True)
class Spend:
    """The cost so far and the possible further cost, in credits.

    spent: for completed generations. reserved: for those in flight or in doubt. unpriced: completed, in flight or in
    doubt generations without a figure from the service or the price table; they are not in the sums.
    generations: accepted or in doubt, with any outcome. settled, quoted: the parts of the cost and the possible cost
    that the service's transactions list, and that only its replies name. unsettled: generations whose cost is in
    `spent` and not settled yet.
    """

    spent: float = 0.0
    reserved: float = 0.0
    unpriced: int = 0
    generations: int = 0
    settled: float = 0.0
    quoted: float = 0.0
    unsettled: int = 0

    @property
    def worst(self) -> float:
        """The cost if every submission completes."""
        return self.spent + self.reserved

    @property
    def estimated(self) -> float:
        """The part that only the price table names."""
        return self.worst - self.settled - self.quoted

    def times(self, number: int) -> "Spend":
        """Return the cost of so many jobs with this cost."""
        return Spend(*(getattr(self, item.name) * number for item in fields(self)))

    def changed(self, before: "Spend", after: "Spend") -> "Spend":
        """Return the total after one cost in it has changed."""
        return Spend(
            self.spent + after.spent - before.spent,
            self.reserved + after.reserved - before.reserved,
            self.unpriced + after.unpriced - before.unpriced,
            self.generations + after.generations - before.generations,
            self.settled + after.settled - before.settled,
            self.quoted + after.quoted - before.quoted,
            self.unsettled + after.unsettled - before.unsettled,
        )

    def __add__(self, other: "Spend") -> "Spend":
        return Spend(
            self.spent + other.spent,
            self.reserved + other.reserved,
            self.unpriced + other.unpriced,
            self.generations + other.generations,
            self.settled + other.settled,
            self.quoted + other.quoted,
            self.unsettled + other.unsettled,
        )

    def __sub__(self, other: "Spend") -> "Spend":
        return Spend(
            self.spent - other.spent,
            self.reserved - other.reserved,
            self.unpriced - other.unpriced,
            self.generations - other.generations,
            self.settled - other.settled,
            self.quoted - other.quoted,
            self.unsettled - other.unsettled,
        )


_NOTHING = Spend()


class Ledger:
    """The spend of a batch. Changed records are added up when somebody asks for the total: most batches have no budget.

    on_overrun: is called with each record whose latest quote or charge is above its estimate, once per amount. The
    records at the start are not announced.
    """

    def __init__(self, budget: Budget, records: Iterable[Record] = ()) -> None:
        self.budget = budget
        self.on_overrun: Callable[[Record], None] | None = None
        self._total = Spend()
        self._by_job: dict[str, Spend] = {}
        self._changed: dict[str, Record] = {}  # whose spend is not in the total yet
        self._holds: dict[str, Spend] = {}
        self._overruns: dict[str, float] = {}
        counts: dict[int, tuple[Spend, int]] = {}  # most jobs share few objects: summing these up is faster
        for record in records:
            if record.attempts:
                spend = self._by_job[record.job.fingerprint] = spend_of(record)
                counts[id(spend)] = spend, counts.get(id(spend), (spend, 0))[1] + 1
                self._is_new_overrun(record.attempts[-1])
        for spend, number in counts.values():
            self._total += spend.times(number)

    @property
    def total(self) -> Spend:
        """The spend of all jobs, with what is held."""
        for fingerprint, record in self._changed.items():
            self._set(fingerprint, spend_of(record))
        self._changed.clear()
        return self._total

    def update(self, record: Record) -> None:
        """Replace a job's spend with that of its current record. This also releases a hold for the job."""
        self._changed[record.job.fingerprint] = record
        if record.job.fingerprint in self._holds:
            del self._holds[record.job.fingerprint]
        if self.on_overrun and record.attempts and self._is_new_overrun(record.attempts[-1]):
            self.on_overrun(record)

    def hold(self, record: Record, estimate: float | None) -> None:
        """Reserve the price of a submission that is about to be made, until `update` is called for its record."""
        self._changed[record.job.fingerprint] = record
        self._holds[record.job.fingerprint] = _of_one(estimate, over=False, is_quoted=False)

    def add(self, spend: Spend) -> None:
        """Add the spend of jobs that are not among the records."""
        self._total += spend

    def reserve(self, estimate: float | None) -> None:
        """Reserve the price of a submission for good, without its job: to project many jobs in little memory."""
        self.add(_of_one(estimate, over=False, is_quoted=False))

    def refuses(self, estimate: float | None) -> StopReason:
        """Return why another generation at this price would exceed the budget; NO_REASON if it does not."""
        budget = self.budget
        if budget.generations is not None and self.total.generations + 1 > budget.generations:
            return StopReason("max_generations", f"max_generations ({budget.generations:,}) is reached")
        if budget.limit is not None and round(self.total.worst + (estimate or 0.0) - budget.limit, 2) > 0:
            return StopReason(budget.setting, budget.stop(self.total.worst))
        return NO_REASON

    def needs_a_price(self) -> bool:
        """Return True if a job of unknown price cannot be submitted, because its cost would be unlimited."""
        return self.budget.limit is not None

    def _is_new_overrun(self, latest: Attempt) -> bool:
        """Return whether a job's latest attempt costs more than estimated, and more than it was known to."""
        over = overrun(latest)
        if not over or over <= self._overruns.get(latest.request_id, 0.0):
            return False
        self._overruns[latest.request_id] = over
        return True

    def _set(self, fingerprint: str, spend: Spend) -> None:
        if (hold := self._holds.get(fingerprint)) is not None:
            spend += hold
        before = self._by_job.get(fingerprint, _NOTHING)
        self._by_job[fingerprint] = spend
        if spend is not before:  # the usual case: nothing has changed
            self._total = self._total.changed(before, spend)


def spend_of(record: Record) -> Spend:
    """Return the total cost of a job's attempts."""
    if len(record.attempts) == 1:  # almost always
        return spend_of_attempt(record.attempts[0])
    return sum(map(spend_of_attempt, record.attempts), _NOTHING)


def total_of(records: Iterable[Record]) -> Spend:
    """Return the total cost of jobs. It sums numbers, because an object for each sum takes longer than the sums."""
    spent = reserved = settled = quoted = 0.0
    unpriced = generations = unsettled = 0
    for one in map(spend_of, records):
        spent += one.spent
        reserved += one.reserved
        unpriced += one.unpriced
        generations += one.generations
        settled += one.settled
        quoted += one.quoted
        unsettled += one.unsettled
    return Spend(spent, reserved, unpriced, generations, settled, quoted, unsettled)


def spend_of_group(whole: Attempt, number: int) -> Spend:
    """Return the cost of `number` attempts that differ only in their figures. whole: an attempt with their sums."""
    one = spend_of_attempt(whole)
    return replace(
        one,
        unpriced=number * one.unpriced,
        generations=number * one.generations,
        unsettled=number * one.unsettled,
    )


def spend_of_attempt(attempt: Attempt) -> Spend:
    """Return the cost of one attempt."""
    if attempt.is_reused:
        return _NOTHING
    if attempt.settled is not None:
        return Spend(attempt.settled, generations=1, settled=attempt.settled)
    if attempt.outcome == "refused":
        return _NOTHING
    # The service may charge a generation that it accepted and then did not show.
    withheld = attempt.error is not None and attempt.error.kind in RECHECKED
    if attempt.outcome == "failed" and not withheld:
        return Spend(generations=1)
    over = attempt.outcome == "succeeded" or attempt.completed_at is not None
    figure = attempt.estimate if attempt.credits is None else attempt.credits
    if not over:  # a quote of zero still reserves the estimate
        figure = attempt.credits or attempt.estimate
    is_quoted = figure is not None and figure is attempt.credits
    return _of_one(figure, over=over, is_quoted=is_quoted)


@lru_cache(maxsize=4096)
def _of_one(figure: float | None, *, over: bool, is_quoted: bool) -> Spend:
    """Return the cost of one generation. Cached: jobs of one price share one object."""
    credits_ = figure or 0.0
    return Spend(
        spent=credits_ if over else 0.0,
        reserved=0.0 if over else credits_,
        unpriced=int(figure is None),
        generations=1,
        quoted=credits_ if is_quoted else 0.0,
        unsettled=int(over),
    )
