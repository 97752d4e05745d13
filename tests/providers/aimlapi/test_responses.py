"""Reading replies: documented and captured bodies (fact sheet 1.3, 1.4, 2.1), outcomes, and hostile replies.

Every reply gives a typed result or a CallError.
"""

import bisect
import json
import time
from functools import partial
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.engine.circuit_breaker import policy_for
from batchrunner.errors import AccountFault, CallError, JobFault, ServiceFault
from batchrunner.providers.aimlapi import responses
from batchrunner.providers.aimlapi.responses import (
    read_log,
    read_status,
    read_submission,
    retry_after_s,
)
from batchrunner.providers.base import Accepted, GenerationStatus, Phase
from tests.conftest import NOW, for_all

ID = "3f1c7a0e-55a1-4c2e-9d53-0f0a7d2c9b11:alibaba/wan2.2-14b-animate-replace"
URL = "https://v3b.fal.media/files/b/panda/clip.mp4?sig=a%2Fb"
EMPTY: dict[str, str] = {}


def packed(body: object) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def submit(status: int, body: object, headers: dict[str, str] = EMPTY) -> Accepted:
    return read_submission(status, headers, packed(body), NOW)


def refused(status: int, body: object, headers: dict[str, str] = EMPTY) -> CallError:
    with pytest.raises(CallError) as caught:
        submit(status, body, headers)
    return caught.value


def poll(body: object, status: int = 200) -> GenerationStatus:
    return read_status(status, EMPTY, packed(body), NOW, ID)


# Accepted submissions


@pytest.mark.parametrize("status", [200, 201, 202, 299])
@pytest.mark.parametrize(
    ("body", "headers", "found"),
    [
        ({"id": ID, "status": "queued"}, {}, ID),
        ({"generation_id": ID, "status": "queued"}, {}, ID),
        ({"id": ID, "generation_id": "other"}, {}, ID),
        ({"id": "", "generation_id": ID}, {}, ID),
        ({"id": None, "generation_id": ID}, {}, ID),
        ({"id": {"value": 1}, "generation_id": ID}, {}, ID),
        ({"id": 123456789012345678901234567890}, {}, "123456789012345678901234567890"),
        ({"id": 0}, {}, "0"),
        ({"id": "-C4qjlUKt8ZedNi7r09L_"}, {}, "-C4qjlUKt8ZedNi7r09L_"),
        ({"id": "287460173504864:kling"}, {"x-inference-id": "another"}, "287460173504864:kling"),
        ({"status": "queued"}, {"x-inference-id": ID}, ID),
        (b"", {"x-inference-id": f" {ID} "}, ID),
        (b"<html>", {"x-inference-id": ID}, ID),
        (["not", "an", "object"], {"x-inference-id": ID}, ID),
    ],
)
def test_any_2xx_with_an_id_is_accepted(status: int, body: object, headers: dict[str, str], found: str) -> None:
    assert submit(status, body, headers).generation_id == found


@pytest.mark.parametrize(
    ("meta", "credits_"),
    [
        ({"usage": {"credits_used": 3900000, "usd_spent": 1.95}}, 3_900_000.0),
        ({"usage": {"tokens_used": 120000}}, 120_000.0),
        ({"usage": {"credits_used": 0}}, 0.0),
        ({"usage": {"usd_spent": 1.95}}, 3_900_000.0),
        ({"usage": {"credits_used": None, "usd_spent": 1}}, 2_000_000.0),
        ({"usage": {"credits_used": 1.5, "tokens_used": 9}}, 1.5),
        ({"usage": {"credits_used": "3900000"}}, None),
        ({"usage": {"credits_used": True}}, None),
        ({"usage": {"credits_used": -1}}, None),
        ({"usage": {"credits_used": float("nan")}}, None),
        ({"usage": {"credits_used": float("inf")}}, None),
        ({"usage": {"credits_used": 10**400}}, None),
        ({"usage": []}, None),
        ({"usage": None}, None),
        ({}, None),
        ([], None),
        ("words", None),
    ],
)
def test_the_quoted_charge_is_read(meta: object, credits_: float | None) -> None:
    body = {"id": ID, "status": "queued", "meta": meta}
    assert submit(200, body) == Accepted(ID, credits_)
    assert poll(body).credits == credits_


