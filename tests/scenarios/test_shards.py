"""Shards of a batch against one service: every job is generated once, whatever dies, and one report has them all."""

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from batchrunner.account.limits import Limits
from batchrunner.app.merge import read
from batchrunner.app.shards import find
from batchrunner.manifest.shards import Shard
from batchrunner.report.merge import merge
from tests.scenarios.accounts import PRICE, AccountWorld, entries, play

# A process that dies while it closes its connections leaves some open, as a real one leaves them to the system.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collect the objects that dead runs left, and not during another test."""
    yield
    gc.collect()


NAMES = [f"job-{number}" for number in range(24)]
SHARDS = [Shard(index, 4) for index in (1, 2, 3, 4)]
FIGURES: dict[str, Any] = {"in_doubt": "evidence", "concurrency": 8, "max_credits": 48 * PRICE}


def merged(world: AccountWorld, name: str = "batch") -> dict[str, Any]:
    folder = world.place(name)
    return merge([item.source for item in read([one.path for one in find(folder).values()], folder, {}, "0")])


@pytest.mark.parametrize("seed", range(2))
def test_shards_that_die_and_start_again_generate_every_job_once(tmp_path: Path, seed: int) -> None:
    rng, statuses = Random(seed), list[int | None]()

    async def run_one(world: AccountWorld, shard: Shard) -> None:
        for die_at in (rng.randrange(1, 90), rng.randrange(20, 140)):
            process = world.start("batch", entries(*NAMES), die_at=die_at, shard=shard, **FIGURES)
            statuses.append(await process.ended())
        assert await world.start("batch", entries(*NAMES), shard=shard, **FIGURES).ended() == 0

    async def story(world: AccountWorld) -> None:
        world.lists_on_acceptance = True  # the log of the service settles what the dead have left in doubt
        await asyncio.gather(*(run_one(world, shard) for shard in SHARDS))
        assert statuses.count(None) >= 4, "most of the processes died"
        assert len(world.accepted()) == len(NAMES)
        assert not world.paid_twice()
        assert world.most_in_flight() <= 8
        report = merged(world)
        assert [row["id"] for row in report["jobs"]] == NAMES, "in the order of the manifest"
        assert {row["generation_id"] for row in report["jobs"]} == {row["generation_id"] for row in world.accepted()}
        assert all((world.place("batch") / row["file"]).is_file() for row in report["jobs"])
        assert (report["totals"]["succeeded"], report["totals"]["generations"]) == (24, 24)
        assert report["money"]["spent"] == 24 * PRICE
        assert report["money"]["budget_credits"] == FIGURES["max_credits"]
        assert (report["exit_status"], report["stopped"], report["concurrency"]) == (0, None, 8)

    play(tmp_path, story)


def test_shards_on_one_machine_share_the_account_s_cap(tmp_path: Path) -> None:
    async def story(world: AccountWorld) -> None:
        runs = [world.start("batch", entries(*NAMES[:8]), shard=shard, concurrency=40) for shard in SHARDS]
        assert [await run.ended() for run in runs] == [0, 0, 0, 0]
        assert world.most_in_flight() == 3
        assert len(world.accepted()) == 8

    play(tmp_path, story, limits=Limits(concurrency=3))


def test_shards_are_delivered_the_clips_of_an_earlier_run_of_the_whole_batch(tmp_path: Path) -> None:
    async def story(world: AccountWorld) -> None:
        assert await world.run("whole", entries(*NAMES[:10])) == 0
        runs = [world.start("batch", entries(*NAMES), shard=shard, concurrency=40) for shard in SHARDS]
        assert [await run.ended() for run in runs] == [0, 0, 0, 0]
        assert len(world.accepted()) == len(NAMES)
        report = merged(world)
        assert (report["totals"]["succeeded"], report["totals"]["generations"]) == (24, 14)
        assert report["money"]["spent"] == 14 * PRICE, "the other ten are paid for by the earlier batch"
        both = [*(one.path for one in find(world.place("batch")).values()), world.place("whole")]
        report = merge([item.source for item in read(both, tmp_path, {}, "0")])
        assert (report["totals"]["jobs"], report["totals"]["generations"]) == (24, 24)
        assert report["money"]["spent"] == 24 * PRICE, "each generation once, whichever directory has paid for it"

    play(tmp_path, story)


def test_the_budget_of_the_whole_batch_holds_over_its_shards(tmp_path: Path) -> None:
    async def story(world: AccountWorld) -> None:
        runs = [
            world.start("batch", entries(*NAMES), shard=shard, concurrency=4, max_credits=9 * PRICE) for shard in SHARDS
        ]
        assert {await run.ended() for run in runs} <= {0, 3}
        assert len(world.accepted()) == 8, "two in each shard: a part of a price pays for nothing"
        report = merged(world)
        assert report["exit_status"] == 3
        assert report["stop_kind"] == "max_credits"
        assert report["money"]["budget_credits"] == 9 * PRICE

    play(tmp_path, story)
