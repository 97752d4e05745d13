"""Format a plan: a table for people, a summary for a long plan, and JSON for scripts. Pure.

Text and JSON contain the same information. Money is in US dollars, with credits beside it and its source.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain, islice
from typing import Any

from batchrunner.formatting import count_text, length_text, printable, rfc3339, size_text
from batchrunner.plan.egress import Egress
from batchrunner.plan.kept_clips import FOLDER, KeptClip
from batchrunner.plan.money_limits import BALANCE, Allowance, MoneyLimit, affordable, allowances, smallest
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
_ROW_FIELDS = tuple(item.name for item in fields(Row) if item.name != "estimate")
_COLUMNS = ("id", "plan", "clip", "input", "cost", "")


def lines_of(
    plan: Plan,
    projection: Projection,
    now: float,
    *,
    every: bool = False,
    free: bool = False,
    leaving: Egress | None = None,
    account: AccountView | None = None,
) -> Iterator[str]:
    """Yield the lines of the plan for people. now: wall time, s. every: list all rows of a long plan, too.
    free: the sandbox charges nothing. leaving: the data that a run sends. account: None if there is none to ask.
    """
    rows: Sequence[Row] = plan.rows
    if len(rows) > _MOST_ROWS and not every:
        rows = tuple(islice(plan.rows.changed(), _MOST_ROWS))
    yield from _table(rows, projection.left_out)
    if len(rows) < len(plan.rows):
        note = "changed jobs only; " if rows else ""
        yield f"({note}--all lists all {len(plan.rows):,})"
    if plan.rows:
        yield ""
    sums = _sums(plan, projection, now)
    sums += _kept(plan.kept, len(plan.kept) if every else _MOST_NAMES)
    sums += _limits(projection, None if free else account)
    if free and projection.submissions:
        sums.append("The sandbox charges nothing; this is the price of the real service.")
    if leaving is not None:
        sums += _leaving(leaving)
    yield from sums


def as_text(plan: Plan, projection: Projection, now: float, **options: Any) -> str:
    """Format the plan for people. options: as for `lines_of`."""
    return "\n".join(lines_of(plan, projection, now, **options))


def _kept(clips: Sequence[KeptClip], most: int) -> list[str]:
    """Return a line for each clip that moves to the folder for kept files."""
    if not clips:
        return []
    what = "clip moves" if len(clips) == 1 else "clips move"
    lines = [f"{len(clips):,} {what} to {FOLDER}/, because no row has the job under this id any more:"]
    lines += [f"  {printable(clip.file, 100)}" for clip in clips[:most]]
    if len(clips) > most:
        lines.append(f"  and {len(clips) - most:,} more (--all lists all)")
    return lines


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
    if egress.staged:
        size = size_text(egress.staged_bytes)
        what = f"{count_text(egress.staged, 'local input')}, {size}, uploaded to {printable(egress.stage, 200)}"
        lines.append(f"{what}, except those that are there already; {host or 'the sandbox'} gets signed links")
    if egress.deliver:
        lines.append(
            f"{count_text(egress.delivered, 'clip')} and the reports, copied to {printable(egress.deliver, 200)}"
        )
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
    jobs = [_row_json(row, projection.left_out) for row in plan.rows]
    return {**_head_json(plan, projection, leaving, account), "jobs": jobs}


def json_pieces(
    plan: Plan, projection: Projection, leaving: Egress | None = None, account: AccountView | None = None
) -> Iterator[str]:
    """Yield the JSON text of `as_json` in pieces, row by row."""
    head = json.dumps({**_head_json(plan, projection, leaving, account), "jobs": []}, indent=1)
    if not plan.rows:
        yield head
        return
    yield head.removesuffix("]\n}")
    separator = "\n  "
    for row in plan.rows:
        yield separator + json.dumps(_row_json(row, projection.left_out), indent=1).replace("\n", "\n  ")
        separator = ",\n  "
    yield "\n ]\n}"


def _head_json(
    plan: Plan, projection: Projection, leaving: Egress | None, account: AccountView | None
) -> dict[str, Any]:
    balance = account.balance if account else None
    own = next((limit for limit in projection.limits if not limit.period), None)
    spend = projection.spend
    found = _allowances(projection, account)
    least = smallest(found)
    return {
        "schema_version": 1,
        "submissions": projection.submissions,
        "order": projection.order or None,
        "totals": dict(plan.totals),
        "money": {
            "expected_usd": round(usd(projection.credits), 6),
            "spent_usd": round(usd(spend.spent), 6),
            "reserved_usd": round(usd(spend.reserved), 6),
            "budget_usd": own and round(usd(own.limit), 6),
            "budget_setting": own and own.name,
            "budget_jobs": own and affordable(own.left, projection.costs),
            "balance_usd": balance and balance.usd,
            "balance_jobs": balance and affordable(balance.credits, projection.costs),
            "limits": [_limit_json(item) for item in found],
            "smallest_limit": least and least.limit.name,
            "expected_credits": projection.credits,
            "unpriced": projection.unpriced,
            "bases": dict(projection.bases),
            "spent_credits": spend.spent,
            "reserved_credits": spend.reserved,
        },
        "finish_in_s": projection.finish_in_s,
        "obstacles": list(projection.obstacles),
        "notes": list(projection.notes),
        "egress": leaving and leaving.as_facts(),
        "kept": [clip._asdict() for clip in plan.kept],
    }


def _limit_json(item: Allowance) -> dict[str, Any]:
    limit = item.limit
    amounts = {"limit": limit.limit, "spent": limit.spent, "reserved": limit.reserved, "left": limit.left}
    return {"name": limit.name, "jobs": item.jobs} | {
        f"{name}_usd": round(usd(one), 6) for name, one in amounts.items()
    }


def _row_json(row: Row, left_out: Mapping[str, str]) -> dict[str, Any]:
    estimate = row.estimate
    return {
        **{name: getattr(row, name) for name in _ROW_FIELDS},
        "usd": estimate and estimate.usd,
        "credits": estimate and estimate.credits,
        "price_basis": estimate and estimate.basis,
        "left_out": left_out.get(row.fingerprint),
    }


def _table(rows: Sequence[Row], left_out: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of the table. The rows are read twice: for the widths of the columns, and for the lines."""
    if not rows:
        return
    widths = [len(head) for head in _COLUMNS[:-1]]
    for row in rows:
        widths = [max(width, len(cell)) for width, cell in zip(widths, _cells(row, left_out), strict=False)]
    lines = ((_cells(row, left_out), row.changed) for row in rows)
    for line, changed in chain([(_COLUMNS, ())], lines):
        left = f"{line[0]:<{widths[0]}}  {line[1]:<{widths[1]}}"
        right = "  ".join(f"{text:>{width}}" for text, width in zip(line[2:5], widths[2:], strict=True))
        yield f"{left}  {right}  {line[5]}".rstrip()
        yield from (f"{'':<{widths[0]}}  {printable(change, 300)}" for change in changed)


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
            f"; {dollars(spend.reserved)} more is reserved for submissions in flight, in doubt or released"
            if spend.reserved
            else ""
        )
        lines.append(f"Spent so far: {dollars(spend.spent)}{also}.")
    if projection.finish_in_s:
        end = rfc3339(now + projection.finish_in_s)
        lines.append(f"It would finish in about {length_text(projection.finish_in_s)} ({end}).")
    if projection.order:
        lines.append(f"{projection.order[0].upper()}{projection.order[1:]}.")
    lines += [f"Stopped early: {obstacle}." for obstacle in projection.obstacles]
    return [*lines, *(f"{printable(note, 500)}." for note in projection.notes)]