@pytest.mark.parametrize(
    ("headers", "usd"),
    [
        ({"x-aimlapi-credits-used": "3900000", "x-aimlapi-usd-spent": "9"}, 1.95),
        ({"x-aimlapi-usd-spent": "1.95"}, 1.95),
        ({"x-aimlapi-credits-used": "many", "x-aimlapi-usd-spent": "1.95"}, 1.95),
        ({"x-aimlapi-credits-used": "0"}, None),
        ({"x-aimlapi-credits-used": "nan"}, None),
        ({"x-aimlapi-credits-used": "inf"}, None),
        ({"x-aimlapi-credits-used": "-5"}, None),
        ({}, None),
    ],
)
def test_headers_give_the_quote_if_the_body_does_not(headers: dict[str, str], usd: float | None) -> None:
    assert submit(200, {"id": ID}, headers).usd == usd
    named = {"id": ID, "meta": {"usage": {"credits_used": 5}}}
    assert submit(200, named, headers).credits == 5


# Outcomes of a submission: "refused" is an explicit refusal by the service, "doubt" is everything else.

PROBLEM = {
    "title": "Bad Request",
    "status": 400,
    "message": "Invalid payload provided",
    "instance": "/v2/video/generations?",
    "requestId": "5c1d",
    "timestamp": "2026-01-22T07:20:46.273Z",
    "error": {
        "name": "BadRequestException",
        "message": "Invalid payload provided",
        "data": [
            {
                "received": "768P",
                "code": "invalid_enum_value",
                "options": ["480p", "580p", "720p"],
                "path": ["resolution"],
                "message": "Invalid enum value. Expected '480p' | '580p' | '720p', received '768P'",
            },
            {"code": "invalid_type", "path": ["video_url", 0], "message": "Required"},
        ],
    },
}
BROKE = {
    "title": "Forbidden",
    "status": 403,
    "message": "You've run out of credits. Please top up your balance at https://aimlapi.com/app/billing/",
    "instance": "/v2/video/generations?",
    "error": {"name": "ForbiddenException", "message": "same", "data": {"kind": "err_insufficent_credits"}},
}
LEGACY = {
    "message": "Something wrong with the server",
    "path": "/v2/video/generations",
    "requestId": "r1",
    "statusCode": "500",
    "timestamp": "2025-10-01T00:00:00Z",
}
FAL_FLAT = {"detail": "Request timed out", "error_type": "request_timeout"}
HTML = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
NOTHINGS: list[object] = [b"", HTML, b"{", {}, [], None, "words", {"status": "queued"}, {"message": ""}, {"error": {}}]
PROBLEMS: list[object] = [PROBLEM, BROKE, LEGACY, FAL_FLAT, {"error": "down"}, {"title": "Down"}, {"message": "no"}]


BEFORE_ALL_WORK = [
    400, 401, 402, 403, 404, 405, 406, 407, 410, 411, 413, 414, 415, 417, 421, 422, 426, 428, 429, 431, 451,
]  # fmt: skip
OTHERS = [408, 409, 412, 416, 418, 423, 424, 425, 444, 460, 499, 500, 501, 502, 503, 504, 507, 520, 524, 529, 599]


@for_all(list(product(BEFORE_ALL_WORK, [*PROBLEMS, *NOTHINGS])), repr)
def test_a_status_that_precedes_all_work_is_a_refusal_whatever_its_body(case: tuple[int, object]) -> None:
    assert not refused(*case).in_doubt


@for_all(list(product(OTHERS, [*PROBLEMS, *NOTHINGS])), repr)
def test_every_other_status_is_in_doubt_whatever_its_body(case: tuple[int, object]) -> None:
    error = refused(*case)
    assert error.in_doubt
    assert isinstance(error, ServiceFault)
    assert "nothing was charged" not in error.hint


@pytest.mark.parametrize(
    ("header", "in_doubt"),
    [("30", False), ("0", False), ("Fri, 15 Jan 2027 08:01:40 GMT", False), ("", True), ("soon", True), (None, True)],
)
def test_503_is_a_refusal_only_with_retry_after(header: str | None, in_doubt: bool) -> None:
    headers = {} if header is None else {"retry-after": header}
    error = refused(503, {"message": "Service unavailable"}, headers)
    assert (error.kind, error.in_doubt) == ("unavailable", in_doubt)


@pytest.mark.parametrize("status", [500, 502, 504, 408, 425])
def test_retry_after_with_another_status_is_not_a_refusal(status: int) -> None:
    assert refused(status, {"message": "later"}, {"retry-after": "30"}).in_doubt


