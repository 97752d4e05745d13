"""A missing, old or damaged journal in the middle of a batch: nothing is paid twice, and --recover continues."""

import asyncio
import gc
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from batchrunner.errors import JournalError, UsageError
from batchrunner.events import Noticed
from batchrunner.sandbox import Fault
from tests.orders import order_of
from tests.scenarios.test_stories import Simulation, entries, play

# A simulated process that dies leaves its connections open, as a killed process does.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collect the objects that dead runs left, and not during another test."""
    yield
    gc.collect()


def journal_of(sim: Simulation) -> Path:
    return sim.path(".batchrunner/journal.db")


def without_journal(sim: Simulation) -> None:
    journal_of(sim).unlink()


def without_private_folder(sim: Simulation) -> None:
    shutil.rmtree(sim.path(".batchrunner"))


def old_journal(sim: Simulation) -> None:
    shutil.copy(sim.path("old.db"), journal_of(sim))


def overwritten_page(sim: Simulation) -> None:
    content = bytearray(journal_of(sim).read_bytes())
    content[4096 * 2 : 4096 * 3] = b"\xaa" * 4096
    journal_of(sim).write_bytes(content)


def emptied(sim: Simulation) -> None:
    journal_of(sim).write_bytes(b"")


def flipped_row(sim: Simulation) -> None:
    content = bytearray(journal_of(sim).read_bytes())
    at = content.rindex(b"in_flight")
    content[at : at + 9] = b"pending\0\0"
    journal_of(sim).write_bytes(content)


