"""The client's calls against a bare TCP peer on loopback: requests are exact, and outcomes are classified correctly.

The peer uses no HTTP library, so that a test sees every byte and can break the connection at any point.
"""

import asyncio
import base64
import hashlib
import inspect
import json
import ssl
import threading
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from batchrunner.clock import LoopClock
from batchrunner.errors import AccountFault, CallError, JobFault, LocalFault, NetworkFault, ServiceFault
from batchrunner.job import Job, Media
from batchrunner.media import probe
from batchrunner.providers.aimlapi import client as client_room
from batchrunner.providers.aimlapi import responses
from batchrunner.providers.aimlapi.client import ApiClient, Timeouts
from batchrunner.providers.aimlapi.submission_body import SubmissionBody
from batchrunner.providers.base import Accepted, Phase
from batchrunner.providers.endpoint import Endpoint
from batchrunner.redaction import Redactor
from batchrunner.storage import durable_files
from tests.conftest import MEDIA, NOW, make_job

SECRET = "sk-recognisable-0123456789"
ID = "3f1c7a0e-55a1-4c2e-9d53:alibaba/wan2.2-14b-animate-replace"


@dataclass
class Request:
    """One received request. body_bytes: how much of the body was read; body: only if it was kept."""

    line: str
    head: bytes
    headers: list[tuple[str, str]]
    body: bytes = b""
    body_bytes: int = 0

    def all(self, name: str) -> list[str]:
        return [value for known, value in self.headers if known == name]

    @property
    def target(self) -> str:
        return self.line.split(" ")[1]

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True, strict_parsing=True)