@pytest.mark.parametrize("status", [200, 201, 202, 204])
@pytest.mark.parametrize("body", [*NOTHINGS, {"id": True}, {"id": 1.5}, {"id": " "}, {"id": ["a"]}], ids=repr)
def test_a_2xx_without_an_id_is_in_doubt(status: int, body: object) -> None:
    error = refused(status, body, {"x-inference-id": "  "})
    assert error.in_doubt
    assert error.kind == "no_id"


@pytest.mark.parametrize(("status", "in_doubt"), [(301, False), (302, False), (307, False), (308, False), (303, True)])
def test_redirects_are_refused(status: int, in_doubt: bool) -> None:
    error = refused(status, HTML, {"location": "https://elsewhere.example"})
    assert error.in_doubt is in_doubt
    assert (type(error), error.kind) == (AccountFault, "wrong_address")


def test_an_id_that_cannot_be_stored_or_requested_is_ignored() -> None:
    assert refused(200, b'{"id": "\\ud800"}').in_doubt


# Fault, kind and message


@pytest.mark.parametrize(
    ("status", "body", "fault", "kind", "message"),
    [
        (400, PROBLEM, JobFault, "bad_request", "resolution: Invalid enum value. Expected '480p'"),
        (400, PROBLEM, JobFault, "bad_request", "; video_url.0: Required"),
        (400, {"statusCode": "400", "message": "Body validation error!"}, JobFault, "bad_request", "Body validation"),
        (422, {"detail": [{"loc": ["body", "image_url"], "msg": "no face", "type": "face_detection_error"}]},
         JobFault, "bad_request", "image_url: no face"),
        (422, {"detail": [{"type": "x"}, None], "message": "fallback"}, JobFault, "bad_request", "fallback"),
        (422, {"detail": ["first", {"msg": "second"}]}, JobFault, "bad_request", "first; second"),
        (418, {"message": "teapot"}, ServiceFault, "unclear_status", "teapot"),
        (401, {"title": "Unauthorized", "error": {"name": "UnauthorizedException", "message": "create a key"}},
         AccountFault, "unauthorized", "create a key"),
        (402, b"", AccountFault, "out_of_credits", "an empty body"),
        (403, BROKE, AccountFault, "out_of_credits", "run out of credits"),
        (403, {"message": "Forbidden", "error": {"data": {"kind": "err_insufficent_credits"}}},
         AccountFault, "out_of_credits", "Forbidden"),
        (403, {"message": "This key may not use this endpoint"}, AccountFault, "forbidden", "may not"),
        (403, HTML, AccountFault, "forbidden", "502 Bad Gateway"),
        (404, {"message": "Cannot POST /v3"}, AccountFault, "wrong_address", "Cannot POST"),
        (405, b"", AccountFault, "wrong_address", "an empty body"),
        (408, b"", ServiceFault, "timed_out", ""),
        (413, b"", JobFault, "too_large", ""),
        (400, {"message": "PayloadTooLargeError: request entity too large"}, JobFault, "too_large", "entity too large"),
        (422, {"message": "Body exceeds the maximum of 10485760 bytes"}, JobFault, "too_large", "Body exceeds"),
        (400, {"message": "File size is larger than 10 MB"}, JobFault, "too_large", "10 MB"),
        (400, {"message": "shift: Number must be less than or equal to 10"}, JobFault, "bad_request", "shift"),
        (425, b"", ServiceFault, "unavailable", ""),
        (429, {"message": "Too Many Requests"}, ServiceFault, "rate_limited", "Too Many Requests"),
        (500, LEGACY, ServiceFault, "server_error", "Something wrong with the server"),
        (503, FAL_FLAT, ServiceFault, "unavailable", "Request timed out"),
        (524, HTML, ServiceFault, "unavailable", "502 Bad Gateway"),
    ],
)  # fmt: skip
def test_refusals_have_fault_kind_and_message(
    status: int, body: object, fault: type[CallError], kind: str, message: str
) -> None:
    error = refused(status, body)
    assert (type(error), error.kind, error.status) == (fault, kind, status)
    assert str(status) in error.message
    assert message in error.message
    assert "<" not in error.message
    if isinstance(error, AccountFault):
        assert error.hint


def test_long_messages_are_cut_and_unprintable_bytes_are_escaped() -> None:
    assert len(refused(400, {"message": "x" * 10_000}).message) < 700
    assert len(refused(500, b"\xff\x00<" + b"y" * 10_000).message) < 300


