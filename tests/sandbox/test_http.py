"""The sandbox over HTTP: in virtual time with simulated sockets, and over real loopback if that matters."""

import asyncio
import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import async_solipsism
import pytest

from batchrunner.clock import LoopClock
from batchrunner.errors import UsageError
from batchrunner.sandbox import Fault, SandboxConfig, start
from batchrunner.sandbox.clips.render import RenderFailed, RenderRequest
from batchrunner.sandbox.clips.render_pool import RenderPool
from batchrunner.sandbox.server import Sandbox

GENERATIONS = "/v2/video/generations"
CLIP = bytes(range(1, 256)) * 40
BODY = {
    "model": "alibaba/wan2.2-14b-animate-replace",
    "video_url": "https://example.com/a.mp4",
    "image_url": "data:image/png;base64," + base64.b64encode(b"picture").decode(),
}
CONSTANT: dict[str, Any] = {"queue_wait_s": 1.0, "duration_s": 10.0, "spread": 0.0}


async def instant(request: RenderRequest) -> bytes:
    assert request.video.is_file()
    assert request.image.read_bytes() == b"picture"
    return CLIP


class Client:
    """Sends the requests that the documentation's sample sends."""

    def __init__(self, session: aiohttp.ClientSession, sandbox: Sandbox) -> None:
        self.session = session
        self.sandbox = sandbox
        self.key = {"Authorization": "Bearer test-key"}

    async def call(self, method: str, path: str, headers: Any = None, **more: Any) -> tuple[int, Any, Any]:
        """Return status, body (parsed if it is JSON) and headers."""
        url = path if path.startswith("http") else self.sandbox.url + path
        key = {} if "/files/" in url else self.key
        async with self.session.request(method, url, headers=key | (headers or {}), **more) as response:
            data = await response.read()
            parsed = json.loads(data) if data and "json" in response.content_type else data
            return response.status, parsed, response.headers

    async def submit(self, headers: Any = None, **changes: Any) -> tuple[int, Any, Any]:
        return await self.call("POST", GENERATIONS, headers, json=BODY | changes)

    async def poll(self, generation_id: str) -> tuple[int, Any, Any]:
        return await self.call("GET", GENERATIONS, params={"generation_id": generation_id})

    async def result(self) -> str:
        """Return the URL of a new generation's result."""
        _, body, _ = await self.submit()
        await asyncio.sleep(20)  # virtual seconds
        return str((await self.poll(body["id"]))[1]["video"]["url"])

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.sandbox.ledger() if event["event"] == kind]


@asynccontextmanager
async def serving(config: SandboxConfig, render: Any = instant) -> AsyncIterator[Client]:
    sandbox = await start(config, clock=LoopClock(epoch=1_800_000_000.0), render=render)
    try:
        async with aiohttp.ClientSession() as session:
            yield Client(session, sandbox)
    finally:
        await sandbox.close()


Scenario = Callable[[Client], Awaitable[None]]


