"""The exit status and the report come from the same records: those of the journal."""

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batchrunner.app.run_end import final_status, last_words, uncopied_reports
from batchrunner.engine.job_records import JobRecords
from batchrunner.errors import CallError, ExitStatus, JournalError, LocalFault, NetworkFault
from batchrunner.job import Move, Record, Snapshot, State
from batchrunner.plan.endings import NO_REASON, StopReason
from batchrunner.report import writer
from batchrunner.storage.run_directory import RunDir
from tests.conftest import NOW, make_entries, make_record, make_run
from tests.engine.steps.stepping import RefusingJournal, Stepping

SUBMITTING = make_record("a", State.SUBMITTING)
REFUSED = replace(SUBMITTING, state=State.FAILED)


class StoredJournal:
    """A journal that has this record, or that cannot be read (None)."""

    def __init__(self, record: Record | None) -> None:
        self._record = record

    def snapshot(self) -> Snapshot:
        if self._record is None:
            raise JournalError("damaged", "")
        return Snapshot(make_run(), (), {self._record.job.fingerprint: self._record})


class Clips:
    """A store. missing: the jobs whose clips are missing, by look."""

    def __init__(self, *missing: str) -> None:
        self.count = 0
        self._missing = missing

    async def look_again(self, _: object) -> dict[str, Any]:
        self.count += 1
        return dict.fromkeys(self._missing[self.count - 1 : self.count])


def status_of(
    records: JobRecords, stored: Record | None, stopped: StopReason, clips: Clips | None = None
) -> ExitStatus:
    async def accept(_: object) -> None:
        pass

    engine: Any = SimpleNamespace(stopped=stopped, settle=accept, follow_again=accept)
    journal: Any = StoredJournal(stored)
    store: Any = clips or Clips()
    return asyncio.run(final_status(str, engine, store, journal, records, [SUBMITTING.job.fingerprint]))


@pytest.mark.parametrize(
    ("stored", "status"),
    [(SUBMITTING, ExitStatus.NEEDS_ACTION), (REFUSED, ExitStatus.FAILED), (None, ExitStatus.FAILED)],
    ids=["the journal has the submission", "the journal has the refusal", "the journal cannot be read"],
)
def test_after_a_failed_save_the_exit_status_follows_the_journal(stored: Record | None, status: ExitStatus) -> None:
    records = Stepping(SUBMITTING, journal=RefusingJournal(refusals=1)).context.records
    with pytest.raises(LocalFault):
        asyncio.run(records.move(SUBMITTING.job.fingerprint, Move.REFUSE))
    records.update(REFUSED)
    assert status_of(records, stored, StopReason("disk_error", "the journal could not be written")) is status


def test_without_a_failed_save_the_journal_is_not_read_again() -> None:
    records = Stepping(REFUSED).context.records
    assert status_of(records, SUBMITTING, StopReason("disk_error", "")) is ExitStatus.FAILED


def test_the_delivered_clips_are_checked_a_second_time_only_if_one_was_missing() -> None:
    job = SUBMITTING.job.fingerprint
    for missing, count in (((), 1), ((job,), 2), ((job, job), 2)):
        clips = Clips(*missing)
        status_of(Stepping(REFUSED).context.records, None, NO_REASON, clips)
        assert clips.count == count, missing


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (LocalFault("object_differs", "not of this batch", "Choose one."), "not of this batch. Choose one. Then run"),
        (NetworkFault("bucket_unreachable", "out of reach", "The clip is safe."), "out of reach. Run"),
        (TimeoutError(), "no answer in time. Run"),
    ],
)
def test_reports_that_were_not_copied_name_the_step_that_helps(error: CallError | TimeoutError, ending: str) -> None:
    text = f"the reports could not be copied to the bucket: {ending} the same command again to copy them"
    assert uncopied_reports(error) == text


@pytest.mark.parametrize(("exit_status", "is_built"), [(0, False), (3, True)])
def test_the_written_report_is_announced_unless_the_exit_status_has_changed(
    tmp_path: Path, exit_status: int, is_built: bool
) -> None:
    run = replace(make_run(), finished_at=NOW + 9, exit_status=0)
    record = make_record("a", State.PENDING)
    shot = Snapshot(run, make_entries("a"), {record.job.fingerprint: record})
    _, written = writer.write_and_sum_up(shot, tmp_path, "1")
    states, report = last_words(replace(shot, run=replace(run, exit_status=exit_status)), RunDir(tmp_path), written)
    assert states[State.PENDING] == 1
    assert (report is not written) is is_built
    assert report["exit_status"] == exit_status
    assert report["causes"] == written["causes"]


def test_without_a_written_report_one_is_built(tmp_path: Path) -> None:
    shot = Snapshot(make_run(), (), {})
    assert last_words(shot, RunDir(tmp_path), None)[1]["causes"] == []