def _limits(projection: Projection, account: AccountView | None) -> list[str]:
    """Return a line for each limit of money, and one that names the smallest."""
    found = _allowances(projection, account)
    lines = [f"{_amounts(item.limit)}{_enough(item.jobs, projection)}." for item in found]
    if account is not None and account.balance is None and account.note:
        lines.append(f"Balance: unknown ({printable(account.note, 200)}).")
    least, priced = smallest(found), _priced(projection)
    if least is not None and len(found) > 1 and least.jobs < priced:
        lines.append(f"The smallest limit is {_name(least.limit)}: it pays for {least.jobs:,} of {priced:,} jobs.")
    return lines


def _allowances(projection: Projection, account: AccountView | None) -> tuple[Allowance, ...]:
    limits = projection.limits
    if account is not None and account.balance is not None:
        limits = (*limits, MoneyLimit(BALANCE, account.balance.credits))
    return allowances(limits, projection.costs)


def _amounts(limit: MoneyLimit) -> str:
    """Return a limit with what is left of it, for people."""
    if limit.name == BALANCE:
        return f"Balance: {dollars(limit.limit)}"
    left = f"{dollars(limit.limit)} ({limit.name}), {dollars(max(0.0, limit.left))} left"
    if not limit.period:
        return f"Budget: {left}"
    reserved = f" and {dollars(limit.reserved)} reserved" if limit.reserved else ""
    return f"Budget of the account: {left} after {dollars(limit.spent)} spent{reserved} {limit.period}"


def _name(limit: MoneyLimit) -> str:
    return "the balance" if limit.name == BALANCE else limit.name


def _enough(jobs: int, projection: Projection) -> str:
    """Return how many of the waiting jobs an amount pays for, as the end of a sentence."""
    priced = _priced(projection)
    if not priced:
        return ""
    return f", enough for {'all ' if jobs == priced else ''}{f'{jobs:,} of ' if jobs < priced else ''}" + (
        f"{priced:,} jobs" if priced != 1 else "the job" if jobs else "1 job"
    )


def _priced(projection: Projection) -> int:
    return sum(cost is not None for cost in projection.costs)


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