# Retry-After


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("Fri, 15 Jan 2027 08:01:40 GMT", 100.0),
        ("Friday, 15-Jan-27 08:01:40 GMT", 100.0),
        ("Fri, 15 Jan 2027 09:01:40 +0100", 100.0),
        ("Fri Jan 15 08:01:40 2027", 100.0),
        ("Thu, 14 Jan 2027 08:00:00 GMT", 0.0),
        ("", None),
        (None, None),
        ("soon", None),
        ("inf", None),
        ("1e999", None),
        ("Fri, 32 Jan 2027 08:01:40 GMT", None),
        ("Fri, 15 Jan 99999999999999999999 08:01:40 GMT", None),
        ("Fri, 15 Jan 2027 08:01:40 +99999999999999999999", None),
        ("Fri, 15 Jan 2027 08:01:40 +9999", None),
        ("9" * 5000, None),
    ],
)
def test_retry_after_is_parsed(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header, NOW) == seconds


# The service's clock

MORNING_S = 1_800_000_000.0
MORNING = "Fri, 15 Jan 2027 08:00:00 GMT"


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        (MORNING, MORNING_S),
        ("Fri, 15 Jan 2027 08:00:00 -0000", MORNING_S),
        ("Fri, 15 Jan 2027 08:00:00", MORNING_S),
        ("Fri, 15 Jan 2027 10:00:00 +0200", MORNING_S),
        (None, None),
        ("", None),
        ("yesterday", None),
        ("Fri, 99 Jan 2027 08:00:00 GMT", None),
        ("Fri, 15 Jan 99999999999999999999 08:00:00 GMT", None),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "America/Los_Angeles", "Asia/Tokyo"])
def test_the_moment_of_a_reply_does_not_depend_on_the_zone_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, zone: str, date: str | None, seconds: float | None
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert responses.service_time(date, {}) == seconds
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(("created_at", "fits"), [(-3600.0, True), (0.0, True), (60.0, True), (60.5, False)])
def test_a_reply_that_is_older_than_a_row_in_it_has_no_time(created_at: float, fits: bool) -> None:
    """The clock of that machine is behind, so it says nothing about how long a row has been missing."""
    rows = {"before": MORNING_S - 7200.0, "this": MORNING_S + created_at}
    assert responses.service_time(MORNING, rows) == (MORNING_S if fits else None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2027-01-15T08:00:00Z", MORNING_S),
        ("2027-01-15T08:00:00.500+00:00", MORNING_S + 0.5),
        ("2027-01-15T10:00:00+02:00", MORNING_S),
        ("2027-01-15T08:00:00", None),  # in which zone?
        ("2027-01-15", None),
        ("soon", None),
        ("", None),
        (MORNING_S, None),
        (None, None),
    ],
)
def test_a_time_of_a_row_counts_only_with_its_zone(text: object, seconds: float | None) -> None:
    assert responses.moment_s(text) == seconds


def test_retry_after_is_on_the_error() -> None:
    assert refused(429, b"", {"retry-after": "12"}).retry_after_s == 12.0
    assert refused(503, b"", {}).retry_after_s is None


# Polls


@pytest.mark.parametrize(
    ("status_text", "phase", "known"),
    [
        ("queued", Phase.QUEUED, True),
        ("waiting", Phase.QUEUED, True),
        ("generating", Phase.GENERATING, True),
        ("active", Phase.GENERATING, True),
        ("completed", Phase.COMPLETED, True),
        ("succeeded", Phase.COMPLETED, True),
        ("Completed ", Phase.COMPLETED, True),
        ("error", Phase.FAILED, True),
        ("failed", Phase.FAILED, True),
        ("cancelled", Phase.FAILED, True),
        ("expired", Phase.FAILED, True),
        ("timeout", Phase.FAILED, True),
        ("complete", Phase.COMPLETED, True),
        ("IN_PROGRESS", Phase.GENERATING, True),
        ("in progress", Phase.GENERATING, True),
        ("InProgress", Phase.GENERATING, True),
        ("IN_QUEUE", Phase.QUEUED, True),
        ("InQueue", Phase.QUEUED, True),
        ("in-queue", Phase.QUEUED, True),
        ("PENDING", Phase.QUEUED, True),
        ("QUEUING", Phase.QUEUED, True),
        ("SUBMITTED", Phase.QUEUED, True),
        ("NOT_START", Phase.QUEUED, True),
        ("SUCCESS", Phase.COMPLETED, True),
        ("Done", Phase.COMPLETED, True),
        ("FAILURE", Phase.FAILED, True),
        ("TIMED_OUT", Phase.FAILED, True),
    ],
)
def test_each_status_gives_its_phase(status_text: str, phase: Phase, known: bool) -> None:
    seen = poll({"id": ID, "status": status_text, "video": {"url": URL}})
    assert (seen.phase, seen.known) == (phase, known)
    assert (seen.result_url is not None) == (phase is Phase.COMPLETED)
    assert (seen.error is not None) == (phase is Phase.FAILED)


