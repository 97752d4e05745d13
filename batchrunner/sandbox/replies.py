"""Build the service's replies: envelopes, generation objects, and the wrong replies of faults. Pure.

A reply is a value (`Reply`); only `server` sends it. The current ``application/problem+json`` envelope was captured on
the real service by others, the legacy one is documented. Unknown texts are invented.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from typing import Any

from batchrunner.sandbox.faults.rules import Fault
from batchrunner.sandbox.models import BY_NAME, Model
from batchrunner.sandbox.validation import STAND_IN
from batchrunner.sandbox.world import CREDITS_PER_USD, Generation

# Exception names of 429 and 5xx were never captured on this path: invented in the style of the known ones.
_NAMES = {
    400: "BadRequestException",
    401: "UnauthorizedException",
    403: "ForbiddenException",
    404: "NotFoundException",
    408: "RequestTimeoutException",
    413: "PayloadTooLargeException",
    425: "TooEarlyException",
    429: "TooManyRequestsException",
    500: "InternalServerErrorException",
    503: "ServiceUnavailableException",
}
UNAUTHORIZED = "Unauthorized. Please create an API key at https://aimlapi.com/app/keys/ and send it as a Bearer token."
NO_CREDITS = "You've run out of credits. Please top up your balance: https://aimlapi.com/app/billing/"
# Unknown: the service's text for a locked account. The envelope is that of other 403s.
LOCKED = "Your account is locked. Please contact support."
NOT_FOUND = "Inference not found"
TOO_MANY = "Too Many Requests"
REASON = "The face is not visible"
_HTML = (
    "<html><head><title>{0}</title></head><body><center><h1>{0}</h1></center><hr><center>edge</center></body></html>"
)


@dataclass(frozen=True, slots=True)
class Call:
    """The facts of a request that replies use. instance: path and query. at: RFC 3339. client_request_id: if usable."""

    instance: str
    request_id: str
    at: str
    client_request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole HTTP reply. body: text, or an object to be sent as JSON."""

    status: int
    body: Any
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        """The body as it goes over the wire."""
        text = self.body if isinstance(self.body, str) else json.dumps(self.body, separators=(",", ":"))
        return text.encode()


def invalid(call: Call, issues: Sequence[object]) -> Reply:
    """Return the reply to an invalid request."""
    return problem(call, 400, "Invalid payload provided", issues)


def problem(call: Call, status: int, message: str, data: object = None, **headers: str) -> Reply:
    """The current error envelope. data: a list of issues for 400, an object for 403, absent otherwise."""
    error: dict[str, Any] = {"name": _NAMES[status], "message": message}
    if data is not None:
        error["data"] = data
    body = {
        "title": HTTPStatus(status).phrase,
        "status": status,
        "message": message,
        "instance": call.instance,
        "requestId": call.request_id,
        "timestamp": call.at,
        "error": error,
    }
    return Reply(status, body, "application/problem+json", headers)


def too_many(call: Call, form: str = "none", delay_s: float = 0.0) -> Reply:
    """Return the reply to a call above the limit. form of Retry-After: ``none``, ``seconds`` or ``date``."""
    headers = {"seconds": f"{delay_s:.0f}", "date": _later(call.at, delay_s)}
    return problem(call, 429, TOO_MANY, None, **({"Retry-After": headers[form]} if form in headers else {}))


def no_credits(call: Call) -> Reply:
    """The reply to a submission that the balance does not cover, as captured, with the service's own spelling."""
    return problem(call, 403, NO_CREDITS, {"kind": "err_insufficent_credits"})


def _later(at: str, delay_s: float) -> str:
    # An HTTP date has whole seconds: never earlier than asked.
    then = datetime.fromisoformat(at) + timedelta(seconds=delay_s + 0.999)
    return format_datetime(then, usegmt=True)


