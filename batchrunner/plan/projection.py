"""What a run would come to: how many submissions, for how much, until when, and what would stop it. Pure.

It plays the run forward with the same admission that the engine uses, generations taking as long as those seen so far.
Rule: what is not known is not shown: without finished generations there is no finish time, without a price no sum.
"""

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from batchrunner.formatting import count_text
from batchrunner.job import Record, State
from batchrunner.plan.admission import Admission, AdmissionAction
from batchrunner.plan.ledger import Spend


@dataclass(frozen=True, slots=True)
class Projection:
    """What a run would come to.

    submissions: how many it would make. credits: what those are expected to cost, as far as their prices are known;
    unpriced: how many have none. bases: how the prices are known, and how many rest on it. spend: so far.
    finish_in_s: when the last would be done, or None. obstacles: what would stop it before the end, in words.
    left_out: why a job, by its fingerprint, would not be submitted.
    """

    submissions: int
    credits: float
    unpriced: int
    bases: Mapping[str, int]
    spend: Spend
    finish_in_s: float | None
    obstacles: tuple[str, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)


def project(
    order: Sequence[str],
    records: Mapping[str, Record],
    admission: Admission,
    concurrency: int,
    left_s: float | None,
) -> Projection:
    """Play a run of `order` (fingerprints) forward from `records`. left_s: seconds to go, None where no end is set."""
    spend = admission.ledger.total
    ends, known = _in_flight(records, admission)
    admitted, credits_, unpriced = 0, 0.0, 0
    bases: Counter[str] = Counter()
    left_out: dict[str, str] = {}
    for fingerprint in order:
        record = records[fingerprint]
        if record.state is not State.PENDING:
            continue
        start = heapq.heappop(ends) if len(ends) >= concurrency else 0.0
        decision = admission.decide(record, None if left_s is None else left_s - start)
        if decision.action is not AdmissionAction.GO:
            heapq.heappush(ends, start)
            left_out[fingerprint] = decision.why
            continue
        takes = admission.forecast.expected_s(record.job)
        known = known and takes is not None
        heapq.heappush(ends, start + (takes or 0.0))
        estimate = admission.prices.estimate(record.job)
        admitted += 1
        bases[estimate.basis] += 1
        credits_ += estimate.credits or 0.0
        unpriced += estimate.credits is None
    return Projection(
        submissions=admitted,
        credits=credits_,
        unpriced=unpriced,
        bases=bases,
        spend=spend,
        finish_in_s=max(ends) if known and ends else None,
        obstacles=tuple(
            f"{count_text(jobs, 'job')} would not be submitted: {why}"
            for why, jobs in Counter(left_out.values()).items()
        ),
        left_out=left_out,
    )


def _in_flight(records: Mapping[str, Record], admission: Admission) -> tuple[list[float], bool]:
    """When what is in flight ends, from now (s; a heap), and whether all of that is known."""
    running = [record for record in records.values() if record.state is State.IN_FLIGHT]
    times = [admission.forecast.expected_s(record.job) for record in running]
    ends = sorted(time or 0.0 for time in times)
    return ends, all(time is not None for time in times)
