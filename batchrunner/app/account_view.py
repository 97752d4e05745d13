"""``account``: what all batches of an account share, as text, as JSON and for Prometheus.

The balance and the settled charges are read from the service if there is a key and the service offers them. A service
without billing pages is no error.
"""

import asyncio
import json
import re
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from batchrunner.account import config, index, presence
from batchrunner.account.folders import config_file, state_folder
from batchrunner.account.limits import day_of, limits_for, month_of
from batchrunner.account.names import Account, account_of
from batchrunner.account.run_directories import Missing, listed, missing
from batchrunner.account.summary import (
    Amount,
    OpenJob,
    Summary,
    current_spend,
    first_unsettled_at,
    summarize,
)
from batchrunner.account.transactions import settle_charges
from batchrunner.clock import LoopClock, wall_time
from batchrunner.errors import CallError, LocalFault, UsageError
from batchrunner.formatting import count_text, length_text, printable, rfc3339
from batchrunner.net.proxies import read_proxies
from batchrunner.plan.prices import dollars, usd
from batchrunner.plan.settlement import MARGIN_S
from batchrunner.providers import registry
from batchrunner.providers.base import Balance, Charges
from batchrunner.providers.endpoint import Endpoint, address_of, read_endpoint
from batchrunner.settings import resolve

_WITHIN_S = 10.0
_CHARGES_WITHIN_S = 30.0  # for up to a hundred pages
_T = TypeVar("_T")
_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])")
_MOST_LISTED = 20


@dataclass(frozen=True, slots=True)
class View:
    """An account as it is shown.

    balance: None if unknown, and `note` says why. running: batches with a process. missing: run directories that are
    not in the index. charges: why some charges are not settled.
    """

    account: Account
    summary: Summary
    now: float
    balance: Balance | None = None
    note: str = ""
    running: frozenset[str] = frozenset()
    missing: Sequence[Missing] = ()
    charges: str = ""


def view(environment: Mapping[str, str], name: str | None, month: str | None) -> View:
    """Return the account of this environment. month: ``YYYY-MM``, ``""`` for the current one, None for today.

    Raises UsageError, ManifestError, LocalFault.
    """
    now, state = wall_time(), state_folder(environment)
    settings = resolve({"account": name}, environment, {})
    account = account_of(address_of(environment), settings.account)
    limits = limits_for(config.load(config_file(environment)), account)
    balance, note, charges = _from_service(environment, account, state, now)
    days = (day_of(now), day_of(now)) if month is None else _days_of(month, now)
    with index.viewed(state) as connection:
        current = current_spend(connection, account.key, limits, now)
        summary = summarize(connection, account.key, days, current)
        gone = missing(connection, state, account.key)
    open_batches = {item.batch_id for item in (*summary.in_flight, *summary.in_doubt)}
    running = frozenset(batch_id for batch_id in open_batches if presence.is_running(state, batch_id))
    return View(account, summary, now, balance, note, running, gone, charges)


def _days_of(month: str, now: float) -> tuple[int, int]:
    if not month:
        return month_of(now)
    if not _MONTH.fullmatch(month):
        raise UsageError(f"--month: {month!r} is not a month", "Write it as in 2026-11.")
    return month_of(datetime.strptime(f"{month} +0000", "%Y-%m %z").timestamp())


def _from_service(
    environment: Mapping[str, str], account: Account, state: Path, now: float
) -> tuple[Balance | None, str, str]:
    """Return the balance, and settle charges. The other values say why the balance and some charges are unknown."""
    try:
        endpoint = read_endpoint(resolve({"provider": "aimlapi"}, environment, {}), environment)
    except UsageError as error:
        return None, error.message, error.message
    if endpoint is None:
        return None, "", ""
    since = None
    with suppress(LocalFault), index.viewed(state) as connection:
        since = first_unsettled_at(connection, account.key, now)
    try:
        (balance, note), (charges, why) = asyncio.run(_ask(endpoint, environment, since))
    except CallError as error:
        return None, error.message, error.message
    if charges is not None and charges.charges and index.exists(state):
        with suppress(LocalFault), closing(index.Index(state)) as opened:
            opened.write([partial(settle_charges, account=account.key, charges=charges.charges)], durable=True)
    if charges is not None:
        why = "the service does not list them yet" if charges.complete else "the service's list is too long or was cut"
    return balance, note, why