def answer(status: int, body: object = b"", **headers: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Word", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


class Stopped(LoopClock):
    """The wall time does not change."""

    def now(self) -> float:
        return NOW


Reply = bytes | Callable[[Request], bytes] | None


@dataclass
class Peer:
    """The peer. replies: one a request, the last one repeated; None never answers.

    stop_after: read this much of a body and break the connection. keep: whether bodies are kept.
    """

    replies: list[Reply]
    stop_after: int | None = None
    keep: bool = True
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    done: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.ended.clear()
        try:
            while await self._serve(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.done += 1
            self.ended.set()
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *fields = head.decode().split("\r\n")
        headers = [(name.lower(), value) for name, _, value in (item.partition(": ") for item in fields if item)]
        request = Request(line, head, headers)
        self.requests.append(request)
        left = int((request.all("content-length") or ["0"])[0])
        while left and (self.stop_after is None or request.body_bytes < self.stop_after):
            block = await reader.read(min(left, 1 << 16))
            if not block:
                return False
            left -= len(block)
            request.body_bytes += len(block)
            request.body = request.body + block if self.keep else (request.body + block)[-40:]
        if self.stop_after is not None and left:
            writer.transport.abort()
            return False
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if reply is None:
            await reader.read()
            return False
        content = reply(request) if callable(reply) else reply
        writer.write(content)
        await writer.drain()
        start, _, tail = content.partition(b"\r\n\r\n")
        return f"Content-Length: {len(tail)}".encode() in start.split(b"\r\n")


Scenario = Callable[[ApiClient, Peer], Awaitable[Any]]
Talk = Callable[..., Any]


@pytest.fixture
def talk(executor: Executor) -> Talk:
    """Run a scenario between a client and a peer; return what the scenario returns."""

    def run(peer: Peer, scenario: Scenario, timeouts: Timeouts | None = None, path: str = "", **more: Any) -> Any:
        async def main() -> Any:
            server = await asyncio.start_server(peer.talk, "127.0.0.1", 0)
            peer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with server:
                threads = more.get("executor", executor)
                try:
                    async with ApiClient(
                        Endpoint(peer.url + path, SECRET, Redactor([SECRET])), Stopped(), threads, timeouts
                    ) as client:
                        return await scenario(client, peer)
                finally:
                    while peer.done < peer.connections:
                        await peer.ended.wait()

        return asyncio.run(main())

    return run


def submit(job: Job, request_id: str = "run.key.1") -> Scenario:
    async def scenario(client: ApiClient, _: Peer) -> Accepted:
        return await client.submit(job, request_id)

    return scenario


def poll_once(generation_id: str = ID) -> Scenario:
    async def scenario(client: ApiClient, _: Peer) -> Any:
        return await client.status(generation_id)

    return scenario


def failed(talk: Talk, peer: Peer, scenario: Scenario, timeouts: Timeouts | None = None, **more: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        talk(peer, scenario, timeouts, **more)
    return caught.value


def sparse(path: Path, size_bytes: int) -> Media:
    """Make a large local video of zeros that uses no disk space."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
    digest = hashlib.sha256()
    for _ in range(size_bytes >> 20):
        digest.update(bytes(1 << 20))
    return Media("video", path.name, path, size_bytes=size_bytes, sha256=digest.hexdigest(), mime="video/mp4")


@pytest.fixture
def large(tmp_path: Path) -> Job:
    return make_job(video=sparse(tmp_path / "large.mp4", 32 << 20))


@pytest.fixture
def local() -> Job:
    return make_job(
        video=probe.probe(MEDIA / "bunny.mp4", "video"),
        image=probe.probe(MEDIA / "hopper.jpg", "image"),
        resolution="720p",
        shift=5.0,
        enable_safety_checker=True,
    )


QUEUED = answer(200, {"id": ID, "status": "queued", "meta": {"usage": {"credits_used": 5}}})


# Requests


def test_a_submission_is_sent_exactly(talk: Talk) -> None:
    peer = Peer([QUEUED])
    job = make_job(resolution="480p", num_inference_steps=20, shift=5.0)
    assert talk(peer, submit(job, "run.key.1")) == Accepted(ID, 5.0)
    [request] = peer.requests
    assert request.line == "POST /v2/video/generations HTTP/1.1"
    assert request.all("authorization") == [f"Bearer {SECRET}"]
    assert request.all("x-client-request-id") == ["run.key.1"]
    assert request.all("content-type") == ["application/json"]
    assert (
        request.body
        == json.dumps(
            {
                "model": job.model,
                "resolution": "480p",
                "num_inference_steps": 20,
                "shift": 5.0,
                "video_url": "https://example.com/walk.mp4",
                "image_url": "https://example.com/hero.png",
            }
        ).encode()
    )


def test_the_quote_may_be_in_the_headers(talk: Talk) -> None:
    peer = Peer([answer(200, {"id": ID}, x_aimlapi_credits_used="7")])
    assert talk(peer, submit(make_job(resolution="480p"))) == Accepted(ID, 7.0)


def test_local_files_are_sent_as_data_uris_in_a_body_of_known_length(talk: Talk, local: Job) -> None:
    peer = Peer([QUEUED])
    talk(peer, submit(local))
    [request] = peer.requests
    video = base64.b64encode((MEDIA / "bunny.mp4").read_bytes()).decode()
    image = base64.b64encode((MEDIA / "hopper.jpg").read_bytes()).decode()
    assert json.loads(request.body) == {
        "model": local.model,
        "resolution": "720p",
        "shift": 5.0,
        "enable_safety_checker": True,
        "video_url": f"data:video/mp4;base64,{video}",
        "image_url": f"data:image/jpeg;base64,{image}",
    }
    assert request.all("content-length") == [str(len(request.body))]
    assert request.all("transfer-encoding") == []


@pytest.mark.parametrize("uri", ['https://e.com/a"b\\c', "https://e.com/é?x=1&y=%2F", "data:image/png;base64,AAAA"])
def test_uris_are_sent_unchanged(talk: Talk, uri: str) -> None:
    peer = Peer([QUEUED])
    talk(peer, submit(make_job(image=Media("image", "shown", uri=uri))))
    assert json.loads(peer.requests[0].body)["image_url"] == uri
    assert peer.requests[0].all("content-length") == [str(len(peer.requests[0].body))]


def test_the_key_is_in_the_authorization_header_only(talk: Talk, local: Job) -> None:
    async def scenario(client: ApiClient, _: Peer) -> None:
        await client.submit(local, "run.key.1")
        await client.status(ID)
        await client.find_submissions(NOW - 5)

    peer = Peer([QUEUED, answer(200, {"status": "queued"}), answer(200, {"data": []})])
    talk(peer, scenario)
    assert len(peer.requests) == 3
    for request in peer.requests:
        assert (request.head + request.body).count(SECRET.encode()) == 1
        assert request.all("authorization") == [f"Bearer {SECRET}"]


def test_a_large_input_needs_little_memory(talk: Talk, tmp_path: Path) -> None:
    size_bytes = 64 << 20
    job = make_job(video=sparse(tmp_path / "large.mp4", size_bytes))
    peer = Peer([QUEUED], keep=False)
    tracemalloc.start()
    try:
        talk(peer, submit(job))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peer.requests[0].body_bytes > size_bytes * 4 / 3
    assert peer.requests[0].body.endswith(b'"}')
    assert peak_bytes < 8 << 20


def test_a_batch_reads_each_input_once(talk: Talk, local: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    real = durable_files.open_plain

    def open_plain(path: Path, *, follow: bool = False) -> Any:
        opened.append(path)
        return real(path, follow=follow)

    async def scenario(client: ApiClient, _: Peer) -> None:
        for _round in range(3):
            await asyncio.gather(*(client.submit(local, f"r{number}") for number in range(5)))

    monkeypatch.setattr(durable_files, "open_plain", open_plain)
    peer = Peer([QUEUED])
    talk(peer, scenario)
    assert sorted(opened) == [MEDIA / "bunny.mp4", MEDIA / "hopper.jpg"]
    assert len({request.body for request in peer.requests}) == 1


def test_inputs_that_were_prepared_are_not_read_by_the_submission(
    talk: Talk, local: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    real = durable_files.open_plain

    def open_plain(path: Path, *, follow: bool = False) -> Any:
        opened.append(path)
        return real(path, follow=follow)

    async def scenario(client: ApiClient, peer: Peer) -> None:
        work = client.prepare(local)
        assert client.capabilities.prepares
        assert work is not None
        await work
        assert (len(opened), len(peer.requests)) == (2, 0)
        assert client.prepare(local) is None
        await client.submit(local, "r1")

    monkeypatch.setattr(durable_files, "open_plain", open_plain)
    talk(Peer([QUEUED]), scenario)
    assert len(opened) == 2


def test_a_job_without_local_inputs_needs_no_preparation(talk: Talk) -> None:
    async def scenario(client: ApiClient, _: Peer) -> None:
        assert client.prepare(make_job()) is None

    talk(Peer([]), scenario)


def test_a_full_temporary_folder_is_a_notice_and_the_body_is_the_same(
    talk: Talk, local: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = Peer([QUEUED]), Peer([QUEUED])
    assert talk(before, submit(local)).notice == ""
    monkeypatch.setattr(durable_files, "free_bytes", lambda _: 0)
    assert "it has 0 bytes of free space" in talk(after, submit(local)).notice
    assert before.requests[0].body == after.requests[0].body


def test_each_submission_has_its_own_connection_and_polls_share_one(talk: Talk) -> None:
    async def submissions(client: ApiClient, _: Peer) -> None:
        for number in range(3):
            await client.submit(make_job(), f"r{number}")

    async def poll_all(client: ApiClient, _: Peer) -> None:
        for _number in range(3):
            await client.status(ID)

    peer = Peer([QUEUED])
    talk(peer, submissions)
    assert (len(peer.requests), peer.connections) == (3, 3)
    peer = Peer([answer(200, {"status": "queued"})])
    talk(peer, poll_all)
    assert (len(peer.requests), peer.connections) == (3, 1)


def test_cookies_are_not_kept(talk: Talk) -> None:
    async def scenario(client: ApiClient, peer: Peer) -> None:
        client._base = peer.url.replace("127.0.0.1", "localhost")  # no jar keeps cookies of an IP address
        await client.status(ID)
        await client.status(ID)

    peer = Peer([answer(200, {"status": "queued"}, Set_Cookie="a=b")])
    talk(peer, scenario)
    assert [request.all("cookie") for request in peer.requests] == [[], []]


# Polls


def test_an_id_is_percent_encoded(talk: Talk) -> None:
    peer = Peer([answer(200, {"id": ID, "status": "generating"})])
    seen = talk(peer, poll_once())
    assert seen.phase is Phase.GENERATING
    quoted = "3f1c7a0e-55a1-4c2e-9d53%3Aalibaba%2Fwan2.2-14b-animate-replace"
    assert peer.requests[0].line == f"GET /v2/video/generations?generation_id={quoted} HTTP/1.1"


def test_any_id_is_received_unchanged(talk: Talk) -> None:
    ids = ["-C4q_", "a+b", "a b", "a%3Ab", "a&generation_id=c", "a#b", "a?b=c", "é/漢", "..", "'\"<>", "\n\t"]

    async def scenario(client: ApiClient, _: Peer) -> None:
        for item in ids:
            await client.status(item)

    peer = Peer([answer(200, {"status": "queued"})])
    talk(peer, scenario)
    assert [request.query for request in peer.requests] == [{"generation_id": [item]} for item in ids]


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.text(max_size=20))
def test_any_server_decodes_the_quoted_id(text: str) -> None:
    assert parse_qs(f"q={client_room._quoted(text)}", keep_blank_values=True) == {"q": [text]}
    url = URL(f"https://e.com/?q={client_room._quoted(text)}", encoded=True)
    assert parse_qs(url.raw_query_string, keep_blank_values=True) == {"q": [text]}


@pytest.mark.parametrize("path", ["", "/", "/proxy/aiml"])
def test_the_base_url_may_have_a_path(talk: Talk, path: str) -> None:
    peer = Peer([answer(200, {"status": "queued"})])
    talk(peer, poll_once("x"), path=path)
    assert peer.requests[0].target == f"{path.rstrip('/')}/v2/video/generations?generation_id=x"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(talk: Talk, status: int) -> None:
    for scenario in (submit(make_job()), poll_once()):
        peer = Peer([answer(status, b"", Location="/elsewhere"), QUEUED])
        error = failed(talk, peer, scenario)
        assert (type(error), error.kind) == (AccountFault, "wrong_address")
        assert len(peer.requests) == 1


# The log


@pytest.mark.parametrize(
    ("age_s", "period"),
    [
        (0, "1h"),
        (3400, "1h"),
        (3600, "24h"),
        (80_000, "24h"),
        (90_000, "7d"),
        (590_000, "7d"),
        (9e6, "30d"),
        (9e9, "30d"),
    ],
)
def test_the_period_covers_the_oldest_submission(talk: Talk, age_s: float, period: str) -> None:
    peer = Peer([answer(200, {"data": []})])
    assert talk(peer, lambda client, _: client.find_submissions(NOW - age_s)).ids == {}
    assert peer.requests[0].target == f"/v2/logs?period={period}"


def test_all_pages_of_the_log_are_read(talk: Talk) -> None:
    first = [
        {"client_request_id": "r1", "inference_id": "g:1/x", "status": "Succeeded"},
        {"inference_id": "g", "status": "failed"},
    ]
    odd = [
        {"client_request_id": "r2", "inference_id": "", "status": "failed"},
        {"client_request_id": "r3", "inference_id": 7},
        {"client_request_id": None, "inference_id": "g"},
    ]
    last = [{"client_request_id": "r4", "inference_id": "g4"}]
    pages: dict[str | None, Any] = {
        None: {"data": first, "next_cursor": "c:1"},
        "c:1": {"data": odd, "next_cursor": "c/2"},
        "c/2": {"data": last, "has_more": False, "next_cursor": None},
    }
    peer = Peer([lambda request: answer(200, pages[next(iter(request.query.get("cursor", [])), None)])])
    found = talk(peer, lambda client, _: client.find_submissions(NOW - 60))
    assert found.ids == {"r1": "g:1/x", "r4": "g4"}
    assert found.requests == {"r1", "r2", "r3", "r4"}, "including those whose generation id is unusable"
    assert found.finished == {"r1", "r2"}
    assert (found.ended, found.complete) == (True, True)
    assert [request.query.get("cursor") for request in peer.requests] == [None, ["c:1"], ["c/2"]]
    assert {request.query["period"][0] for request in peer.requests} == {"1h"}


def test_a_log_with_repeated_cursors_ends(talk: Talk) -> None:
    peer = Peer([answer(200, {"data": [], "next_cursor": "same"})])
    found = talk(peer, lambda client, _: client.find_submissions(NOW))
    assert (found.ids, found.ended, found.complete) == ({}, False, False)
    assert len(peer.requests) == 2
    turns = iter(range(10**6))
    peer = Peer([lambda _: answer(200, {"data": [], "next_cursor": str(next(turns))})])
    found = talk(peer, lambda client, _: client.find_submissions(NOW))
    assert (found.ids, found.ended, found.complete) == ({}, False, False)
    assert len(peer.requests) == 100, "half of what the service allows a minute"


ROWS = [{"client_request_id": f"r{number}", "inference_id": f"g{number}"} for number in range(25)]


@pytest.mark.parametrize(
    ("page", "complete"),
    [
        ({"data": ROWS}, True),
        ({"data": []}, True),
        ({"data": ROWS[:20]}, False),  # a round number may be the limit of a page
        (ROWS[:10], False),
        ({"data": ROWS[:20], "has_more": False}, True),
        ({"data": ROWS, "has_more": True}, False),  # and no cursor to it
    ],
    ids=str.split("few none round bare last more"),
)
def test_a_submission_is_missing_only_if_the_whole_log_was_read(talk: Talk, page: object, *, complete: bool) -> None:
    found = talk(Peer([answer(200, page)]), lambda client, _: client.find_submissions(NOW - 60))
    assert (found.ended, found.complete) == (True, complete)


@pytest.mark.parametrize(
    "reply",
    [
        answer(200, json.dumps({"data": ROWS[:3]}).encode() + b" and more"),
        answer(200, b"\xef\xbb\xbf" + json.dumps({"data": ROWS[:3]}).encode()[:-1] + b",}"),
    ],
    ids=["text after it", "a stray comma"],
)
def test_a_damaged_page_adopts_and_frees_nothing(talk: Talk, reply: bytes) -> None:
    found = talk(Peer([reply]), lambda client, _: client.find_submissions(NOW - 60))
    assert set(found.ids) == {"r0", "r1", "r2"}
    assert (found.ended, found.complete) == (False, False)


def test_a_submission_older_than_the_logs_period_may_be_missing(talk: Talk) -> None:
    found = talk(Peer([answer(200, {"data": []})]), lambda client, _: client.find_submissions(NOW - 9e6))
    assert (found.ended, found.complete) == (True, False)


def test_a_log_that_is_not_offered_is_no_error(talk: Talk) -> None:
    error = failed(talk, Peer([answer(404)]), lambda client, _: client.find_submissions(NOW))
    assert (error.status, error.in_doubt) == (404, False)


# Reachability


def ask(client: ApiClient, _: Peer) -> Awaitable[None]:
    return client.ping()


@pytest.mark.parametrize(
    "reply",
    [
        answer(404, {"statusCode": "404", "message": "Inference not found"}),
        answer(400, {"message": "no such id"}),
        answer(401, {"message": "key"}),
        answer(403, {"error": {"data": {"kind": "err_insufficent_credits"}}, "message": "credits"}),
        answer(200, {"id": "batchrunner", "status": "queued"}),
    ],
    ids=["404", "400", "401", "403", "200"],
)
def test_any_answer_shows_that_the_service_is_reachable(talk: Talk, reply: bytes) -> None:
    peer = Peer([reply])
    talk(peer, ask)
    assert [request.line for request in peer.requests] == [
        "GET /v2/video/generations?generation_id=batchrunner HTTP/1.1"
    ]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (answer(503), "unavailable"),
        (answer(500, {"message": "sorry"}), "server_error"),
        (answer(502, b"<html>"), "unavailable"),
        (answer(200, b"<html>"), "bad_reply"),
        (answer(429), "rate_limited"),
        (b"HTTP/1.1 2", "cut"),
        (None, "timed_out"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_outage_does_not_count_as_an_answer(talk: Talk, reply: bytes | None, kind: str) -> None:
    assert failed(talk, Peer([reply]), ask, Timeouts(poll_s=0.05 if reply is None else 30.0)).kind == kind


# Outcomes


def test_a_refused_connection_leaves_nothing_in_doubt(talk: Talk) -> None:
    async def scenario(client: ApiClient, _: Peer) -> None:
        client._base = "http://127.0.0.1:1"
        await client.submit(make_job(), "r")

    error = failed(talk, Peer([QUEUED]), scenario)
    assert (type(error), error.kind, error.in_doubt) == (NetworkFault, "no_connection", False)


def test_a_host_without_an_address_leaves_nothing_in_doubt(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(client: ApiClient, _: Peer) -> None:
        async def unknown(*_: Any, **__: Any) -> Any:
            raise OSError(-2, "Name or service not known")

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
        client._base = "http://no.such.host.invalid"
        await client.submit(make_job(), "r")

    error = failed(talk, Peer([QUEUED]), scenario)
    assert (error.kind, error.in_doubt) == ("no_connection", False)


def test_a_failed_tls_handshake_leaves_nothing_in_doubt(talk: Talk) -> None:
    async def scenario(client: ApiClient, peer: Peer) -> None:
        client._base = peer.url.replace("http:", "https:")
        await client.submit(make_job(), "r")

    class Deaf(Peer):
        async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 no TLS here\r\n\r\n")
            writer.close()

    error = failed(talk, Deaf([QUEUED]), scenario)
    assert (error.kind, error.in_doubt) == ("no_connection", False)


def test_a_cut_in_the_middle_of_the_body_leaves_nothing_in_doubt(talk: Talk, large: Job) -> None:
    for stop_after in (1, 1 << 20):
        peer = Peer([QUEUED], stop_after=stop_after, keep=False)
        error = failed(talk, peer, submit(large))
        assert (type(error), error.kind, error.in_doubt) == (NetworkFault, "cut", False)


def test_a_cut_after_the_whole_body_is_in_doubt(talk: Talk, local: Job) -> None:
    for reply in (b"", b"HTTP/1.1 2"):
        error = failed(talk, Peer([reply]), submit(local))
        assert (type(error), error.kind, error.in_doubt) == (NetworkFault, "cut", True)
        assert error.hint == ""


@pytest.mark.parametrize(
    "reply",
    [
        b"\x16\x03\x01 garbage\r\n\r\n",
        b"HTTP/1.1 abc Word\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBroken header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b{}",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: zstd\r\nContent-Length: 4\r\n\r\n\x1f\x8b{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + b"[" * 3_000_000,
    ],
    ids=lambda reply: repr(reply[:60]),
)
def test_an_uninformative_reply_leaves_the_submission_in_doubt(talk: Talk, reply: bytes) -> None:
    error = failed(talk, Peer([reply]), submit(make_job()))
    assert error.in_doubt
    assert isinstance(error, NetworkFault | ServiceFault)
    polled = failed(talk, Peer([reply]), poll_once()) if b"\r\n\r\n{}" not in reply else None
    assert polled is None or not polled.in_doubt


def test_an_id_in_a_header_of_an_unusual_reply_is_found(talk: Talk) -> None:
    peer = Peer([answer(202, b"", X_Inference_Id=ID)])
    assert talk(peer, submit(make_job())).generation_id == ID


NAMED = json.dumps({"id": ID, "status": "queued"}).encode()
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(NAMED) + NAMED
LENGTH = b"Content-Length: %d\r\n" % len(NAMED)
ODD_REPLIES = {
    "lengths": b"HTTP/1.1 200 OK\r\n" + 2 * LENGTH + b"\r\n" + NAMED,
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n" + LENGTH + b"\r\n" + NAMED,
    "too long": b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + NAMED,
    "no number": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n" + NAMED,
    "both": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
    + LENGTH
    + b"\r\n%x\r\n" % len(NAMED)
    + NAMED
    + b"\r\n0\r\n\r\n",
    "cut chunks": CHUNKED,
    "broken chunks": CHUNKED + b"\r\nzz\r\n",
    "a long field": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 60_000 + b"\r\n" + LENGTH + b"\r\n" + NAMED,
    "many fields": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + LENGTH + b"\r\n" + NAMED,
    "repeated fields": b"HTTP/1.1 200 OK\r\nDate: x\r\nDate: y\r\nETag: a\r\netag: b\r\n" + LENGTH + b"\r\n" + NAMED,
    "a broken field": b"HTTP/1.1 200 OK\r\nBroken\r\n" + LENGTH + b"\r\n" + NAMED,
    "an unknown coding": b"HTTP/1.1 200 OK\r\nContent-Encoding: utf-8\r\n" + LENGTH + b"\r\n" + NAMED,
}


@pytest.mark.parametrize("reply", ODD_REPLIES.values(), ids=ODD_REPLIES)
def test_a_reply_with_broken_framing_is_read(talk: Talk, reply: bytes) -> None:
    class Ends(Peer):
        async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            await super()._serve(reader, writer)
            return False

    assert talk(Ends([reply]), submit(make_job())).generation_id == ID
    seen = talk(Ends([reply]), poll_once())
    assert (seen.phase, seen.named) == (Phase.QUEUED, True)


def test_an_id_is_kept_if_the_other_bytes_of_the_reply_never_arrive(talk: Talk) -> None:
    class Stays(Peer):
        async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            await super()._serve(reader, writer)
            await reader.read()
            return False

    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + NAMED
    assert talk(Stays([reply]), submit(make_job()), Timeouts(answer_s=0.05)).generation_id == ID


@pytest.mark.parametrize("status", [400, 429])
def test_a_refusal_counts_even_if_its_body_is_cut_off(talk: Talk, status: int) -> None:
    reply = b"HTTP/1.1 %d No\r\nContent-Length: 999\r\n\r\n{" % status
    error = failed(talk, Peer([reply]), submit(make_job()))
    assert (error.status, error.in_doubt) == (status, False)


def test_replies_on_a_kept_connection_are_separated(talk: Talk) -> None:
    async def poll_all(client: ApiClient, _: Peer) -> list[str]:
        return [(await client.status(ID)).status_text for _number in range(3)]

    peer = Peer([answer(200, {"id": ID, "status": status}, X="y" * 50) for status in ("queued", "active", "waiting")])
    assert talk(peer, poll_all) == ["queued", "active", "waiting"]
    assert peer.connections == 1


def test_a_relative_link_is_joined_to_the_base_url(talk: Talk) -> None:
    peer = Peer([answer(200, {"id": ID, "status": "completed", "video": {"url": " /files/a.mp4 "}})])
    assert talk(peer, poll_once()).result_url == f"{peer.url}/files/a.mp4"


def test_the_jobs_inputs_are_not_taken_for_a_result(talk: Talk) -> None:
    async def scenario(client: ApiClient, _: Peer) -> object:
        return await client.status(ID, make_job().input_urls)

    reply = {
        "id": ID,
        "status": "completed",
        "video_url": make_job().inputs["video"].uri,
        "output": "https://e.com/x.mp4",
    }
    assert talk(Peer([answer(200, reply)]), scenario).result_url == "https://e.com/x.mp4"


@pytest.mark.parametrize("has_files", [False, True])
def test_no_answer_in_time_is_in_doubt(talk: Talk, local: Job, has_files: bool) -> None:
    error = failed(talk, Peer([None]), submit(local if has_files else make_job()), Timeouts(answer_s=0.05))
    assert (type(error), error.kind, error.in_doubt) == (NetworkFault, "timed_out", True)


def test_a_poll_without_an_answer_times_out(talk: Talk) -> None:
    error = failed(talk, Peer([None]), poll_once(), Timeouts(poll_s=0.05))
    assert (type(error), error.kind, error.in_doubt) == (NetworkFault, "timed_out", False)


@pytest.mark.parametrize("change", ["content", "longer", "shorter", "gone", "a folder"])
def test_an_input_that_changed_never_gives_a_complete_body(talk: Talk, tmp_path: Path, change: str) -> None:
    path = tmp_path / "walk.mp4"
    path.write_bytes((MEDIA / "bunny.mp4").read_bytes())
    job = make_job(video=probe.probe(path, "video"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    if change == "a folder":
        path.mkdir()
    elif change != "gone":
        path.write_bytes({"content": content, "longer": content + b"x", "shorter": content[:-1]}[change])
    peer = Peer([QUEUED])
    error = failed(talk, peer, submit(job))
    assert (type(error), error.kind, error.in_doubt) == (LocalFault, "input_changed", False)
    for request in peer.requests:
        assert request.body_bytes < int(request.all("content-length")[0])


def test_a_refusal_before_the_end_of_the_body_leaves_nothing_in_doubt(talk: Talk, large: Job) -> None:
    """Whether the refusal is read before the connection breaks is chance; that nothing is in doubt is not."""

    class Early(Peer):
        async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer(413, {"message": "request entity too large"}, Connection="close"))
            await writer.drain()
            return False

    error = failed(talk, Early([QUEUED]), submit(large))
    assert isinstance(error, JobFault | NetworkFault)
    assert not error.in_doubt


def test_a_refusal_for_size_has_the_size_and_the_next_step(talk: Talk, local: Job) -> None:
    error = failed(talk, Peer([answer(413, {"message": "request entity too large"})]), submit(local))
    assert (type(error), error.kind, error.in_doubt) == (JobFault, "too_large", False)
    assert error.message.endswith("request entity too large; the request has 185.7 kB")
    assert "stage: s3://" in error.hint


def test_an_endless_reply_is_read_up_to_the_limit(talk: Talk) -> None:
    error = failed(talk, Peer([answer(500, b"x" * (3 * responses.MAX_REPLY_BYTES))]), submit(make_job()))
    assert (error.kind, error.in_doubt) == ("server_error", True)


def test_a_submission_can_be_cancelled_while_an_input_is_read(
    talk: Talk, local: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    complaints: list[Any] = []

    async def slow(_: Media, executor: Executor) -> AsyncIterator[bytes]:
        def block() -> None:
            begun.set()
            go_on.wait(10)

        await asyncio.get_running_loop().run_in_executor(executor, block)
        yield b"x"

    monkeypatch.setattr(probe, "read_data_uri", slow)

    async def scenario(client: ApiClient, _: Peer) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        task = loop.create_task(client.submit(local, "r"))
        await loop.run_in_executor(None, begun.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()

    try:
        talk(Peer([QUEUED]), scenario)
    finally:
        go_on.set()
    assert complaints == []


# The border


def subclasses(of: type[Exception]) -> list[type[Exception]]:
    return sorted(
        {of, *(item for sub in of.__subclasses__() for item in subclasses(sub))}, key=lambda cls: cls.__name__
    )


FOREIGN = [*subclasses(aiohttp.ClientError), TimeoutError, OSError, ConnectionResetError, BrokenPipeError, ssl.SSLError]
ARGUMENTS: dict[str, Any] = {
    "request_info": SimpleNamespace(real_url="https://e.com"),
    "history": (),
    "connection_key": SimpleNamespace(host="e.com", port=443, ssl=True, is_ssl=True),
    "os_error": OSError(111, "Connection refused"),
    "certificate_error": ssl.CertificateError("expired"),
    "path": "/socket",
    "expected": b"1",
    "got": b"2",
    "host": "e.com",
    "port": 443,
    "url": "https://e.com",
}


def instance(kind: type[Exception]) -> Exception:
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    wanted = [
        item.name for item in parameters if item.default is item.empty and item.kind is item.POSITIONAL_OR_KEYWORD
    ]
    return kind(*(ARGUMENTS[name] for name in wanted))


@pytest.mark.parametrize("kind", FOREIGN, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("sent", [None, False, True], ids=["look", "before the end", "all sent"])
def test_no_foreign_exception_crosses_the_border(kind: type[Exception], sent: bool | None, executor: Executor) -> None:
    assert issubclass(kind, client_room.FOREIGN)
    body = None if sent is None else SubmissionBody(make_job(), executor)
    if body is not None:
        body.complete = bool(sent)
    fault = client_room.call_fault(instance(kind), body, Redactor())
    unconnected = issubclass(kind, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.InvalidURL)
    assert isinstance(fault, NetworkFault)
    assert fault.kind in {"no_connection", "timed_out", "cut"}
    assert (fault.kind == "no_connection") == unconnected
    assert fault.in_doubt == (bool(sent) and not unconnected)
    assert fault.message


@pytest.mark.parametrize("kind", [ZeroDivisionError, asyncio.CancelledError, CallError])
def test_an_error_unrelated_to_the_network_is_not_a_network_fault(kind: type[BaseException]) -> None:
    assert not issubclass(kind, client_room.FOREIGN)
