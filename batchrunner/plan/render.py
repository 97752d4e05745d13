"""Format a plan: a table for people, a summary for a long plan, and JSON for scripts. Pure.

Text and JSON contain the same information. Money is in US dollars, with credits beside it and its source.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from batchrunner.formatting import count_text, length_text, printable, rfc3339, size_text
from batchrunner.plan.egress import Egress
from batchrunner.plan.plan import Plan, Row
from batchrunner.plan.prices import dollars, usd
from batchrunner.plan.projection import Projection
from batchrunner.providers.base import Balance


@dataclass(frozen=True, slots=True)
class AccountView:
    """The account in a plan. balance: None if unknown. note: the reason why it is unknown, as text."""

    balance: Balance | None = None
    note: str = ""


_MOST_ROWS = 200
_MOST_NAMES = 10
_COLUMNS = ("id", "plan", "clip", "input", "cost", "")


def as_text(
    plan: Plan,
    projection: Projection,
    now: float,
    *,
    every: bool = False,
    free: bool = False,
    leaving: Egress | None = None,
    account: AccountView | None = None,
) -> str:
    """Format the plan for people. now: wall time, s. every: list all rows; otherwise a long plan is summarized.
    free: the sandbox charges nothing. leaving: the data that a run sends. account: None if there is none to ask.
    """
    rows = plan.rows
    if len(rows) > _MOST_ROWS and not every:
        rows = tuple(row for row in rows if row.changed)[:_MOST_ROWS]
    lines = _table(rows, projection.left_out)
    if len(rows) < len(plan.rows):
        note = "changed jobs only; " if rows else ""
        lines += [f"({note}--all lists all {len(plan.rows):,})"]
    sums = _sums(plan, projection, now)
    if account is not None and not free:
        sums += _balance(account, projection)
    if free and projection.submissions:
        sums.append("The sandbox charges nothing; this is the price of the real service.")
    if leaving is not None:
        sums += _leaving(leaving)
    return "\n".join([*lines, "", *sums]).lstrip("\n")


def _leaving(egress: Egress) -> list[str]:
    """Return a line for each kind of data that leaves the machine, with its destination."""
    host = printable(egress.host, 100)
    lines = []
    if egress.submissions and egress.host:
        lines.append(f"{count_text(egress.submissions, 'submission')} to {host}")
        if egress.files:
            size = size_text(egress.file_bytes)
            lines.append(f"{count_text(egress.files, 'local input')}, {size}, sent as data to {host}")
        if egress.urls:
            lines.append(f"{count_text(egress.urls, 'URL')} sent to {host}, at {_listed(egress.url_hosts)}")
    if egress.variables:
        lines.append(f"values of environment variables in the manifest: {_listed(egress.variables)}")
    if egress.webhook is not None:
        lines.append(f"a summary at the end to the webhook at {printable(egress.webhook, 100)}")
    if not lines:
        return ["Nothing leaves this machine."]
    return ["Leaves this machine:", *(f"  {line}" for line in lines)]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(printable(name, 100) for name in names[:_MOST_NAMES]) + more


def as_json(
    plan: Plan, projection: Projection, leaving: Egress | None = None, account: AccountView | None = None
) -> dict[str, Any]:
    """Return the plan for scripts. Units: US dollars, credits, bytes, seconds; None for unknown values."""
    balance = account.balance if account else None
    limit, spend = projection.budget.limit, projection.spend
    return {
        "schema_version": 1,
        "submissions": projection.submissions,
        "totals": dict(plan.totals),
        "money": {
            "expected_usd": round(usd(projection.credits), 6),
            "spent_usd": round(usd(spend.spent), 6),
            "reserved_usd": round(usd(spend.reserved), 6),
            "budget_usd": None if limit is None else round(usd(limit), 6),
            "budget_setting": projection.budget.setting or None,
            "budget_jobs": None if limit is None else projection.affordable(limit - spend.worst),
            "balance_usd": balance and balance.usd,
            "balance_jobs": balance and projection.affordable(balance.credits),
            "expected_credits": projection.credits,
            "unpriced": projection.unpriced,
            "bases": dict(projection.bases),
            "spent_credits": spend.spent,
            "reserved_credits": spend.reserved,
        },
        "finish_in_s": projection.finish_in_s,
        "obstacles": list(projection.obstacles),
        "egress": leaving and leaving.as_facts(),
        "jobs": [_row_json(row, projection.left_out) for row in plan.rows],
    }


def _row_json(row: Row, left_out: Mapping[str, str]) -> dict[str, Any]:
    estimate = row.estimate
    fields = {name: value for name, value in asdict(row).items() if name != "estimate"}
    return {
        **fields,
        "usd": estimate and estimate.usd,
        "credits": estimate and estimate.credits,
        "price_basis": estimate and estimate.basis,
        "left_out": left_out.get(row.fingerprint),
    }


def _table(rows: Sequence[Row], left_out: Mapping[str, str]) -> list[str]:
    if not rows:
        return []
    cells = [_COLUMNS, *(_cells(row, left_out) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_COLUMNS) - 1)]
    lines = []
    for line, row in zip(cells, (None, *rows), strict=True):
        left = f"{line[0]:<{widths[0]}}  {line[1]:<{widths[1]}}"
        right = "  ".join(f"{text:>{width}}" for text, width in zip(line[2:5], widths[2:], strict=True))
        lines.append(f"{left}  {right}  {line[5]}".rstrip())
        lines += [f"{'':<{widths[0]}}  {printable(change, 300)}" for change in (row.changed if row else ())]
    return lines


def _cells(row: Row, left_out: Mapping[str, str]) -> tuple[str, ...]:
    credits_ = row.estimate.credits if row.estimate else None
    return (
        printable(row.id, 60),
        row.action,
        "" if row.duration_s is None else length_text(row.duration_s),
        "" if row.input_bytes is None else size_text(row.input_bytes),
        "?" if row.estimate and credits_ is None else "" if credits_ is None else dollars(credits_),
        _note(row, left_out),
    )


def _note(row: Row, left_out: Mapping[str, str]) -> str:
    if row.same_as:
        return f"the same job as {printable(row.same_as, 60)}: paid for once"
    return f"not in this run: {left_out[row.fingerprint]}" if row.fingerprint in left_out else row.note


def _sums(plan: Plan, projection: Projection, now: float) -> list[str]:
    counts = ", ".join(f"{count:,} {action}" for action, count in plan.totals.items())
    lines = [f"{count_text(len(plan.rows), 'job')}: {counts or 'none'}."]
    lines.append(f"A run would make {count_text(projection.submissions, 'submission')}{_cost(projection)}.")
    spend = projection.spend
    if spend.generations:
        also = (
            f"; {dollars(spend.reserved)} more is reserved for submissions in flight or in doubt"
            if spend.reserved
            else ""
        )
        lines.append(f"Spent so far: {dollars(spend.spent)}{also}.")
    if projection.budget.limit is not None:
        left = projection.budget.limit - spend.worst
        amounts = f"{dollars(projection.budget.limit)} ({projection.budget.setting}), {dollars(left)} left"
        lines.append(f"Budget: {amounts}{_enough(left, projection)}.")
    if projection.finish_in_s:
        end = rfc3339(now + projection.finish_in_s)
        lines.append(f"It would finish in about {length_text(projection.finish_in_s)} ({end}).")
    return [*lines, *(f"Stopped early: {obstacle}." for obstacle in projection.obstacles)]


def _enough(credits_: float, projection: Projection) -> str:
    """Return how many of the waiting jobs an amount pays for, as the end of a sentence."""
    priced = sum(cost is not None for cost in projection.costs)
    if not priced:
        return ""
    jobs = projection.affordable(credits_)
    return f", enough for {'all ' if jobs == priced else ''}{f'{jobs:,} of ' if jobs < priced else ''}" + (
        f"{priced:,} jobs" if priced != 1 else "the job" if jobs else "1 job"
    )


def _balance(account: AccountView, projection: Projection) -> list[str]:
    """Return the line about the account's balance."""
    if account.balance is None:
        return [f"Balance: unknown ({printable(account.note, 200)})."] if account.note else []
    return [f"Balance: {dollars(account.balance.credits)}{_enough(account.balance.credits, projection)}."]


def _cost(projection: Projection) -> str:
    if not projection.submissions:
        return ""
    priced = projection.submissions - projection.unpriced
    details = []
    if priced:
        details.append(f"for about {dollars(projection.credits)} ({projection.credits:,.0f} credits)")
    for basis, jobs in projection.bases.items():
        unknown = basis in projection.unknown_prices
        details.append(
            f"{count_text(jobs, 'job')} without a price: {basis}" if unknown else f"{count_text(jobs, 'price')} {basis}"
        )
    return f", {'; '.join(details)}"