def submitted(generation: Generation, *, quoted: bool = True) -> Reply:
    """The reply to an accepted submission. `meta.sandbox` is the sandbox's own addition.

    quoted: name the price, which is held. (Whether the service does so for this model is not known.) The price is not
    known before a clip is fetched.
    """
    accepted = generation.accepted
    quoted = quoted and not generation.is_unmeasured
    usd = accepted["credits"] / CREDITS_PER_USD
    notes = {"notice": "a local sandbox answered; prices are invented and nothing is charged"}
    for item in BY_NAME[accepted["model"]].media:
        if accepted.get(item.name) == STAND_IN:
            notes[item.field] = "stood in for by bundled media; the sandbox fetches nothing from other machines"
    usage = {"credits_used": accepted["credits"], "usd_spent": usd}
    headers = {
        "x-inference-id": generation.id,
        "x-aimlapi-credits-used": str(accepted["credits"]),
        "x-aimlapi-usd-spent": str(usd),
    }
    meta: dict[str, Any] = {"usage": usage, "sandbox": notes} if quoted else {"sandbox": notes}
    body = {"id": generation.id, "status": "queued", "meta": meta}
    return Reply(200, body, headers=headers if quoted else {"x-inference-id": generation.id})


def polled(generation: Generation, files_url: str) -> Reply:
    """The reply to a poll. files_url: where results are served, ending in a slash."""
    body: dict[str, Any] = {"id": generation.id, "status": generation.status}
    if generation.status == "completed":
        body["video"] = {"url": files_url + generation.file}
    elif generation.status == "error" and generation.outcome:
        body["error"] = generation.outcome["error"]
    return Reply(200, body, headers={"x-inference-id": generation.id})


def _html(status: int, title: str) -> Callable[[Call, Fault], Reply]:
    return lambda _call, _fault: Reply(status, _HTML.format(title), "text/html")


def _problem(status: int, message: str, data: object = None) -> Callable[[Call, Fault], Reply]:
    return lambda call, _fault: problem(call, status, message, data)


def _legacy(call: Call, _fault: Fault) -> Reply:
    body = {
        "message": "Body validation error!",
        "path": call.instance,
        "requestId": call.request_id,
        "statusCode": "400",
        "timestamp": call.at,
    }
    return Reply(400, body)


# Faults that replace the reply.
INSTEAD: Mapping[str, Callable[[Call, Fault], Reply]] = {
    "rate_limited": _problem(429, TOO_MANY),
    "rate_limited_retry_after": lambda call, fault: too_many(call, "seconds", fault.seconds),
    "rate_limited_retry_date": lambda call, fault: too_many(call, "date", fault.seconds),
    "unavailable": _problem(503, "Service unavailable"),
    "unavailable_retry_after": lambda call, fault: problem(
        call, 503, "Service unavailable", None, **{"Retry-After": f"{fault.seconds:.0f}"}
    ),
    "empty_503": lambda _call, _fault: Reply(503, "", "text/plain"),
    "server_error": _problem(500, "Internal server error"),
    "server_error_accepted": _problem(500, "Internal server error"),
    "unavailable_accepted": _problem(503, "Service unavailable"),
    "timeout_408_accepted": _problem(408, "Request timeout"),
    "early_425_accepted": _problem(425, "Too early"),
    "edge_502_html": _html(502, "502 Bad Gateway"),
    "edge_502_html_accepted": _html(502, "502 Bad Gateway"),
    "edge_524_html": _html(524, "524: A timeout occurred"),
    "edge_524_html_accepted": _html(524, "524: A timeout occurred"),
    "html_200": _html(200, "Sign in"),
    "out_of_credits": lambda call, _fault: no_credits(call),
    "locked": _problem(403, LOCKED),
    "unauthorized": _problem(401, UNAUTHORIZED),
    "legacy_error": _legacy,
    "not_found": _problem(404, NOT_FOUND),
    "gone_410": _html(410, "410 Gone"),
    "forbidden": lambda _call, _fault: Reply(
        403, "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>", "application/xml"
    ),
    "empty_200": lambda _call, _fault: Reply(200, ""),
    "empty": lambda _call, _fault: Reply(200, {"data": [], "has_more": False, "next_cursor": None}),
    "no_movements": lambda _call, _fault: Reply(
        200, {"data": [], "pagination": {"next_cursor": None, "has_more": False}}
    ),
}


def _with(**changes: Any) -> Callable[[Reply], Reply]:
    return lambda reply: replace(reply, body={**reply.body, **changes})


def _without_id(reply: Reply, **more: Any) -> Reply:
    body = {key: value for key, value in reply.body.items() if key != "id"}
    headers = {key: value for key, value in reply.headers.items() if more or key != "x-inference-id"}
    return replace(reply, body={**more, **body}, headers=headers)


