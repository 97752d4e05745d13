"""A hostile service: replies that never end, expand, contradict each other, or contain secrets."""

import asyncio
import gzip
import json
import tracemalloc
import zlib
from concurrent.futures import Executor
from contextlib import suppress

import pytest

from batchrunner.engine import backoff
from batchrunner.errors import CallError, NetworkFault, ServiceFault
from batchrunner.providers import base
from batchrunner.providers.aimlapi import client as client_room
from batchrunner.providers.aimlapi import responses
from batchrunner.providers.aimlapi.client import ApiClient, Timeouts
from batchrunner.providers.endpoint import Endpoint
from batchrunner.redaction import Redactor
from tests.conftest import NOW, make_job
from tests.hostile.test_links import Peer as Dripper
from tests.hostile.test_links import drip
from tests.providers.aimlapi.test_client import SECRET, Peer, Stopped, Talk, answer, failed, poll_once, submit, talk

__all__ = ["talk"]  # a fixture

OK = b"HTTP/1.1 200 OK\r\n"
BOMB = gzip.compress(b'{"id": "' + b"x" * (60 << 20), 1)  # 60 MB in about 270 kB


def read(body: bytes, status: int = 200, **headers: str) -> base.Accepted:
    return responses.read_submission(status, headers, body, NOW)


def refusal(body: bytes, status: int = 200, **headers: str) -> CallError:
    with pytest.raises(CallError) as caught:
        read(body, status, **headers)
    return caught.value


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (OK + b"Content-Length: 1000000000\r\n\r\n", b" "),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (OK, b"X: y\r\n"),
        (OK + b"X: ", b"y"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    ],
    ids=["body", "chunks", "headers", "a header", "continue", "early hints"],
)
@pytest.mark.parametrize("call", ["submit", "look"])
def test_an_endless_slow_reply_ends_at_the_total_time_limit(
    executor: Executor, call: str, start: bytes, piece: bytes
) -> None:
    async def main() -> None:
        peer = Dripper(drip(piece, start))
        server = await asyncio.start_server(peer.talk, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        waits = Timeouts(connect_s=0.1, answer_s=0.1, poll_s=0.15)
        async with server, ApiClient(Endpoint(url, SECRET, Redactor([SECRET])), Stopped(), executor, waits) as client:
            await (client.submit(make_job(), "r.k.1") if call == "submit" else client.status("g"))

    with pytest.raises(CallError) as caught:
        asyncio.run(main())
    assert isinstance(caught.value, NetworkFault)
    assert caught.value.in_doubt == (call == "submit")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "GZIP"])
def test_a_compressed_bomb_is_unpacked_only_to_the_reply_limit(talk: Talk, coding: str) -> None:
    assert len(BOMB) < responses.MAX_REPLY_BYTES
    body = BOMB if "gzip" in coding.lower() else zlib.compress(b'{"id": "' + b"x" * (50 << 20), 1)
    tracemalloc.start()
    try:
        error = failed(talk, Peer([answer(200, body, Content_Encoding=coding)]), submit(make_job()))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (error.kind, error.in_doubt) == ("no_id", True)
    assert peak_bytes < 16 << 20


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate"])
def test_an_unrequested_compressed_reply_is_read(talk: Talk, coding: str) -> None:
    plain = json.dumps({"id": "abc"}).encode()
    body = zlib.compress(plain) if coding == "deflate" else gzip.compress(plain)
    peer = Peer([answer(200, body, Content_Encoding=coding)])
    assert talk(peer, submit(make_job())).generation_id == "abc"
    assert peer.requests[0].all("accept-encoding") == ["identity"]


def test_truncated_or_false_compression_is_a_service_fault(talk: Talk) -> None:
    for body in (gzip.compress(b'{"id": "abc"}')[:12], b'{"id": 5}', b""):
        reply = answer(200, body, Content_Encoding="gzip")
        if body.startswith(b"{"):
            assert talk(Peer([reply]), submit(make_job())).generation_id == "5", "declared as compressed, and is not"
        else:
            assert failed(talk, Peer([reply]), submit(make_job())).in_doubt


