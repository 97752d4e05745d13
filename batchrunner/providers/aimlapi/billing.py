"""Read the account's pages: balance, transactions and price list; status, headers and body in, typed values out. Pure.

Sources: the service's documentation of GET /v2/billing, GET /v2/billing/transactions and GET /v1/models. A service
without one of these pages, or a key that may not read it, is no error: the reader returns None. A row or a rate that
cannot be understood is left out. What the error of another reply is, is decided in
`batchrunner.providers.aimlapi.responses`.
"""

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from batchrunner.errors import ServiceFault
from batchrunner.providers.aimlapi.body import is_usable_id, json_value
from batchrunner.providers.aimlapi.responses import moment_s, refusal
from batchrunner.providers.base import CREDITS_PER_USD, Balance, Charge, PriceList, Rate

NOT_MODIFIED = 304
# The page does not exist, or not for this key (keys may be limited to some endpoints).
_NOT_OFFERED = frozenset({403, 404, 405, 410, 501})
_MAX_AMOUNT = 1e15
_SECONDS = {"second": 1.0, "seconds": 1.0, "sec": 1.0, "minute": 60.0, "minutes": 60.0}
_MAX_RATES = 1000  # of one model


class ChargesPage(NamedTuple):
    """One page of charges. cursor: of the next page; "" on the last one."""

    charges: list[Charge]
    cursor: str


def read_balance(status: int, headers: Mapping[str, str], body: bytes, now: float) -> Balance | None:
    """The reply to GET /v2/billing; None where the service offers no such page. Raises CallError."""
    page = _object(status, headers, body, now, "balance")
    if page is None:
        return None
    amount = _amount(page.get("current_balance"))
    currency = page.get("currency", "USD")
    if amount is None or not isinstance(currency, str) or currency.strip().upper() != "USD":
        raise ServiceFault("bad_reply", "the service's balance is not an amount in USD", status=status)
    return Balance(amount, now)


def read_charges(status: int, headers: Mapping[str, str], body: bytes, now: float) -> ChargesPage | None:
    """A page of GET /v2/billing/transactions; None where the service offers no such page. Raises CallError."""
    page = _object(status, headers, body, now, "list of transactions")
    if page is None:
        return None
    rows = page.get("data")
    pagination = page.get("pagination")
    if not isinstance(rows, list):
        raise ServiceFault("bad_reply", "the service's list of transactions has no rows", status=status)
    cursor = pagination.get("next_cursor") if isinstance(pagination, dict) else None
    charges = [charge for row in rows if isinstance(row, dict) and (charge := _charge(row)) is not None]
    return ChargesPage(charges, cursor if isinstance(cursor, str) else "")


def _charge(row: Mapping[str, Any]) -> Charge | None:
    """The charge in a row, or None: a payment, a row without a generation, or one that cannot be understood."""
    is_refund = row.get("type") == "REFUND"
    if not is_refund and (row.get("direction") != "CHARGE" or row.get("type") != "MODEL_USAGE"):
        return None
    generation_id, amount = row.get("reference_id"), row.get("amount")
    created_at = moment_s(row.get("created_at"))
    if not is_usable_id(generation_id) or not isinstance(amount, dict) or created_at is None:
        return None
    credits_, usd = _amount(amount.get("credits")), _amount(amount.get("usd"))
    if credits_ is None:
        credits_ = None if usd is None else usd * CREDITS_PER_USD
    if credits_ is None:
        return None
    model = row.get("model")
    credits_ = -abs(credits_) if is_refund else abs(credits_)
    return Charge(generation_id, credits_, created_at, model if isinstance(model, str) else "")


def read_prices(status: int, headers: Mapping[str, str], body: bytes, now: float, source: str) -> PriceList | None:
    """The reply to GET /v1/models?include=pricing; None where the service offers no price list. Raises CallError.

    source: where the list comes from, for people.
    """
    page = _object(status, headers, body, now, "list of models")
    if page is None:
        return None
    models = page.get("data")
    if not isinstance(models, list):
        raise ServiceFault("bad_reply", "the service's list of models has no rows", status=status)
    rates: dict[str, tuple[Rate, ...]] = {}
    for model in models:
        if isinstance(model, dict) and (known := tuple(_rates(model.get("pricing")))):
            aliases = model.get("aliases")
            names = [model.get("id"), *(aliases if isinstance(aliases, list) else [])]
            rates |= {name: known for name in names if isinstance(name, str)}
    return PriceList(rates, now, source, headers.get("etag", ""))


def _rates(pricing: object) -> Iterator[Rate]:
    """The rates per second in a `pricing` block; none where the price cannot be quoted ahead or is for another unit."""
    if not isinstance(pricing, dict):
        return
    rows = pricing.get({"fixed": "units", "variants": "variants"}.get(str(pricing.get("kind")), ""))
    for row in (rows if isinstance(rows, list) else [])[:_MAX_RATES]:
        if not isinstance(row, dict):
            continue
        price, per, when = _amount(row.get("price")), _amount(row.get("per", 1)), row.get("when", {})
        seconds = _SECONDS.get(str(row.get("unit")).lower())
        if price is None or price < 0 or per is None or per <= 0 or seconds is None or not isinstance(when, dict):
            continue
        yield Rate(price * CREDITS_PER_USD / (per * seconds), {str(name): str(value) for name, value in when.items()})


def period(since: float) -> str:
    """`since` (s since the epoch) as the parameter ``from``: ISO 8601 with an offset."""
    return datetime.fromtimestamp(max(0.0, since), UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _object(status: int, headers: Mapping[str, str], body: bytes, now: float, what: str) -> Mapping[str, Any] | None:
    """The JSON object of a page; None where the service does not offer it. Raises CallError."""
    if status in _NOT_OFFERED:
        return None
    if not 200 <= status < 300:
        raise refusal(status, headers, body, now)
    page = json_value(body)
    if not isinstance(page, dict):
        raise ServiceFault("bad_reply", f"the service's {what} is not readable", status=status)
    return page


def _amount(value: object) -> float | None:
    """A finite number, also one that is written as text; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) < _MAX_AMOUNT else None
