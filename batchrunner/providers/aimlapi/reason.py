"""Find the reason for a refusal or a failure in a reply of any shape. Pure.

Seen in the field: a text, a list of texts, issues (path and message, or loc and msg), ``msg``, ``reason``, ``detail``,
``failure_reason``, nested objects, and words that stand beside ``error`` instead of in it.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from batchrunner.formatting import redacted

MAX_TEXT = 600  # characters of the service's message in journal and report
_DEEPEST = 5
_MOST_ITEMS = 8  # of a list
_MOST_WORDS = 12  # texts
_ISSUES = ("detail", "details", "data", "errors", "issues")
_MESSAGE_KEYS = (
    *("message", "msg", "reason", "error", "detail", "details", "errors", "failure_reason", "failure", "fail_reason"),
    *("error_message", "errorMessage", "error_msg", "failureReason", "failed_reason", "status_message", "description"),
    *("cause", "explanation", "raw_message", "text"),
)
# An object under one of these keys says that something went wrong, unless it is empty.
_PROOF = ("error", "errors", "failure_reason", "failure", "error_message", "errorMessage", "failureReason")
_NOTHING = {"", "none", "null", "false", "0", "ok", "success", "n/a"}


def reason(value: object, *, beside: bool = False) -> str | None:
    """Return the service's message in `value`, or None. beside: without the message of its ``error``."""
    if beside and isinstance(value, dict):
        value = {key: item for key, item in value.items() if key not in {"error", "title"}}
    messages = list(dict.fromkeys(islice(_messages(value, _DEEPEST), _MOST_WORDS)))
    kept = [item for item in messages if not any(item != other and item in other for other in messages)]
    return storable("; ".join(kept)) if kept else None


def failure_in(reply: Mapping[str, Any]) -> object:
    """Return the part of the reply that describes a failure, or None."""
    for key in _PROOF:
        if key in reply and not _is_empty(reply[key]):
            return reply[key]
    detail = reply.get("detail")
    # A bare text under `detail` may say anything.
    return detail if isinstance(detail, list | dict) and not _is_empty(detail) else None


def quoted(value: object, most: int = 300) -> str:
    """A value as JSON for messages: short, and without secrets of URLs."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError):
        text = f"a nested {type(value).__name__}"
    short = storable(text)
    return short if len(short) <= most else short[: most - 1] + "…"


def storable(messages: str) -> str:
    """Return a message that may be stored: without secrets of URLs, shortened, valid Unicode."""
    short = redacted(messages[: 8 * MAX_TEXT])[:MAX_TEXT]
    return short.encode("utf-8", "backslashreplace").decode()


def _messages(value: object, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        if value.strip():
            yield value.strip()
    elif depth and isinstance(value, list):
        for item in value[:_MOST_ITEMS]:
            yield from _messages(item, depth - 1)
    elif depth and isinstance(value, dict):
        place, found = _place(value), list(_of_object(value, depth))
        yield from (f"{place}: {item}" if place else item for item in found)


def _of_object(value: Mapping[str, Any], depth: int) -> Iterator[str]:
    """Yield the messages about single fields, if any: they are more specific than the general message."""
    error = value.get("error")
    holders = (error, value) if isinstance(error, dict) else (value,)
    lists = (holder[key] for holder in holders for key in _ISSUES if isinstance(holder.get(key), list))
    issues = next((messages for item in lists if (messages := list(_messages(item, depth - 1)))), [])
    if issues:
        yield from issues
        return
    found = [messages for key in _MESSAGE_KEYS for messages in _messages(value.get(key), depth - 1)]
    yield from found or _messages(value.get("title"), 0)


def _place(value: Mapping[str, Any]) -> str:
    """Where in the request an issue is: ``image_url``."""
    path = value.get("path") or value.get("loc")
    if not isinstance(path, list):
        return ""
    return ".".join(str(step) for step in path[:10] if step != "body" and isinstance(step, str | int))[:200]


def _is_empty(value: object, depth: int = _DEEPEST) -> bool:
    """Whether `value` says that nothing went wrong: ``{"code": 0, "message": ""}`` is sent with good results."""
    if isinstance(value, str):
        return value.strip().lower() in _NOTHING
    if isinstance(value, dict | list) and depth:
        return all(_is_empty(item, depth - 1) for item in (value.values() if isinstance(value, dict) else value))
    return not value
