"""The sandbox's account, limits, outages and slowness over HTTP in virtual time, and their ledger."""

import asyncio
from dataclasses import replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from batchrunner.clock import FastClock
from batchrunner.errors import UsageError
from batchrunner.sandbox import Fault, SandboxConfig, start
from batchrunner.sandbox.clips.marks import mark, read
from batchrunner.sandbox.clips.placeholder import render_tiny
from batchrunner.sandbox.clips.reader import measure
from batchrunner.sandbox.clips.render import RenderFailed, RenderRequest
from batchrunner.sandbox.faults.outages import SHOWS, AccountFailure, Conditions, Outage, Slow, Throttle
from batchrunner.sandbox.store import Store
from batchrunner.sandbox.world import TopUp
from tests.conftest import MEDIA
from tests.sandbox import test_http as http
from tests.sandbox.test_http import Client, instant

virtual = http.virtual  # the fixture


def spend(ledger: list[dict[str, Any]]) -> int:
    """Return the credits spent, computed from the ledger."""
    return sum(event.get("charged", 0) for event in ledger)


async def balance(client: Client) -> float:
    status, body, _ = await client.call("GET", "/v2/billing")
    assert (status, body["currency"]) == (200, "USD")
    return float(body["current_balance"])


# Money


def test_a_price_is_held_then_charged_or_rolled_back(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        assert await balance(client) == 2
        (_, good, _), _ = await client.submit(), await client.submit(shift=6)
        price = good["meta"]["usage"]["credits_used"]
        assert await balance(client) == pytest.approx(2 - 2 * price / 2_000_000)
        await asyncio.sleep(20)
        assert await balance(client) == pytest.approx(2 - price / 2_000_000)
        ledger = client.sandbox.ledger()
        assert spend(ledger) == price
        assert [event["rolled_back"] for event in ledger if event["event"] == "failed"] == [price]

    virtual(scenario, Fault("generation", "error_object", first=1), balance_credits=4_000_000)


def test_a_balance_below_the_price_refuses_until_a_top_up(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        _, body, _ = await client.submit()
        price = body["meta"]["usage"]["credits_used"]
        status, body, _ = await client.submit(shift=6)
        assert (status, body["title"]) == (403, "Forbidden")
        assert body["error"]["data"] == {"kind": "err_insufficent_credits"}
        await asyncio.sleep(3600)
        assert (await client.submit(shift=6))[0] == 200
        await asyncio.sleep(60)
        kinds = [event["event"] for event in client.sandbox.ledger()]
        assert kinds == [
            "accepted", "refused", "started", "completed", "topped_up", "accepted", "started", "completed",
        ]  # fmt: skip
        (top_up,) = client.events("topped_up")
        assert top_up["at"] == 1_800_000_000 + 3600
        assert spend(client.sandbox.ledger()) == 2 * price

    conditions = Conditions(top_ups=(TopUp(3600, 2_000_000),))
    virtual(scenario, balance_credits=700_000, conditions=conditions, prices={"480p": 104_000})


def test_the_account_is_the_same_after_a_restart(virtual: Any, tmp_path: Path) -> None:
    seen: list[float] = []

    async def first(client: Client) -> None:
        await client.submit()
        await asyncio.sleep(100)
        seen.append(await balance(client))

    async def second(client: Client) -> None:
        assert await balance(client) == seen[0]
        await asyncio.sleep(100)
        assert len(client.events("topped_up")) == 1, "a payment is made once"

    for scenario in (first, second):
        conditions = Conditions(top_ups=(TopUp(50, 7),))
        virtual(scenario, state_dir=tmp_path, balance_credits=4_000_000, conditions=conditions)


def test_a_price_can_be_omitted(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        _, body, headers = await client.submit()
        assert list(body["meta"]) == ["sandbox"]
        assert "x-aimlapi-credits-used" not in headers
        assert client.events("accepted")[0]["credits"] > 0

    virtual(scenario, quotes=False)


@pytest.mark.parametrize(
    ("shows", "statuses", "polled"), [("out_of_credits", 403, 200), ("locked", 403, 200), ("revoked", 401, 401)]
)
def test_an_account_failure_begins_and_ends(
    virtual: Any,
    shows: str,
    statuses: int,
    polled: int,
) -> None:
    async def scenario(client: Client) -> None:
        _, body, _ = await client.submit()
        await asyncio.sleep(60)
        status, refusal, _ = await client.submit(shift=6)
        assert status == statuses
        assert ("data" in refusal["error"]) == (shows == "out_of_credits")
        assert (await client.poll(body["id"]))[0] == polled
        await asyncio.sleep(60)
        assert (await client.submit(shift=6))[0] == 200
        (refused, *_) = client.events("refused")
        assert (refused["call"], refused["status"]) == ("submit", statuses)

    virtual(scenario, conditions=Conditions(account=(AccountFailure(60, 60, shows),)))


# Limits


def test_the_concurrency_limit_counts_unfinished_generations(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        statuses = [(await client.submit(shift=number))[0] for number in range(3)]
        assert statuses == [200, 200, 429]
        await asyncio.sleep(30)
        assert (await client.submit(shift=3))[0] == 200

    virtual(scenario, concurrency_limit=2)


@pytest.mark.parametrize(
    ("form", "sent"), [("none", None), ("seconds", "30"), ("date", "Fri, 15 Jan 2027 08:00:30 GMT")]
)
def test_the_rate_limit_covers_all_calls(virtual: Any, form: str, sent: str | None) -> None:
    async def scenario(client: Client) -> None:
        calls = [client.submit(), client.poll("x"), client.call("GET", "/v2/logs"), client.call("GET", "/v2/billing")]
        replies = [await call for call in calls]
        assert [status for status, _, _ in replies] == [200, 404, 429, 429]
        assert replies[-1][2].get("Retry-After") == sent
        if form == "date" and sent:
            assert parsedate_to_datetime(sent).timestamp() >= 1_800_000_030
        await asyncio.sleep(1)
        assert (await client.call("GET", "/v2/logs"))[0] == 200
        assert [event["call"] for event in client.events("refused") if event["status"] == 429] == ["logs", "billing"]

    virtual(scenario, requests_per_second=2, retry_after=form, retry_delay_s=30)


def test_calls_are_throttled_for_an_hour(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        seen = []
        for number in range(4):
            seen.append((await client.submit(shift=number))[0])
            await asyncio.sleep(5)
        assert seen == [200, 200, 429, 429]
        await asyncio.sleep(3600)
        assert (await client.submit(shift=9))[0] == 200

    virtual(scenario, conditions=Conditions(throttled=(Throttle(7, 3600, concurrency=2),)), duration_s=100)


# Outages


@pytest.mark.parametrize("shows", [show for show in SHOWS if show not in {"refused", "black_hole", "reset"}])
def test_in_an_outage_all_calls_fail_in_the_same_way(virtual: Any, shows: str) -> None:
    status = {"unavailable": 503, "server_error": 500, "html_502": 502, "html_524": 524, "empty_503": 503}[shows]

    async def scenario(client: Client) -> None:
        _, body, _ = await client.submit()
        await asyncio.sleep(60)
        url = f"/files/{body['id'].split(':')[0]}.mp4"
        replies = [
            await client.submit(shift=6),
            await client.poll(body["id"]),
            await client.call("GET", "/v2/logs"),
            await client.call("GET", "/v2/billing"),
            await client.call("GET", url),
        ]
        assert [reply[0] for reply in replies] == [status] * 5
        assert len(client.events("accepted")) == 1
        refusals = [(event["call"], event["status"]) for event in client.events("refused")]
        assert refusals == [(call, status) for call in ("submit", "poll", "logs", "billing", "download")]
        await asyncio.sleep(1200)
        assert (await client.poll(body["id"]))[1]["status"] == "completed", "generations continued during the outage"
        assert (await client.call("GET", url))[0] == 200

    virtual(scenario, conditions=Conditions(outages=(Outage(60, 1200, shows),)))


@pytest.mark.parametrize("shows", ["reset", "black_hole"])
def test_an_outage_without_answers_accepts_nothing(virtual: Any, shows: str) -> None:
    async def scenario(client: Client) -> None:
        client.session._timeout = aiohttp.ClientTimeout(total=50)
        with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, TimeoutError)):
            await client.submit()
        with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, TimeoutError)):
            await client.poll("x")
        assert client.events("accepted") == []
        # aiohttp's client repeats a poll automatically if its connection breaks, hence a set.
        refusals = {(event["call"], event["status"]) for event in client.events("refused")}
        assert refusals == {("submit", None), ("poll", None)}
        await asyncio.sleep(200)
        assert (await client.submit())[0] == 200

    virtual(scenario, conditions=Conditions(outages=(Outage(0, 200, shows),)))


@pytest.mark.parametrize("hang_s", [7.0, 300.0])
def test_hanging_calls_can_be_shortened_for_accelerated_rehearsals(virtual: Any, hang_s: float) -> None:
    async def scenario(client: Client) -> None:
        client.session._timeout = aiohttp.ClientTimeout(total=1000)
        with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
            await client.submit()
        assert asyncio.get_running_loop().time() == pytest.approx(hang_s, abs=1)

    virtual(scenario, Fault("submit", "hang_before"), hang_s=hang_s)


def test_the_address_refuses_connections_and_then_answers_again(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        _, body, _ = await client.submit()
        await asyncio.sleep(60)
        for _ in range(2):
            with pytest.raises(aiohttp.ClientConnectorError):
                await client.submit(shift=6)
            await asyncio.sleep(20)
        await asyncio.sleep(30)
        assert (await client.poll(body["id"]))[1]["status"] == "completed"
        assert len(client.events("accepted")) == 1

    virtual(scenario, conditions=Conditions(outages=(Outage(50, 50, "refused"),)))


def test_refused_connections_occur_over_real_loopback() -> None:
    async def main() -> None:
        clock = FastClock(100.0)
        config = SandboxConfig(conditions=Conditions(outages=(Outage(20, 60, "refused"),)), queue_wait_s=0)
        sandbox = await start(config, clock=clock, render=instant)
        try:
            async with aiohttp.ClientSession() as session:
                client = Client(session, sandbox)
                assert (await client.submit())[0] == 200
                await clock.sleep(40)
                with pytest.raises((aiohttp.ClientConnectorError, aiohttp.ServerDisconnectedError)):
                    await client.submit(shift=6)
                async with asyncio.timeout(30):
                    while True:
                        try:
                            assert (await client.submit(shift=6))[0] == 200
                        except aiohttp.ClientError:
                            await clock.sleep(5)
                        else:
                            break
        finally:
            await sandbox.close()

    asyncio.run(main())


# Slowness


def test_generations_wait_an_hour_in_the_queue(virtual: Any) -> None:
    async def scenario(client: Client) -> None:
        (_, body, _) = await client.submit()
        await asyncio.sleep(3595)
        assert (await client.poll(body["id"]))[1]["status"] == "queued"
        await asyncio.sleep(10)
        assert (await client.poll(body["id"]))[1]["status"] == "generating"
        began = asyncio.get_running_loop().time()
        assert (await client.call("GET", "/v2/billing"))[0] == 200
        assert asyncio.get_running_loop().time() - began >= 5

    virtual(scenario, conditions=Conditions(slow=(Slow(0, 10, queue_wait_s=3600), Slow(3600, 99, reply_s=5))))


# The state directory


def test_two_sandboxes_never_share_a_state_directory(virtual: Any, tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        with pytest.raises(UsageError, match="another sandbox is using it"):
            await start(SandboxConfig(state_dir=tmp_path))
        assert (await client.submit())[0] == 200

    virtual(scenario, state_dir=tmp_path)
    virtual(scenario, state_dir=tmp_path)  # the lock ended with its holder


def test_the_services_time_does_not_go_back(virtual: Any, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append({"event": "topped_up", "at": 1_900_000_000.0, "credits": 1})
    store.close()

    async def scenario(client: Client) -> None:
        await client.submit()
        assert client.events("accepted")[0]["at"] >= 1_900_000_000

    virtual(scenario, state_dir=tmp_path)


# Tiny clips


@pytest.mark.parametrize(("resolution", "odd"), [("480p", False), ("720p", False), ("480p", True)])
def test_a_tiny_clip_has_the_size_and_length_of_the_rendered_one(tmp_path: Path, resolution: str, odd: bool) -> None:
    from batchrunner.sandbox.clips.render import render

    video, image = next(MEDIA.glob("*.mp4")), next(MEDIA.glob("*.[jp][pn]g"))
    paths = [tmp_path / name for name in ("rendered.mp4", "a.mp4", "b.mp4")]
    requests = [RenderRequest(video, image, path, resolution, "low", "fast", odd) for path in paths]
    render(replace(requests[0], composite=False))  # the picture changes neither
    for number, request in enumerate(requests[1:]):
        marked = replace(request, mark=mark(f"generation {number}", "order", None))
        request.out.write_bytes(render_tiny(marked))
        assert read(request.out.read_bytes()) == read(marked.mark)
    shapes = [properties(path) for path in paths]
    assert shapes[0] == shapes[1] == shapes[2]
    assert paths[1].read_bytes() != paths[2].read_bytes()
    assert paths[1].stat().st_size < 60_000


def properties(path: Path) -> tuple[Any, ...]:
    import av

    with av.open(str(path)) as clip:
        stream = clip.streams.video[0]
        frames = sum(1 for _ in clip.decode(stream))
        assert frames == (measure(path) or (0, 0))[0]
        return stream.width, stream.height, frames, round(float(stream.average_rate or 0), 2)


def test_a_tiny_clip_needs_readable_inputs(tmp_path: Path) -> None:
    video, image = next(MEDIA.glob("*.mp4")), next(MEDIA.glob("*.[jp][pn]g"))
    bad = tmp_path / "bad"
    bad.write_bytes(b"neither")
    for request, input_kind in [
        (RenderRequest(bad, image, tmp_path / "o"), "video"),
        (RenderRequest(video, bad, tmp_path / "o"), "image"),
    ]:
        with pytest.raises(RenderFailed) as caught:
            render_tiny(request)
        assert caught.value.input_kind == input_kind


def test_tiny_rendering_is_optional() -> None:
    async def main() -> None:
        sandbox = await start(SandboxConfig(render="stub", speed=100.0, queue_wait_s=1, duration_s=5))
        try:
            async with aiohttp.ClientSession() as session:
                client = Client(session, sandbox)
                assert (await client.submit(image_url="https://example.com/a.png"))[0] == 200
                for _ in range(6000):
                    if client.events("completed"):
                        break
                    await asyncio.sleep(0.01)
                assert client.events("completed")[0]["bytes"] < 60_000
        finally:
            await sandbox.close()

    asyncio.run(main())
