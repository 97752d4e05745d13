"""Read the service's replies: status, headers and body in, a typed reply or a `CallError` out. Pure.

Sources: the model's page and openapi.json for the documented shapes; the project's fact sheet (sections 1.3, 1.4 and
2.1) for the captured ones: two error envelopes, ids under two names, ``succeeded``, four shapes of ``video``, error
details of the upstream inside a 200. How a damaged body is read is decided in `batchrunner.providers.aimlapi.body`,
which link is the result in `result_link`, and what the reason of a failure is in `reason`.

Only `_STATUSES` and `read_submission` decide whether a submission was accepted. A status ends a generation only if it
is known, or if the reply has a link or an error.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from batchrunner.errors import AccountFault, CallError, JobFault, Problem, ServiceFault
from batchrunner.formatting import redacted
from batchrunner.providers.aimlapi.body import (
    id_in_text,
    id_text,
    ids_of,
    is_usable_id,
    json_object,
    json_value,
    levels,
    merged_levels,
    same_generation,
)
from batchrunner.providers.aimlapi.reason import failure_in, quoted, reason, storable
from batchrunner.providers.aimlapi.result_link import result_link
from batchrunner.providers.base import CREDITS_PER_USD, Accepted, GenerationStatus, Phase, Submissions

__all__ = [
    "HINTS",
    "MAX_FIELD_BYTES",
    "MAX_REPLY_BYTES",
    "is_usable_id",
    "moment_s",
    "read_log",
    "read_status",
    "read_submission",
    "refusal",
    "retry_after_s",
    "same_generation",
]

_MAX_REQUEST_ID = 128  # characters, as documented
MAX_REPLY_BYTES = 1 << 20  # replies have a few hundred bytes
MAX_FIELD_BYTES = 64 << 10  # of one header field
_MAX_CREDITS = 1e18
_MAX_WORD = 60  # characters of a status word


# Documented: queued, generating, completed, error. The provider's page also says complete. Captured: waiting, active,
# succeeded. The remaining ones are other services' statuses. Case, spaces, hyphens and underscores do not count.
_PHASES: Mapping[str, Phase] = {
    label: phase
    for phase, message in {
        Phase.QUEUED: """
            queued waiting pending inqueue enqueued queueing queuing queue submitted notstart notstarted notyetstarted
            created accepted received scheduled starting new throttled
        """,
        Phase.GENERATING: """
            generating active processing running inprogress started working executing rendering inprocess progressing
            postprocessing uploading
        """,
        Phase.COMPLETED: "completed complete succeeded success succeed successful done finished",
        Phase.FAILED: """
            error failed failure fail errored cancelled canceled expired timeout timedout rejected refused aborted
            terminated moderated contentmoderated requestmoderated blocked flagged nsfw
        """,
    }.items()
    for label in message.split()
}
_TITLE = re.compile(rb"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)
_SPELLING = re.compile(r"[\s_-]+")
_CONTENT = re.compile(r"policy|safety|nsfw|moderat", re.IGNORECASE)  # in a kind, or in a status word
_CONTENT_WORDS = re.compile(r"nsfw|content[ _-]polic|usage polic|safety (?:check|filter|system)|moderat", re.IGNORECASE)
_TOO_LARGE = re.compile(
    r"(?:payload|body|entity|request|upload|file)\b[\w\s]{0,40}\b(?:too (?:large|big)|larger than|exceed)",
    re.IGNORECASE,
)

HINTS: Mapping[str, str] = {
    "bad_request": "Correct the job in the manifest; nothing was charged for it.",
    "too_large": "Set stage: s3://BUCKET/PREFIX/, and stage_above to less than this size, so that links are sent; then "
    "run again with --retry-failed. Nothing was charged.",
    "unauthorized": "Set AIMLAPI_KEY to a valid key and run the same command again.",
    "out_of_credits": "Top up the account and run the same command again: only what is not done yet is submitted.",
    "forbidden": "Check the key's permissions and the account, then run the same command again.",
    "wrong_address": "Check AIMLAPI_BASE_URL; nothing was submitted there.",
    "proxy_refused": "Check the user name and the password of the proxy, then run the same command again.",
    "rate_limited": "The service takes fewer requests or generations than asked for: lower the concurrency.",
    "unknown_generation": "Every run asks for it again, at no charge. If it stays so, ask the service's support.",
    "poll_refused": "The generation may be complete. Every run asks for it again, at no charge.",
    "foreign_reply": "The generation is polled again, at no charge. If this lasts, a cache stands in between.",
    "no_link": "Every run asks for it again, at no charge. If it stays so, ask the service's support with this id.",
    "content_refused": "The service refuses this content; another clip or picture is needed.",
    "face_detection_error": "Use a character image that shows one clear face.",
}


class _Status(NamedTuple):
    """The meaning of a status other than 2xx. refused: why it is certain that no work has started, or ""."""

    refused: str
    fault: type[CallError]
    kind: str


# A submission that is answered with one of these is refused. Every other one is in doubt: it may be at work.
# (3xx: `_MOVED`. 503: only with Retry-After.)
_STATUSES: Mapping[int, _Status] = {
    400: _Status("the request does not validate", JobFault, "bad_request"),
    401: _Status("the key is checked first", AccountFault, "unauthorized"),
    402: _Status("the balance is checked first", AccountFault, "out_of_credits"),
    403: _Status("the key's permissions and the balance are checked first", AccountFault, "forbidden"),
    404: _Status("there is nothing at this address", AccountFault, "wrong_address"),
    405: _Status("the address does not take this method", AccountFault, "wrong_address"),
    406: _Status("no form of the reply would do", JobFault, "bad_request"),
    407: _Status("the proxy did not pass it on", AccountFault, "proxy_refused"),
    408: _Status("", ServiceFault, "timed_out"),
    410: _Status("there is nothing at this address any more", AccountFault, "wrong_address"),
    411: _Status("the length is missing", JobFault, "bad_request"),
    413: _Status("the body was not read", JobFault, "too_large"),
    414: _Status("the address is too long", JobFault, "bad_request"),
    415: _Status("the content type is not taken", JobFault, "bad_request"),
    417: _Status("the expectation cannot be met", JobFault, "bad_request"),
    421: _Status("the server is not the one for this address", AccountFault, "wrong_address"),
    422: _Status("the request does not validate", JobFault, "bad_request"),
    425: _Status("", ServiceFault, "unavailable"),
    426: _Status("another protocol is required", AccountFault, "wrong_address"),
    428: _Status("a condition is required", JobFault, "bad_request"),
    429: _Status("there are too many requests or generations", ServiceFault, "rate_limited"),
    431: _Status("the header fields are too large", JobFault, "bad_request"),
    451: _Status("it is refused for legal reasons", JobFault, "bad_request"),
    500: _Status("", ServiceFault, "server_error"),
    502: _Status("", ServiceFault, "unavailable"),
    503: _Status("", ServiceFault, "unavailable"),
    504: _Status("", ServiceFault, "unavailable"),
    524: _Status("", ServiceFault, "unavailable"),
}
_MOVED = {301, 302, 307, 308}  # none of these means that the request was processed

# Error types of failed generations that are the service's own, whatever they point at (fact sheet, 2.1).
_NEXT = {
    "service": "--retry-failed submits it again",
    "job": "change what the message names, or use another clip or picture",
}
_SERVICE_KINDS = {
    "internal_server_error",
    "downstream_service_error",
    "downstream_service_unavailable",
    "generation_timeout",
    "request_timeout",
    "startup_timeout",
}


def read_submission(status: int, headers: Mapping[str, str], body: bytes, now: float) -> Accepted:
    """The reply to a POST that submits a job.

    headers: names in lower case. now: wall time in seconds, for Retry-After given as a date.
    Raises CallError; its `in_doubt` is False only where the status says that no work has started (`_STATUSES`).
    """
    if 200 <= status < 300:
        reply = json_object(body)
        found = levels(reply) if reply else []
        generation_id = _submitted_id(found, headers, body)
        if generation_id:
            return Accepted(generation_id, _quote(merged_levels(found), headers))
        raise ServiceFault(
            "no_id",
            f"the service answered {status} without a generation id: {_excerpt(body)}",
            status=status,
            in_doubt=True,
        )
    refused = bool(_STATUSES[status].refused) if status in _STATUSES else status in _MOVED
    if status == 503:
        refused = retry_after_s(headers.get("retry-after"), now) is not None
    raise _refusal(status, headers, body, now, in_doubt=not refused)


def _submitted_id(found: list[dict[str, Any]], headers: Mapping[str, str], body: bytes) -> str | None:
    """Return the id that the innermost object with an id gives itself. found: the objects of the reply (`levels`)."""
    innermost = next((ids for level in reversed(found) if (ids := ids_of(level))), None)
    # x-inference-id is documented to equal the id that a submit returns, so it serves where the body has none.
    return innermost[0] if innermost else id_text(headers.get("x-inference-id", "").strip()) or id_in_text(body)


def read_status(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    now: float,
    asked: str,
    inputs: Collection[str] = (),
    base_url: str = "",
) -> GenerationStatus:
    """The reply to a GET that polls a generation. Arguments and errors as for `read_submission`.

    asked: the id that was asked for. A reply that names another one raises ServiceFault `foreign_reply`.
    inputs: the URLs that the job submitted, which are no result. base_url: what a relative link is joined to.
    """
    if not 200 <= status < 300:
        raise _refusal(status, headers, body, now, polling=True)
    reply = json_object(body)
    if reply is None:
        raise ServiceFault("bad_reply", f"the reply to a poll is not JSON: {_excerpt(body)}", status=status)
    found = levels(reply, asked)
    named = _names(found, headers, asked)
    merged = merged_levels(found)
    label = merged.get("status")
    label = label if isinstance(label, str) else quoted(label)
    known = _PHASES.get(label) or _known_phase(label)
    failure = failure_in(merged)
    link = None
    if known in {None, Phase.COMPLETED}:
        link = result_link(merged, inputs, base_url, certain=known is None)
    phase = _phase(known, link, failure)
    error = _why(phase, label, merged, asked) if link is None else None
    notice = ""
    if failure is not None and phase is not Phase.FAILED:
        notice = f"an error beside the status {storable(label)[:_MAX_WORD]!r}: {reason(failure) or quoted(failure)}"
    return GenerationStatus(
        phase=phase,
        status_text=label[:_MAX_WORD],
        known=known is not None or phase is not Phase.GENERATING,
        result_url=link,
        error=error,
        credits=_credits(merged),
        named=named,
        notice=notice,
    )


def _known_phase(label: str) -> Phase | None:
    """Return the phase that a status word means in any spelling, or None."""
    return _PHASES.get(_SPELLING.sub("", label).lower()) if len(label) <= 4 * _MAX_WORD else None


def _phase(known: Phase | None, link: str | None, failure: object) -> Phase:
    """Return the phase by the status, if it is known, and by the link or the error."""
    if known in {None, Phase.COMPLETED}:
        if link is not None:
            return Phase.COMPLETED
        if failure is not None:
            return Phase.FAILED
    return known or Phase.GENERATING


def _why(phase: Phase, label: str, reply: Mapping[str, Any], asked: str) -> Problem | None:
    """Return why there will be no result."""
    if phase is Phase.FAILED:
        return _generation_problem(label, reply)
    if phase is not Phase.COMPLETED:
        return None
    return Problem(
        "no_link",
        f"the service calls generation {asked} completed and gives no link to it, or several: {quoted(reply)}",
        HINTS["no_link"],
        "service",
    )


class LogPage(NamedTuple):
    """One page of the service's log. cursor: of the next page; "" on the last one.

    is_whole: whether it was read without damage. is_last: whether it is certain besides that no other page follows.
    """

    rows: list[dict[str, Any]]
    cursor: str
    is_whole: bool
    is_last: bool


_CLOCKS_DIFFER_S = 60.0  # of the machines of one service
_LOG_ENDED = {"succeeded", "completed", "failed", "error"}


def read_log(status: int, headers: Mapping[str, str], body: bytes, now: float) -> LogPage:
    """One page of the service's log. Arguments and errors as for `read_submission`."""
    if not 200 <= status < 300:
        raise _refusal(status, headers, body, now, polling=True)
    page = json_value(body)
    rows: object = page
    cursor, more = "", None
    if isinstance(page, dict):
        rows = next((page[key] for key in ("data", "items", "logs") if isinstance(page.get(key), list)), None)
        cursor = next((page[key] for key in ("next_cursor", "cursor") if isinstance(page.get(key), str)), "")
        more = page.get("has_more")
    if not isinstance(rows, list):
        raise ServiceFault("bad_reply", f"the service's log is not readable: {_excerpt(body)}", status=status)
    # Where nothing says that a page is the last one, a round number of rows may be the limit of a page.
    cut = bool(rows) and len(rows) % 10 == 0
    is_whole = _is_json(body)
    is_last = is_whole and not cursor and (more is False or (more is None and not cut))
    return LogPage([row for row in rows if isinstance(row, dict)], cursor, is_whole, is_last)


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def read_log_rows(rows: Iterable[Mapping[str, Any]], *, ended: bool, complete: bool) -> Submissions:
    """Return the submissions in the rows of all pages."""
    ids: dict[str, str] = {}
    requests, finished = set(), set()
    created: dict[str, float] = {}
    for row in rows:
        request_id, generation_id, label = (
            row.get("client_request_id"),
            row.get("inference_id"),
            row.get("status"),
        )
        if not isinstance(request_id, str) or len(request_id) > _MAX_REQUEST_ID:
            continue
        requests.add(request_id)
        if is_usable_id(generation_id):
            ids[request_id] = generation_id
        if isinstance(label, str) and label.strip().lower() in _LOG_ENDED:
            finished.add(request_id)
        if (moment := moment_s(row.get("created"))) is not None:
            created[request_id] = moment
    return Submissions(ids, frozenset(requests), frozenset(finished), ended, complete, created)


