"""The limits that all batches of an account share, and how config.yaml writes them. Pure.

::

    accounts:
      default: {concurrency: 8, requests_per_second: 5, max_cost_per_day: $20, max_cost_per_month: $300}

`default` applies to every account that is not listed. An account is listed by its name (the setting `account`) or by
the host of its base URL. Days and months are UTC, as the provider's are.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from batchrunner import settings
from batchrunner.account.names import Account
from batchrunner.errors import UsageError
from batchrunner.manifest.diagnostics.diagnostic import START, Findings, nearest
from batchrunner.manifest.yaml_source.values import YamlMapping
from batchrunner.plan.money_limits import MoneyLimit
from batchrunner.plan.prices import usd
from batchrunner.providers.base import CREDITS_PER_USD
from batchrunner.settings import Setting

_DAY_S = 86_400
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_AMOUNT = Setting("max_cost", "money", None, "")
DEFAULT = "default"


class Limits(NamedTuple):
    """Limits of an account; None for no limit. Amounts in credits."""

    concurrency: int | None = None
    calls_per_s: float | None = None
    credits_per_day: float | None = None
    credits_per_month: float | None = None

    @property
    def any(self) -> bool:
        """True if there is a limit."""
        return self != Limits()


NO_LIMITS: Mapping[str, Limits] = MappingProxyType({})


def limits_for(configured: Mapping[str, Limits], account: Account) -> Limits:
    """Return the limits of an account: those under its name or host, or the default ones."""
    return configured.get(account.shown) or configured.get(DEFAULT) or Limits()


def require_no_limits(limits: Limits, account: Account, error: Exception) -> None:
    """Refuse to go on without the index, because of `error`, where limits depend on it. Raises UsageError."""
    if limits.any:
        raise UsageError(
            f"the limits of the account {account.shown} in config.yaml cannot be kept: {error}",
            "Make the state folder writable, or move it with BATCHRUNNER_STATE. Nothing was submitted.",
        ) from error


def over_budget(limits: Limits, today: float, month: float, estimate: float | None) -> tuple[str, str]:
    """Return why a submission would exceed a budget of the account: a kind of `plan.endings` and a text, or two "".

    today, month: spent and reserved credits. estimate: of the submission, None if unknown.
    """
    for setting, limit, spent in (
        ("max_cost_per_day", limits.credits_per_day, today),
        ("max_cost_per_month", limits.credits_per_month, month),
    ):
        if limit is None:
            continue
        if estimate is None:
            return "price_unknown", f"its price is unknown, and the account has a budget ({setting} in config.yaml)"
        if round(spent - limit, 2) > 0:
            return setting, (
                f"the account's budget is exceeded: ${usd(spent):,.2f} is spent or reserved, of {setting} "
                f"(${usd(limit):,.2f}) in config.yaml"
            )
        if round(spent + estimate - limit, 2) > 0:
            return setting, (
                f"the account's budget is reached: {setting} of ${usd(limit):,.2f} in config.yaml, of which "
                f"${usd(max(0.0, limit - spent)):,.2f} is left"
            )
    return "", ""


class AccountBudgets(NamedTuple):
    """The budgets of an account, with what all its batches have spent and reserved today and this month (UTC)."""

    limits: Limits = Limits()
    spent_today: float = 0.0
    reserved_today: float = 0.0
    spent_month: float = 0.0
    reserved_month: float = 0.0

    def refusal(self, added: float, estimate: float | None) -> tuple[str, str]:
        """Return what `over_budget` does after `added` more credits were reserved."""
        today = self.spent_today + self.reserved_today + added
        return over_budget(self.limits, today, self.spent_month + self.reserved_month + added, estimate)

    @property
    def rows(self) -> tuple[MoneyLimit, ...]:
        """The budgets that are set."""
        limits = self.limits
        rows = []
        if limits.credits_per_day is not None:
            spent, reserved = self.spent_today, self.reserved_today
            rows.append(MoneyLimit("max_cost_per_day", limits.credits_per_day, spent, reserved, "today"))
        if limits.credits_per_month is not None:
            spent, reserved = self.spent_month, self.reserved_month
            rows.append(MoneyLimit("max_cost_per_month", limits.credits_per_month, spent, reserved, "this month"))
        return tuple(rows)


def day_of(now: float) -> int:
    """Return the UTC day as a number: days since 1970-01-01."""
    return int(now // _DAY_S)


def month_of(now: float) -> tuple[int, int]:
    """Return the first and the last UTC day of the month, as numbers."""
    today = datetime.fromtimestamp(now, UTC).date()
    first = today.replace(day=1)
    following = date(first.year + first.month // 12, first.month % 12 + 1, 1)
    return first.toordinal() - _EPOCH_ORDINAL, following.toordinal() - _EPOCH_ORDINAL - 1


def next_day_at(now: float) -> float:
    """Return the start of the next UTC day, in seconds since the epoch."""
    return float((day_of(now) + 1) * _DAY_S)


def read_limits(root: Any, findings: Findings) -> dict[str, Limits]:
    """Return the limits in a parsed config.yaml by account. Every problem goes to `findings`."""
    top = _mapping(root, "config.yaml", START, findings)
    _known_keys(top, "config.yaml", ("accounts", "buckets", "on_clip"), findings)
    accounts = top.get("accounts")
    found: dict[str, Limits] = {}
    if accounts is None:
        return found
    listed = _mapping(accounts, "'accounts'", top.value_marks["accounts"], findings)
    for name, fields in listed.items():
        row = _mapping(fields, f"account '{name}'", listed.value_marks[name], findings)
        _known_keys(row, f"account '{name}'", tuple(_FIELDS), findings)
        values = {}
        for key, value in row.items():
            if key in _FIELDS:
                field, parse = _FIELDS[key]
                try:
                    values[field] = parse(value)
                except (ValueError, UsageError) as error:
                    message = str(error).removeprefix("value: ")
                    findings.error("not-allowed", row.value_marks[key], f"'{key}': {message}", _EXAMPLES.get(key, ""))
        found[name] = Limits(**values)
    return found


def _mapping(value: Any, owner: str, place: int, findings: Findings) -> YamlMapping:
    if isinstance(value, YamlMapping):
        return value
    if value is not None:
        findings.error("wrong-type", place, f"{owner} must be a mapping", "write a key and a value on each line")
    return YamlMapping(place)


def _known_keys(row: YamlMapping, owner: str, known: tuple[str, ...], findings: Findings) -> None:
    marks = row.key_marks
    for key in row:
        if key not in known:
            guess = nearest(key, known)
            hint = f"did you mean '{guess}'?" if guess else f"known keys: {', '.join(known)}"
            findings.error("unknown-key", marks[key], f"{owner} has no key '{key[:40]}'", hint)


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10_000:
        raise ValueError(f"{value!r} is not a whole number from 1 to 10000")
    return value


def _rate(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 10_000:
        raise ValueError(f"{value!r} is not a number above 0, at most 10000")
    return float(value)


def _credits(value: object) -> float:
    amount = settings.parse(_AMOUNT, value)
    assert isinstance(amount, float)
    return amount * CREDITS_PER_USD


_FIELDS: Mapping[str, tuple[str, Callable[[object], Any]]] = {
    "concurrency": ("concurrency", _count),
    "requests_per_second": ("calls_per_s", _rate),
    "max_cost_per_day": ("credits_per_day", _credits),
    "max_cost_per_month": ("credits_per_month", _credits),
}
_EXAMPLES = dict.fromkeys(("max_cost_per_day", "max_cost_per_month"), "write an amount such as $20 or 20USD")