UNKNOWN = ["baked", "", None, 7, {"state": "completed"}, "completed\x00", "x" * 5000]


@pytest.mark.parametrize("status_text", UNKNOWN, ids=lambda status_text: repr(status_text)[:20])
def test_a_link_or_an_error_decides_an_unknown_status(status_text: object) -> None:
    done = poll({"id": ID, "status": status_text, "video": {"url": URL}})
    assert (done.phase, done.known, done.result_url, done.error) == (Phase.COMPLETED, True, URL, None)
    dead = poll({"id": ID, "status": status_text, "error": {"message": "no face"}})
    assert (dead.phase, dead.known, dead.result_url) == (Phase.FAILED, True, None)
    assert dead.error is not None
    assert dead.error.message == "no face"


@pytest.mark.parametrize("status_text", UNKNOWN, ids=lambda status_text: repr(status_text)[:20])
@pytest.mark.parametrize(
    "beside",
    [
        {},
        {"video": None, "error": None},
        {"error": {"code": 0, "message": ""}},
        {"error": "", "errors": [], "message": "warming up"},
        {"status_url": "https://example.com/v2/x"},
        {"detail": "warming up"},
        {"note": "https://example.com/news"},
    ],
    ids=repr,
)
def test_an_unknown_status_alone_is_pending(status_text: object, beside: dict[str, Any]) -> None:
    seen = poll({"id": ID, "status": status_text, **beside})
    assert (seen.phase, seen.known, seen.result_url, seen.error) == (Phase.GENERATING, False, None, None)
    assert poll({"id": ID, **beside}).phase is Phase.GENERATING


@pytest.mark.parametrize("status_text", ["queued", "IN_PROGRESS"])
def test_an_error_with_a_pending_status_is_reported_and_changes_nothing(status_text: str) -> None:
    seen = poll({"id": ID, "status": status_text, "error": {"message": "slow disk"}})
    assert seen.phase in {Phase.QUEUED, Phase.GENERATING}
    assert seen.error is None
    assert "slow disk" in seen.notice
    assert poll({"id": ID, "status": status_text, "error": None}).notice == ""


def test_completed_with_an_error_and_no_link_is_a_failure_with_the_services_message() -> None:
    seen = poll({"id": ID, "status": "completed", "video": None, "error": FAL_FACE})
    assert seen.phase is Phase.FAILED
    assert seen.error is not None
    assert (seen.error.kind, seen.error.fault) == ("face_detection_error", "job")
    assert "Could not detect face" in seen.error.message


def test_completed_with_an_error_and_a_link_is_completed_and_the_error_is_reported() -> None:
    seen = poll({"id": ID, "status": "completed", "video": {"url": URL}, "error": {"message": "no sound"}})
    assert (seen.phase, seen.result_url, seen.error) == (Phase.COMPLETED, URL, None)
    assert "no sound" in seen.notice


@pytest.mark.parametrize(
    ("video", "found"),
    [
        ({"url": URL}, URL),
        ({"url": URL, "content_type": "video/mp4", "file_name": "a.mp4", "file_size": 123, "duration": None}, URL),
        ([URL], URL),
        ([{"url": URL}], URL),
        ([{"url": None}, {"url": URL}], URL),
        ([None, 5, "", URL], URL),
        (URL, URL),
        ("HTTPS://EXAMPLE.COM/a.mp4", "HTTPS://EXAMPLE.COM/a.mp4"),
        (None, None),
        ([], None),
        ({}, None),
        ({"url": ""}, None),
        ({"url": 5}, None),
        ({"url": "clip.mp4"}, None),
        ({"url": "file:///etc/passwd"}, None),
        ({"url": "data:video/mp4;base64,AAAA"}, None),
        ({"url": {"url": URL}}, URL),
        (5, None),
        (True, None),
    ],
)
def test_every_shape_of_video_is_read(video: object, found: str | None) -> None:
    assert poll({"id": ID, "status": "completed", "video": video}).result_url == found


