"""Decide whether money and time allow the submission of a job. Pure: the remaining time is an argument.

A job that does not fit into the remaining time, or whose price is unknown under a budget in credits, is skipped, and
the next job is considered. A job that does not fit into the budget waits, because requests in flight may release some.
"""

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from batchrunner.formatting import length_text
from batchrunner.job import Job, Record
from batchrunner.plan.duration_estimate import Forecast
from batchrunner.plan.endings import NO_REASON, StopReason
from batchrunner.plan.ledger import Ledger
from batchrunner.plan.prices import Estimate, Prices


class AdmissionAction(Enum):
    """The decision about the next job."""

    GO = "go"
    WAIT = "wait"
    SKIP = "skip"


class AdmissionDecision(NamedTuple):
    """A decision and its reason. The wording fits several jobs.

    price: what is reserved for the job, in credits; None if its price is unknown or nothing is reserved.
    """

    action: AdmissionAction
    why: StopReason = NO_REASON
    price: float | None = None


_GO = AdmissionDecision(AdmissionAction.GO)


class TimeLeft(NamedTuple):
    """The time until the run ends. kind: of the limit, ``deadline`` or ``max_runtime``. whole_s: of a whole run."""

    seconds: float
    kind: str = "deadline"
    whole_s: float | None = None

    def refusal(self, expected_s: float) -> StopReason:
        """Return why a generation of this length is not started."""
        fits_no_run = self.whole_s is not None and expected_s > self.whole_s
        message = f"a generation takes {length_text(expected_s)} and would not finish in time"
        return StopReason("max_runtime_too_short" if fits_no_run else self.kind, message)


class Admission:
    """Decides on jobs with the batch's prices, ledger and forecast.

    A quote or charge above its estimate raises the prices of similar jobs from then on. on_overrun: is called with the
    record afterwards.
    """

    def __init__(self, prices: Prices, ledger: Ledger, forecast: Forecast) -> None:
        self.prices = prices
        self.ledger = ledger
        self.forecast = forecast
        self.on_overrun: Callable[[Record], None] = lambda _: None
        ledger.on_overrun = self._overrun

    def _overrun(self, record: Record) -> None:
        self.prices = self.prices.raised_by((record,))
        self.on_overrun(record)

    def decide(self, record: Record, left: TimeLeft | None) -> AdmissionDecision:
        """Decide whether the job of `record` may be submitted in the time that is left (None: no limit).

        GO reserves its price in the ledger until its record is updated.
        """
        estimate = self.prices.estimate(record.job)
        decision = self.consider(record.job, estimate, left)
        if decision.action is not AdmissionAction.GO:
            return decision
        self.ledger.hold(record, estimate.credits)
        return AdmissionDecision(AdmissionAction.GO, price=estimate.credits)

    def consider(self, job: Job, estimate: Estimate, left: TimeLeft | None) -> AdmissionDecision:
        """Return the decision on a job of this price, and reserve nothing."""
        if left is not None:
            expected_s = self.forecast.expected_s(job) or 0.0
            if expected_s > left.seconds:
                return AdmissionDecision(AdmissionAction.SKIP, left.refusal(expected_s))
        if estimate.credits is None and self.ledger.needs_a_price():
            reason = StopReason("price_unknown", f"its price is unknown: {estimate.basis}")
            return AdmissionDecision(AdmissionAction.SKIP, reason)
        refusal = self.ledger.refuses(estimate.credits)
        if refusal:
            return AdmissionDecision(AdmissionAction.WAIT, refusal)
        return _GO
