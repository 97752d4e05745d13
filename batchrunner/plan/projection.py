"""Project the result of a run: number of submissions, cost, end, and what would stop it early. Pure.

The projection simulates the run with the engine's admission and with the durations of past generations. Unknown values
are not shown: there is no finish time without finished generations, and no sum without prices.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from batchrunner.formatting import count_text
from batchrunner.job import Record, State
from batchrunner.plan.admission import Admission, AdmissionAction, TimeLeft
from batchrunner.plan.ledger import Budget, Spend


@dataclass(frozen=True, slots=True)
class Projection:
    """The projected result of a run.

    submissions: their number. credits: their expected cost, as far as prices are known;
    unpriced: the number without a known price. bases: sources of prices, with the number of jobs; unknown_prices:
    those that are reasons why a price is unknown. spend: so far.
    finish_in_s: when the last job would be done, or None. obstacles: reasons why the run would stop early.
    left_out: why a job would not be submitted, by fingerprint. costs: the expected cost of every job that waits for
    its submission, in order, in credits; None if unknown. budget: in effect.
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
    budget: Budget = field(default_factory=Budget)
    unknown_prices: frozenset[str] = frozenset()

    def affordable(self, credits_: float) -> int:
        """Return how many of the waiting jobs an amount pays for, in order. Jobs of unknown price are not counted."""
        jobs = 0
        for cost in self.costs:
            if cost is not None:
                credits_ -= cost
                if round(credits_, 2) < 0:
                    break
                jobs += 1
        return jobs


def project(
    order: Sequence[str],
    records: Mapping[str, Record],
    admission: Admission,
    concurrency: int,
    left: TimeLeft | None,
) -> Projection:
    """Simulate a run of `order` (fingerprints) from `records`. left: the remaining time, None without a limit."""
    spend = admission.ledger.total
    ends, known = _in_flight(records, admission)
    admitted, credits_, unpriced = 0, 0.0, 0
    bases: Counter[str] = Counter()
    unknown_prices = set[str]()
    left_out: dict[str, str] = {}
    waiting = [records[fingerprint] for fingerprint in order if records[fingerprint].state is State.PENDING]
    for record in waiting:
        start = heapq.heappop(ends) if len(ends) >= concurrency else 0.0
        decision = admission.decide(record, left and replace(left, seconds=left.seconds - start))
        if decision.action is not AdmissionAction.GO:
            heapq.heappush(ends, start)
            left_out[record.job.fingerprint] = decision.why
            continue
        takes = admission.forecast.expected_s(record.job)
        known = known and takes is not None
        heapq.heappush(ends, start + (takes or 0.0))
        estimate = admission.prices.estimate(record.job)
        admitted += 1
        bases[estimate.basis] += 1
        credits_ += estimate.credits or 0.0
        if estimate.credits is None:
            unpriced += 1
            unknown_prices.add(estimate.basis)
    return Projection(
        submissions=admitted,
        credits=credits_,
        unpriced=unpriced,
        bases=bases,
        unknown_prices=frozenset(unknown_prices),
        spend=spend,
        finish_in_s=max(ends) if known and ends else None,
        obstacles=_obstacles(left_out.values()),
        left_out=left_out,
        costs=tuple(admission.prices.estimate(record.job).credits for record in waiting),
        budget=admission.ledger.budget,
    )


def _obstacles(reasons: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{count_text(jobs, 'job')} would not be submitted: {why}" for why, jobs in Counter(reasons).items())


def _in_flight(records: Mapping[str, Record], admission: Admission) -> tuple[list[float], bool]:
    """Return when the generations in flight end, from now (s; a heap), and whether all these times are known."""
    running = [record for record in records.values() if record.state is State.IN_FLIGHT]
    times = [admission.forecast.expected_s(record.job) for record in running]
    ends = sorted(time or 0.0 for time in times)
    return ends, all(time is not None for time in times)