async def _ask(
    endpoint: Endpoint, environment: Mapping[str, str], since: float | None
) -> tuple[tuple[Balance | None, str], tuple[Charges | None, str]]:
    with ThreadPoolExecutor(max_workers=1) as executor:
        proxies = read_proxies(environment)
        async with registry.connect(endpoint, LoopClock(), executor, proxies=proxies) as provider:
            offers = provider.capabilities
            balance = await answer_of(provider.balance() if offers.balance else None, _WITHIN_S)
            asks = since is not None and offers.charges
            charges = await answer_of(provider.charges((since or 0.0) - MARGIN_S) if asks else None, _CHARGES_WITHIN_S)
            return balance, charges


async def answer_of(call: Coroutine[Any, Any, _T | None] | None, within_s: float) -> tuple[_T | None, str]:
    """Return the reply to a call, and why there is none."""
    found, why = None, ""
    try:
        async with asyncio.timeout(within_s):
            found = None if call is None else await call
    except CallError as error:
        why = error.message
    except TimeoutError:
        why = "the service did not answer in time"
    return found, why or ("" if found is not None else "the service does not show it")


def as_text(shown: View) -> str:
    """Format the account for people."""
    summary = shown.summary
    balance = f"{dollars(shown.balance.credits)}" if shown.balance else f"unknown: {shown.note}"
    lines = [f"account           {printable(shown.account.shown)}", f"balance           {printable(balance)}"]
    current = summary.current
    lines.append(
        f"today             {_used(current.spent_today, current.reserved_today, summary.limits.credits_per_day)}"
    )
    lines.append(
        f"this month        {_used(current.spent_month, current.reserved_month, summary.limits.credits_per_month)}"
    )
    slots = f" of {summary.limits.concurrency}" if summary.limits.concurrency else ""
    lines.append(f"in flight         {len(summary.in_flight)}{slots}")
    lines += _listed(summary.in_flight, shown)
    lines.append(f"in doubt          {len(summary.in_doubt)}")
    lines += _listed(summary.in_doubt, shown)
    if shown.missing:
        lines.append(f"not found         {printable(listed(shown.missing))}")
        lines.append("                  name the new place with --scan DIR, or --forget DIR: until then, no run starts")
    period = _day(summary.first) + (f" to {_day(summary.last)}" if summary.last > summary.first else "")
    lines += ["", f"spent {period} (UTC): {dollars(summary.credits)}"]
    kinds = {"settled": summary.settled, "quoted": summary.quoted, "estimated": summary.estimated}
    if summary.credits:
        lines.append("  " + ", ".join(f"{dollars(amount)} {kind}" for kind, amount in kinds.items() if amount))
    if summary.reserved:
        lines.append(f"reserved {period} (UTC): {dollars(summary.reserved)} for submissions that have not ended")
    if summary.overrun:
        lines.append(f"  {dollars(summary.overrun)} more than was estimated")
    if summary.unsettled:
        lines.append(
            printable(
                f"  {count_text(summary.unsettled, 'charge')} not settled: {shown.charges or 'no service was asked'}"
            )
        )
    if summary.last > summary.first:
        lines += _table("by day", _dated(summary.days))
    lines += _table("by batch", summary.batches)
    lines += _table("by model", summary.models)
    return "\n".join(lines)


def as_json(shown: View) -> dict[str, Any]:
    """Return the account for scripts. Amounts in US dollars; None for unknown values."""
    summary, limits = shown.summary, shown.summary.limits

    def jobs(rows: Sequence[OpenJob]) -> list[dict[str, Any]]:
        return [row._asdict() | {"since": rfc3339(row.since), "running": row.batch_id in shown.running} for row in rows]

    current = summary.current
    return {
        "schema_version": 1,
        "account": shown.account.shown,
        "at": rfc3339(shown.now),
        "balance_usd": shown.balance and shown.balance.usd,
        "balance_note": shown.note or None,
        "today_usd": _usd(current.spent_today),
        "today_reserved_usd": _usd(current.reserved_today),
        "month_usd": _usd(current.spent_month),
        "month_reserved_usd": _usd(current.reserved_month),
        "limits": {
            "concurrency": limits.concurrency,
            "requests_per_second": limits.calls_per_s,
            "max_cost_per_day_usd": None if limits.credits_per_day is None else usd(limits.credits_per_day),
            "max_cost_per_month_usd": None if limits.credits_per_month is None else usd(limits.credits_per_month),
        },
        "period": {"first": _day(summary.first), "last": _day(summary.last)},
        "spent_usd": _usd(summary.credits),
        "settled_usd": _usd(summary.settled),
        "quoted_usd": _usd(summary.quoted),
        "estimated_usd": _usd(summary.estimated),
        "reserved_usd": _usd(summary.reserved),
        "unsettled_charges": summary.unsettled,
        "overrun_usd": _usd(summary.overrun),
        "by_day": _amounts(_dated(summary.days)),
        "by_batch": _amounts(summary.batches),
        "by_model": _amounts(summary.models),
        "in_flight": jobs(summary.in_flight),
        "in_doubt": jobs(summary.in_doubt),
        "missing": [{"directory": item.line.directory, "why": item.why} for item in shown.missing],
    }