MODEL = ":alibaba/wan2.2-14b-animate-replace"
UUID = ID.removesuffix(MODEL)


@pytest.mark.parametrize(
    ("asked", "body", "headers"),
    [
        (ID, {"id": ID}, {}),
        (ID, {"id": UUID}, {}),
        (UUID, {"id": ID}, {}),
        (ID, {"generation_id": ID}, {}),
        (ID, {"id": "the request's", "generation_id": ID}, {}),
        (ID, {"id": ID, "generation_id": "other"}, {}),
        ("12345", {"id": 12345}, {}),
        (ID, {}, {"x-inference-id": ID}),
    ],
)
def test_a_reply_may_name_the_generation(asked: str, body: dict[str, Any], headers: dict[str, str]) -> None:
    seen = read_status(200, headers, packed({"status": "completed", **body}), NOW, asked)
    assert seen.named


@pytest.mark.parametrize("body", [{}, {"id": None}, {"id": ""}, {"id": ["x"]}, {"id": True}])
@pytest.mark.parametrize("headers", [{}, {"x-inference-id": "of the request"}])
def test_a_reply_without_an_id_names_no_generation(body: dict[str, Any], headers: dict[str, str]) -> None:
    seen = read_status(200, headers, packed({"status": "error", **body}), NOW, ID)
    assert (seen.phase, seen.named) == (Phase.FAILED, False)


@pytest.mark.parametrize(
    "body",
    [
        {"id": "another"},
        {"id": UUID + ":another/model"},
        {"generation_id": "another"},
        {"id": UUID[:-1]},
        {"id": UUID + "1" + MODEL},
        {"id": 7},
    ],
)
def test_a_reply_that_names_another_generation_is_rejected(body: dict[str, Any]) -> None:
    with pytest.raises(ServiceFault) as caught:
        poll({"status": "completed", "video": {"url": URL}, **body})
    assert (caught.value.kind, caught.value.in_doubt) == ("foreign_reply", False)
    assert ID in caught.value.message
    assert policy_for(caught.value) is None, "it concerns one job only"


def test_completed_without_a_link_quotes_the_reply() -> None:
    seen = poll({"id": ID, "status": "completed", "note": "see the https://example.com/page?key=secret"})
    assert (seen.phase, seen.result_url) == (Phase.COMPLETED, None)
    assert seen.error is not None
    assert (seen.error.kind, seen.error.fault) == ("no_link", "service")
    assert ID in seen.error.message
    assert '"note": "see the https://example.com/page?' in seen.error.message
    assert "secret" not in seen.error.message


