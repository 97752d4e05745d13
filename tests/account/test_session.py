"""Claims of two batches on one account: exclusion, reuse, slots, budgets, throttles, and what a kill leaves."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from batchrunner.account.base import HELD_BY_BATCH, HELD_IN_DOUBT, Granted, Hold, OverBudget, Reuse, Wait
from batchrunner.account.limits import Limits
from batchrunner.job import Move
from tests.account.batches import PRICE, Process, jobs, run

DAY_S = 86_400.0


Play = Callable[..., None]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Return a function that runs `story(first, second)` with two started batches of the same jobs on one account.

    Its further arguments: the number of jobs, the fields of both processes, and the priority of the first batch.
    """

    def play(
        story: Callable[[Process, Process], Awaitable[None]], count: int = 1, *, priority: int = 0, **fields: Any
    ) -> None:
        async def body() -> None:
            wanted = jobs(count)
            first = Process(tmp_path / "state", tmp_path / "first", wanted, priority=priority, **fields)
            second = Process(tmp_path / "state", tmp_path / "second", wanted, **fields)
            await first.start()
            await second.start()
            await story(first, second)
            first.die()
            second.die()

        run(body())

    return play


def test_one_of_two_running_batches_gets_a_job(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        [job] = first.jobs
        assert await first.claim(job) == Granted()
        answer = await second.claim(job)
        assert isinstance(answer, Hold)
        assert answer.problem.kind == HELD_BY_BATCH
        assert str(first.directory) in answer.problem.message
        await first.begin(job)
        await first.move(job, Move.ACCEPT, generation_id="gen1", accepted_at=1.0)
        await first.catch_up()
        answer = await second.claim(job)
        assert isinstance(answer, Hold)
        assert "gen1" in answer.problem.message

    play(story)


def test_a_refused_submission_leaves_the_job_to_others(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        [job] = first.jobs
        await first.submit(job, None)
        await first.move(job, Move.REFUSE)
        await first.end()
        assert await second.claim(job) == Granted()

    play(story)


def test_a_delivered_clip_is_reused_by_copy(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        [job] = first.jobs
        await first.submit(job, "gen1")
        await first.deliver(job)
        await first.end()
        answer = await second.claim(job)
        assert isinstance(answer, Reuse)
        assert answer.generation_id == "gen1"
        assert [clip.path for clip in answer.clips] == [first.directory / f"{job.key}.mp4"]
        assert answer.how == f"reused from {first.directory}"
        surveyed = await second.session.survey(second.records.values())
        assert surveyed == {job.fingerprint: answer}

    play(story)


def test_a_missing_or_other_clip_is_fetched_again_and_not_paid_for(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        [job] = first.jobs
        await first.submit(job, "gen1")
        await first.deliver(job)
        await first.end()
        (first.directory / f"{job.key}.mp4").write_bytes(b"another size")
        assert await second.claim(job) == Reuse("gen1", (await second.claim(job)).source)
        (first.directory / f"{job.key}.mp4").unlink()
        answer = await second.claim(job)
        assert (answer.generation_id, answer.clips, answer.in_flight) == ("gen1", (), False)

    play(story)


def test_a_generation_of_a_killed_batch_is_adopted(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        [job] = first.jobs
        await first.submit(job, "gen1")
        first.die()
        answer = await second.claim(job)
        assert isinstance(answer, Reuse)
        assert (answer.generation_id, answer.in_flight) == ("gen1", True)

    play(story)


def test_a_submission_of_a_killed_batch_is_in_doubt(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        [job] = first.jobs
        await first.submit(job, None)
        first.die()
        answer = await second.claim(job)
        assert isinstance(answer, Hold)
        assert answer.problem.kind == HELD_IN_DOUBT

    play(story)


def test_a_claim_that_its_journal_never_began_is_released(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        [job] = first.jobs
        assert await first.claim(job) == Granted()
        first.die()
        assert await second.claim(job) == Granted()

    play(story)


def test_a_failed_generation_may_be_paid_for_again(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        [job] = first.jobs
        await first.submit(job, "gen1")
        await first.move(job, Move.FAIL)
        await first.end()
        assert await second.claim(job) == Granted()

    play(story)


def test_a_generation_that_this_batch_has_seen_fail_is_no_use(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        [job] = first.jobs
        await first.submit(job, "gen1")
        first.die()
        record = second.records[job.fingerprint]
        await second.begin(job)
        await second.move(job, Move.ACCEPT, generation_id="gen1")
        await second.move(job, Move.FAIL)
        await second.move(job, Move.RETRY)
        assert second.records[job.fingerprint] != record
        assert await second.claim(job) == Granted()

    play(story)


def test_the_slots_are_those_of_all_batches(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        assert await first.submit(first.jobs[0], "gen0") == Granted()
        assert await second.submit(first.jobs[1], "gen1") == Granted()
        assert isinstance(await second.claim(first.jobs[2]), Wait)
        done = first.records[first.jobs[0].fingerprint].with_attempt(completed_at=1.0)
        first.session.slot_freed(done)
        await first.store(done)
        assert await second.claim(first.jobs[2]) == Granted()
        assert isinstance(await first.claim(first.jobs[3]), Wait)

    play(story, 4, limits=Limits(concurrency=2))


def test_generations_of_a_killed_batch_keep_their_slots(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        await first.submit(first.jobs[0], "gen0")
        assert await first.claim(first.jobs[1]) == Granted()
        first.die()
        assert await second.submit(first.jobs[2], "gen2") == Granted()  # the claim of job 1 was never begun
        assert isinstance(await second.claim(first.jobs[3]), Wait)

    play(story, 4, limits=Limits(concurrency=2))


def test_a_doubt_of_a_killed_batch_takes_a_slot_for_half_an_hour(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        await first.submit(first.jobs[0], None)
        first.die()
        assert isinstance(await second.claim(first.jobs[1]), Wait)
        second.now += 1801
        assert await second.claim(first.jobs[1]) == Granted()

    play(story, 2, limits=Limits(concurrency=1))


def test_the_batch_with_fewer_slots_goes_first(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        for number in range(3):
            assert await first.submit(first.jobs[number], f"gen{number}") == Granted()
        assert isinstance(await second.claim(first.jobs[5]), Wait)
        await first.deliver(first.jobs[0])
        assert isinstance(await first.claim(first.jobs[3]), Wait), "the other batch has none, and waits"
        assert await second.submit(first.jobs[5], "gen5") == Granted()

    play(story, 8, limits=Limits(concurrency=3))


def test_a_batch_that_asks_no_more_stops_nobody(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        assert await first.submit(first.jobs[0], "gen0") == Granted()
        assert isinstance(await second.claim(first.jobs[5]), Wait)
        await first.deliver(first.jobs[0])
        first.now += 1
        assert isinstance(await first.claim(first.jobs[1]), Wait)
        first.now += 5
        assert await first.claim(first.jobs[1]) == Granted()

    play(story, 8, limits=Limits(concurrency=1))


def test_a_killed_batch_that_waited_stops_nobody(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        assert await first.submit(first.jobs[0], "gen0") == Granted()
        assert isinstance(await second.claim(first.jobs[5]), Wait)
        second.die()
        await first.deliver(first.jobs[0])
        assert await first.claim(first.jobs[1]) == Granted()

    play(story, 8, limits=Limits(concurrency=1))


def test_a_higher_priority_goes_first(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        assert await second.submit(first.jobs[0], "gen0") == Granted()
        assert await first.submit(first.jobs[1], "gen1") == Granted()
        assert isinstance(await first.claim(first.jobs[2]), Wait)
        await second.deliver(first.jobs[0])
        assert isinstance(await second.claim(first.jobs[3]), Wait)
        assert await first.claim(first.jobs[2]) == Granted()

    play(story, 8, limits=Limits(concurrency=2), priority=1)


@pytest.mark.parametrize(
    ("limits", "setting"),
    [
        (Limits(credits_per_day=2.5 * PRICE), "max_cost_per_day"),
        (Limits(credits_per_month=2.5 * PRICE), "max_cost_per_month"),
    ],
)
def test_a_budget_is_that_of_all_batches(play: Play, limits: Limits, setting: str) -> None:
    async def story(first: Process, second: Process) -> None:
        assert await first.submit(first.jobs[0], "gen0") == Granted()
        assert await second.submit(first.jobs[1], "gen1") == Granted()
        answer = await second.claim(first.jobs[2])
        assert isinstance(answer, OverBudget)
        assert answer.kind == setting
        assert setting in answer.why
        await first.move(first.jobs[0], Move.FAIL)  # which is not billed
        await first.end()
        assert await second.claim(first.jobs[2]) == Granted()

    play(story, 4, limits=limits)


def test_a_budget_of_a_day_is_new_on_the_next_day(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        assert await first.submit(first.jobs[0], "gen0") == Granted()
        assert isinstance(await second.claim(first.jobs[1]), OverBudget)
        second.now += DAY_S
        assert await second.claim(first.jobs[1]) == Granted()

    play(story, 2, limits=Limits(credits_per_day=PRICE))


def test_a_quote_counts_instead_of_its_estimate(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        await first.submit(first.jobs[0], None)
        await first.move(first.jobs[0], Move.ACCEPT, generation_id="gen0", credits=1.5 * PRICE)
        await first.end()
        assert isinstance(await second.claim(first.jobs[1]), OverBudget)

    play(story, 2, limits=Limits(credits_per_day=2 * PRICE))


def test_a_throttled_account_is_so_for_all_batches(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        first.session.throttled(first.now + 60, "rate limited")
        await first.claim(first.jobs[0])
        answer = await second.claim(first.jobs[1])
        assert answer == Wait("rate limited", first.now + 60)
        second.now += 61
        assert await second.claim(first.jobs[1]) == Granted()
        first.session.throttled(second.now + 60, "again")
        first.session.throttled(0.0, "")
        await first.claim(first.jobs[0])
        assert not isinstance(await second.claim(first.jobs[0]), Wait)

    play(story, 2)


def test_a_throttle_from_a_clock_that_was_set_back_stops_nobody(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        first.session.throttled(first.now + 60, "rate limited")
        await first.claim(first.jobs[0])
        second.now -= 2 * DAY_S
        assert await second.claim(first.jobs[1]) == Granted()

    play(story, 2)


def test_accounts_do_not_share_work_or_limits(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        other = second.session.batch._replace(account="studio@https://api.example.com")
        second.session.batch = other
        await second.session.register(list(second.records.values()), -5)
        assert await first.claim(first.jobs[0]) == Granted()
        assert await second.claim(first.jobs[0]) == Granted()

    play(story, 2, limits=Limits(concurrency=1))


def test_a_run_that_registers_again_keeps_its_slots(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        await first.submit(first.jobs[0], "gen0")
        await first.submit(first.jobs[1], None)
        first.die()
        again = await Process(first.state, first.directory, first.jobs, first.limits, number=7).start()
        assert isinstance(await second.claim(first.jobs[2]), Wait)
        again.die()

    play(story, 3, limits=Limits(concurrency=2))


def _states(process: Process) -> dict[str, str]:
    """Return the states of the process's jobs in the index, by key."""
    batch_id = process.session.batch.batch_id
    query = "SELECT fingerprint, state FROM jobs WHERE batch_id = ?"
    stored = process.index.read(lambda connection: dict(connection.execute(query, (batch_id,)).fetchall()))
    return {job.key: stored[job.fingerprint] for job in process.jobs if job.fingerprint in stored}


def _outcomes(process: Process) -> list[str]:
    """Return the outcomes of the submissions in the index, oldest first."""
    query = "SELECT outcome FROM submissions ORDER BY rowid"
    return [outcome for (outcome,) in process.index.read(lambda connection: connection.execute(query).fetchall())]


def test_where_nothing_is_limited_a_claim_stores_no_records_of_other_jobs_and_no_submission(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        one, two, three = first.jobs
        await first.submit(one, "gen1")
        await first.submit(two, None)
        await first.claim(three)
        assert list(_states(first).values()) == ["claimed", "claimed", "claimed"]
        assert _outcomes(first) == []
        await first.catch_up()
        assert list(_states(first).values()) == ["in_flight", "submitting", "claimed"]
        assert _outcomes(first) == ["accepted", "open"]

    play(story, 3)


def test_records_are_stored_a_second_after_the_first_of_a_burst(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        one, two = first.jobs
        waits: asyncio.Queue[float] = asyncio.Queue()
        wake = asyncio.Event()

        async def sleep(seconds: float) -> None:
            waits.put_nowait(seconds)
            await wake.wait()

        keeping_up = asyncio.create_task(first.session.keep_up(sleep))
        await first.submit(one, "gen1")
        assert await waits.get() == 1.0
        await first.submit(two, "gen2")
        assert list(_states(first).values()) == ["claimed", "claimed"]
        wake.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        keeping_up.cancel()
        await first.session.known_charges()  # a call in the thread of the index, after what is posted
        assert list(_states(first).values()) == ["in_flight", "in_flight"]

    play(story, 2)


def test_a_claim_stores_all_records_where_something_is_limited(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        one, two, three = first.jobs
        await first.submit(one, "gen1")
        await first.submit(two, "gen2")
        await first.claim(three)
        assert list(_states(first).values()) == ["in_flight", "in_flight", "claimed"]
        assert _outcomes(first) == ["accepted", "accepted", "claimed"]

    play(story, 3, limits=Limits(credits_per_day=1e9))


def test_the_record_of_a_job_is_stored_before_its_next_claim(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        one, two = first.jobs
        await first.submit(one, "gen1")
        await first.submit(two, "gen2")
        await first.move(two, Move.FAIL)
        await first.move(two, Move.RETRY)
        assert await first.claim(two) == Granted()
        assert _outcomes(first) == ["failed"]
        assert _states(first)[two.key] == "claimed"
        await first.end()
        assert _states(second) == {}

    play(story, 2)


def test_a_submission_is_stored_where_the_index_has_no_claim(play: Play) -> None:
    async def story(first: Process, second: Process) -> None:
        [job] = first.jobs
        await first.begin(job)
        await first.end()
        again = await Process(first.state, first.directory, first.jobs, number=7).start()
        assert _states(again) == {job.key: "submitting"}
        again.die()

    play(story)
