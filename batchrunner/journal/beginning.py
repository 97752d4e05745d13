"""The changes that record the start of a run, for batches of any size."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import zip_longest
from typing import Any

from batchrunner.gc_pause import gc_paused
from batchrunner.job import Entry, Record, Retake, Run
from batchrunner.journal import reader, rows
from batchrunner.journal.statements import (
    PUT_ATTEMPT,
    PUT_ENTRY,
    PUT_JOB,
    PUT_RETAKE,
    PUT_RUN,
    REMOVE_ENTRIES,
    Bulk,
    Change,
    latest_attempts,
)


@gc_paused()
def changes_of(
    connection: sqlite3.Connection,
    run: Run,
    entries: Sequence[Entry],
    changed: list[Record],
    retakes: Iterable[Retake],
) -> list[Change | Bulk]:
    """Return the changes. entries: of the manifest; they are left out if the journal has the same ones.

    Jobs are stored in this order, which is that of the manifest.
    """
    changes: list[Change | Bulk] = [(PUT_RUN, rows.run_row(run))]
    changes += [(PUT_RETAKE, rows.retake_row(retake)) for retake in retakes]
    changes.append(Bulk(PUT_JOB, lambda: map(rows.job_row, changed)))
    changes.append(Bulk(PUT_ATTEMPT, lambda: _attempts_of(changed)))
    if _differ(connection, entries):
        changes.append((REMOVE_ENTRIES, ()))
        changes.append(Bulk(PUT_ENTRY, lambda: map(rows.entry_row, entries)))
    return changes


def _attempts_of(records: Iterable[Record]) -> Iterator[Sequence[Any]]:
    """Yield the row of each record's latest attempt."""
    return (values for record in records for _, values in latest_attempts(record))


def _differ(connection: sqlite3.Connection, entries: Sequence[Entry]) -> bool:
    """Return whether these entries are not those in the journal."""
    with closing(connection.cursor()) as cursor:
        stored = cursor.execute(f"{reader.GET_ENTRIES} ORDER BY position")
        return any(one != other for one, other in zip_longest(map(rows.entry_row, entries), stored))
