"""Overruns are posted at once, those that follow within a minute together."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from batchrunner.app import overrun_posts
from batchrunner.app.overrun_posts import OverrunPoster
from batchrunner.clock import LoopClock
from batchrunner.events import Noticed, Overrun
from batchrunner.job import State
from batchrunner.net.proxies import Proxies
from batchrunner.plan.ledger import Budget
from tests.conftest import NOW, make_record, make_run
from tests.scenarios.world import in_virtual_time


def overrun(name: str, worst: float, charge: float = 872e3) -> Overrun:
    record = make_record(name, State.IN_FLIGHT).with_attempt(credits=charge, estimate=8e5)
    return Overrun(NOW, (name,), record, worst, Budget(usd=4))


def poster_for(url: str | None) -> OverrunPoster:
    return OverrunPoster(url, make_run(), Path("output/night"), lambda _: None, Proxies())


def test_an_overrun_is_posted_at_once_and_those_of_the_next_minute_together(monkeypatch: pytest.MonkeyPatch) -> None:
    poster, got = poster_for("https://example.com/{event}"), list[tuple[float, Any]]()

    async def post(url: str, body: Any, proxies: Proxies) -> None:
        got.append((asyncio.get_running_loop().time(), body))

    async def body(_: asyncio.AbstractEventLoop) -> None:
        task = asyncio.get_running_loop().create_task(poster.work(LoopClock(NOW)))
        poster(Noticed(NOW, (), "not an overrun"))
        await asyncio.sleep(10)
        for name in ("a", "b", "c"):
            poster(overrun(name, 8.1e6 if name == "c" else 6e6))
            await asyncio.sleep(1)
        await asyncio.sleep(1000)
        task.cancel()

    monkeypatch.setattr(overrun_posts, "post", post)
    in_virtual_time(body)
    assert [at for at, _ in got] == pytest.approx([10, 70])
    first, second = (body for _, body in got)
    assert first["text"].startswith("night: the service charges $0.44, above the estimate of $0.40")
    assert (first["event"], first["jobs"], first["over_usd"]) == ("overrun", ["a"], 0.036)
    assert second["text"].endswith(
        "max_cost ($4.00) is exceeded: $4.05 is spent or reserved (2 generations, $0.0720 more)"
    )
    assert (second["jobs"], second["exceeds_budget"], second["budget_usd"]) == (["b", "c"], True, 4)
    assert "exit_status" not in first


def test_an_address_with_the_exit_status_gets_no_post_of_a_run_that_goes_on() -> None:
    assert not poster_for("https://example.com/{status}").is_needed
    assert not poster_for(None).is_needed
