"""Build the account's pages: GET /v2/billing, GET /v2/billing/transactions and GET /v1/models. Pure.

The service documents paths, parameters and columns of all three. Unknown and therefore invented: the content of a
cursor, the wording of refused parameters, and whether the balance counts reserved sums as spent (here it does).
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from batchrunner.sandbox.config import SandboxConfig
from batchrunner.sandbox.models import MODELS, Model
from batchrunner.sandbox.replies import Reply
from batchrunner.sandbox.world import CREDITS_PER_USD, Movement

_LIMIT = re.compile(r"[1-9]\d?|100", re.ASCII)
_DIRECTIONS = ("TOPUP", "CHARGE")
_TYPES = ("PAYMENT", "BONUS", "REFUND", "ADJUSTMENT", "MODEL_USAGE", "CREDITS_EXPIRED", "INIT")
_TYPE = "video"  # the endpoint type; the service's name for this path is not documented


class BadQuery(ValueError):
    """A query parameter cannot be used; its name is the message."""


@dataclass(frozen=True, slots=True)
class _Query:
    """The parameters of a page of transactions. before: the number of the last movement seen, or None."""

    from_s: float | None
    to_s: float | None
    direction: str | None
    type: str | None
    limit: int
    before: int | None


def balance(available: int) -> Reply:
    """The reply to GET /v2/billing. available: credits less holds; whether the service takes those off is not known."""
    return Reply(200, {"current_balance": available / CREDITS_PER_USD, "currency": "USD"})


def transactions(movements: Sequence[Movement], query: Mapping[str, str], now: float, delay_s: float) -> Reply:
    """The reply to GET /v2/billing/transactions: a page of movements, newest first.

    movements: oldest first. delay_s: a charge is recorded so long after its generation has ended. Raises BadQuery.
    """
    wanted = _read(query)
    rows = [
        (number, recorded_at, one)
        for number, one in enumerate(movements)
        if (recorded_at := one.at + (delay_s if one.direction == "CHARGE" else 0.0)) <= now
        and (wanted.before is None or number < wanted.before)
        and (wanted.from_s is None or recorded_at >= wanted.from_s)
        and (wanted.to_s is None or recorded_at < wanted.to_s)
        and wanted.direction in {None, one.direction}
        and wanted.type in {None, one.type}
    ]
    rows.reverse()
    page, has_more = rows[: wanted.limit], len(rows) > wanted.limit
    pagination = {"next_cursor": _cursor(page[-1][0]) if has_more else None, "has_more": has_more}
    return Reply(200, {"data": [_row(one, at) for _, at, one in page], "pagination": pagination})


def _row(movement: Movement, recorded_at: float) -> dict[str, Any]:
    return {
        "created_at": datetime.fromtimestamp(recorded_at, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z"),
        "direction": movement.direction,
        "type": movement.type,
        "amount": {"usd": movement.credits / CREDITS_PER_USD, "credits": movement.credits},
        "model": movement.model,
        "reference_id": movement.reference_id,
    }


def _read(query: Mapping[str, str]) -> _Query:
    limit = query.get("limit", "50")
    if not _LIMIT.fullmatch(limit):
        raise BadQuery("limit")
    for name, choices in (("direction", _DIRECTIONS), ("type", _TYPES)):
        if query.get(name, choices[0]) not in choices:
            raise BadQuery(name)
    from_s, to_s = (_moment(query, name) for name in ("from", "to"))
    if from_s is not None and to_s is not None and to_s <= from_s:
        raise BadQuery("to")
    before = _number(query["cursor"]) if "cursor" in query else None
    return _Query(from_s, to_s, query.get("direction"), query.get("type"), int(limit), before)


def _moment(query: Mapping[str, str], name: str) -> float | None:
    if name not in query:
        return None
    try:
        moment = datetime.fromisoformat(query[name])
    except ValueError:
        raise BadQuery(name) from None
    if moment.tzinfo is None:
        raise BadQuery(name)
    return moment.timestamp()


def _cursor(number: int) -> str:
    text = json.dumps({"v": 1, "n": number}, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _number(cursor: str) -> int:
    """The movement's number in a cursor, which is accepted only in the form that it was issued in."""
    try:
        number = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))["n"]
    except (binascii.Error, ValueError, TypeError, KeyError):
        raise BadQuery("cursor") from None
    if not isinstance(number, int) or _cursor(number) != cursor:
        raise BadQuery("cursor")
    return number


def models(query: Mapping[str, str], config: SandboxConfig, if_none_match: str) -> Reply:
    """The reply to GET /v1/models: the catalogue with the sections that `include` names, or 304.

    if_none_match: the header of that name, or "". The ETag is weak, as captured, and covers the whole reply.
    """
    sections = {name.strip().lower() for name in query.get("include", "").split(",")}
    if query.get("details") == "true":
        sections.add("all")
    ids = {name.strip().lower() for name in query["id"].split(",")} if "id" in query else None
    data = [
        _model(model, config, sections)
        for model in MODELS
        if ids is None or {name.lower() for name in model.names} & ids
    ]
    reply = Reply(200, {"object": "list", "data": data})
    digest = base64.urlsafe_b64encode(hashlib.sha256(reply.encode()).digest()[:20]).decode().rstrip("=")
    etag = f'W/"{len(reply.encode()):x}-{digest}"'
    known = {text.strip().removeprefix("W/") for text in if_none_match.split(",")}
    if etag.removeprefix("W/") in known or "*" in known:
        return Reply(304, "", headers={"ETag": etag})
    return Reply(200, reply.body, headers={"ETag": etag})


def _model(offered: Model, config: SandboxConfig, sections: set[str]) -> dict[str, Any]:
    name, *aliases = offered.names
    model: dict[str, Any] = {
        "id": name,
        "aliases": aliases,
        "type": _TYPE,
        "info": {"name": name.rpartition("/")[2], "developer": "Alibaba Cloud"},
        "tags": ["playground:video"],
    }
    if sections & {"pricing", "all"}:
        prices = config.listed_prices or config.prices
        variants = [
            {"when": {"resolution": resolution}, "price": price / CREDITS_PER_USD, "unit": "second", "per": 1}
            for resolution, price in prices.items()
        ]
        model["pricing"] = {"kind": "variants", "dimensions": ["resolution"], "variants": variants}
    if sections & {"modalities", "all"}:
        model["modalities"] = {"input": sorted({item.kind for item in offered.media}), "output": ["video"]}
    if sections & {"capabilities", "all"}:
        model["capabilities"] = ["video_to_video"]
    return model