FAL_FACE = {
    "detail": [
        {
            "loc": ["body", "image_url"],
            "msg": "Could not detect face in the image",
            "type": "face_detection_error",
            "input": "https://example.com/a.png",
        }
    ]
}


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        ({"error": {"name": "GenerationError", "message": "it broke"}}, "GenerationError", "it broke"),
        ({"error": FAL_FACE}, "face_detection_error", "image_url: Could not detect face in the image"),
        ({"detail": FAL_FACE["detail"]}, "face_detection_error", "image_url: Could not detect"),
        ({"error": FAL_FACE["detail"]}, "face_detection_error", "image_url: Could not detect"),
        ({"error": {"detail": [{"msg": "refused", "type": "content_policy_violation"}]}}, "content_refused", "refused"),
        ({"error": {"message": "NSFW content detected"}}, "content_refused", "NSFW"),
        ({"error": FAL_FLAT}, "request_timeout", "Request timed out"),
        ({"error": "plain words"}, "generation_failed", "plain words"),
        ({"error": ["The face is hidden"]}, "generation_failed", "The face is hidden"),
        ({"error": {"detail": ["The face is hidden"]}}, "generation_failed", "The face is hidden"),
        ({"error": {"code": "E_FACE", "msg": "The face is hidden"}}, "generation_failed", "The face is hidden"),
        ({"error": {"reason": "The face is hidden"}}, "generation_failed", "The face is hidden"),
        ({"error": {"details": {"cause": "The face is hidden"}}}, "generation_failed", "The face is hidden"),
        ({"error": None, "errors": ["The face is hidden"]}, "generation_failed", "The face is hidden"),
        ({"error": None, "message": "The face is hidden"}, "generation_failed", "The face is hidden"),
        ({"failure_reason": "The face is hidden"}, "generation_failed", "The face is hidden"),
        ({"reason": "The face is hidden"}, "generation_failed", "The face is hidden"),
        ({"error": "E_7", "message": "The face is hidden"}, "generation_failed", "E_7; The face is hidden"),
        ({"data": {"status": "error", "failure": {"msg": "hidden"}}}, "generation_failed", "hidden"),
        ({"error": {"code": 17}}, "generation_failed", '{"code": 17}'),
        ({"hint": {"x": [1]}}, "generation_failed", '"hint": {"x": [1]}'),
        ({"error": {"name": "X", "message": "refused: content policy"}}, "content_refused", "refused"),
        ({"error": None}, "generation_failed", "'error' and no reason"),
        ({"error": 5}, "generation_failed", "no reason"),
        ({"error": {}}, "generation_failed", "no reason"),
        ({"error": {"name": 5, "message": []}}, "generation_failed", "no reason"),
        ({}, "generation_failed", "no reason"),
    ],
)
def test_a_failed_generation_has_a_kind_and_a_message(reply: dict[str, Any], kind: str, message: str) -> None:
    seen = poll({"id": ID, "status": "error", **reply})
    assert seen.error is not None
    assert seen.error.kind == kind
    assert message in seen.error.message
    assert seen.error.hint


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (FAL_FACE, "job"),
        ({"detail": [{"loc": ["body", "video_url"], "msg": "too long", "type": "video_duration_too_long"}]}, "job"),
        ({"name": "BadRequest", "data": [{"path": ["shift"], "message": "too large"}]}, "job"),
        ({"detail": [{"path": ["shift"], "message": "too large"}]}, "job"),
        ({"detail": [{"msg": "no", "type": "content_policy_violation"}]}, "job"),
        ({"name": "SafetyError", "message": "no"}, "job"),
        ({"message": "NSFW content detected"}, "job"),
        ({"detail": "no face", "error_type": "face_detection_error"}, "job"),  # flat, and without a place
        (FAL_FLAT, "service"),
        *(
            ({"detail": [{"loc": ["body"], "msg": "sorry", "type": kind}]}, "service")
            for kind in (
                "internal_server_error",
                "downstream_service_error",
                "downstream_service_unavailable",
                "generation_timeout",
                "startup_timeout",
            )
        ),
        ({"name": "GenerationError", "message": "it broke"}, "service"),
        ("plain words", "service"),
        (None, "service"),
    ],
)
def test_a_failed_generation_has_the_right_fault(error: object, fault: str) -> None:
    """A failure of the service may be retried; a failure of the request fails again."""
    seen = poll({"id": ID, "status": "error", "error": error})
    assert seen.error is not None
    assert seen.error.fault == fault
    assert ("--retry-failed" in seen.error.hint) == (fault == "service")


@pytest.mark.parametrize("body", [b"", HTML, b"[]", b"null", b"{", b'"completed"', b"\xff\xfe{"])
def test_a_malformed_poll_reply_is_the_services_fault(body: bytes) -> None:
    with pytest.raises(ServiceFault) as caught:
        poll(body)
    assert caught.value.kind == "bad_reply"


@pytest.mark.parametrize(
    ("status", "fault", "kind"),
    [
        (404, ServiceFault, "unknown_generation"),
        (401, AccountFault, "unauthorized"),
        (403, AccountFault, "forbidden"),
        (429, ServiceFault, "rate_limited"),
        (500, ServiceFault, "server_error"),
        (502, ServiceFault, "unavailable"),
        (524, ServiceFault, "unavailable"),
        (302, AccountFault, "wrong_address"),
        (410, ServiceFault, "unknown_generation"),
        (408, ServiceFault, "timed_out"),
        (425, ServiceFault, "unavailable"),
        (400, JobFault, "poll_refused"),
        (409, JobFault, "poll_refused"),
        (418, JobFault, "poll_refused"),
        (422, JobFault, "poll_refused"),
    ],
)
def test_failed_polls_have_fault_and_kind(status: int, fault: type[CallError], kind: str) -> None:
    with pytest.raises(fault) as caught:
        poll(HTML, status)
    assert caught.value.kind == kind
    assert not caught.value.in_doubt, "a poll accepts nothing"


# The log


