"""Read what all batches of an account have done: spend, generations in flight, submissions in doubt, budgets.

Amounts are credits, times wall time in seconds since the epoch. Days are UTC.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from batchrunner.account.limits import AccountBudgets, Limits, day_of, month_of
from batchrunner.account.rows import CLAIMED, IN_DOUBT, IN_FLIGHT, SUBMITTING
from batchrunner.plan.prices import overrun_in_sql
from batchrunner.plan.settlement import REACH_S

_UNBILLED = ("refused", "failed", "claimed")
# The service bills no refused or failed submission: these cost nothing.
_UNSETTLED = "charge IS NULL AND generation_id IS NOT NULL AND (cost > 0 OR outcome = 'succeeded')"


@dataclass(frozen=True, slots=True)
class Amount:
    """A sum of submissions that have something in common. generations: accepted ones that were not billed nothing."""

    name: str
    generations: int
    credits: float


@dataclass(frozen=True, slots=True)
class OpenJob:
    """A generation in flight or a submission in doubt. since: when it was submitted."""

    batch: str
    directory: str
    fingerprint: str
    request_id: str
    generation_id: str | None
    since: float
    batch_id: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The account over the days from `first` to `last` (numbers of UTC days).

    settled, quoted, estimated: the parts of the spend that are known from the provider's transactions, from its
    replies, and from the price table only. unsettled: completed generations whose charge is not settled. overrun: the
    sum by which quotes and charges are above their estimates. today, month: spend of the current day and month.
    """

    first: int
    last: int
    days: Sequence[Amount]
    batches: Sequence[Amount]
    models: Sequence[Amount]
    settled: float
    quoted: float
    estimated: float
    unsettled: int
    overrun: float
    today: float
    month: float
    in_flight: Sequence[OpenJob]
    in_doubt: Sequence[OpenJob]
    limits: Limits

    @property
    def credits(self) -> float:
        """The spend of the whole time."""
        return self.settled + self.quoted + self.estimated


def summarize(
    connection: sqlite3.Connection, account: str, limits: Limits, days: tuple[int, int], current: tuple[float, float]
) -> Summary:
    """Read the summary. days: the first and the last day. current: spend today and this month."""
    values = {"account": account, "since": days[0] * 86_400.0, "until": (days[1] + 1) * 86_400.0}
    amounts = _amounts(connection, values)
    return Summary(
        *days,
        days=_grouped(connection, "CAST(at / 86400 AS INTEGER)", values),
        batches=_grouped(connection, "batches.name || ' (' || batches.directory || ')'", values),
        models=_grouped(connection, "model", values),
        settled=amounts[0],
        quoted=amounts[1],
        estimated=amounts[2],
        unsettled=amounts[3],
        overrun=amounts[4],
        today=current[0],
        month=current[1],
        in_flight=_open(connection, account, "takes_slot = 1 AND state = 'in_flight'"),
        in_doubt=_open(connection, account, f"state IN ('{IN_DOUBT}', '{SUBMITTING}', '{CLAIMED}')"),
        limits=limits,
    )


def first_unsettled_at(connection: sqlite3.Connection, account: str, now: float) -> float | None:
    """Return when the oldest submission was made whose charge is not settled; within 40 days, else None."""
    query = f"SELECT min(at) FROM submissions WHERE account = ? AND at > ? AND {_UNSETTLED}"
    found = connection.execute(query, (account, now - REACH_S)).fetchone()[0]
    return None if found is None else float(found)


def _amounts(connection: sqlite3.Connection, values: dict[str, Any]) -> tuple[float, float, float, int, float]:
    query = (
        "SELECT coalesce(sum(CASE WHEN charge IS NOT NULL THEN cost END), 0.0), "
        "coalesce(sum(CASE WHEN charge IS NULL AND quote IS NOT NULL THEN cost END), 0.0), "
        "coalesce(sum(CASE WHEN charge IS NULL AND quote IS NULL THEN cost END), 0.0), "
        f"count(CASE WHEN {_UNSETTLED} AND outcome = 'succeeded' THEN 1 END), "
        f"coalesce(sum(CASE WHEN cost > 0 THEN {overrun_in_sql('coalesce(charge, quote)', 'estimate')} END), 0.0) "
        "FROM submissions WHERE account = :account AND at >= :since AND at < :until"
    )
    settled, quoted, estimated, unsettled, overrun = connection.execute(query, values).fetchone()
    return float(settled), float(quoted), float(estimated), int(unsettled), float(overrun)


def _grouped(connection: sqlite3.Connection, name: str, values: dict[str, Any]) -> list[Amount]:
    query = (
        f"SELECT {name}, count(*), sum(cost) FROM submissions JOIN batches USING (batch_id) "
        f"WHERE submissions.account = :account AND at >= :since AND at < :until "
        f"AND (charge IS NOT NULL OR outcome NOT IN ({', '.join(repr(item) for item in _UNBILLED)})) "
        "GROUP BY 1 ORDER BY 1"
    )
    return [Amount(str(group), number, float(cost)) for group, number, cost in connection.execute(query, values)]


def _open(connection: sqlite3.Connection, account: str, condition: str) -> list[OpenJob]:
    query = (
        "SELECT batches.name, batches.directory, fingerprint, coalesce(request_id, ''), generation_id, "
        "coalesce(submitted_at, 0.0), batch_id FROM jobs JOIN batches USING (batch_id) "
        f"WHERE jobs.account = ? AND {condition} ORDER BY submitted_at"
    )
    return [OpenJob(*row) for row in connection.execute(query, (account,))]


def current_spend(
    connection: sqlite3.Connection, account: str, now: float, month: tuple[int, int]
) -> tuple[float, float]:
    """Return the spend of today and of the days of `month`."""
    query = "SELECT coalesce(sum(cost), 0.0) FROM spend_by_day WHERE account = ? AND day BETWEEN ? AND ?"
    today = connection.execute(query, (account, day_of(now), day_of(now))).fetchone()[0]
    return float(today), float(connection.execute(query, (account, *month)).fetchone()[0])


def budgets(connection: sqlite3.Connection, account: str, limits: Limits, now: float) -> AccountBudgets:
    """Return the account's budgets with what is spent and reserved. Reserved: claimed, in flight or in doubt."""
    if limits.credits_per_day is None and limits.credits_per_month is None:
        return AccountBudgets(limits)
    month = month_of(now)
    today, this_month = current_spend(connection, account, now, month)
    states = ", ".join(repr(state) for state in (CLAIMED, SUBMITTING, IN_FLIGHT, IN_DOUBT))
    query = (
        "SELECT coalesce(sum(CASE WHEN at >= ? THEN cost END), 0.0), coalesce(sum(cost), 0.0) FROM submissions "
        f"JOIN jobs USING (account, fingerprint, batch_id, request_id) WHERE account = ? AND state IN ({states}) "
        "AND at >= ? AND at < ?"
    )
    since, until = month[0] * 86_400.0, (month[1] + 1) * 86_400.0
    values = (day_of(now) * 86_400.0, account, since, until)
    reserved_today, reserved_month = connection.execute(query, values).fetchone()
    return AccountBudgets(
        limits, today - reserved_today, reserved_today, this_month - reserved_month, float(reserved_month)
    )
