"""Project the result of a run: number of submissions, cost, end, and what would stop it early. Pure.

The projection simulates the run with the engine's admission and with the durations of past generations. Unknown values
are not shown: there is no finish time without finished generations, and no sum without prices.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from batchrunner.account.limits import AccountBudgets
from batchrunner.formatting import count_text
from batchrunner.job import Job, Record, State
from batchrunner.plan.admission import Admission, AdmissionAction, TimeLeft
from batchrunner.plan.ledger import Budget, Spend
from batchrunner.plan.money_limits import MoneyLimit
from batchrunner.plan.prices import Estimate

_NO_BUDGETS = AccountBudgets()


@dataclass(frozen=True, slots=True)
class Projection:
    """The projected result of a run.

    submissions: their number. credits: their expected cost, as far as prices are known;
    unpriced: the number without a known price. bases: sources of prices, with the number of jobs; unknown_prices:
    those that are reasons why a price is unknown. spend: so far.
    finish_in_s: when the last job would be done, or None. obstacles: reasons why the run would stop early.
    left_out: why a job would not be submitted, by fingerprint. costs: the expected cost of every job that waits for
    its submission, in order, in credits; None if unknown. limits: the budgets of the batch and of the account.
    notes: what is not known, as text. order: in which the jobs would be submitted, as text; "" if it does not matter.
    """

    submissions: int
    credits: float
    unpriced: int
    bases: Mapping[str, int]
    spend: Spend
    finish_in_s: float | None
    obstacles: tuple[str, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    costs: tuple[float | None, ...] = ()
    limits: tuple[MoneyLimit, ...] = ()
    unknown_prices: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    order: str = ""


def project(
    order: Sequence[str],
    records: Mapping[str, Record],
    admission: Admission,
    concurrency: int,
    left: TimeLeft | None,
    shared: AccountBudgets = _NO_BUDGETS,
) -> Projection:
    """Simulate a run of `order` (fingerprints). left: until its end, or None. shared: the budgets of the account."""
    spend = admission.ledger.total
    ends, known = _in_flight(records, admission)
    admitted: list[Estimate] = []
    costs: list[float | None] = []
    left_out: dict[str, str] = {}
    credits_ = 0.0
    for fingerprint, record, estimate in _waiting(order, records, admission):
        costs.append(estimate.credits)
        start = heapq.heappop(ends) if len(ends) >= concurrency else 0.0
        further = left and left._replace(seconds=left.seconds - start)
        refusal = shared.refusal(credits_, estimate.credits)[1] or _refusal(admission, record.job, estimate, further)
        if refusal:
            heapq.heappush(ends, start)
            left_out[fingerprint] = refusal
            continue
        takes = admission.forecast.expected_s(record.job)
        known = known and takes is not None
        heapq.heappush(ends, start + (takes or 0.0))
        admitted.append(estimate)
        credits_ += estimate.credits or 0.0
    unpriced = [estimate.basis for estimate in admitted if estimate.credits is None]
    return Projection(
        submissions=len(admitted),
        credits=credits_,
        unpriced=len(unpriced),
        bases=Counter(estimate.basis for estimate in admitted),
        unknown_prices=frozenset(unpriced),
        spend=spend,
        finish_in_s=max(ends) if known and ends else None,
        obstacles=_obstacles(left_out.values()),
        left_out=left_out,
        costs=tuple(costs),
        limits=(*_own_limits(admission.ledger.budget, spend), *shared.rows),
    )


def _waiting(
    order: Iterable[str], records: Mapping[str, Record], admission: Admission
) -> Iterator[tuple[str, Record, Estimate]]:
    """Yield the pending jobs with their prices. Similar jobs share a record (`Plan.records`) and so an estimate."""
    estimates: dict[int, Estimate] = {}  # by the record's identity
    for fingerprint in order:
        record = records[fingerprint]
        if record.state is State.PENDING:
            if id(record) not in estimates:
                estimates[id(record)] = admission.prices.estimate(record.job)
            yield fingerprint, record, estimates[id(record)]


def _refusal(admission: Admission, job: Job, estimate: Estimate, left: TimeLeft | None) -> str:
    """Return why a job would not be submitted, or "". Otherwise its price is reserved."""
    decision = admission.consider(job, estimate, left)
    if decision.action is not AdmissionAction.GO:
        return decision.why
    admission.ledger.reserve(estimate.credits)
    return ""


def _own_limits(budget: Budget, spend: Spend) -> tuple[MoneyLimit, ...]:
    limit = budget.limit
    return () if limit is None else (MoneyLimit(budget.setting, limit, spend.spent, spend.reserved),)


def _obstacles(reasons: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{count_text(jobs, 'job')} would not be submitted: {why}" for why, jobs in Counter(reasons).items())


def _in_flight(records: Mapping[str, Record], admission: Admission) -> tuple[list[float], bool]:
    """Return when the generations in flight end, from now (s; a heap), and whether all these times are known."""
    running = [record for record in records.values() if record.state is State.IN_FLIGHT]
    times = [admission.forecast.expected_s(record.job) for record in running]
    ends = sorted(time or 0.0 for time in times)
    return ends, all(time is not None for time in times)
