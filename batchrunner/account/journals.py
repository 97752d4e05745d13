"""Read what a run directory's journal says of the account: its id, its last commit, its records. Writes nothing."""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from batchrunner.account.rows import DOUBT_S, IN_DOUBT, SUBMITTING, BatchRow, JobRow, SubmissionRow, rows_of
from batchrunner.errors import BatchrunnerError
from batchrunner.job import Entry, Snapshot, key_of
from batchrunner.journal import journal, reader
from batchrunner.journal.witness import Mark
from batchrunner.storage.run_directory import RunDir


class Stored(NamedTuple):
    """A journal's content with its mark. snapshot: None before the first run."""

    mark: Mark
    snapshot: Snapshot | None


def read(directory: Path) -> Stored | None:
    """Return what a run directory's journal holds; None if there is none. Raises JournalError, LocalFault."""
    return journal.view(RunDir(directory).journal, _content)


def _content(connection: sqlite3.Connection) -> Stored:
    journal.require_sound(connection)
    mark, _ = reader.mark(connection)
    return Stored(mark, reader.snapshot(connection))


def mark_of(directory: Path) -> Mark | None:
    """Return the mark of a run directory's journal; None if there is none. Raises JournalError, LocalFault."""
    return journal.view(RunDir(directory).journal, lambda connection: reader.mark(connection)[0])


def has_id(directory: Path, batch_id: str) -> bool:
    """Return whether a folder is the run directory of a batch; False for one that cannot be read."""
    if not RunDir(directory).journal.is_file():
        return False
    try:
        mark = mark_of(directory)
    except BatchrunnerError:
        return False
    return mark is not None and mark.journal_id == batch_id


def file_names(entries: Sequence[Entry]) -> Callable[[str], str | None]:
    """Return the function from a job's fingerprint to the name of its result in the run directory."""
    firsts = {entry.job.fingerprint: entry for entry in reversed(entries)}

    def name_of(fingerprint: str) -> str:
        entry = firsts.get(fingerprint)
        return entry.file if entry else f".batchrunner/kept/{key_of(fingerprint)}.mp4"

    return name_of


def rows_of_ended(batch: BatchRow, stored: Stored) -> tuple[list[JobRow], list[SubmissionRow]]:
    """Return the rows of a batch that no process runs: a job that was being submitted is in doubt."""
    if stored.snapshot is None:
        return [], []
    jobs, submissions = rows_of(batch, stored.snapshot.records.values(), file_names(stored.snapshot.entries))
    return [_ended(row) for row in jobs], submissions


def _ended(row: JobRow) -> JobRow:
    if row.state != SUBMITTING:
        return row
    return row._replace(state=IN_DOUBT, slot_until=(row.submitted_at or 0.0) + DOUBT_S)