def service_time(date: str | None, created: Mapping[str, float]) -> float | None:
    """Return the time of a reply from its Date header, s since the epoch; None if the rows' times contradict it."""
    moment = _http_date_s(date or "")
    if moment is None:
        return None
    return None if any(created_at > moment + _CLOCKS_DIFFER_S for created_at in created.values()) else moment


def moment_s(text: object) -> float | None:
    """A time with its zone, s since the epoch; None for any other value, as one without a zone would be a guess."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
        return moment.timestamp() if moment is not None and moment.tzinfo else None
    except (ValueError, OverflowError):
        return None


def retry_after_s(text: str | None, now: float) -> float | None:
    """Seconds that a Retry-After header asks for, in seconds or as an HTTP date; None if it has neither."""
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        date_s = _http_date_s(text)
        if date_s is None:
            return None
        seconds = date_s - now
    return max(0.0, seconds) if seconds < float("inf") else None


def _http_date_s(text: str) -> float | None:
    """Return an HTTP date in s since the epoch; None if it is invalid. A date without a zone is UTC, as HTTP says."""
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, IndexError, OverflowError):
        return None


def refusal(status: int, headers: Mapping[str, str], body: bytes, now: float) -> CallError:
    """The error for a lookup that was answered with another status than 2xx. Arguments as for `read_submission`."""
    return _refusal(status, headers, body, now, polling=True)


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
    reply = json_object(body)
    message = reason(reply) or _excerpt(body)
    fault, kind = _classify(status, body, message, polling=polling)
    return fault(
        kind,
        f"the service answered {status}: {message}",
        HINTS.get(kind, ""),
        status=status,
        retry_after_s=retry_after_s(headers.get("retry-after"), now),
        in_doubt=in_doubt,
    )


def _classify(status: int, body: bytes, message: str, *, polling: bool) -> tuple[type[CallError], str]:
    known = _STATUSES.get(413 if status in {400, 422} and _TOO_LARGE.search(message) else status)
    if status == 403 and (b"insufficent" in body or "credits" in message):  # the spelling is the service's own
        return AccountFault, "out_of_credits"
    if polling and status in {404, 410}:
        return ServiceFault, "unknown_generation"
    if known is not None:
        refused_poll = polling and known.fault is JobFault
        return (JobFault, "poll_refused") if refused_poll else (known.fault, known.kind)
    if 300 <= status < 400:
        return AccountFault, "wrong_address"
    if 400 <= status < 500:
        return (JobFault, "poll_refused") if polling else (ServiceFault, "unclear_status")
    return ServiceFault, "server_error"


def _names(found: list[dict[str, Any]], headers: Mapping[str, str], asked: str) -> bool:
    """Whether the reply names the generation `asked` for. Raises ServiceFault if it names another one."""
    ids = [item for level in found for item in ids_of(level)]
    if asked in ids or any(same_generation(item, asked) for item in (*ids, headers.get("x-inference-id", ""))):
        return True
    if ids:
        raise ServiceFault(
            "foreign_reply",
            f"a poll for generation {asked} was answered with generation {storable(ids[-1])[:100]}; it is ignored",
            HINTS["foreign_reply"],
        )
    return False


def _quote(reply: Mapping[str, Any], headers: Mapping[str, str]) -> float | None:
    """The charge that the reply to a submission names, in credits: in its body, else in its headers; None if unknown.

    A zero in the headers is the price of the call itself, not of the generation.
    """
    named = _credits(reply)
    for header, unit in (("x-aimlapi-credits-used", 1.0), ("x-aimlapi-usd-spent", float(CREDITS_PER_USD))):
        if named is None and header in headers:
            try:
                value = float(headers[header]) * unit
            except ValueError:
                continue
            named = value if 0 < value < _MAX_CREDITS else None
    return named


def _credits(reply: Mapping[str, Any]) -> float | None:
    meta = reply.get("meta")
    if not isinstance(meta, dict) or not isinstance(usage := meta.get("usage"), dict):
        return None
    # tokens_used: the older name, which is still in the poll's schema.
    for key, unit in (("credits_used", 1), ("tokens_used", 1), ("usd_spent", CREDITS_PER_USD)):
        value = usage.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value * unit < _MAX_CREDITS:
            return float(value * unit)
    return None


def _generation_problem(label: str, reply: Mapping[str, Any]) -> Problem:
    """Return why a generation failed: its error message, another message, or a quote of the reply."""
    error = failure_in(reply)
    envelope = error if isinstance(error, dict) else {"detail": error} if isinstance(error, list | str) else {}
    details = envelope.get("detail") or envelope.get("data")
    first = details[0] if isinstance(details, list) and details and isinstance(details[0], dict) else {}
    kind = first.get("type") or envelope.get("error_type") or envelope.get("name")
    kind = kind if isinstance(kind, str) and kind else "generation_failed"
    message = reason(error) or reason(reply, beside=True)
    if message is None:
        shown = quoted(error) if error is not None else quoted(dict(reply))
        message = f"the service gave the status {storable(label.strip())[:_MAX_WORD]!r} and no reason: {shown}"
    elif (more := reason(reply, beside=True)) and more not in message and message not in more:
        message = storable(f"{message}; {more}")
    code = envelope.get("code")
    if _CONTENT.search(f"{kind} {code if isinstance(code, str) else ''} {label}") or _CONTENT_WORDS.search(message):
        kind = "content_refused"
    # A complaint about a place in the request, or about what is in it, comes back however often it is asked.
    jobs = kind in {"content_refused", "face_detection_error"} or "loc" in first or "path" in first
    fault = "service" if kind in _SERVICE_KINDS or not jobs else "job"
    hint = HINTS.get(kind, "") or f"Nothing is charged for a failed generation; {_NEXT[fault]}."
    return Problem(storable(kind)[:60], message, hint, fault)


def _excerpt(body: bytes) -> str:
    """Return the beginning of a body as text for messages, at most one line; of an HTML page only the title."""
    start = body[:2000]
    is_page = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html"))
    title = _TITLE.search(start) if is_page else None
    shown = title[1] if title else start[:400]
    text = redacted(" ".join(shown.decode("utf-8", "replace").split()))
    prefix = "an HTML page, " if title and text else ""
    return f"{prefix}{text[:160]!r}" if text else "an HTML page" if is_page else "an empty body"
