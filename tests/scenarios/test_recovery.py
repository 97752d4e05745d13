"""A journal that is gone, old or damaged in the middle of a batch: nothing is paid for twice, and --recover goes on."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from batchrunner.errors import JournalError, UsageError
from batchrunner.events import Noticed
from batchrunner.sandbox import Fault
from tests.scenarios.test_stories import RehearsalConfig, entries, play


def journal_of(stage: RehearsalConfig) -> Path:
    return stage.path(".batchrunner/journal.db")


def without_journal(stage: RehearsalConfig) -> None:
    journal_of(stage).unlink()


def without_room(stage: RehearsalConfig) -> None:
    shutil.rmtree(stage.path(".batchrunner"))


def old_journal(stage: RehearsalConfig) -> None:
    shutil.copy(stage.path("old.db"), journal_of(stage))


def overwritten_page(stage: RehearsalConfig) -> None:
    content = bytearray(journal_of(stage).read_bytes())
    content[4096 * 2 : 4096 * 3] = b"\xaa" * 4096
    journal_of(stage).write_bytes(content)


def emptied(stage: RehearsalConfig) -> None:
    journal_of(stage).write_bytes(b"")


def flipped_row(stage: RehearsalConfig) -> None:
    content = bytearray(journal_of(stage).read_bytes())
    at = content.rindex(b"in_flight")
    content[at : at + 9] = b"pending\0\0"
    journal_of(stage).write_bytes(content)


LOSSES: dict[str, Callable[[RehearsalConfig], None]] = {
    "journal gone": without_journal,
    "room gone": without_room,
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
    async def story(stage: RehearsalConfig) -> None:
        named = entries("job-0", "job-1", "job-2", "job-3", "job-4")
        await stage.run(named, interrupt_at_s=2.0)
        shutil.copy(journal_of(stage), stage.path("old.db"))
        await stage.run(named, interrupt_at_s=700.0)
        assert "succeeded" in stage.states().values()
        if not with_reports:
            for name in ("report.json", "report.html", "results.csv"):
                stage.path(name).unlink()
        paid = stage.accepted()
        LOSSES[loss](stage)
        for _ in range(2):
            with pytest.raises((UsageError, JournalError)) as refused:
                await stage.run(named)
            assert "--recover" in refused.value.hint
            assert "Nothing was submitted" in refused.value.hint
        assert stage.accepted() == paid
        await stage.run(named, recover=True)
        await stage.run(named)
        assert set(stage.accepted().values()) == {1}, "nothing was paid for twice"
        states = stage.states()
        assert set(states.values()) <= {"succeeded", "in_doubt"}
        assert "succeeded" in states.values() or not (with_reports or logs)
        if logs:
            assert list(states.values()).count("succeeded") == len(stage.accepted()), "all that was paid for"

    play(tmp_path, story, Fault(on="submit", kind="lost_reply", first=1), duration_s=300.0, logs=logs)


def test_what_the_log_shows_is_adopted_after_a_recovery(tmp_path: Path) -> None:
    async def story(stage: RehearsalConfig) -> None:
        named = entries("job-0", "job-1", "job-2")
        await stage.run(named, interrupt_at_s=2.0)
        without_room(stage)
        stage.path("report.json").unlink()
        assert await stage.run(named, recover=True) == 1
        states = list(stage.states().values())
        assert states.count("succeeded") == len(stage.accepted()) == 2, "found by their keys, and fetched"
        assert states.count("in_doubt") == 1
        assert await stage.run(named, in_doubt="resubmit") == 0
        assert list(stage.accepted().values()) == [1, 1, 1]

    play(tmp_path, story, duration_s=300.0)


def test_a_generation_that_failed_is_not_made_again_by_a_recovery(tmp_path: Path) -> None:
    """The part of the journal that is lost may hold the next one."""

    async def story(stage: RehearsalConfig) -> None:
        named = entries("job-0")
        await stage.run(named, interrupt_at_s=2.0)
        shutil.copy(journal_of(stage), stage.path("old.db"))
        await stage.run(named, interrupt_at_s=700.0)
        paid = stage.accepted()
        old_journal(stage)
        await stage.run(named, recover=True)
        assert stage.accepted() == paid
        assert stage.states() == {"job-0": "failed"}

    play(tmp_path, story, Fault(on="generation", kind="error_object", first=1), duration_s=300.0)


@pytest.mark.parametrize("sign", ["job-0.mp4", "results.csv", "report.html", "report.json", ".batchrunner.witness"])
def test_any_sign_of_an_earlier_run_without_a_journal_is_refused(tmp_path: Path, sign: str) -> None:
    async def story(stage: RehearsalConfig) -> None:
        stage.path("").mkdir()
        stage.path(sign).write_bytes(b"of somebody")
        with pytest.raises(UsageError, match=sign) as refused:
            await stage.run(entries("job-0", "job-1"))
        assert "move them away" in refused.value.hint
        assert not journal_of(stage).exists()
        assert not stage.accepted()
        assert stage.path(sign).read_bytes() == b"of somebody"
        stage.path(sign).unlink()
        assert await stage.run(entries("job-0", "job-1")) == 0

    play(tmp_path, story)


def test_a_clip_of_another_name_is_no_sign(tmp_path: Path) -> None:
    async def story(stage: RehearsalConfig) -> None:
        stage.path("").mkdir()
        stage.path("holiday.mp4").write_bytes(b"mine")
        assert await stage.run(entries("a")) == 0

    play(tmp_path, story)


@pytest.mark.parametrize("how", ["moved", "removed", "replaced"])
def test_a_run_whose_directory_goes_away_stops_in_order_and_submits_no_more(tmp_path: Path, how: str) -> None:
    async def story(stage: RehearsalConfig) -> None:
        named = entries(*(f"job-{number}" for number in range(6)))
        moved = stage.folder / "moved"

        def away() -> None:
            if how == "removed":
                shutil.rmtree(stage.path(""))
            else:
                stage.path("").rename(moved)
            if how == "replaced":
                stage.path("").mkdir()

        stage.loop.call_later(20.0, away)
        assert await stage.run(named) == 3
        assert len(stage.accepted()) == 2, "as many as were in flight"
        left = list(stage.path("").iterdir()) if how == "replaced" else stage.path("").exists()
        assert not left, "nothing is made at its old place"
        if how == "removed":
            said = " ".join(event.message for event in stage.told if isinstance(event, Noticed))
            assert "generations in flight" in said
            return
        assert (moved / "report.json").exists()
        if how == "replaced":
            stage.path("").rmdir()
        moved.rename(stage.path(""))
        assert await stage.run(named) == 0
        assert set(stage.accepted().values()) == {1}

    play(tmp_path, story, duration_s=300.0)