LOSSES: dict[str, Callable[[Simulation], None]] = {
    "journal gone": without_journal,
    "room gone": without_private_folder,
    "old journal": old_journal,
    "page overwritten": overwritten_page,
    "emptied": emptied,
    "row flipped": flipped_row,
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("with_reports", [True, False])
@pytest.mark.parametrize("logs", [True, False])
def test_a_lost_journal_is_refused_and_recovered_with_nothing_paid_twice(
    tmp_path: Path, loss: str, with_reports: bool, logs: bool
) -> None:
    async def story(sim: Simulation) -> None:
        named = entries("job-0", "job-1", "job-2", "job-3", "job-4")
        await sim.run(named, interrupt_at_s=2.0)
        shutil.copy(journal_of(sim), sim.path("old.db"))
        await sim.run(named, interrupt_at_s=700.0)
        assert "succeeded" in sim.states().values()
        if not with_reports:
            for name in ("report.json", "report.html", "results.csv"):
                sim.path(name).unlink()
        paid = sim.accepted()
        LOSSES[loss](sim)
        for _ in range(2):
            with pytest.raises((UsageError, JournalError)) as refused:
                await sim.run(named)
            assert "--recover" in refused.value.hint
            assert "Nothing was submitted" in refused.value.hint
        assert sim.accepted() == paid
        await sim.run(named, recover=True)
        await sim.run(named)
        assert set(sim.accepted().values()) == {1}, "nothing was paid twice"
        states = sim.states()
        assert set(states.values()) <= {"succeeded", "in_doubt"}
        assert "succeeded" in states.values() or not (with_reports or logs)
        if logs:
            assert list(states.values()).count("succeeded") == len(sim.accepted()), "all paid generations"

    play(tmp_path, story, Fault(on="submit", kind="lost_reply", first=1), duration_s=300.0, logs=logs)


def test_listed_submissions_are_adopted_after_a_recovery(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        named = entries("job-0", "job-1", "job-2")
        await sim.run(named, interrupt_at_s=2.0)
        without_private_folder(sim)
        sim.path("report.json").unlink()
        assert await sim.run(named, recover=True) == 1
        states = list(sim.states().values())
        assert states.count("succeeded") == len(sim.accepted()) == 2, "found by their keys, and downloaded"
        assert states.count("in_doubt") == 1
        assert await sim.run(named, in_doubt="resubmit") == 0
        assert list(sim.accepted().values()) == [1, 1, 1]

    play(tmp_path, story, duration_s=300.0)


FAILS_ONCE = Fault(on="generation", kind="error_object", first=1)


@pytest.mark.parametrize("logs", [True, False])
def test_a_recovery_does_not_repeat_a_failed_generation(tmp_path: Path, logs: bool) -> None:
    """The lost part of the journal may contain the next attempt. It does here: the log lists it."""

    async def story(sim: Simulation) -> None:
        named = entries("job-0")
        await sim.run(named, interrupt_at_s=2.0)
        shutil.copy(journal_of(sim), sim.path("old.db"))
        await sim.run(named, interrupt_at_s=700.0)
        paid = sim.accepted()
        old_journal(sim)
        status = await sim.run(named, recover=True)
        assert sim.accepted() == paid == Counter({order_of(named[0].job): 2})
        assert (status, sim.states()["job-0"]) == ((0, "succeeded") if logs else (1, "in_doubt"))
        row = sim.report["jobs"][0]
        assert row["attempts"][0]["outcome"] == "failed"
        if not logs:
            assert row["error"]["kind"] == "later_attempt_lost"
            assert "--in-doubt" in row["error"]["hint"]
            assert await sim.run(named) == 1, "a later run keeps it as well"
            assert sim.accepted() == paid

    play(tmp_path, story, FAILS_ONCE, duration_s=300.0, logs=logs)


@pytest.mark.parametrize("logs", [True, False])
def test_the_retry_of_a_failed_job_is_searched_for_after_a_recovery(tmp_path: Path, logs: bool) -> None:
    """The recovered journal records that it failed, and not that it was retried."""

    async def story(sim: Simulation) -> None:
        named = entries("job-0")
        assert await sim.run(named, generation_retries=0) == 1
        assert sim.states() == {"job-0": "failed"}
        shutil.copy(journal_of(sim), sim.path("old.db"))
        await sim.run(named, retry_failed=True, interrupt_at_s=20.0)
        paid = sim.accepted()
        old_journal(sim)
        await sim.run(named, recover=True)
        assert sim.accepted() == paid == Counter({order_of(named[0].job): 2})
        assert sim.states() == {"job-0": "succeeded" if logs else "in_doubt"}

    play(tmp_path, story, FAILS_ONCE, duration_s=300.0, logs=logs)


@pytest.mark.parametrize("logs", [True, False])
def test_a_later_attempt_is_searched_for_where_the_failure_may_not_be_final(tmp_path: Path, logs: bool) -> None:
    """The recovered journal knows only the first generation. The service denies that one for a while."""

    async def story(sim: Simulation) -> None:
        named = entries("job-0")
        await sim.run(named, interrupt_at_s=2.0)
        shutil.copy(journal_of(sim), sim.path("old.db"))
        await sim.run(named, interrupt_at_s=700.0)
        paid = sim.accepted()
        sim.path("job-0.mp4").unlink(missing_ok=True)
        old_journal(sim)
        await asyncio.sleep(100)
        assert await sim.run(named, recover=True) == (0 if logs else 1)
        assert sim.accepted() == paid == Counter({order_of(named[0].job): 2})
        row = sim.report["jobs"][0]
        assert row["state"] == ("succeeded" if logs else "failed")
        assert row["attempts"][0]["outcome"] == "failed"
        assert len(row["attempts"]) == (2 if logs else 1)

    denied = Fault(on="poll", kind="not_found", between_s=(700.0, 1400.0))
    play(tmp_path, story, FAILS_ONCE, denied, duration_s=300.0, logs=logs)


def test_a_later_attempt_is_searched_for_by_each_run(tmp_path: Path) -> None:
    """The log cannot be read at first. No option asks for the search."""

    async def story(sim: Simulation) -> None:
        named = entries("job-0")
        await sim.run(named, interrupt_at_s=2.0)
        shutil.copy(journal_of(sim), sim.path("old.db"))
        await sim.run(named, interrupt_at_s=700.0)
        paid = sim.accepted()
        sim.path("job-0.mp4").unlink(missing_ok=True)
        old_journal(sim)
        await asyncio.sleep(100)
        assert await sim.run(named, recover=True) == 1
        assert sim.states() == {"job-0": "failed"}
        assert await sim.run(named) == 0
        assert sim.accepted() == paid == Counter({order_of(named[0].job): 2})

    denied = Fault(on="poll", kind="not_found", between_s=(700.0, 2200.0))
    unread = Fault(on="logs", kind="unavailable", between_s=(700.0, 1500.0))
    play(tmp_path, story, FAILS_ONCE, denied, unread, duration_s=300.0)


def test_the_newest_of_several_lost_attempts_is_adopted(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        named = entries("job-0")
        await sim.run(named, interrupt_at_s=2.0)
        shutil.copy(journal_of(sim), sim.path("old.db"))
        assert await sim.run(named, generation_retries=3) == 0
        paid = sim.accepted()
        sim.path("job-0.mp4").unlink()
        old_journal(sim)
        assert await sim.run(named, recover=True) == 0
        assert sim.accepted() == paid == Counter({order_of(named[0].job): 3})
        assert len(sim.report["jobs"][0]["attempts"]) == 2, "the one between was not polled"

    play(tmp_path, story, replace(FAILS_ONCE, first=2), duration_s=300.0)


def test_lost_attempts_that_all_failed_leave_the_job_in_doubt(tmp_path: Path) -> None:
    """Each attempt is polled once, so the search ends."""

    async def story(sim: Simulation) -> None:
        named = entries("job-0")
        await sim.run(named, interrupt_at_s=2.0)
        shutil.copy(journal_of(sim), sim.path("old.db"))
        assert await sim.run(named, generation_retries=2) == 1
        paid = sim.accepted()
        old_journal(sim)
        assert await sim.run(named, recover=True) == 1
        assert sim.accepted() == paid == Counter({order_of(named[0].job): 3})
        row = sim.report["jobs"][0]
        assert row["state"] == "in_doubt"
        assert [attempt["outcome"] for attempt in row["attempts"]] == ["failed", "failed", "failed", "in_doubt"]
        assert await sim.run(named, in_doubt="resubmit", generation_retries=0) == 1
        assert sim.accepted() == Counter({order_of(named[0].job): 4}), "on the user's request"

    play(tmp_path, story, replace(FAILS_ONCE, first=None), duration_s=300.0)


def test_a_failed_job_is_repeated_only_on_request(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        sim.lists_on_acceptance = True
        named = entries("job-0")
        await sim.run(named, interrupt_at_s=2.0)
        shutil.copy(journal_of(sim), sim.path("old.db"))
        assert await sim.run(named, generation_retries=0) == 1
        paid = sim.accepted()
        old_journal(sim)
        assert await sim.run(named, recover=True) == 1
        assert sim.accepted() == paid
        row = sim.report["jobs"][0]
        assert (row["state"], row["error"]["kind"]) == ("in_doubt", "later_attempt_lost")
        assert await sim.run(named, in_doubt="evidence") == 1
        assert sim.accepted() == paid
        assert await sim.run(named, in_doubt="resubmit") == 0

    play(tmp_path, story, FAILS_ONCE, duration_s=300.0)


def test_a_normal_run_after_a_recovery_still_searches_for_a_later_attempt(tmp_path: Path) -> None:
    """The recovery left the job in flight, and its generation failed only later."""

    async def story(sim: Simulation) -> None:
        named = entries("job-0")
        await sim.run(named, interrupt_at_s=2.0)
        shutil.copy(journal_of(sim), sim.path("old.db"))
        await sim.run(named, interrupt_at_s=700.0)
        paid = sim.accepted()
        old_journal(sim)
        assert await sim.run(named, recover=True, interrupt_at_s=0.5) == 130
        assert sim.states() == {"job-0": "in_flight"}
        assert await sim.run(named) == 0
        assert sim.accepted() == paid == Counter({order_of(named[0].job): 2})

    play(tmp_path, story, FAILS_ONCE, duration_s=300.0)


@pytest.mark.parametrize("sign", ["job-0.mp4", "results.csv", "report.html", "report.json", ".batchrunner.witness"])
def test_any_trace_of_an_earlier_run_without_a_journal_is_refused(tmp_path: Path, sign: str) -> None:
    async def story(sim: Simulation) -> None:
        sim.path("").mkdir()
        sim.path(sign).write_bytes(b"of somebody")
        with pytest.raises(UsageError, match=sign) as refused:
            await sim.run(entries("job-0", "job-1"))
        assert "move them away" in refused.value.hint
        assert not journal_of(sim).exists()
        assert not sim.accepted()
        assert sim.path(sign).read_bytes() == b"of somebody"
        sim.path(sign).unlink()
        assert await sim.run(entries("job-0", "job-1")) == 0

    play(tmp_path, story)


def test_a_clip_of_another_name_is_not_a_trace(tmp_path: Path) -> None:
    async def story(sim: Simulation) -> None:
        sim.path("").mkdir()
        sim.path("holiday.mp4").write_bytes(b"mine")
        assert await sim.run(entries("a")) == 0

    play(tmp_path, story)


@pytest.mark.parametrize("how", ["moved", "removed", "replaced"])
def test_a_run_whose_directory_disappears_stops_in_order_and_submits_no_more(tmp_path: Path, how: str) -> None:
    async def story(sim: Simulation) -> None:
        named = entries(*(f"job-{number}" for number in range(6)))
        moved = sim.folder / "moved"

        def away() -> None:
            if how == "removed":
                shutil.rmtree(sim.path(""))
            else:
                sim.path("").rename(moved)
            if how == "replaced":
                sim.path("").mkdir()

        sim.loop.call_later(20.0, away)
        assert await sim.run(named) == 5
        assert len(sim.accepted()) == 2, "as many as were in flight"
        left = list(sim.path("").iterdir()) if how == "replaced" else sim.path("").exists()
        assert not left, "nothing is created at its old place"
        if how == "removed":
            said = " ".join(event.message for event in sim.events if isinstance(event, Noticed))
            assert "generations in flight" in said
            return
        assert (moved / "report.json").exists()
        if how == "replaced":
            sim.path("").rmdir()
        moved.rename(sim.path(""))
        assert await sim.run(named) == 0
        assert set(sim.accepted().values()) == {1}

    play(tmp_path, story, duration_s=300.0)