@pytest.mark.parametrize("echo", [SECRET, f"Bearer {SECRET}", f"https://{SECRET}@e.com/"])
@pytest.mark.parametrize("status", [200, 401, 500])
def test_a_key_that_the_service_quotes_is_removed(talk: Talk, status: int, echo: str) -> None:
    for body in ({"message": f"Incorrect API key provided: {echo}"}, f"<html>{echo}</html>".encode()):
        error = failed(talk, Peer([answer(status, body)]), submit(make_job()))
        assert SECRET not in error.message + error.hint
    if status == 200:
        dead = {"status": "error", "error": {"message": echo, "name": SECRET}}
        seen = talk(Peer([answer(200, dead)]), poll_once())
        assert seen.error is not None
        assert SECRET not in repr(seen)
        named = talk(Peer([answer(200, {"id": SECRET}, x_inference_id=SECRET)]), submit(make_job()))
        assert SECRET not in named.generation_id


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("cannot fetch https://u:p@e.com/v.mp4?sig=abc#f now", "cannot fetch https://…@e.com/v.mp4?… now"),
        ("('HTTP://E.COM/?X-Amz-Signature=1')", "('HTTP://E.COM/?…')"),
        ("s3://key:secret@bucket/x", "s3://…@bucket/x"),
        ("https://e.com/plain stays", "https://e.com/plain stays"),
        ("a?b=c is no URL", "a?b=c is no URL"),
        ("x" * 50_000 + "://", "x" * 600),
        ("a" * 595 + " https://user:password@e.com/", "a" * 595 + " http"),
        ("a://" * 20_000, ("a://" * 20_000)[:600]),
    ],
    ids=lambda text: text[:30],
)
def test_secrets_of_urls_in_the_services_text_are_removed(text: str, kept: str) -> None:
    error = refusal(json.dumps({"message": text}).encode(), 400)
    assert error.message == f"the service answered 400: {kept}"
    dead = responses.read_status(
        200, {}, json.dumps({"status": "error", "error": {"message": text}}).encode(), NOW, "x"
    )
    assert dead.error is not None
    assert dead.error.message == kept
    for body in (text, "<p>" + text):
        assert "sig=abc" not in refusal(body.encode(), 500).message


UNUSABLE = [
    b'{"id": "' + b"x" * 1_000_000 + b'"}',
    b'{"id": ' + b"9" * 5000 + b"}",
    b'{"id": ' + b"9" * 4000 + b"}",
    b'{"id": "\\ud800"}',
    b'{"id": 1e400}',
    b'{"id": NaN}',
    b'{"id": {"id": "x"}}',
    b'{"id": ["x"]}',
    b'{"id": "' + b" " * 500 + b'"}',
    b"[" * 100_000,
    b'{"id":' * 100_000,
]


@pytest.mark.parametrize("body", UNUSABLE, ids=lambda body: repr(body[:24]))
def test_an_unusable_id_leaves_the_submission_in_doubt_and_a_poll_unharmed(body: bytes) -> None:
    error = refusal(body)
    assert (type(error), error.kind, error.in_doubt) == (ServiceFault, "no_id", True)
    assert len(error.message) < 1000
    phases = []
    with suppress(ServiceFault):
        phases.append(responses.read_status(200, {}, body, NOW, "x").phase)
    assert phases in ([], [base.Phase.GENERATING])


@pytest.mark.parametrize("odd", ["a\x00b", "\x1b[2J", "\u202egpj", "../../x", "'; drop table jobs; --", "é" * 500])
def test_an_unusual_id_is_kept_and_polled_unchanged(talk: Talk, odd: str) -> None:
    assert read(json.dumps({"id": odd}).encode()).generation_id == odd
    peer = Peer([answer(200, {"status": "queued"})])
    talk(peer, poll_once(odd))
    assert peer.requests[0].query["generation_id"] == [odd]
    assert peer.requests[0].target.isprintable()