def as_prometheus(shown: View) -> str:
    """Return the account as a Prometheus text file."""
    summary, limits, current = shown.summary, shown.summary.limits, shown.summary.current
    label = json.dumps(printable(shown.account.shown))
    values: list[tuple[str, str, float | None]] = [
        ("in_flight", "", len(summary.in_flight)),
        ("in_doubt", "", len(summary.in_doubt)),
        ("concurrency_limit", "", limits.concurrency),
        ("balance_usd", "", shown.balance.usd if shown.balance else None),
        ("spent_usd", ',period="day"', usd(current.spent_today)),
        ("spent_usd", ',period="month"', usd(current.spent_month)),
        ("reserved_usd", ',period="day"', usd(current.reserved_today)),
        ("reserved_usd", ',period="month"', usd(current.reserved_month)),
        ("budget_usd", ',period="day"', None if limits.credits_per_day is None else usd(limits.credits_per_day)),
        ("budget_usd", ',period="month"', None if limits.credits_per_month is None else usd(limits.credits_per_month)),
    ]
    lines, seen = [], set[str]()
    for name, more, value in values:
        if value is not None:
            if name not in seen:
                lines.append(f"# TYPE batchrunner_account_{name} gauge")
                seen.add(name)
            lines.append(f"batchrunner_account_{name}{{account={label}{more}}} {value:.6g}")
    return "\n".join(lines)


def _amounts(rows: Sequence[Amount]) -> list[dict[str, Any]]:
    return [
        {"name": row.name, "generations": row.generations, "usd": _usd(row.credits), "reserved_usd": _usd(row.reserved)}
        for row in rows
    ]


def _usd(credits_: float) -> float:
    return round(usd(credits_), 6)


def _used(spent: float, reserved: float, limit: float | None) -> str:
    """Return what is spent and reserved; a budget counts both."""
    text = f"{dollars(spent)} spent"
    if reserved:
        text += f" and {dollars(reserved)} reserved"
    if limit is None:
        return text
    return f"{text} of {dollars(limit)}, {dollars(max(0.0, limit - spent - reserved))} left"


def _dated(rows: Sequence[Amount]) -> list[Amount]:
    """Return the sums of days with their dates."""
    return [row._replace(name=_day(int(row.name))) for row in rows]


def _listed(rows: Sequence[OpenJob], shown: View) -> list[str]:
    lines = []
    for row in rows[:_MOST_LISTED]:
        what = f"generation {row.generation_id}" if row.generation_id else f"request {row.request_id}"
        running = "" if row.batch_id in shown.running else ", no process"
        age = length_text(max(0.0, shown.now - row.since))
        lines.append(
            printable(f"  {what}, {rfc3339(row.since)} ({age} ago), batch {row.batch} in {row.directory}{running}")
        )
    if len(rows) > _MOST_LISTED:
        lines.append(f"  and {len(rows) - _MOST_LISTED:,} more (--json lists all)")
    return lines


def _table(title: str, rows: Sequence[Amount]) -> list[str]:
    if not rows:
        return []
    lines = [f"{title}:"]
    for row in rows:
        reserved = f", {dollars(row.reserved)} reserved" if row.reserved else ""
        lines.append(f"  {dollars(row.credits):>10}  {row.generations:>6,}  {printable(row.name)}{reserved}")
    return lines


def _day(number: int) -> str:
    return f"{datetime.fromtimestamp(number * 86_400, UTC):%Y-%m-%d}"
