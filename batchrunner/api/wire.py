"""The service's replies, read: status, headers and body in, a typed reply or a `CallError` out. Pure.

Sources: the model's page and openapi.json for the documented shapes; the project's fact sheet (sections 1.3, 1.4 and
2.1) for the captured ones: two error envelopes, ids under two names, ``succeeded``, four shapes of ``video``, error
details of the upstream inside a 200.

Rule: what settles whether a submission was accepted is decided here, in `read_submission`, and nowhere else.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, TypeGuard

from batchrunner.errors import AccountFault, CallError, JobFault, Problem, ServiceFault
from batchrunner.text import redacted

MAX_REPLY_BYTES = 1 << 20  # replies are a few hundred bytes; more is not a reply
_MAX_ID = 1000  # characters: longer than any id, and short enough for a URL
_MAX_TEXT = 600  # characters of the service's words that are carried into journal and report


class Phase(StrEnum):
    """Where a generation stands, whatever word the service used."""

    QUEUED = "queued"
    GENERATING = "generating"
    COMPLETED = "completed"
    FAILED = "failed"


# Documented: queued, generating, completed, error. Captured: waiting, active, succeeded. Defended against: the rest.
_WORDS: Mapping[str, Phase] = {
    "queued": Phase.QUEUED,
    "waiting": Phase.QUEUED,
    "pending": Phase.QUEUED,
    "generating": Phase.GENERATING,
    "active": Phase.GENERATING,
    "processing": Phase.GENERATING,
    "running": Phase.GENERATING,
    "completed": Phase.COMPLETED,
    "succeeded": Phase.COMPLETED,
    "error": Phase.FAILED,
    "failed": Phase.FAILED,
    "cancelled": Phase.FAILED,
    "canceled": Phase.FAILED,
    "expired": Phase.FAILED,
    "timeout": Phase.FAILED,
}

HINTS: Mapping[str, str] = {
    "bad_request": "Correct the job in the manifest; nothing was charged for it.",
    "too_large": "Host the clip at an https URL and name that, or shorten it; the service would not take the upload.",
    "unauthorized": "Set AIMLAPI_KEY to a valid key and run the same command again.",
    "out_of_credits": "Top up the account and run the same command again: only what is not done yet is submitted.",
    "forbidden": "Check the key's permissions and the account, then run the same command again.",
    "wrong_address": "Check AIMLAPI_BASE_URL; nothing was submitted there.",
    "rate_limited": "The service takes fewer requests or generations than asked for: lower the concurrency.",
    "unknown_generation": "Every run asks for it again, at no charge. If it stays so, ask the service's support.",
    "content_refused": "The service refuses this content; another clip or picture is needed.",
    "face_detection_error": "Use a character image that shows one clear face.",
}


# Error types of failed generations that are the service's own, whatever they point at (fact sheet, 2.1).
_SERVICE_KINDS = {
    "internal_server_error",
    "downstream_service_error",
    "downstream_service_unavailable",
    "generation_timeout",
    "request_timeout",
    "startup_timeout",
}


@dataclass(frozen=True, slots=True)
class Accepted:
    """A submission was accepted. credits: the quoted charge (a hold, not the ledger), or None where none was named."""

    generation_id: str
    credits: float | None


@dataclass(frozen=True, slots=True)
class Generation:
    """A generation's state as a poll saw it.

    word: the service's status word as it came; known: whether it is one that this program understands (an unknown
    word is pending). video_url: only with COMPLETED, and even then it may be missing. error: only with FAILED.
    named: whether the reply names the generation that was asked for. A reply without any id may be another's.
    """

    phase: Phase
    word: str
    known: bool = True
    video_url: str | None = None
    error: Problem | None = None
    credits: float | None = None
    named: bool = True


def read_submission(status: int, headers: Mapping[str, str], body: bytes, now: float) -> Accepted:
    """The reply to a POST that submits a job.

    headers: names in lower case. now: wall time in seconds, for Retry-After given as a date.
    Raises CallError; its `in_doubt` is False only where the service itself said no: any 4xx, or a 5xx other than an
    edge's 502, 504 and 524 that carries the service's own problem body.
    """
    reply = _json_object(body)
    if 200 <= status < 300:
        # x-inference-id is documented to equal the id that a submit returns, so it serves where the body has none.
        found = _identifier(reply, headers.get("x-inference-id"))
        if found:
            return Accepted(found, _credits(reply))
        raise ServiceFault(
            "no_id",
            f"the service answered {status} without a generation id: {_excerpt(body)}",
            status=status,
            in_doubt=True,
        )
    said_no = 400 <= status < 500 or (
        status >= 500 and status not in {502, 504, 524} and reply is not None and _message(reply) is not None
    )
    moved_away = status in {301, 302, 307, 308}  # none of these means that the request was processed
    raise _refusal(status, headers, body, now, in_doubt=not (said_no or moved_away))


def read_generation(
    status: int, headers: Mapping[str, str], body: bytes, now: float, asked: str, inputs: Collection[str] = ()
) -> Generation:
    """The reply to a GET that polls a generation. Arguments and errors as for `read_submission`.

    asked: the id that was asked for. A reply that names another one raises ServiceFault `foreign_reply`.
    inputs: the URLs that the job submitted, which are no result.
    """
    if not 200 <= status < 300:
        raise _refusal(status, headers, body, now, polling=True)
    reply = _json_object(body)
    if reply is None:
        raise ServiceFault("bad_reply", f"a poll was answered with what is not JSON: {_excerpt(body)}", status=status)
    named = _names(reply, headers, asked)
    word = reply.get("status")
    word = word if isinstance(word, str) else json.dumps(word)
    phase = _WORDS.get(word.strip().lower())
    error = reply.get("error") or reply.get("detail")
    return Generation(
        phase=phase or Phase.GENERATING,
        word=word[:60],
        known=phase is not None,
        video_url=_video_url(reply.get("video")) if phase is Phase.COMPLETED else None,
        error=_generation_problem(word, error) if phase is Phase.FAILED else None,
        credits=_credits(reply),
        named=named,
    )


def read_log(status: int, headers: Mapping[str, str], body: bytes, now: float) -> tuple[list[dict[str, Any]], str]:
    """One page of the service's log: its rows, and the cursor of the next page ("" on the last)."""
    if not 200 <= status < 300:
        raise _refusal(status, headers, body, now, polling=True)
    try:
        page = json.loads(body)
    except (ValueError, RecursionError):
        page = None
    rows = page
    cursor = ""
    if isinstance(page, dict):
        rows = next((page[key] for key in ("data", "items", "logs") if isinstance(page.get(key), list)), None)
        cursor = next((page[key] for key in ("next_cursor", "cursor") if isinstance(page.get(key), str)), "")
    if not isinstance(rows, list):
        raise ServiceFault("bad_reply", f"the service's log is not readable: {_excerpt(body)}", status=status)
    return [row for row in rows if isinstance(row, dict)], cursor