@pytest.mark.parametrize("bad", ["x" * 1001, "\ud800", "", " ", None, 5, ["x"], {"a": 1}], ids=repr)
def test_an_unusable_id_in_the_log_adopts_nothing(talk: Talk, bad: object) -> None:
    rows = [{"client_request_id": "r.k.1", "inference_id": bad}, {"client_request_id": "r" * 129, "inference_id": "x"}]

    async def scenario(client: ApiClient, _: Peer) -> object:
        return (await client.find_submissions(NOW - 60)).ids

    assert talk(Peer([answer(200, {"data": rows})]), scenario) == {}


@pytest.mark.parametrize(
    "header",
    ["-5", "-1e308", "1e308", "1e400", "inf", "-inf", "nan", "9" * 8000, "Fri, 31 Dec 9999 23:59:59 GMT",
     "Mon, 01 Jan 0001 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 -2359", "Mon, 01 Jan 0001 00:00:00 +2359",
     "Fri, 31 Dec 99999 23:59:59 GMT", "Fri, 31 Dec 2099 23:59:59 +99999999999", "0x10", "١٢", "1_0", "\x00", " ",
     "Fri, 99 Foo 2099", ";".join("x" * 500)],
    ids=lambda text: repr(text[:34]),
)  # fmt: skip
def test_an_absurd_retry_after_is_limited_to_minutes(header: str) -> None:
    class Most:
        def uniform(self, _: float, high: float) -> float:
            return high

    error = refusal(b"{}", 429, **{"retry-after": header})
    assert error.retry_after_s is None or 0.0 <= error.retry_after_s < float("inf")
    for failures in (1, 5, 10_000):
        wait_s = backoff.wait_s(backoff.POLLS, failures, error, Most())
        assert wait_s is not None
        assert 0.0 <= wait_s <= 900.0 + 120.0


STRANGE = [["completed"], {"status": "completed"}, [["completed"] * 5] * 5, 10**300, "x" * 500_000, "\ud800", "\x1b[2J",
           "completed\x00", True, None, 1.5]  # fmt: skip


@pytest.mark.parametrize("status", STRANGE, ids=lambda status: repr(status)[:24])
def test_an_unknown_status_is_pending_and_shortened(status: object) -> None:
    seen = responses.read_status(200, {}, json.dumps({"status": status}).encode(), NOW, "x")
    assert (seen.phase, seen.known) == (base.Phase.GENERATING, False)
    assert len(seen.status_text) <= 60


@pytest.mark.parametrize(
    "number", ["1e400", "-1e400", "NaN", "Infinity", "9" * 4000, "-5", '"5"', "true", "[5]", "1e308", "9" * 5000]
)
def test_credits_are_finite_numbers_or_none(number: str) -> None:
    body = f'{{"id": "x", "meta": {{"usage": {{"credits_used": {number}}}}}}}'.encode()
    assert read(body) == base.Accepted("x", None)


@pytest.mark.parametrize("text", ["\ud800", "a\x00b", "\x1b[2J\u202e<script>", "\udfff" * 1000])
def test_text_from_the_service_can_be_stored(text: str) -> None:
    for body in ({"message": text}, {"detail": [{"loc": [text, 5, None, [[]]], "msg": text}]}, {"error": text}):
        refusal(json.dumps(body).encode(), 400).message.encode()


def test_reading_an_endless_log_ends(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_room, "_LOG_PAGES", 7)
    pages = 0

    def page(_: object) -> bytes:
        nonlocal pages
        pages += 1
        return answer(200, {"data": [], "next_cursor": str(pages)})

    async def scenario(client: ApiClient, _: Peer) -> object:
        return (await client.find_submissions(NOW - 60)).ids

    assert talk(Peer([page]), scenario) == {}
    assert pages == 7