@pytest.fixture
def virtual(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run a scenario against a sandbox in virtual time."""
    monkeypatch.setattr(
        "aiohttp.connector.aiohappyeyeballs.start_connection", async_solipsism.aiohappyeyeballs_start_connection
    )

    def run(scenario: Scenario, *faults: Fault, render: Any = instant, **config: Any) -> None:
        async def main() -> None:
            async with serving(SandboxConfig(faults=faults, **(CONSTANT | config)), render) as client:
                await scenario(client)

        with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
            runner.run(main())

    return run


# The life of a generation


def test_a_generation_goes_from_submission_to_file(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        loop = asyncio.get_running_loop()
        status, body, headers = await client.submit({"X-Client-Request-Id": "batch:1"})
        assert (status, body["status"]) == (200, "queued")
        assert body["id"].endswith(":" + BODY["model"])
        assert headers["x-inference-id"] == body["id"]
        assert headers["x-client-request-id"] == "batch:1"
        assert body["meta"]["usage"]["credits_used"] == 2_000_000 * body["meta"]["usage"]["usd_spent"] > 0
        assert "fetches nothing" in body["meta"]["sandbox"]["video_url"]
        assert "image_url" not in body["meta"]["sandbox"]
        seen: list[tuple[int, str]] = []
        while not seen or seen[-1][1] != "completed":
            _, polled, _ = await client.poll(body["id"])
            seen.append((round(loop.time()), polled["status"]))
            await asyncio.sleep(4)
        assert seen == [(0, "queued"), (4, "generating"), (8, "generating"), (12, "completed")]
        status, data, headers = await client.call("GET", polled["video"]["url"])
        assert (status, data, headers["Content-Type"]) == (200, CLIP, "video/mp4")
        assert [event["event"] for event in client.sandbox.ledger()] == ["accepted", "started", "completed", "fetched"]

    virtual(scenario)


def test_the_cap_and_the_queue_limit_apply(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        replies = await asyncio.gather(*(client.submit(shift=number) for number in range(6)))
        assert sorted(status for status, _, _ in replies) == [200, 200, 200, 429, 429, 429]
        assert {body["title"] for status, body, _ in replies if status == 429} == {"Too Many Requests"}
        await asyncio.sleep(5)
        ids = [body["id"] for status, body, _ in replies if status == 200]
        states = sorted([(await client.poll(one))[1]["status"] for one in ids])
        assert states == ["generating", "generating", "queued"]

    virtual(scenario, capacity=2, queue_limit=1)


def test_a_whole_simulation_is_repeatable(virtual: Any) -> None:
    ledgers = []

    async def scenario(client: Client) -> None:
        await asyncio.gather(*(client.submit({"X-Client-Request-Id": f"r{n}"}, shift=n) for n in range(20)))
        await asyncio.sleep(1000)
        ledgers.append([(e["event"], e["generation_id"], e["at"]) for e in client.sandbox.ledger()])

    for _ in range(2):
        virtual(scenario, Fault("generation", "stuck", rate=0.3), spread=0.5, capacity=3, seed=4)
    assert ledgers[0] == ledgers[1]
    assert len({one[0] for one in ledgers[0]}) == 3
    assert len(ledgers[0]) < 60


# Refusals


@pytest.mark.parametrize("value", [None, "", "Bearer", "Bearer ", "Basic abc"])
def test_a_call_without_a_key_is_refused(virtual: Any, value: str | None) -> None:
    async def scenario(client: Client) -> None:
        client.key = {} if value is None else {"Authorization": value}
        for status, body, headers in (
            await client.submit(),
            await client.poll("x"),
            await client.call("GET", "/v2/logs"),
        ):
            assert status == body["status"] == 401
            assert headers["Content-Type"].startswith("application/problem+json")
            assert body["error"]["name"] == "UnauthorizedException"
        assert client.sandbox.ledger() == []

    virtual(scenario)


def test_an_invalid_request_is_refused_with_its_issues(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        status, body, headers = await client.submit(resolution="768P", shift="5")
        assert (status, headers.getone("Content-Type").split(";")[0]) == (400, "application/problem+json")
        assert [issue["path"] for issue in body["error"]["data"]] == [["resolution"], ["shift"]]
        assert body["message"] == "Invalid payload provided"
        assert body["requestId"] == headers["x-request-id"]
        status, body, _ = await client.call("POST", GENERATIONS, data=json.dumps(BODY))  # no JSON content type
        assert (status, len(body["error"]["data"])) == (400, 3)
        status, body, _ = await client.call("GET", GENERATIONS)
        assert (status, body["error"]["data"][0]["path"]) == (400, ["generation_id"])
        refusals = [(event["event"], event["call"], event["status"], event["why"]) for event in client.sandbox.ledger()]
        why = "Invalid payload provided"
        assert refusals == [("refused", call, 400, why) for call in ("submit", "submit", "poll")]

    virtual(scenario)


def test_an_unknown_path_is_not_found(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        status, body, _ = await client.poll("b5592d70:alibaba/x")
        assert (status, body["message"], body["error"]["name"]) == (404, "Inference not found", "NotFoundException")
        for method, path in [
            ("DELETE", GENERATIONS),
            ("GET", "/v2/nothing"),
            ("POST", "/v2/logs"),
            ("GET", "/v2/logs"),
        ]:
            status, body, _ = await client.call(method, path)
            assert (status, body["error"]["name"]) == (404, "NotFoundException"), path
        assert (await client.call("GET", "/files/../ledger.jsonl"))[0] == 404
        assert (await client.call("GET", "/files/none.mp4"))[0] == 404

    virtual(scenario, logs=False)


def test_a_body_above_the_limit_is_refused(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        assert (await client.submit())[0] == 200
        status, body, _ = await client.submit(image_url="data:image/png;base64," + "AAAA" * 1000)
        assert (status, body["status"]) == (413, 413)

    virtual(scenario, body_limit_bytes=2000)


@pytest.mark.parametrize("sent", ["spaced out", "a" * 129, "umlaut-\u00fc"])
def test_a_malformed_client_request_id_is_dropped(virtual: Any, sent: str) -> None:
    async def scenario(client: Client) -> None:
        _, _, headers = await client.submit({"X-Client-Request-Id": sent})
        assert "x-client-request-id" not in headers
        assert client.events("accepted")[0]["client_request_id"] is None

    virtual(scenario)


def test_unusable_media_fail_the_generation(virtual: Any) -> None:
    async def refuse(_request: RenderRequest) -> bytes:
        raise RenderFailed("image", "image_load_error", "Could not load the image")

    async def scenario(client: Client) -> None:
        _, body, _ = await client.submit()
        await asyncio.sleep(20)
        status, polled, _ = await client.poll(body["id"])
        assert (status, polled["status"]) == (200, "error")
        (detail,) = polled["error"]["detail"]
        assert (detail["loc"], detail["type"]) == (["body", "image_url"], "image_load_error")
        assert (await client.call("GET", "/v2/logs"))[1]["data"][0]["cost"]["credits"] == 0

    virtual(scenario, render=refuse)


def test_the_renderer_receives_the_requests_parameters(virtual: Any) -> None:
    seen: list[RenderRequest] = []

    async def render_once(request: RenderRequest) -> bytes:
        seen.append(request)
        return CLIP

    async def scenario(client: Client) -> None:
        await client.submit(num_inference_steps=7, video_quality="low", video_write_mode="small", resolution="720p")
        await asyncio.sleep(20)
        (request,) = seen
        assert (request.steps, request.quality, request.write_mode) == (7, "low", "small")
        assert (request.resolution, request.composite) == ("720p", True)

    virtual(scenario, render=render_once)


def test_equal_requests_vary_with_their_request_id_but_not_with_its_run(virtual: Any) -> None:
    seen: list[str] = []

    async def render_once(request: RenderRequest) -> bytes:
        seen.append(request.variation)
        return CLIP

    async def scenario(client: Client) -> None:
        for request_id in ("run1.job.1", "run2.job.1", "run1.job.2", "take-1", "take-2"):
            await client.submit({"X-Client-Request-Id": request_id})
            await asyncio.sleep(20)
        assert seen[0] == seen[1]
        assert len(set(seen[1:])) == 4

    virtual(scenario, render=render_once)


@pytest.mark.parametrize(("render", "composite"), [("composite", True), ("transcode", False)])
def test_transcoding_is_optional(virtual: Any, render: str, composite: bool) -> None:
    seen: list[bool] = []

    async def render_once(request: RenderRequest) -> bytes:
        seen.append(request.composite)
        return CLIP

    async def scenario(_client: Client) -> None:
        async with serving(SandboxConfig(**(CONSTANT | {"render": render})), render_once) as client:
            await client.submit()
            await asyncio.sleep(20)
            assert seen == [composite]

    virtual(scenario)


def test_logs_contain_the_client_request_id(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        for number in range(3):
            await client.submit({"X-Client-Request-Id": f"r{number}"})
        await asyncio.sleep(20)
        _, body, _ = await client.call("GET", "/v2/logs", params={"period": "1h", "limit": "2"})
        assert [row["client_request_id"] for row in body["data"]] == ["r2", "r1"]
        assert body["has_more"]
        _, body, _ = await client.call("GET", "/v2/logs", params={"cursor": body["next_cursor"]})
        (row,) = body["data"]
        assert list(row) == [
            "created", "status", "model", "cost", "request_id", "inference_id", "client_request_id",
        ]  # fmt: skip
        assert (row["status"], row["client_request_id"]) == ("succeeded", "r0")
        assert row["inference_id"] == client.events("accepted")[0]["generation_id"]
        _, body, _ = await client.call("GET", "/v2/logs", params={"client_request_id": "r9"})
        assert body["data"] == []
        assert (await client.call("GET", "/v2/logs", params={"limit": "x"}))[0] == 400

    virtual(scenario)


# Faults of submissions and polls


@pytest.mark.parametrize(
    ("kind", "status", "accepted"),
    [
        ("rate_limited", 429, 0),
        ("unavailable", 503, 0),
        ("server_error", 500, 0),
        ("server_error_accepted", 500, 1),
        ("unavailable_accepted", 503, 1),
        ("timeout_408_accepted", 408, 1),
        ("early_425_accepted", 425, 1),
        ("edge_502_html", 502, 0),
        ("edge_502_html_accepted", 502, 1),
        ("edge_524_html_accepted", 524, 1),
        ("out_of_credits", 403, 0),
        ("unauthorized", 401, 0),
        ("legacy_error", 400, 0),
        ("empty_200", 200, 1),
    ],
)
def test_a_submission_can_be_answered_with_an_error(virtual: Any, kind: str, status: int, accepted: int) -> None:
    async def scenario(client: Client) -> None:
        answered, body, headers = await client.submit()
        assert answered == status
        assert "x-inference-id" not in headers
        events = client.events("accepted")
        assert len(events) == accepted
        assert not any(event["replied"] for event in events)
        if kind == "out_of_credits":
            assert body["error"]["data"] == {"kind": "err_insufficent_credits"}
        assert (await client.submit())[0] == 200
        assert client.events("accepted")[-1]["replied"]

    virtual(scenario, Fault("submit", kind, first=1))


@pytest.mark.parametrize(("kind", "accepted"), [("lost_reply", 1), ("cut_before", 0), ("hang", 1), ("hang_before", 0)])
def test_a_submission_can_stay_unanswered(virtual: Any, kind: str, accepted: int) -> None:
    async def scenario(client: Client) -> None:
        client.session._timeout = aiohttp.ClientTimeout(total=300)
        with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, TimeoutError)):
            await client.submit()
        waited = asyncio.get_running_loop().time()
        assert (waited >= 300) == kind.startswith("hang")
        assert [event["replied"] for event in client.events("accepted")] == [False] * accepted

    virtual(scenario, Fault("submit", kind))


@pytest.mark.parametrize(
    ("kind", "status", "keys"),
    [
        ("no_id", 200, ["status", "meta"]),
        ("id_as_generation_id", 200, ["generation_id", "status", "meta"]),
        ("created_201", 201, ["id", "status", "meta"]),
    ],
)
def test_a_submission_can_get_an_unusual_answer(virtual: Any, kind: str, status: int, keys: list[str]) -> None:
    async def scenario(client: Client) -> None:
        answered, body, headers = await client.submit()
        assert (answered, list(body)) == (status, keys)
        assert ("x-inference-id" in headers) == (kind != "no_id")
        assert client.events("accepted")[0]["replied"] == (kind != "no_id")

    virtual(scenario, Fault("submit", kind))


def test_retry_after_is_sent(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        status, _, headers = await client.submit()
        assert (status, headers["Retry-After"]) == (429, "12")

    virtual(scenario, Fault("submit", "rate_limited_retry_after", delay_s=12))


def test_an_outage_begins_and_ends(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        seen = []
        for _ in range(4):
            seen.append((await client.submit())[0])
            await asyncio.sleep(60)
        assert seen == [200, 503, 503, 200]

    virtual(scenario, Fault("submit", "unavailable", between_s=(60, 180)))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("not_found", (404, None)),
        ("edge_524_html", (524, None)),
        ("html_200", (200, None)),
        ("waiting", (200, "waiting")),
        ("unknown_status", (200, "BAKING")),
        ("succeeded", (200, "queued")),
    ],
)
def test_an_early_poll_can_get_an_unusual_answer(virtual: Any, kind: str, expected: tuple[int, str | None]) -> None:
    async def scenario(client: Client) -> None:
        _, body, _ = await client.submit()
        status, polled, _ = await client.poll(body["id"])
        kind = polled.get("status") if isinstance(polled, dict) and status == 200 else None
        assert (status, kind) == expected

    virtual(scenario, Fault("poll", kind))


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("no_url", lambda url: {}),
        ("succeeded", lambda url: {"video": {"url": url}, "status": "succeeded"}),
        ("video_string_list", lambda url: {"video": [url]}),
        ("video_object_list", lambda url: {"video": [{"url": url}]}),
    ],
)
def test_a_completed_poll_can_be_wrong_once(virtual: Any, kind: str, shape: Any) -> None:
    async def scenario(client: Client) -> None:
        _, body, _ = await client.submit()
        await asyncio.sleep(20)
        odd, right = (await client.poll(body["id"]))[1], (await client.poll(body["id"]))[1]
        assert odd == {"id": body["id"], "status": "completed"} | shape(right["video"]["url"])

    virtual(scenario, Fault("poll", kind, each_first=1))


@pytest.mark.parametrize(
    ("kind", "answered"), [("no_id", {"own"}), ("other_id", {"id", "other"}), ("other_without_id", {"other"})]
)
def test_a_poll_can_be_answered_for_another_generation(virtual: Any, kind: str, answered: set[str]) -> None:
    async def scenario(client: Client) -> None:
        own, other = [(await client.submit(shift=shift))[1]["id"] for shift in (1, 2)]
        await asyncio.sleep(20)
        lie, truth = (await client.poll(own))[1], (await client.poll(own))[1]
        other_reply = (await client.poll(other))[1]
        assert truth["id"] == own
        assert lie["video"] == (other_reply if "other" in answered else truth)["video"]
        assert lie.get("id") == (other if "id" in answered else None)

    virtual(scenario, Fault("poll", kind, first=1))


@pytest.mark.parametrize(
    ("kind", "after_s", "statuses"),
    [
        ("failed_early", 0, ("error", "queued")),
        ("completed_early", 0, ("completed", "queued")),
        ("failed_late", 20, ("error", "completed")),
        ("pending_again", 20, ("generating", "completed")),
    ],
)
def test_a_status_can_go_back_and_forth(virtual: Any, kind: str, after_s: int, statuses: tuple[str, str]) -> None:
    async def scenario(client: Client) -> None:
        _, body, _ = await client.submit()
        await asyncio.sleep(after_s)
        lie, truth = (await client.poll(body["id"]))[1], (await client.poll(body["id"]))[1]
        assert (lie["status"], truth["status"]) == statuses
        assert ("error" in lie) == (statuses[0] == "error")
        assert "video" not in lie

    virtual(scenario, Fault("poll", kind, each_first=1))


def test_a_submission_can_be_answered_for_another_one(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        first = (await client.submit({"X-Client-Request-Id": "one"}))[1]["id"]
        second = (await client.submit({"X-Client-Request-Id": "two"}))[1]["id"]
        assert first == second
        assert [event["replied"] for event in client.events("accepted")] == [True, False]

    virtual(scenario, Fault("submit", "other_id", match="two"))


def test_a_log_can_list_other_submissions_than_requested(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        await client.submit({"X-Client-Request-Id": "one"})
        _, body, _ = await client.call("GET", "/v2/logs", params={"client_request_id": "two"})
        assert [row["client_request_id"] for row in body["data"]] == ["one"]

    virtual(scenario, Fault("logs", "unfiltered"))


@pytest.mark.parametrize("kind", ["face_detection", "content_policy", "file_download", "error_object"])
def test_a_generation_can_fail(virtual: Any, kind: str) -> None:
    async def scenario(client: Client) -> None:
        _, body, _ = await client.submit()
        await asyncio.sleep(5)
        assert (await client.poll(body["id"]))[1]["status"] == "generating"
        await asyncio.sleep(10)
        _, polled, _ = await client.poll(body["id"])
        assert polled["status"] == "error"
        assert ("message" if kind == "error_object" else "detail") in polled["error"]
        assert len(client.events("failed")) == 1

    virtual(scenario, Fault("generation", kind))


# Downloads


def test_a_result_is_not_available_before_its_generation_has_ended(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        _, body, _ = await client.submit()
        path = f"/files/{body['id'].split(':')[0]}.mp4"
        await asyncio.sleep(5)  # rendered, and still generating for the client
        assert (await client.call("GET", path))[0] == 404
        await asyncio.sleep(10)
        assert (await client.call("GET", path))[0] == 200

    virtual(scenario)


def test_ranges_are_served_over_http(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        url = await client.result()
        _, whole, headers = await client.call("GET", url)
        etag = headers["ETag"]
        assert headers["Accept-Ranges"] == "bytes"
        assert hashlib.sha256(whole).hexdigest() == client.events("completed")[0]["sha256"]
        status, body, headers = await client.call("GET", url, {"Range": "bytes=100-", "If-Range": etag})
        assert (status, body) == (206, CLIP[100:])
        assert headers["Content-Range"] == f"bytes 100-{len(CLIP) - 1}/{len(CLIP)}"
        status, body, _ = await client.call("GET", url, {"Range": "bytes=100-", "If-Range": '"other"'})
        assert (status, body) == (200, CLIP)
        status, body, headers = await client.call("GET", url, {"Range": f"bytes={len(CLIP)}-"})
        assert (status, body, headers["Content-Range"]) == (416, b"", f"bytes */{len(CLIP)}")
        status, body, headers = await client.call("HEAD", url)
        assert (status, body, headers["Content-Length"]) == (200, b"", str(len(CLIP)))
        assert client.events("leak") == []
        await client.call("GET", url, client.key)
        assert len(client.events("leak")) == 1

    virtual(scenario)


@pytest.mark.parametrize(
    ("kind", "status", "check"),
    [
        ("short", 206, lambda data: data == CLIP[: len(CLIP) // 2]),
        ("zeros", 206, lambda data: len(data) == len(CLIP) and data.count(0) == len(CLIP) // 5),
        ("html_200", 200, lambda data: data.startswith(b"<html>")),
        ("not_found", 404, bool),
        ("gone_410", 410, bool),
        ("forbidden", 403, lambda data: b"expired" in data),
        ("slow", 206, lambda data: data == CLIP),
        ("no_range", 200, lambda data: data == CLIP),
    ],
)
def test_a_download_can_fail_once(virtual: Any, kind: str, status: int, check: Any) -> None:
    async def scenario(client: Client) -> None:
        url = await client.result()
        began = asyncio.get_running_loop().time()
        answered, data, _ = await client.call("GET", url, {"Range": "bytes=0-"})
        assert answered == status
        assert check(data)
        assert (asyncio.get_running_loop().time() - began > 20) == (kind == "slow")
        answered, data, _ = await client.call("GET", url, {"Range": "bytes=0-"})
        assert (answered, data) == (206, CLIP)

    virtual(scenario, Fault("download", kind, first=1))


def test_a_cut_download_can_be_resumed(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        url = await client.result()
        half = len(CLIP) // 2
        async with client.session.get(url) as response:
            assert response.content_length == len(CLIP)
            got = await response.content.readexactly(half)
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.content.read()
        _, remainder, _ = await client.call("GET", url, {"Range": f"bytes={half}-"})
        assert got + remainder == CLIP

    virtual(scenario, Fault("download", "truncated", first=1))


def test_an_etag_can_change(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        url = await client.result()
        _, _, first = await client.call("GET", url)
        status, data, _ = await client.call("GET", url, {"Range": "bytes=5-", "If-Range": first["ETag"]})
        assert (status, data) == (200, CLIP)

    virtual(scenario, Fault("download", "changed_etag", first=1))


# Restarts


def test_a_torn_last_line_of_the_ledger_is_dropped(virtual: Any, tmp_path: Path) -> None:
    ids = []

    async def first(client: Client) -> None:
        ids.append((await client.submit())[1]["id"])

    async def second(client: Client) -> None:
        await asyncio.sleep(20)
        assert (await client.poll(ids[0]))[1]["status"] == "completed"
        assert [event["event"] for event in client.sandbox.ledger()] == ["accepted", "started", "completed"]

    virtual(first, state_dir=tmp_path)
    with (tmp_path / "ledger.jsonl").open("a") as ledger:
        ledger.write('{"event": "acc')
    virtual(second, state_dir=tmp_path)


@pytest.mark.parametrize("ledger", ["rubbish\n", "[]\n", "{}\n", '{"event": "started", "at": 0}\n'])
def test_an_unusable_state_directory_is_a_usage_error(virtual: Any, tmp_path: Path, ledger: str) -> None:
    (tmp_path / "ledger.jsonl").write_text(ledger)
    with pytest.raises(UsageError, match="state directory"):
        virtual(None, state_dir=tmp_path)


def test_the_ledger_is_readable_after_close_and_a_temporary_directory_is_removed(virtual: Any) -> None:
    kept: list[Sandbox] = []

    async def scenario(client: Client) -> None:
        await client.submit()
        kept.append(client.sandbox)
        _, line, _ = await client.call("GET", "/sandbox/ledger")
        assert line == client.sandbox.ledger()[0]

    virtual(scenario)
    assert [event["event"] for event in kept[0].ledger()] == ["accepted"]
    assert not kept[0]._service.store.root.exists()


def test_a_port_in_use_is_a_usage_error() -> None:
    async def main() -> None:
        async with serving(SandboxConfig()) as client:
            with pytest.raises(UsageError, match="cannot listen"):
                await start(SandboxConfig(port=client.sandbox.port))

    asyncio.run(main())


CHILD = """
import asyncio, sys
from pathlib import Path
from batchrunner.sandbox import SandboxConfig, start

async def never(request):
    await asyncio.Event().wait()

async def main():
    config = SandboxConfig(state_dir=Path(sys.argv[1]), queue_wait_s=0, duration_s=0, workers=1)
    sandbox = await start(config, render=never if sys.argv[2] == "never" else None)
    print(sandbox.url, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("renderer", ["never", "real"])
def test_a_killed_sandbox_forgets_nothing(tmp_path: Path, renderer: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), renderer], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    url = child.stdout.readline().strip()

    async def submit() -> str:
        async with aiohttp.ClientSession() as session:
            headers = {"Authorization": "Bearer k", "X-Client-Request-Id": "r1"}
            body = BODY if renderer == "never" else BODY | {"image_url": "https://example.com/a.png"}
            async with session.post(url + GENERATIONS, json=body, headers=headers) as response:
                return str((await response.json())["id"])

    async def again(generation_id: str) -> None:
        async with serving(SandboxConfig(state_dir=tmp_path, queue_wait_s=0, duration_s=0), lenient) as client:
            polled: dict[str, Any] = {}
            async with asyncio.timeout(60):
                while polled.get("status") != "completed":
                    status, polled, _ = await client.poll(generation_id)
                    assert status == 200
            assert (await client.call("GET", polled["video"]["url"]))[1] == CLIP
            (accepted,) = client.events("accepted")
            assert (accepted["client_request_id"], accepted["generation_id"]) == ("r1", generation_id)

    async def lenient(_request: RenderRequest) -> bytes:
        return CLIP

    try:
        generation_id = asyncio.run(submit())
    finally:
        child.kill()
        # This ends when no process has the pipe open: the workers have died with their parent.
        child.communicate(timeout=60)
    asyncio.run(again(generation_id))


def test_the_pool_ends_its_workers_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        pool = RenderPool(1)
        with pytest.raises(RenderFailed) as caught:
            await pool(RenderRequest(tmp_path / "none.mp4", tmp_path / "none.jpg", tmp_path / "out.mp4"))
        assert caught.value.input_kind == "image"
        pool.close()

    asyncio.run(main())
