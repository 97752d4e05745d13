"""Compare a run directory's journal with the rows that the index has of its batch.

A journal and its witness can be replaced together by an older copy, as from a backup. They agree with each other, but
the index knows later work of the batch. Jobs that such a journal lists as unsubmitted may be paid for.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from batchrunner.account import journals, transactions
from batchrunner.account.journals import Stored
from batchrunner.account.rows import CLAIMED, UNREAD, BatchRow, JobRow
from batchrunner.errors import BatchrunnerError, JournalError
from batchrunner.formatting import count_text
from batchrunner.job import Attempt, Entry, Job, Record, State
from batchrunner.journal.errors import STALE_HINT
from batchrunner.storage.run_directory import RunDir


class Lost(NamedTuple):
    """What a journal lacks. sequence: the last commit of which the index knows, or None. jobs: with work it lacks.

    commits: how many commits are missing; 0 if only the jobs show that some are.
    """

    sequence: int | None = None
    commits: int = 0
    jobs: tuple[JobRow, ...] = ()

    def error(self, directory: Path) -> JournalError:
        """Return the error that refuses the journal of a run directory."""
        missing = [f"the last {count_text(self.commits, 'commit')}"] * bool(self.commits)
        missing += [f"submissions of {count_text(len(self.jobs), 'job')}"] * bool(self.jobs)
        lacks = f"it lacks {' and '.join(missing)} that the account's index records"
        return JournalError(f"{RunDir(directory).journal} is an old copy: {lacks}", STALE_HINT)


def lost_work(connection: sqlite3.Connection, stored: Stored, *, is_stale: bool = False) -> Lost | None:
    """Return what a journal lacks of the work that the index has of its batch; None if nothing.

    is_stale: whether the journal is known to lack commits; then its last commit does not show what it contains.
    """
    batch = transactions.batch_row(connection, stored.mark.journal_id)
    if batch is None or (batch.sequence == stored.mark.sequence and not is_stale):
        return None
    commits = max(0, (batch.sequence or 0) - stored.mark.sequence)
    records = stored.snapshot.records if stored.snapshot else {}
    jobs = tuple(_lacking(batch, transactions.jobs_of(connection, batch.batch_id), records))
    return Lost(batch.sequence, commits, jobs) if commits or jobs else None


def require_current(
    connection: sqlite3.Connection, directory: Path, is_running: Callable[[str], bool], batch_id: str
) -> None:
    """Refuse a journal that `run` would refuse, for commands that only read. Raises JournalError, LocalFault."""
    batch = transactions.batch_row(connection, batch_id)
    mark = journals.mark_of(directory)
    if batch is None or mark is None or batch.sequence == mark.sequence or is_copy(batch, directory.resolve()):
        return
    stored = journals.read(directory)
    lost = None if stored is None else lost_work(connection, stored)
    is_at_rest = not is_running(batch_id) and stored is not None and journals.mark_of(directory) == stored.mark
    if lost is not None and is_at_rest:  # while a run writes, the index may be newer than what was read
        raise lost.error(directory)


def is_copy(batch: BatchRow, directory: Path) -> bool:
    """Return whether the batch's run directory still stands, with the same journal, beside this one."""
    earlier = Path(batch.directory)
    if earlier == directory:
        return False
    try:
        mark = journals.mark_of(earlier)
        same = earlier.exists() and earlier.samefile(directory)
    except (BatchrunnerError, OSError):
        return False
    return mark is not None and mark.journal_id == batch.batch_id and not same


def adopted(
    known: Mapping[str, Record], entries: Sequence[Entry], lost: Lost, estimate: Callable[[Job], float | None]
) -> dict[str, Record]:
    """Return the records with the generations that only the index knows: in flight, so they are polled and not paid.

    estimate: a job's price in credits, for the budget.
    """
    records = dict(known)
    jobs = {entry.job.fingerprint: entry.job for entry in entries}
    jobs |= {name: record.job for name, record in records.items()}
    for row in lost.jobs:
        job = jobs.get(row.fingerprint)
        if job is None or row.generation_id is None:
            continue
        attempts = records[row.fingerprint].attempts if row.fingerprint in records else ()
        if attempts and attempts[-1].request_id == row.request_id:
            attempts = attempts[:-1]
        number, price = len(attempts) + 1, estimate(job)
        request_id = row.request_id or f"index.{job.key}.{number}"
        attempt = Attempt(number, request_id, row.submitted_at or 0.0, row.generation_id, "accepted", estimate=price)
        records[row.fingerprint] = Record(job, State.IN_FLIGHT, (*attempts, attempt))
    return records


def _lacking(batch: BatchRow, jobs: Iterable[JobRow], records: Mapping[str, Record]) -> Iterable[JobRow]:
    """Return the rows whose submission or generation the records lack. A journal need not have begun a claim."""
    for row in jobs:
        attempts = records[row.fingerprint].attempts if row.fingerprint in records else ()
        if row.generation_id is not None:
            is_known = any(attempt.generation_id == row.generation_id for attempt in attempts)
        else:
            # Of an unread journal, a claim that may never have begun is in doubt.
            is_claim = row.state == CLAIMED or batch.sequence == UNREAD
            is_known = is_claim or any(attempt.request_id == row.request_id for attempt in attempts)
        if not is_known:
            yield row
