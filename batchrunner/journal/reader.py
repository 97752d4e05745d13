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
_GET_ATTEMPTS = f"SELECT {', '.join(rows.ATTEMPT_COLUMNS)} FROM attempts ORDER BY job, number"


@gc_paused()
def snapshot(connection: sqlite3.Connection) -> Snapshot | None:
    """Return the whole content; None before the first run."""
    if latest_run(connection) is None:
        return None
    attempts = groupby(connection.execute(_GET_ATTEMPTS), key=itemgetter(0))
    jobs = connection.execute(f"SELECT {', '.join(rows.JOB_COLUMNS)} FROM jobs ORDER BY job")
    records = dict(joined(jobs, attempts))
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


def joined(
    jobs: Iterable[tuple[Any, ...]], attempts: Iterator[tuple[str, Iterable[tuple[Any, ...]]]]
) -> Iterator[tuple[str, Record]]:
    """Join jobs and attempts, both in the order of the jobs' numbers. Raises RowDamaged for attempts without a job."""
    none: tuple[str, Iterable[tuple[Any, ...]]] = ("", ())
    owner, own = next(attempts, none)
    for row in jobs:
        mine = owner == row[0]
        yield row[0], rows.record(row, own if mine else ())
        if mine:
            owner, own = next(attempts, none)
    if owner:
        raise rows.RowDamaged(f"it has attempts of a job that it does not have, {owner}")
