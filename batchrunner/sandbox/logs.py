"""Build the rows and pages of GET /v2/logs. Pure.

The service documents the columns. Unknown and therefore invented: the envelope ``{data, has_more,
next_cursor}``, the filter by ``client_request_id``, and what unfinished generations look like.
"""

import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from batchrunner.sandbox.config import SandboxConfig
from batchrunner.sandbox.world import CREDITS_PER_USD, Generation

_CALLS_PER_MINUTE = 200  # documented: the one rate limit that is
_PERIOD = re.compile(r"(\d{1,4})([smhd])", re.ASCII)
_LIMIT = re.compile(r"[1-9]\d?|100", re.ASCII)
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class BadQuery(ValueError):
    """A query parameter cannot be used; its name is the message."""


class CallRate:
    """The calls of the last minute to the log, which are limited."""

    def __init__(self) -> None:
        self._calls: deque[float] = deque()

    def take(self, now: float) -> bool:
        """Count a call at `now`. Return False, without counting it, if the limit is reached."""
        while self._calls and self._calls[0] <= now - 60:
            self._calls.popleft()
        if len(self._calls) >= _CALLS_PER_MINUTE:
            return False
        self._calls.append(now)
        return True


def page(
    generations: Sequence[Generation], query: Mapping[str, str], now: float, config: SandboxConfig
) -> tuple[list[Generation], bool]:
    """Return the generations of one page, newest first, and whether there are more.

    generations: in order of acceptance. query: ``period`` (1h), ``limit`` (100), ``cursor`` (the id of the last row
    seen, so new rows do not shift the pages) and ``client_request_id``. Raises BadQuery.
    """
    period = _PERIOD.fullmatch(query.get("period", "1h"))
    if not period:
        raise BadQuery("period")
    if not _LIMIT.fullmatch(query.get("limit", "100")):
        raise BadQuery("limit")
    oldest = now - int(period[1]) * _UNITS_S[period[2]]
    wanted = query.get("client_request_id")
    rows = [
        one
        for one in reversed(generations)
        if oldest <= one.accepted["at"] <= now - config.log_delay_s
        and (config.logs_in_flight or one.ended_at is not None)
        and (wanted is None or one.accepted["client_request_id"] == wanted)
    ]
    if "cursor" in query:
        places = [place for place, one in enumerate(rows) if one.id == query["cursor"]]
        if not places:
            raise BadQuery("cursor")
        rows = rows[places[0] + 1 :]
    limit = int(query.get("limit", "100"))
    return rows[:limit], len(rows) > limit


def row(generation: Generation, created: str) -> dict[str, Any]:
    """One row. created: RFC 3339. Nothing is charged before the end, and nothing for a failure."""
    accepted = generation.accepted
    charged = (generation.outcome or {})["charged"] if generation.status == "completed" else 0
    return {
        "created": created,
        "status": {"completed": "succeeded", "error": "failed"}.get(generation.status, "processing"),
        "model": accepted["model"],
        "cost": {"usd": charged / CREDITS_PER_USD, "credits": charged},
        "request_id": accepted["request_id"],
        "inference_id": generation.id,
        "client_request_id": accepted["client_request_id"],
    }