def retry_after_s(text: str | None, now: float) -> float | None:
    """Seconds that a Retry-After header asks for, given as seconds or as an HTTP date; None where it says nothing."""
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = parsedate_to_datetime(text)
        except (ValueError, IndexError, OverflowError):
            return None
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
    return max(0.0, seconds) if seconds < float("inf") else None


def _refusal(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    now: float,
    *,
    in_doubt: bool = False,
    polling: bool = False,
) -> CallError:
    """The error for a reply other than 2xx."""
    reply = _json_object(body)
    words = (_message(reply) if reply is not None else None) or _excerpt(body)
    fault, kind = _classify(status, reply, words, polling=polling)
    return fault(
        kind,
        f"the service answered {status}: {words}",
        HINTS.get(kind, ""),
        status=status,
        retry_after_s=retry_after_s(headers.get("retry-after"), now),
        in_doubt=in_doubt,
    )


def _classify(status: int, reply: dict[str, Any] | None, words: str, *, polling: bool) -> tuple[type[CallError], str]:
    if status == 403:
        # The spelling err_insufficent_credits is the service's own.
        broke = "insufficent" in json.dumps(reply) or "credits" in words
        return AccountFault, "out_of_credits" if broke else "forbidden"
    if status == 404 and polling:
        return ServiceFault, "unknown_generation"
    fixed: Mapping[int, tuple[type[CallError], str]] = {
        401: (AccountFault, "unauthorized"),
        402: (AccountFault, "out_of_credits"),
        404: (AccountFault, "wrong_address"),
        405: (AccountFault, "wrong_address"),
        408: (ServiceFault, "timed_out"),
        413: (JobFault, "too_large"),
        425: (ServiceFault, "unavailable"),
        429: (ServiceFault, "rate_limited"),
        502: (ServiceFault, "unavailable"),
        503: (ServiceFault, "unavailable"),
        504: (ServiceFault, "unavailable"),
        524: (ServiceFault, "unavailable"),
    }
    if status in fixed:
        return fixed[status]
    if 300 <= status < 400:
        return AccountFault, "wrong_address"
    return (JobFault, "bad_request") if 400 <= status < 500 else (ServiceFault, "server_error")


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def is_usable_id(value: object) -> TypeGuard[str]:
    """Whether `value` can serve as a generation's id: stored, shown, and asked for in a URL."""
    # A lone surrogate can be neither stored nor asked for; the captured ids have some 70 characters.
    return (
        isinstance(value, str)
        and bool(value.strip())
        and len(value) <= _MAX_ID
        and value == value.encode("utf-8", "ignore").decode()
    )


