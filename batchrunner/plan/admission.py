"""Whether a job may be submitted as far as money and time go. Pure: the time that is left is an argument.

Rule: a job that does not fit into the time left, or whose price nobody knows under a budget in credits, is set aside
and the next one gets its turn; one that does not fit into the budget waits, since what is in flight may set some free.
"""

from dataclasses import dataclass
from enum import Enum

from batchrunner.formatting import length_text
from batchrunner.job import Record
from batchrunner.plan.duration_estimate import Forecast
from batchrunner.plan.ledger import Ledger
from batchrunner.plan.prices import Prices


class AdmissionAction(Enum):
    """What to do with a job whose turn it is."""

    GO = "go"
    WAIT = "wait"
    SKIP = "set aside"


@dataclass(frozen=True, slots=True)
class AdmissionDecision:
    """A ruling, and why, in words that fit several jobs."""

    action: AdmissionAction
    why: str = ""


class Admission:
    """Judges jobs by the batch's prices, ledger and forecast."""

    def __init__(self, prices: Prices, ledger: Ledger, forecast: Forecast) -> None:
        self.prices = prices
        self.ledger = ledger
        self.forecast = forecast

    def decide(self, record: Record, left_s: float | None) -> AdmissionDecision:
        """Whether the job of `record` may be submitted with `left_s` seconds to go (None: no end is set).

        With GO its price is held in the ledger, until its record says more.
        """
        expected_s = self.forecast.expected_s(record.job) or 0.0
        if left_s is not None and expected_s > left_s:
            return AdmissionDecision(
                AdmissionAction.SKIP, f"a generation takes {length_text(expected_s)} and would not finish in time"
            )
        estimate = self.prices.estimate(record.job)
        if estimate.credits is None and self.ledger.needs_a_price():
            return AdmissionDecision(AdmissionAction.SKIP, f"its price is not known: {estimate.basis}")
        refusal = self.ledger.refuses(estimate.credits)
        if refusal:
            return AdmissionDecision(AdmissionAction.WAIT, refusal)
        self.ledger.hold(record, estimate.credits)
        return AdmissionDecision(AdmissionAction.GO)
