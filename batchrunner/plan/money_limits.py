"""The limits of money that apply to a batch: how much each leaves, and how many waiting jobs that pays for. Pure.

They are the balance of the account, the budget of the batch, and the budgets of the account. Amounts are credits.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

BALANCE = "balance"


class MoneyLimit(NamedTuple):
    """A limit with what is spent and reserved of it. name: `BALANCE`, or the setting. period: for people, or ""."""

    name: str
    limit: float
    spent: float = 0.0
    reserved: float = 0.0
    period: str = ""

    @property
    def left(self) -> float:
        """What may still be spent; below 0 after an overrun."""
        return self.limit - self.spent - self.reserved


class Allowance(NamedTuple):
    """How many of the waiting jobs a limit pays for."""

    limit: MoneyLimit
    jobs: int


def allowances(limits: Iterable[MoneyLimit], costs: Sequence[float | None]) -> tuple[Allowance, ...]:
    """Return the allowance of each limit. costs: of the waiting jobs in order; None if unknown."""
    return tuple(Allowance(limit, affordable(limit.left, costs)) for limit in limits)


def smallest(found: Sequence[Allowance]) -> Allowance | None:
    """Return the allowance for the fewest jobs, of equal ones the one that leaves the least; None for no limit."""
    return min(found, key=lambda item: (item.jobs, item.limit.left), default=None)


def affordable(credits_: float, costs: Iterable[float | None]) -> int:
    """Return how many jobs an amount pays for, in order. Jobs of unknown price are not counted."""
    jobs = 0
    for cost in costs:
        if cost is not None:
            credits_ -= cost
            if round(credits_, 2) < 0:
                break
            jobs += 1
    return jobs
