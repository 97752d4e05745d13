"""Inputs by URL are fetched when their generation starts, in virtual time. The sandbox's own file host serves them."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from batchrunner.sandbox import Fault
from batchrunner.sandbox.clips.render import RenderRequest
from batchrunner.sandbox.inputs import is_fetched
from tests.sandbox.test_http import Client, virtual

__all__ = ["virtual"]
PICTURE = b"picture"


@pytest.fixture
def rendered(clip: bytes) -> Any:
    """A renderer that keeps the content of the inputs it got."""
    seen: list[tuple[bytes, bytes]] = []

    async def render(request: RenderRequest) -> bytes:
        seen.append((request.video.read_bytes(), request.image.read_bytes()))
        return clip

    return seen, render


async def outcome(client: Client, after_s: float = 20, **changes: Any) -> dict[str, Any]:
    """Submit, wait, and return the last reply to a poll."""
    _, body, _ = await client.submit(**changes)
    await asyncio.sleep(after_s)
    return dict((await client.poll(body["id"]))[1])


def test_a_link_is_fetched_when_its_generation_starts(virtual: Any, rendered: Any, clip: bytes) -> None:
    seen, render = rendered

    async def scenario(client: Client) -> None:
        url = await client.result()
        before = len(client.events("fetched"))
        _, body, _ = await client.submit(video_url=f"{url}?signature=secret")
        await asyncio.sleep(0.9)
        assert len(client.events("fetched")) == before, "it is still in the queue"
        await asyncio.sleep(19)
        assert len(client.events("fetched")) == before + 1
        assert (await client.poll(body["id"]))[1]["status"] == "completed"
        assert seen[-1] == (clip, PICTURE)
        [event] = client.events("input_fetched")
        assert (event["input"], event["status"], event["bytes"]) == ("video", 200, len(clip))
        assert "secret" not in json.dumps(client.sandbox.ledger())

    virtual(scenario, render=render)


def test_the_price_of_a_fetched_clip_is_that_of_its_length(virtual: Any, rendered: Any) -> None:
    _, render = rendered

    async def scenario(client: Client) -> None:
        url = await client.result()
        _, body, headers = await client.submit(video_url=url)
        assert "usage" not in body["meta"]
        assert "x-aimlapi-credits-used" not in headers
        await asyncio.sleep(20)
        assert client.events("accepted")[-1]["credits"] == 5 * 104_000
        assert client.events("completed")[-1]["charged"] == 8 / 16 * 104_000  # the clip has eight frames

    virtual(scenario, render=render)


def test_a_link_that_cannot_be_fetched_fails_its_generation_at_once(virtual: Any, rendered: Any) -> None:
    _, render = rendered

    async def scenario(client: Client) -> None:
        reply = await outcome(client, 1.5, video_url=f"{client.sandbox.url}/files/none.mp4")
        assert reply["status"] == "error"
        [detail] = reply["error"]["detail"]
        assert (detail["type"], detail["loc"]) == ("file_download_error", ["body", "video_url"])
        assert client.events("input_fetched")[0]["status"] == 404
        assert client.events("failed")[0]["rolled_back"] == 5 * 104_000
        reply = await outcome(client, 1.5, image_url="http://127.0.0.1:1/none.png")
        assert reply["error"]["detail"][0]["loc"] == ["body", "image_url"]

    virtual(scenario, render=render)


@pytest.mark.parametrize(("kind", "status"), [("link_expired", 403), ("forbidden", 403), ("unavailable", 503)])
def test_a_fault_fails_the_fetch_of_matching_links(virtual: Any, kind: str, status: int) -> None:
    async def scenario(client: Client) -> None:
        failed = await outcome(client, video_url="https://bucket.example.com/walk.mp4?signature=secret")
        assert failed["error"]["detail"][0]["type"] == "file_download_error"
        assert client.events("input_fetched")[0]["status"] == status
        again = await outcome(client, video_url="https://bucket.example.com/walk.mp4?signature=another")
        assert again["status"] == "completed", "each: 1"
        assert (await outcome(client, video_url="https://bucket.example.com/run.mp4"))["status"] == "completed"

    virtual(scenario, Fault("input", kind, each_first=1, match="walk.mp4"))


@pytest.mark.parametrize(("delay_s", "status"), [(8.0, "completed"), (15.0, "error")])
def test_a_slow_bucket_delays_or_fails(virtual: Any, delay_s: float, status: str) -> None:
    async def scenario(client: Client) -> None:
        assert (await outcome(client, 1.5))["status"] == "generating"
        await asyncio.sleep(20)
        assert len(client.events("completed")) == (status == "completed")

    virtual(scenario, Fault("input", "slow", delay_s=delay_s), input_timeout_s=10.0)


def test_links_are_stored_until_their_inputs_are_fetched(virtual: Any, tmp_path: Path, clip: bytes) -> None:
    """A sandbox that starts again still knows them, and no signature remains."""
    links = tmp_path / "links"
    while_rendering: list[Path] = []

    async def render(_: RenderRequest) -> bytes:
        while_rendering.extend(with_secret())
        return clip

    def with_secret() -> list[Path]:
        return [path for path in tmp_path.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]

    async def scenario(client: Client) -> None:
        url = await client.result()
        await client.submit(video_url=f"{url}?signature=secret")
        assert with_secret() == list(links.iterdir())
        await asyncio.sleep(20)

    virtual(scenario, render=render, state_dir=tmp_path)
    assert while_rendering == []
    assert with_secret() == []


def test_a_restarted_sandbox_does_not_fetch_an_input_again(virtual: Any, tmp_path: Path, clip: bytes) -> None:
    seen: list[bytes] = []

    async def render(request: RenderRequest) -> bytes:
        seen.append(request.video.read_bytes())
        if len(seen) == 2:
            await asyncio.sleep(1e6)  # the sandbox ends meanwhile
        return clip

    async def first(client: Client) -> None:
        await client.submit(video_url=await client.result())
        await asyncio.sleep(5)
        assert [event["status"] for event in client.events("input_fetched")] == [200]

    async def second(client: Client) -> None:
        await asyncio.sleep(30)
        assert [event["status"] for event in client.events("input_fetched")] == [200]
        assert len(client.events("completed")) == 2

    virtual(first, render=render, state_dir=tmp_path, port=8124)
    virtual(second, render=render, state_dir=tmp_path, port=8124)
    assert seen[1:] == [clip, clip]


def test_a_restarted_sandbox_fetches_what_was_in_its_queue(virtual: Any, rendered: Any, tmp_path: Path) -> None:
    _, render = rendered

    async def first(client: Client) -> None:
        url = await client.result()
        await client.submit(video_url=url)

    async def second(client: Client) -> None:
        await asyncio.sleep(30)
        assert [event["status"] for event in client.events("input_fetched")] == [200]
        assert len(client.events("completed")) == 2

    virtual(first, render=render, state_dir=tmp_path, port=8123)
    virtual(second, render=render, state_dir=tmp_path, port=8123)


@pytest.mark.parametrize(
    ("url", "fetch", "expected"),
    [
        ("http://127.0.0.1:9/a.mp4", "local", True),
        ("http://[::1]/a.mp4", "local", True),
        ("http://LOCALHOST/a.mp4", "local", True),
        ("http://localhost.example.com/a.mp4", "local", False),
        ("https://example.com/a.mp4", "local", False),
        ("https://example.com/a.mp4", "all", True),
        ("http://127.0.0.1/a.mp4", "none", False),
    ],
)
def test_links_to_other_machines_are_fetched_only_if_wanted(url: str, fetch: str, expected: bool) -> None:
    assert is_fetched(url, fetch) is expected


def test_a_body_above_the_limit_is_refused_before_it_is_read(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        async def endless() -> Any:
            while True:
                yield b"x"
                await asyncio.sleep(1)

        headers = {"Content-Length": "5000000", "Content-Type": "application/json"}
        status, _, _ = await client.call("POST", "/v2/video/generations", headers, data=endless())
        assert status == 413

    virtual(scenario, body_limit_bytes=2000)
