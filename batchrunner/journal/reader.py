"""From the journal's tables to what they stand for: a snapshot of everything, or parts of it.

Rule: the caller's transaction is the view, so that all of it is of one moment. Nothing here writes.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from typing import Any

from batchrunner.gc_pause import gc_paused
from batchrunner.job import PlacedFile, Record, Run, Snapshot
from batchrunner.journal import rows
from batchrunner.journal.witness import Mark

GET_ENTRIES = f"SELECT {', '.join(rows.ENTRY_COLUMNS)} FROM entries"
_GET_RUNS = f"SELECT {', '.join(rows.RUN_COLUMNS)} FROM runs"
_GET_ATTEMPTS = f"SELECT {', '.join(rows.ATTEMPT_COLUMNS)} FROM attempts ORDER BY fingerprint, number"


@gc_paused()
def snapshot(connection: sqlite3.Connection) -> Snapshot | None:
    """All that the journal holds; None before the first run."""
    if latest_run(connection) is None:
        return None
    attempts = groupby(connection.execute(_GET_ATTEMPTS), key=itemgetter(0))
    jobs = connection.execute(f"SELECT {', '.join(rows.JOB_COLUMNS)} FROM jobs ORDER BY fingerprint")
    records = dict(joined(jobs, attempts))
    named = connection.execute(f"{GET_ENTRIES} ORDER BY position")
    entries = tuple(rows.entry(row, records) for row in named)
    return replace(story(connection), entries=entries, records=records)


def story(connection: sqlite3.Connection) -> Snapshot:
    """The runs and what befell them. There is a run."""
    runs = tuple(map(rows.run, connection.execute(f"{_GET_RUNS} ORDER BY rowid")))
    query = f"SELECT {', '.join(rows.TIMELINE_EVENT_COLUMNS)} FROM timeline_events ORDER BY rowid"
    timeline_events = tuple(map(rows.timeline_event, connection.execute(query)))
    return Snapshot(runs[-1], (), {}, runs, timeline_events)


def latest_run(connection: sqlite3.Connection) -> Run | None:
    """The run that was started last; None before the first."""
    row = connection.execute(f"{_GET_RUNS} ORDER BY rowid DESC LIMIT 1").fetchone()
    return None if row is None else rows.run(row)


def files(connection: sqlite3.Connection) -> dict[str, PlacedFile]:
    """Result files by their name in the run directory."""
    return dict(map(rows.file, connection.execute(f"SELECT {', '.join(rows.FILE_COLUMNS)} FROM files")))


def mark(connection: sqlite3.Connection) -> tuple[Mark, bool]:
    """How far the journal has come, and whether a process has it open for writing, or died so."""
    row = connection.execute(f"SELECT {', '.join(rows.MARK_COLUMNS)} FROM mark").fetchone()
    journal_id, sequence, is_open = rows.mark(row)
    return Mark(journal_id, sequence), is_open


def joined(
    jobs: Iterable[tuple[Any, ...]], attempts: Iterator[tuple[str, Iterable[tuple[Any, ...]]]]
) -> Iterator[tuple[str, Record]]:
    """Records by fingerprint, both sides in its order. Raises RowDamaged where attempts are nobody's."""
    none: tuple[str, Iterable[tuple[Any, ...]]] = ("", ())
    owner, own = next(attempts, none)
    for row in jobs:
        mine = owner == row[0]
        yield row[0], rows.record(row, own if mine else ())
        if mine:
            owner, own = next(attempts, none)
    if owner:
        raise rows.RowDamaged(f"it has attempts of a job that it does not hold, {owner}")