@pytest.mark.parametrize(
    ("body", "rows", "cursor"),
    [
        ({"data": [{"inference_id": "g"}], "next_cursor": "c"}, [{"inference_id": "g"}], "c"),
        ({"data": [], "next_cursor": None}, [], ""),
        ({"items": [{}], "cursor": "x"}, [{}], "x"),
        ({"logs": [{"a": 1}, "odd", None]}, [{"a": 1}], ""),
        ([{"a": 1}], [{"a": 1}], ""),
        ({"data": None, "logs": [{"a": 1}], "next_cursor": 7}, [{"a": 1}], ""),
    ],
)
def test_pages_of_the_log_are_read(body: object, rows: list[Any], cursor: str) -> None:
    page = read_log(200, EMPTY, packed(body), NOW)
    assert (page.rows, page.cursor) == (rows, cursor)


@pytest.mark.parametrize("body", [b"", HTML, b"{}", b"5", b'{"data": {}}', b"[" * 100_000])
def test_a_log_that_cannot_be_read_is_a_service_fault(body: bytes) -> None:
    with pytest.raises(ServiceFault, match="log is not readable"):
        read_log(200, EMPTY, body, NOW)


def test_a_log_that_is_not_offered_is_recognised() -> None:
    with pytest.raises(CallError) as caught:
        read_log(404, EMPTY, b"", NOW)
    assert caught.value.status == 404


# Hostile replies


def read_all(status: int, headers: dict[str, str], body: bytes) -> None:
    """Run every reader. It may raise only CallError, and its result must be text that can be stored."""
    for reader in (read_submission, partial(read_status, asked="x"), read_log):
        reply: Any
        try:
            reply = reader(status, headers, body, NOW)
        except CallError as error:
            reply = error
        if isinstance(reply, CallError):
            assert reply.kind
            assert len(reply.message) < 1000
        if isinstance(reply, Accepted):
            assert reply.generation_id.encode()


def deepest() -> int:
    """Return how deep JSON may be nested in order to be parsed here: just below, other recursions may fail."""

    def fails(depth: int) -> bool:
        try:
            json.loads("[" * depth + "]" * depth)
        except RecursionError:
            return True
        return False

    return bisect.bisect_left(range(100_000), True, key=fails)


@pytest.mark.parametrize("wrap", ['{{"id": "x", "status": "completed", "video": {0}}}', '{{"status": {0}}}', "{0}",
                                  '{{"error": {{"data": [{{"message": "m", "path": [{0}]}}]}}}}',
                                  '{{"status": "error", "error": {{"detail": {0}}}}}'])  # fmt: skip
@pytest.mark.parametrize("status", [200, 400, 403, 500])
def test_deep_nesting_is_survived(wrap: str, status: int) -> None:
    limit = deepest()
    beyond = 100_000 if status == 200 else 10_000  # the deeper one would overflow a stack without a limit
    for depth in (1, 2, 50, 300, limit // 2, *range(limit - 16, limit + 2), beyond):
        for pair in ("[]", ('{"url":', "}")):
            deep = pair[0] * depth + "1" + pair[1] * depth
            read_all(status, EMPTY, wrap.format(deep).encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
KEYS = ["id", "generation_id", "status", "video", "url", "error", "meta", "usage", "credits_used", "message", "detail",
        "data", "title", "name", "loc", "msg", "path", "type", "next_cursor", "items", "error_type"]  # fmt: skip
SHAPED = st.recursive(
    JSON | st.sampled_from(["completed", "error", "queued", URL, 10**400]),
    lambda inner: st.dictionaries(st.sampled_from(KEYS), inner, max_size=6) | st.lists(inner, max_size=3),
    max_leaves=12,
)
STATUSES = st.sampled_from([200, 201, 204, 301, 304, 400, 401, 403, 404, 418, 429, 500, 502, 503, 504, 524, 599])


@settings(derandomize=True, max_examples=250, deadline=None)
@given(STATUSES, SHAPED, st.dictionaries(st.sampled_from(["retry-after", "x-inference-id"]), st.text(max_size=30)))
def test_wrong_types_are_survived_everywhere(status: int, body: object, headers: dict[str, str]) -> None:
    read_all(status, headers, json.dumps(body).encode())


@settings(derandomize=True, max_examples=200, deadline=None)
@given(STATUSES, st.binary(max_size=60), st.text(max_size=40))
def test_any_bytes_are_survived(status: int, body: bytes, retry_after: str) -> None:
    read_all(status, {"retry-after": retry_after}, body)


def test_every_kind_with_a_hint_can_occur_and_hints_are_sentences() -> None:
    for kind, hint in responses.HINTS.items():
        assert kind.islower()
        assert hint.endswith(".")
