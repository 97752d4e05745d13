"""What the index has of a batch and its journal lacks: an older copy, a killed run, and what is no sign of one."""

import shutil
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from batchrunner.account import journals, transactions
from batchrunner.account.older_copy import Lost, adopted, lost_work
from batchrunner.account.rows import FAILED, IN_DOUBT, SUCCEEDED, JobRow
from batchrunner.job import Attempt, Entry, Move, Record, State
from tests.account.batches import ACCOUNT, PRICE, Process, jobs, run

OTHER = "another generation"


async def lost(process: Process, *, is_stale: bool = False) -> Lost | None:
    """Return what the journal in the run directory lacks, by the index of another process."""
    stored = journals.read(process.directory)
    assert stored is not None
    other = await Process(process.state, process.directory.parent / "other", ()).start()
    try:
        found: Lost | None = other.index.read(partial(lost_work, stored=stored, is_stale=is_stale))
        return found
    finally:
        other.die()


def play(folder: Path, story: Callable[[Process, Callable[[], None]], Awaitable[None]], count: int = 2) -> None:
    """Run `story(process, restore)` with a second run of a batch; `restore` brings the end of the first one back."""

    async def body() -> None:
        place, copy, wanted = folder / "batch", folder / "copy", jobs(count)
        first = await Process(folder / "state", place, wanted).start()
        await first.submit(wanted[0], "gen0")
        await first.end()
        shutil.copytree(place, copy)

        def restore() -> None:
            shutil.rmtree(place)
            shutil.copytree(copy, place)

        await story(await Process(folder / "state", place, wanted, number=2).start(), restore)

    run(body())


def test_a_journal_with_fewer_commits_than_the_index_is_an_older_copy(tmp_path: Path) -> None:
    async def story(process: Process, restore: Callable[[], None]) -> None:
        await process.submit(process.jobs[1], "gen1")
        await process.end()
        assert await lost(process) is None
        restore()
        found = await lost(process)
        assert found is not None
        assert [row.generation_id for row in found.jobs] == ["gen1"]
        message = str(found.error(process.directory))
        assert f"lacks the last {found.commits} commits and submissions of 1 job that the account's index" in message

    play(tmp_path, story)


def test_commits_that_submitted_nothing_count(tmp_path: Path) -> None:
    async def story(process: Process, restore: Callable[[], None]) -> None:
        await process.end()
        restore()
        found = await lost(process)
        assert found is not None
        assert (found.commits, found.jobs) == (1, ())

    play(tmp_path, story)


def test_the_jobs_of_a_killed_run_show_an_older_copy(tmp_path: Path) -> None:
    """The index does not know the last commit of a killed run."""

    async def story(process: Process, restore: Callable[[], None]) -> None:
        await process.submit(process.jobs[1], "gen1")
        await process.claim(process.jobs[2])  # stores the record of the other job
        await process.session.register(list(process.records.values()), process.journal.mark.sequence)
        process.die()
        assert await lost(process) is None, "a claim need not have begun"
        restore()
        found = await lost(process)
        assert found is not None
        assert (found.sequence, found.commits) == (None, 0)
        assert [row.generation_id for row in found.jobs] == ["gen1"]
        assert "lacks submissions of 1 job" in str(found.error(process.directory))

    play(tmp_path, story, 3)


def test_a_submission_without_a_reply_shows_an_older_copy(tmp_path: Path) -> None:
    async def story(process: Process, restore: Callable[[], None]) -> None:
        await process.submit(process.jobs[1], None)
        await process.session.register(list(process.records.values()), process.journal.mark.sequence)
        process.die()
        restore()
        found = await lost(process)
        assert found is not None
        assert [row.fingerprint for row in found.jobs] == [process.jobs[1].fingerprint]

    play(tmp_path, story)


def test_a_newer_journal_is_no_older_copy(tmp_path: Path) -> None:
    async def story(process: Process, restore: Callable[[], None]) -> None:
        await process.submit(process.jobs[1], "gen1")
        await process.session.close(process.journal.mark.sequence)
        await process.move(process.jobs[1], Move.FAIL)
        process.die()
        assert await lost(process) is None

    play(tmp_path, story)


def test_a_claim_of_an_unread_journal_is_no_sign_of_an_older_copy(tmp_path: Path) -> None:
    """The index holds it in doubt, although its journal may never have begun it."""

    async def story(process: Process, restore: Callable[[], None]) -> None:
        await process.claim(process.jobs[1])
        process.index.write([partial(transactions.doubt_unread, batch=process.session.batch)], durable=True)
        process.die()
        assert await lost(process) is None

    play(tmp_path, story)


def test_another_batch_does_not_take_over_an_older_copy(tmp_path: Path) -> None:
    async def story(process: Process, restore: Callable[[], None]) -> None:
        await process.submit(process.jobs[1], "gen1")
        await process.session.register(list(process.records.values()), process.journal.mark.sequence)
        process.die()
        restore()
        other = await Process(process.state, tmp_path / "other", process.jobs).start()
        other.index.settle_ended([process.session.batch.batch_id])
        rows = other.index.read(partial(transactions.jobs_of, batch_id=process.session.batch.batch_id))
        assert {row.generation_id for row in rows} == {"gen0", "gen1"}
        other.die()
        assert await lost(process) is not None, "the batch itself is still refused"

    play(tmp_path, story)


def row_of(job_fingerprint: str, state: str, **fields: object) -> JobRow:
    return JobRow(ACCOUNT, job_fingerprint, "batch", state, "request", submitted_at=5.0)._replace(**fields)  # type: ignore[arg-type]


def test_generations_are_adopted_and_jobs_without_one_are_not() -> None:
    wanted = jobs(4)
    entries = [Entry(place, job.key, job) for place, job in enumerate(wanted)]
    failed = Record(wanted[1], State.FAILED, (Attempt(1, "first", 1.0, "gen1", "failed"),))
    begun = Record(wanted[2], State.SUBMITTING, (Attempt(1, "request", 1.0),))
    known = {record.job.fingerprint: record for record in (failed, begun)}
    rows = (
        row_of(wanted[0].fingerprint, SUCCEEDED, generation_id="gen0"),
        row_of(wanted[1].fingerprint, FAILED, generation_id=OTHER),
        row_of(wanted[2].fingerprint, SUCCEEDED, generation_id="gen2"),
        row_of(wanted[3].fingerprint, IN_DOUBT),
        row_of("of no job of the manifest", SUCCEEDED, generation_id="gen9"),
    )
    records = adopted(known, entries, Lost(jobs=rows), lambda _: PRICE)
    found = [records[job.fingerprint] for job in wanted[:3]]
    assert [record.state for record in found] == [State.IN_FLIGHT] * 3
    assert [[attempt.generation_id for attempt in record.attempts] for record in found] == [
        ["gen0"],
        ["gen1", OTHER],
        ["gen2"],
    ]
    assert all(record.last.estimate == PRICE and record.last.submitted_at == 5.0 for record in found)
    assert len(records) == 3