def same_generation(one: str, other: str) -> bool:
    """Whether two ids name one generation: ``uuid`` and ``uuid:model`` do, in either direction."""
    return one == other or one.partition(":")[0] == other or one == other.partition(":")[0]


def _names(reply: dict[str, Any], headers: Mapping[str, str], asked: str) -> bool:
    """Whether the reply names the generation `asked` for. Raises ServiceFault where it names another one."""
    ids = [text for key in ("id", "generation_id") if (text := _id_text(reply.get(key)))]
    if any(same_generation(each, asked) for each in (*ids, headers.get("x-inference-id", "").strip())):
        return True
    if ids:
        raise ServiceFault(
            "foreign_reply",
            f"a poll for generation {asked} was answered with generation {_told(ids[0])[:100]}; the reply is ignored",
            "The generation is polled again, at no charge. If this lasts, a cache stands in between.",
        )
    return False


def _id_text(value: object) -> str | None:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return text.strip() if is_usable_id(text) else None


def _identifier(reply: dict[str, Any] | None, header: str | None) -> str | None:
    for value in ((reply or {}).get("id"), (reply or {}).get("generation_id"), (header or "").strip()):
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if is_usable_id(text):
            return text
    return None


def _video_url(video: object) -> str | None:
    """The first URL in ``video``: an object, a list of strings, a list of objects, or a bare string."""
    for item in video if isinstance(video, list) else [video]:
        url = item.get("url") if isinstance(item, dict) else item
        if isinstance(url, str) and url.lower().startswith(("http://", "https://")):
            return url
    return None


def _credits(reply: dict[str, Any] | None) -> float | None:
    meta = (reply or {}).get("meta")
    usage = meta.get("usage") if isinstance(meta, dict) else None
    if not isinstance(usage, dict):
        return None
    for key in ("credits_used", "tokens_used"):  # the older name is still in the poll's schema
        value = usage.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e18:
            return float(value)
    return None


def _message(reply: dict[str, Any]) -> str | None:
    """The service's own words in any of its envelopes, or None where the object is no envelope."""
    error = reply.get("error")
    data = error.get("data") if isinstance(error, dict) else None
    details = data if isinstance(data, list) else reply.get("detail")
    issues = [text for item in details if (text := _issue(item))] if isinstance(details, list) else []
    if issues:
        return _told("; ".join(issues))
    inner = error.get("message") if isinstance(error, dict) else error
    for words in (reply.get("message"), inner, reply.get("detail"), reply.get("title")):
        if isinstance(words, str) and words.strip():
            return _told(words.strip())
    return None


def _told(words: str) -> str:
    """The service's words as they may be kept: without the secrets of URLs in them, not too long, and storable."""
    short = redacted(words[: 8 * _MAX_TEXT])[:_MAX_TEXT]
    return short.encode("utf-8", "backslashreplace").decode()


def _issue(item: object) -> str | None:
    """One complaint, ``place: words``: a zod issue (path, message) or an upstream detail (loc, msg)."""
    if not isinstance(item, dict):
        return None
    words = item.get("message") or item.get("msg")
    if not isinstance(words, str):
        return None
    path = item.get("path") or item.get("loc")
    place = ".".join(str(part) for part in path if part != "body") if isinstance(path, list) else ""
    return f"{place}: {words}" if place else words


def _generation_problem(word: str, error: object) -> Problem:
    """Why a generation failed, from an error object of either kind, a string, or nothing."""
    envelope = error if isinstance(error, dict) else {"detail": error} if isinstance(error, list | str) else {}
    details = envelope.get("detail") or envelope.get("data")
    first = details[0] if isinstance(details, list) and details and isinstance(details[0], dict) else {}
    kind = first.get("type") or envelope.get("error_type") or envelope.get("name")
    kind = kind if isinstance(kind, str) and kind else "generation_failed"
    words = _message(envelope) or f"the service gave the status {word.strip()!r} and no reason"
    if "policy" in kind.lower() or "safety" in kind.lower() or "nsfw" in words.lower():
        kind = "content_refused"
    hint = HINTS.get(kind, "") or "Nothing is charged for a failed generation; --retry-failed submits it again."
    # A complaint about a place in the request, or about what is in it, comes back however often it is asked.
    jobs = kind in {"content_refused", "face_detection_error"} or "loc" in first or "path" in first
    fault = "service" if kind in _SERVICE_KINDS or not jobs else "job"
    return Problem(_told(kind)[:60], words, hint, fault)


def _excerpt(body: bytes) -> str:
    """The beginning of a body as text, for messages: never more than a line's worth."""
    text = redacted(" ".join(body[:400].decode("utf-8", "replace").split()))
    return repr(text[:160]) if text else "an empty body"
