"""Read what all batches of an account have done: spend, generations in flight, submissions in doubt, budgets.

Amounts are credits, times wall time in seconds since the epoch. Days are UTC.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from batchrunner.account.limits import AccountBudgets, Limits, day_of, month_of
from batchrunner.account.rows import CLAIMED, IN_DOUBT, SUBMITTING
from batchrunner.plan.prices import overrun_in_sql
from batchrunner.plan.settlement import REACH_S

# Spent is what a completed generation costs, or its settled charge. Everything else is reserved until it has ended.
_IS_RESERVED = "charge IS NULL AND outcome NOT IN ('succeeded', 'failed', 'refused')"
_SPENT = f"CASE WHEN NOT ({_IS_RESERVED}) THEN cost END"
_RESERVED = f"CASE WHEN {_IS_RESERVED} THEN cost END"
# The service bills no refused or failed submission: these cost nothing, unless it withheld a paid result.
_IS_BILLED = f"NOT ({_IS_RESERVED}) AND (charge IS NOT NULL OR cost > 0 OR outcome = 'succeeded')"
_UNSETTLED = "charge IS NULL AND generation_id IS NOT NULL AND (cost > 0 OR outcome = 'succeeded')"


class Amount(NamedTuple):
    """A sum of submissions that have something in common.

    generations: ended ones that were not billed nothing. credits: their spend. reserved: for the others.
    """

    name: str
    generations: int
    credits: float
    reserved: float = 0.0


class OpenJob(NamedTuple):
    """A generation in flight or a submission in doubt. since: when it was submitted."""

    batch: str
    directory: str
    fingerprint: str
    request_id: str
    generation_id: str | None
    since: float
    batch_id: str


class Summary(NamedTuple):
    """The account over the days from `first` to `last` (numbers of UTC days).

    settled, quoted, estimated: the parts of the spend that are known from the provider's transactions, from its
    replies, and from the price table only. reserved: for submissions that have not ended. unsettled: completed
    generations whose charge is not settled. overrun: the sum by which quotes and charges are above their estimates.
    current: spent and reserved on the current day and in the current month.
    """

    first: int
    last: int
    days: Sequence[Amount]
    batches: Sequence[Amount]
    models: Sequence[Amount]
    settled: float
    quoted: float
    estimated: float
    reserved: float
    unsettled: int
    overrun: float
    current: AccountBudgets
    in_flight: Sequence[OpenJob]
    in_doubt: Sequence[OpenJob]

    @property
    def limits(self) -> Limits:
        """The limits of the account."""
        return self.current.limits

    @property
    def credits(self) -> float:
        """The spend of the whole time."""
        return self.settled + self.quoted + self.estimated


def summarize(connection: sqlite3.Connection, account: str, days: tuple[int, int], current: AccountBudgets) -> Summary:
    """Read the summary. days: the first and the last day."""
    values = {"account": account, "since": days[0] * 86_400.0, "until": (days[1] + 1) * 86_400.0}
    amounts = _amounts(connection, values)
    return Summary(
        *days,
        days=_grouped(connection, "CAST(at / 86400 AS INTEGER)", values),
        batches=_grouped(connection, "batches.name || ' (' || batches.directory || ')'", values),
        models=_grouped(connection, "model", values),
        **amounts,
        current=current,
        in_flight=_open(connection, account, "takes_slot = 1 AND state = 'in_flight'"),
        in_doubt=_open(connection, account, f"state IN ('{IN_DOUBT}', '{SUBMITTING}', '{CLAIMED}')"),
    )


def first_unsettled_at(connection: sqlite3.Connection, account: str, now: float) -> float | None:
    """Return when the oldest submission was made whose charge is not settled; within 40 days, else None."""
    query = f"SELECT min(at) FROM submissions WHERE account = ? AND at > ? AND {_UNSETTLED}"
    found = connection.execute(query, (account, now - REACH_S)).fetchone()[0]
    return None if found is None else float(found)


def _amounts(connection: sqlite3.Connection, values: dict[str, Any]) -> dict[str, Any]:
    over = overrun_in_sql("coalesce(charge, quote)", "estimate")
    sums = {
        "settled": "CASE WHEN charge IS NOT NULL THEN cost END",
        "quoted": f"CASE WHEN charge IS NULL AND quote IS NOT NULL THEN {_SPENT} END",
        "estimated": f"CASE WHEN charge IS NULL AND quote IS NULL THEN {_SPENT} END",
        "reserved": _RESERVED,
        "unsettled": f"CASE WHEN {_UNSETTLED} AND outcome = 'succeeded' THEN 1 END",
        "overrun": f"CASE WHEN cost > 0 THEN {over} END",
    }
    query = (
        f"SELECT {', '.join(f'coalesce(sum({text}), 0)' for text in sums.values())} "
        "FROM submissions WHERE account = :account AND at >= :since AND at < :until"
    )
    return dict(zip(sums, connection.execute(query, values).fetchone(), strict=True))


def _grouped(connection: sqlite3.Connection, name: str, values: dict[str, Any]) -> list[Amount]:
    query = (
        f"SELECT {name}, count(CASE WHEN {_IS_BILLED} THEN 1 END), coalesce(sum({_SPENT}), 0.0), "
        f"coalesce(sum({_RESERVED}), 0.0) FROM submissions JOIN batches USING (batch_id) "
        "WHERE submissions.account = :account AND at >= :since AND at < :until "
        f"AND ({_IS_RESERVED} OR {_IS_BILLED}) GROUP BY 1 ORDER BY 1"
    )
    return [Amount(str(group), *sums) for group, *sums in connection.execute(query, values)]


def _open(connection: sqlite3.Connection, account: str, condition: str) -> list[OpenJob]:
    query = (
        "SELECT batches.name, batches.directory, fingerprint, coalesce(request_id, ''), generation_id, "
        "coalesce(submitted_at, 0.0), batch_id FROM jobs JOIN batches USING (batch_id) "
        f"WHERE jobs.account = ? AND {condition} ORDER BY submitted_at"
    )
    return [OpenJob(*row) for row in connection.execute(query, (account,))]


def budgets(connection: sqlite3.Connection, account: str, limits: Limits, now: float) -> AccountBudgets:
    """Return the account's budgets with what is spent and reserved; nothing is counted if there are none."""
    if limits.credits_per_day is None and limits.credits_per_month is None:
        return AccountBudgets(limits)
    return current_spend(connection, account, limits, now)


def current_spend(connection: sqlite3.Connection, account: str, limits: Limits, now: float) -> AccountBudgets:
    """Return what is spent and reserved today and this month, beside the limits."""
    month = month_of(now)
    sums = [
        f"coalesce(sum(CASE WHEN {when} THEN {cost} END), 0.0)"
        for when in ("CAST(at / 86400 AS INTEGER) = :today", "TRUE")
        for cost in (_SPENT, _RESERVED)
    ]
    values = {
        "account": account,
        "today": day_of(now),
        "since": month[0] * 86_400.0,
        "until": (month[1] + 1) * 86_400.0,
    }
    query = f"SELECT {', '.join(sums)} FROM submissions WHERE account = :account AND at >= :since AND at < :until"
    return AccountBudgets(limits, *connection.execute(query, values).fetchone())