def _no_url(reply: Reply) -> Reply:
    return replace(reply, body={key: value for key, value in reply.body.items() if key != "video"})


def _envelope(reply: Reply) -> Reply:
    return replace(reply, body={"code": 0, "data": reply.body}, headers={})


def _stray_bytes(reply: Reply) -> Reply:
    """The same JSON after a byte order mark, with a trailing comma, and with text after it."""
    text = json.dumps(reply.body)
    return replace(reply, body=f"\ufeff{text[:-1]},}}\0\n<!-- 12 ms -->", headers={})


def _reason(**fields: Any) -> Callable[[Reply], Reply]:
    """The reason of a failure in another place of the reply."""
    return lambda reply: replace(reply, body={**{key: reply.body.get(key) for key in ("id", "status")}, **fields})


def _link(reply: Reply) -> str:
    return str(reply.body["video"]["url"])


GENERATION_ERROR = {"name": "Error", "message": "Something wrong with the server. Please try again later."}
# Faults that change the correct reply.
BENT: Mapping[str, Callable[[Reply], Reply]] = {
    "no_id": _without_id,
    "id_as_generation_id": lambda reply: _without_id(reply, generation_id=reply.body["id"]),
    "created_201": lambda reply: replace(reply, status=201),
    "unknown_status": _with(status="BAKING"),
    "envelope": _envelope,
    "stray_bytes": _stray_bytes,
    "in_queue": _with(status="IN_QUEUE"),
    "complete": _with(status="complete"),
    "done_in_capitals": _with(status="DONE"),
    "null_status": _with(status=None),
    "link_elsewhere": lambda reply: replace(_no_url(reply), body={**_no_url(reply).body, "output": [_link(reply)]}),
    "link_relative": lambda reply: _with(video={"url": f" /files/{_link(reply).rpartition('/')[2]} "})(reply),
    "links_beside": _with(status_url="https://example.com/v2/status", poster="https://e.com/a.png"),
    "completed_with_error": _with(status="completed", video=None),
    "rejected": _with(status="REJECTED"),
    "error_list": _reason(error=[REASON]),
    "error_msg": _reason(error={"code": "E_FACE", "msg": REASON}),
    "error_beside": _reason(error=None, errors=[REASON]),
    "waiting": _with(status="waiting"),
    "active": _with(status="active"),
    "succeeded": _with(status="succeeded"),
    "failed_early": lambda reply: _with(status="error", error=GENERATION_ERROR)(_no_url(reply)),
    "completed_early": lambda reply: _with(status="completed")(_no_url(reply)),
    "failed_late": lambda reply: _with(status="error", error=GENERATION_ERROR)(_no_url(reply)),
    "pending_again": lambda reply: _with(status="generating")(_no_url(reply)),
    "other_without_id": _without_id,
    "no_url": _no_url,
    "video_string_list": lambda reply: _with(video=[reply.body["video"]["url"]])(reply),
    "video_object_list": lambda reply: _with(video=[reply.body["video"]])(reply),
}


def fal_error(field_name: str, message: str, kind: str) -> dict[str, Any]:
    """A model error as the upstream words it; the service passes it on verbatim in a 200 with status ``error``."""
    return {"detail": [{"loc": ["body", field_name], "msg": message, "type": kind, "input": "(not repeated)"}]}


def generation_error(fault: str, model: Model) -> dict[str, Any]:
    """Return the error of a generation that fails by a fault of GENERATION_ERRORS."""
    if fault not in _INPUT_ERRORS:
        return GENERATION_ERROR
    input_kind, message, kind = _INPUT_ERRORS[fault]
    return fal_error(model.field_of(input_kind) or input_kind, message, kind)


# The kind of input that the error is about, its message and its type.
_INPUT_ERRORS: Mapping[str, tuple[str, str, str]] = {
    "face_detection": ("image", "Could not detect face in the image", "face_detection_error"),
    "content_policy": (
        "video",
        "The content could not be processed because it was flagged by a content checker.",
        "content_policy_violation",
    ),
    "file_download": ("video", "Failed to download the file.", "file_download_error"),
}
GENERATION_ERRORS = frozenset({"error_object", *_INPUT_ERRORS})
BROKEN_RENDERER = {"detail": [{"loc": ["body"], "msg": "Internal server error", "type": "internal_server_error"}]}
