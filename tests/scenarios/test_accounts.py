"""Several batches on one account: stories with their complete outcome, and scenarios drawn from seeds."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest

from batchrunner.account.limits import Limits
from batchrunner.app.account_directories import forget, scan
from batchrunner.sandbox import Fault
from batchrunner.sandbox.faults.outages import Conditions, Slow
from tests.scenarios.__main__ import shared_memory, time_limit
from tests.scenarios.accounts import (
    DURATION_S,
    PRICE,
    AccountScenario,
    AccountWorld,
    entries,
    lose_index,
    next_day,
    play,
)

# A process that dies while it closes its connections leaves some open, as a real one leaves them to the system.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")


def test_the_same_manifest_from_another_folder_is_delivered_by_copy(tmp_path: Path) -> None:
    async def story(world: AccountWorld) -> None:
        assert await world.run("first", entries("a", "b")) == 0
        second = world.start("second", entries("a", "b"))
        assert await second.ended() == 0
        assert len(world.accepted()) == 2
        messages = [str(getattr(event, "message", "")) for event in second.events]
        assert any("first" in text and "2 jobs" in text and str(world.place("first")) in text for text in messages)
        one, other = (world.place(name) / "a.mp4" for name in ("first", "second"))
        assert one.read_bytes() == other.read_bytes()
        assert one.stat().st_ino != other.stat().st_ino, "an edit of one would change both"
        assert world.report("second")["totals"]["credits"] == 0

    play(tmp_path, story)


def test_an_edited_clip_is_not_delivered_and_its_generation_is_asked_for(tmp_path: Path) -> None:
    async def story(world: AccountWorld) -> None:
        assert await world.run("first", entries("a")) == 0
        clip = world.place("first") / "a.mp4"
        content = clip.read_bytes()
        clip.write_bytes(bytes(len(content)))
        assert await world.run("second", entries("a")) == 0
        assert (world.place("second") / "a.mp4").read_bytes() == content
        assert len(world.accepted()) == 1

    play(tmp_path, story)


def test_a_removed_run_directory_costs_nothing(tmp_path: Path) -> None:
    async def story(world: AccountWorld) -> None:
        assert await world.run("first", entries("a")) == 0
        shutil.rmtree(world.place("first"))
        assert await world.run("first", entries("a")) == 0
        assert len(world.accepted()) == 1

    play(tmp_path, story)


def test_a_generation_that_the_service_has_forgotten_fails_soon_and_is_paid_for_again_only_on_request(
    tmp_path: Path,
) -> None:
    async def story(world: AccountWorld) -> None:
        assert await world.run("first", entries("a")) == 0
        [event] = world.accepted()
        shutil.rmtree(world.place("first"))
        started = world.loop.time()
        world.forgotten.add(event["generation_id"])
        assert await world.run("second", entries("a")) == 1
        [row] = world.report("second")["jobs"]
        assert (row["state"], row["error"]["kind"]) == ("failed", "unknown_generation")
        assert world.loop.time() - started < 300.0
        assert len(world.accepted()) == 1
        assert await world.run("second", entries("a"), retry_failed=True) == 0
        assert len(world.accepted()) == 2

    play(tmp_path, story)


def test_reuse_off_pays_for_a_fresh_result(tmp_path: Path) -> None:
    async def story(world: AccountWorld) -> None:
        assert await world.run("first", entries("a")) == 0
        assert await world.run("second", entries("a"), reuse="off") == 0
        assert len(world.accepted()) == 2

    play(tmp_path, story)


def test_a_job_in_flight_in_a_running_batch_is_held_and_named(tmp_path: Path) -> None:
    async def story(world: AccountWorld) -> None:
        first = world.start("first", entries("a"))
        await asyncio.sleep(5.0)
        assert await world.run("second", entries("a")) == 1
        [row] = world.report("second")["jobs"]
        assert (row["state"], row["error"]["kind"]) == ("pending", "held_by_batch")
        assert str(world.place("first")) in row["error"]["message"]
        assert await first.ended() == 0
        assert await world.run("second", entries("a")) == 0
        assert len(world.accepted()) == 1

    play(tmp_path, story)


def test_a_held_job_is_delivered_in_the_same_run_when_the_other_batch_is_done(tmp_path: Path) -> None:
    async def story(world: AccountWorld) -> None:
        first = world.start("first", entries("a"))
        await asyncio.sleep(30.0)
        second = world.start("second", entries("a", "b"))
        assert await first.ended() == 0
        assert await second.ended() == 0
        assert len(world.accepted()) == 2

    play(tmp_path, story)


def test_a_generation_of_a_killed_batch_is_delivered_here(tmp_path: Path) -> None:
    async def story(world: AccountWorld) -> None:
        first = world.start("first", entries("a"))
        await asyncio.sleep(5.0)
        first.die()
        assert await first.ended() is None
        assert await world.run("second", entries("a")) == 0
        assert await world.run("first", entries("a")) == 0
        assert len(world.accepted()) == 1

    play(tmp_path, story)


def test_a_submission_in_doubt_elsewhere_is_held(tmp_path: Path) -> None:
    async def story(world: AccountWorld) -> None:
        assert await world.run("first", entries("a")) == 1
        assert await world.run("second", entries("a")) == 1
        [row] = world.report("second")["jobs"]
        assert (row["state"], row["error"]["kind"]) == ("pending", "held_in_doubt_elsewhere")
        assert len(world.accepted()) == 1

    play(tmp_path, story, Fault(on="submit", kind="lost_reply"), logs=False)


def test_a_moved_run_directory_costs_nothing(tmp_path: Path) -> None:
    async def story(world: AccountWorld) -> None:
        assert await world.run("first", entries("a")) == 0
        moved = world.folder / "moved"
        world.place("first").rename(moved)
        world.places["first"] = moved
        assert await world.run("first", entries("a", "b")) == 0
        assert await world.run("second", entries("a", "b")) == 0
        assert len(world.accepted()) == 2

    play(tmp_path, story)


def test_a_copied_run_directory_becomes_a_batch_of_its_own(tmp_path: Path) -> None:
    async def story(world: AccountWorld) -> None:
        assert await world.run("first", entries("a")) == 0
        shutil.copytree(world.place("first"), world.place("copy"))
        both = [world.start(name, entries("a", "b")) for name in ("first", "copy")]
        statuses = [await process.ended() for process in both]
        assert sorted(map(str, statuses)) in (["0", "0"], ["0", "1"])
        for name in ("first", "copy"):
            assert await world.run(name, entries("a", "b")) == 0
        assert len(world.accepted()) == 2

    play(tmp_path, story)


def test_without_the_index_and_a_run_directory_nothing_is_submitted_until_it_is_found_or_forgotten(
    tmp_path: Path,
) -> None:
    async def story(world: AccountWorld) -> None:
        assert await world.run("first", entries("a")) == 0
        lose_index(world.state)
        (tmp_path / "archive").mkdir()
        world.place("first").rename(tmp_path / "archive" / "first")
        for _ in range(2):
            second = world.start("second", entries("a", "b"))
            assert await second.ended() is None
            assert f"{tmp_path}/first (its batch is not there)" in second.refusals[-1]
        assert len(world.accepted()) == 1
        environment = {"BATCHRUNNER_STATE": str(world.state), "AIMLAPI_BASE_URL": world.service.url}
        assert "1 job of the batch first" in scan(environment, None, [tmp_path / "archive"])[0]
        assert await world.run("second", entries("a", "b")) == 0
        assert len(world.accepted()) == 2
        lose_index(world.state)
        shutil.rmtree(tmp_path / "archive")
        assert await world.run("third", entries("a", "c")) is None
        assert "forgotten" in forget(environment, None, [tmp_path / "archive"])[0]
        assert await world.run("third", entries("a", "c")) == 0
        assert len(world.accepted()) == 3, "the second batch has job a as well"

    play(tmp_path, story)


def test_the_slots_of_the_account_are_shared(tmp_path: Path) -> None:
    async def story(world: AccountWorld) -> None:
        names = [f"{number}" for number in range(6)]
        both = [world.start("first", entries(*names[:3])), world.start("second", entries(*names[3:]))]
        assert [await process.ended() for process in both] == [0, 0]
        assert world.most_in_flight() == 2
        accepted = [(event["client_request_id"].partition(".")[0], event["at"]) for event in world.accepted()]
        begun = dict(reversed(accepted))  # when each batch had its first acceptance
        first_free = accepted[2][1]
        assert len(begun) == 2
        assert max(begun.values()) < first_free + 1.0, "the second batch gets one of the first slots that are free"

    play(tmp_path, story, limits=Limits(concurrency=2))


def test_slots_of_a_killed_batch_are_freed_when_its_generations_have_ended(tmp_path: Path) -> None:
    async def story(world: AccountWorld) -> None:
        first = world.start("first", entries("a", "b"))
        await asyncio.sleep(5.0)
        first.die()
        await first.ended()
        started = world.loop.time()
        assert await world.run("second", entries("c")) == 0
        assert world.most_in_flight() == 2
        assert world.loop.time() - started < 4 * DURATION_S

    play(tmp_path, story, limits=Limits(concurrency=2))


def test_a_run_that_has_waited_for_slots_of_a_killed_batch_ends_when_its_own_jobs_are_done(tmp_path: Path) -> None:
    """To poll them all takes longer than the poll interval, so such polls would never pause."""

    async def story(world: AccountWorld) -> None:
        first = world.start("first", entries("a", "b", "c", "d"))
        await asyncio.sleep(10.0)
        first.die()
        await first.ended()
        second = world.start("second", entries("e"), poll_interval="250ms")
        assert await asyncio.wait_for(second.ended(), 10 * DURATION_S) == 0

    play(tmp_path, story, limits=Limits(concurrency=4), conditions=Conditions(slow=(Slow(reply_s=0.3),)))


def test_a_budget_of_the_account_stops_each_batch_with_status_3(tmp_path: Path) -> None:
    async def story(world: AccountWorld) -> None:
        assert await world.run("first", entries("a", "b")) == 0
        second = world.start("second", entries("c", "d"))
        assert await second.ended() == 3
        assert any("max_cost_per_day" in str(getattr(event, "reason", "")) for event in second.events)
        assert len(world.accepted()) == 3
        await next_day()
        assert await world.run("second", entries("c", "d")) == 0

    play(tmp_path, story, limits=Limits(credits_per_day=3.0 * PRICE))


def test_a_throttled_account_is_throttled_for_all_batches(tmp_path: Path) -> None:
    async def story(world: AccountWorld) -> None:
        names = [f"{number}" for number in range(8)]
        both = [world.start("first", entries(*names[:4])), world.start("second", entries(*names[4:]))]
        assert [await process.ended() for process in both] == [0, 0]
        refused = [event for event in world.service.ledger() if event["event"] == "refused"]
        assert len(refused) < 40

    play(tmp_path, story, concurrency_limit=1)


def backup(world: AccountWorld, name: str) -> Path:
    return Path(shutil.copytree(world.place(name), world.folder / "backup", symlinks=True))


def restore(world: AccountWorld, name: str) -> None:
    shutil.rmtree(world.place(name))
    (world.folder / "backup").rename(world.place(name))


@pytest.mark.parametrize("logs", [True, False])
@pytest.mark.parametrize("killed", [True, False])
def test_an_older_copy_of_a_run_directory_is_refused_and_recovered_with_nothing_paid_twice(
    tmp_path: Path, killed: bool, logs: bool
) -> None:
    async def story(world: AccountWorld) -> None:
        named = entries("a", "b", "c", "d", "e")
        assert await world.run("first", named, max_generations=2) == 3
        backup(world, "first")
        process = world.start("first", named, concurrency=2)
        if killed:
            await asyncio.sleep(1.5 * DURATION_S)
            process.die()
        await process.ended()
        accepted = len(world.accepted())
        assert accepted > 2
        restore(world, "first")
        for reuse in ("on", "off"):
            refused = world.start("first", named, reuse=reuse)
            assert await refused.ended() is None
            assert "is an old copy: it lacks" in refused.refusals[-1]
        assert len(world.accepted()) == accepted
        await world.run("first", named, recover=True)
        assert not world.paid_twice()
        assert list(world.states("first").values()).count("succeeded") == accepted, "all paid generations are adopted"
        await world.run("first", named)
        assert not world.paid_twice()

    play(tmp_path, story, logs=logs)


def test_a_recovery_that_dies_at_any_moment_pays_for_nothing_twice(tmp_path: Path) -> None:
    async def story(world: AccountWorld) -> None:
        named = entries("a", "b", "c")
        await world.run("first", named, max_generations=1)
        backup(world, "first")
        await world.run("first", named)
        restore(world, "first")
        for die_at in range(1, 60, 3):
            await world.run("first", named, recover=True, die_at=die_at)
            await world.run("first", named, die_at=8)
            assert len(world.accepted()) == 3, f"died at {die_at}"
        await world.run("first", named, recover=True)
        await world.run("first", named)
        assert len(world.accepted()) == 3

    play(tmp_path, story)


def test_an_older_copy_of_a_killed_batch_hides_nothing_from_another_batch(tmp_path: Path) -> None:
    async def story(world: AccountWorld) -> None:
        named = entries("a", "b", "c")
        await world.run("first", named, max_generations=1)
        backup(world, "first")
        process = world.start("first", named)
        await asyncio.sleep(0.5 * DURATION_S)
        process.die()
        await process.ended()
        restore(world, "first")
        assert await world.run("second", named) == 0
        assert len(world.accepted()) == 3

    play(tmp_path, story)


def test_a_copy_beside_the_run_directory_is_a_batch_of_its_own(tmp_path: Path) -> None:
    async def story(world: AccountWorld) -> None:
        named = entries("a", "b", "c")
        await world.run("first", named, max_generations=1)
        world.places["second"] = backup(world, "first")
        await world.run("first", named)
        assert await world.run("second", named) == 0
        assert len(world.accepted()) == 3

    play(tmp_path, story)


def test_an_unusable_state_folder_is_one_warning(tmp_path: Path) -> None:
    async def story(world: AccountWorld) -> None:
        world.state.write_text("not a folder")
        process = world.start("first", entries("a"))
        assert await process.ended() == 0
        warned = [event for event in process.events if "account's index" in str(getattr(event, "message", ""))]
        assert len(warned) == 1

    play(tmp_path, story)


def test_limits_that_cannot_hold_refuse_the_run(tmp_path: Path) -> None:
    async def story(world: AccountWorld) -> None:
        world.state.write_text("not a folder")
        process = world.start("first", entries("a"))
        assert await process.ended() is None
        assert "cannot be kept" in process.refusals[-1]
        assert not world.accepted()

    play(tmp_path, story, limits=Limits(concurrency=2))


def simulate(seed: int) -> None:
    with tempfile.TemporaryDirectory(dir=shared_memory()) as folder:
        scenario = AccountScenario(seed)
        try:
            with time_limit(120):
                scenario.check(scenario.simulate(Path(folder)))
        except AssertionError as error:
            raise AssertionError("\n".join([f"seed {seed}: {error}", *scenario.lines[-60:]])) from error


@pytest.mark.parametrize("first", range(0, 60, 5))
def test_scenarios(first: int) -> None:
    for seed in range(first, first + 5):
        simulate(seed)
