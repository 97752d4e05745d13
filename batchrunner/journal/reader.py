"""Read the journal's tables: a snapshot of everything, or single tables.

The caller opens a transaction, so all reads see the same state. Nothing here writes.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from typing import Any

from batchrunner.gc_pause import gc_paused
from batchrunner.job import PlacedFile, Record, Retake, Run, Snapshot
from batchrunner.journal import rows
from batchrunner.journal.witness import Mark

GET_ENTRIES = f"SELECT {', '.join(rows.ENTRY_COLUMNS)} FROM entries"
_GET_RUNS = f"SELECT {', '.join(rows.RUN_COLUMNS)} FROM runs"
GET_JOBS = f"SELECT {', '.join(rows.COLUMNS['jobs'])} FROM jobs"
_GET_ATTEMPTS = f"SELECT {', '.join(rows.COLUMNS['attempts'])} FROM attempts ORDER BY job, number"


@gc_paused()
def snapshot(connection: sqlite3.Connection) -> Snapshot | None:
    """Return the whole content; None before the first run."""
    if latest_run(connection) is None:
        return None
    records = dict(joined(connection.execute(f"{GET_JOBS} ORDER BY job"), connection.execute(_GET_ATTEMPTS)))
    named = connection.execute(f"{GET_ENTRIES} ORDER BY position")
    entries = tuple(rows.entry(row, records) for row in named)
    return replace(story(connection), entries=entries, records=records, retakes=retakes(connection))


def story(connection: sqlite3.Connection) -> Snapshot:
    """Return the runs and the timeline. The journal must have a run."""
    runs = tuple(map(rows.run, connection.execute(f"{_GET_RUNS} ORDER BY rowid")))
    query = f"SELECT {', '.join(rows.TIMELINE_EVENT_COLUMNS)} FROM timeline_events ORDER BY rowid"
    timeline_events = tuple(map(rows.timeline_event, connection.execute(query)))
    return Snapshot(runs[-1], (), {}, runs, timeline_events)


def latest_run(connection: sqlite3.Connection) -> Run | None:
    """Return the latest run; None before the first one."""
    row = connection.execute(f"{_GET_RUNS} ORDER BY rowid DESC LIMIT 1").fetchone()
    return None if row is None else rows.run(row)


def files(connection: sqlite3.Connection) -> dict[str, PlacedFile]:
    """Return the result files by their name in the run directory."""
    return dict(map(rows.file, connection.execute(f"SELECT {', '.join(rows.FILE_COLUMNS)} FROM files")))


def retakes(connection: sqlite3.Connection) -> tuple[Retake, ...]:
    """Return the takes that ``run --retake`` added, in order of their jobs' fingerprints."""
    query = f"SELECT {', '.join(rows.RETAKE_COLUMNS)} FROM retakes ORDER BY fingerprint, take"
    return tuple(map(rows.retake, connection.execute(query)))


def mark(connection: sqlite3.Connection) -> tuple[Mark, bool]:
    """Return the mark, and whether a process has the journal open for writing or was killed while it had."""
    row = connection.execute(f"SELECT {', '.join(rows.MARK_COLUMNS)} FROM mark").fetchone()
    journal_id, sequence, is_open = rows.mark(row)
    return Mark(journal_id, sequence), is_open


def joined(jobs: Iterable[tuple[Any, ...]], attempts: Iterable[tuple[Any, ...]]) -> Iterator[tuple[str, Record]]:
    """Join rows of jobs and attempts with all columns, both in the order of the jobs' numbers.

    Raises RowDamaged for attempts without a job, and for attempts whose number and fingerprint are not of one job: no
    checksum includes the number.
    """
    owned = groupby(attempts, key=itemgetter(0, 1))
    none: tuple[tuple[int, str] | None, Iterable[tuple[Any, ...]]] = (None, ())
    owner, own = next(owned, none)
    for number, *row in jobs:
        is_mine = owner == (number, row[0])
        yield row[0], rows.record(row, (attempt[1:] for attempt in own) if is_mine else ())
        if is_mine:
            owner, own = next(owned, none)
    if owner is not None:
        raise rows.RowDamaged(f"it has attempts of a job that it does not have, {owner[1]}")
