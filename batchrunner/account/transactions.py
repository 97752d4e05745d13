"""The reads and writes of rows in a transaction of the index. The caller opens and ends it; nothing here decides.

Every call of SQLite releases the interpreter lock and acquires it again, which takes longer than the work on a row
while the event loop is busy. So many rows are written by few statements.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from batchrunner.account.limits import Limits, day_of, month_of
from batchrunner.account.reuse import Rows
from batchrunner.account.rows import (
    CLAIMED,
    DOUBT_S,
    IN_DOUBT,
    SUBMITTING,
    BatchRow,
    JobRow,
    SubmissionRow,
    columns,
)

_MOST_ROWS = 32  # in one statement
_BATCH = ", ".join(columns(BatchRow))
_JOB = ", ".join(columns(JobRow))
_SUBMISSION = columns(SubmissionRow)
_PREFIXED_JOB = ", ".join(f"jobs.{name}" for name in columns(JobRow))
_PREFIXED_BATCH = ", ".join(f"batches.{name}" for name in columns(BatchRow))
_PUT_JOB = f"INSERT OR REPLACE INTO jobs ({_JOB}) VALUES "
_PUT_BATCH = f"INSERT OR REPLACE INTO batches ({_BATCH}) VALUES ({', '.join('?' * len(columns(BatchRow)))})"
# A settled charge counts instead of what a later reply quotes.
_PUT_SUBMISSION = f"INSERT INTO submissions ({', '.join(_SUBMISSION)}) VALUES "
_UPDATE_SUBMISSION = (
    " ON CONFLICT (account, request_id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _SUBMISSION if name not in ("account", "request_id", "cost"))
    + ", cost = coalesce(charge, excluded.cost)"
)
_VALUES = {row_type: attrgetter(*columns(row_type)) for row_type in (BatchRow, JobRow, SubmissionRow)}
_ESCAPED = "\x00utf-8:"  # begins text that UTF-8 cannot encode


def spend(connection: sqlite3.Connection, account: str, now: float, limits: Limits) -> tuple[float, float]:
    """Return what the account has spent and reserved today and this month (UTC), in credits; 0 without a limit."""
    day, (first, last) = day_of(now), month_of(now)
    today = month = 0.0
    if limits.credits_per_day is not None:
        today = _sum(connection, account, day, day)
    if limits.credits_per_month is not None:
        month = _sum(connection, account, first, last)
    return today, month


def _sum(connection: sqlite3.Connection, account: str, first: int, last: int) -> float:
    query = "SELECT coalesce(sum(cost), 0.0) FROM spend_by_day WHERE account = ? AND day BETWEEN ? AND ?"
    return float(connection.execute(query, (account, first, last)).fetchone()[0])


def others(connection: sqlite3.Connection, batch: BatchRow, fingerprints: Sequence[str]) -> dict[str, Rows]:
    """Return what other batches of the account have for these jobs, by fingerprint; nothing for unknown ones."""
    width = len(columns(JobRow))
    found: dict[str, list[tuple[JobRow, BatchRow]]] = {}
    for start in range(0, len(fingerprints), _MOST_ROWS):
        some = fingerprints[start : start + _MOST_ROWS]
        query = (
            f"SELECT {_PREFIXED_JOB}, {_PREFIXED_BATCH} FROM jobs JOIN batches USING (batch_id) "
            f"WHERE jobs.account = ? AND batch_id <> ? AND fingerprint IN ({', '.join('?' * len(some))})"
        )
        for row in connection.execute(query, (batch.account, batch.batch_id, *some)).fetchall():
            job = _job(row[:width])
            found.setdefault(job.fingerprint, []).append((job, _batch(row[width:])))
    return dict(found)


def has_others(connection: sqlite3.Connection, batch: BatchRow) -> bool:
    """Return whether the account has another batch."""
    query = "SELECT 1 FROM batches WHERE account = ? AND batch_id <> ? LIMIT 1"
    return connection.execute(query, (batch.account, batch.batch_id)).fetchone() is not None


def owner_of(connection: sqlite3.Connection, account: str, generation_id: str) -> BatchRow | None:
    """Return a batch of the account that has a generation, or None."""
    query = (
        f"SELECT {_PREFIXED_BATCH} FROM batches WHERE account = ?1 AND batch_id IN ("
        "SELECT batch_id FROM jobs WHERE account = ?1 AND generation_id = ?2 "
        "UNION SELECT batch_id FROM submissions WHERE account = ?1 AND generation_id = ?2)"
    )
    row = connection.execute(query, (account, _storable(generation_id))).fetchone()
    return None if row is None else _batch(row)


def store(connection: sqlite3.Connection, jobs: Iterable[JobRow], submissions: Iterable[SubmissionRow]) -> None:
    """Store rows."""
    _put(connection, _PUT_JOB, "", jobs)
    _put(connection, _PUT_SUBMISSION, _UPDATE_SUBMISSION, submissions)


def _put(
    connection: sqlite3.Connection, head: str, tail: str, rows: Iterable[JobRow] | Iterable[SubmissionRow]
) -> None:
    values = [_values(row) for row in rows]
    for start in range(0, len(values), _MOST_ROWS):
        some = values[start : start + _MOST_ROWS]
        text = f"({', '.join('?' * len(some[0]))})"
        connection.execute(f"{head}{', '.join([text] * len(some))}{tail}", [item for row in some for item in row])


def remove(connection: sqlite3.Connection, batch: BatchRow, fingerprints: Iterable[str]) -> None:
    """Remove the rows of jobs that nothing is paid for."""
    values = [(batch.account, fingerprint, batch.batch_id) for fingerprint in fingerprints]
    if values:
        connection.executemany("DELETE FROM jobs WHERE account = ? AND fingerprint = ? AND batch_id = ?", values)


def free_slots(connection: sqlite3.Connection, batch: BatchRow, fingerprints: Iterable[str]) -> None:
    """End the slots of jobs of this batch."""
    values = [(batch.account, fingerprint, batch.batch_id) for fingerprint in fingerprints]
    if values:
        query = "UPDATE jobs SET takes_slot = 0 WHERE account = ? AND fingerprint = ? AND batch_id = ?"
        connection.executemany(query, values)


def end_generation(connection: sqlite3.Connection, account: str, generation_id: str) -> None:
    """Record that a generation has ended, for every batch that has it."""
    generation_id = _storable(generation_id)
    connection.execute("INSERT OR IGNORE INTO ended VALUES (?, ?)", (account, generation_id))
    connection.execute(
        "UPDATE jobs SET takes_slot = 0 WHERE account = ? AND generation_id = ? AND takes_slot = 1",
        (account, generation_id),
    )


def throttle(connection: sqlite3.Connection, account: str, until: float, why: str) -> None:
    """Let no batch of the account submit before `until`."""
    connection.execute("INSERT OR REPLACE INTO throttles VALUES (?, ?, ?)", (account, until, _storable(why)))


def batch_row(connection: sqlite3.Connection, batch_id: str) -> BatchRow | None:
    """Return a batch, or None."""
    row = connection.execute(f"SELECT {_BATCH} FROM batches WHERE batch_id = ?", (batch_id,)).fetchone()
    return None if row is None else _batch(row)


def batch_rows(connection: sqlite3.Connection, account: str | None = None) -> list[BatchRow]:
    """Return the batches of an account, or all; in the order of their latest start."""
    where, values = ("WHERE account = ?", (account,)) if account is not None else ("", ())
    return list(map(_batch, connection.execute(f"SELECT {_BATCH} FROM batches {where} ORDER BY opened_at", values)))


def put_batch(connection: sqlite3.Connection, batch: BatchRow) -> None:
    """Store a batch. Its jobs and submissions follow it to another account."""
    before = batch_row(connection, batch.batch_id)
    if before is None:
        connection.execute(_PUT_BATCH, _values(batch))
        return
    settings = ", ".join(f"{name} = ?" for name in columns(BatchRow)[1:])
    connection.execute(f"UPDATE batches SET {settings} WHERE batch_id = ?", (*_values(batch)[1:], batch.batch_id))
    if before.account != batch.account:
        for table in ("jobs", "submissions"):
            connection.execute(f"UPDATE {table} SET account = ? WHERE batch_id = ?", (batch.account, batch.batch_id))


def import_rows(
    connection: sqlite3.Connection, batch: BatchRow, jobs: Sequence[JobRow], submissions: Sequence[SubmissionRow]
) -> None:
    """Replace a batch's rows with those of its journal. Claims that the journal never began are released."""
    put_batch(connection, batch)
    connection.execute("DELETE FROM jobs WHERE batch_id = ?", (batch.batch_id,))
    connection.execute("DELETE FROM submissions WHERE batch_id = ? AND outcome = ?", (batch.batch_id, CLAIMED))
    store(connection, jobs, submissions)
    # What is known to have ended takes no slot, whatever the batch knows.
    connection.execute(
        "UPDATE jobs SET takes_slot = 0 WHERE batch_id = ? AND takes_slot = 1 "
        "AND generation_id IN (SELECT generation_id FROM ended WHERE account = ?)",
        (batch.batch_id, batch.account),
    )


def doubt_unread(connection: sqlite3.Connection, batch: BatchRow) -> None:
    """Treat a killed batch whose journal cannot be read: jobs that it may have submitted are in doubt."""
    connection.execute(
        "UPDATE jobs SET state = ?, takes_slot = 1, slot_until = coalesce(submitted_at, 0) + ? "
        "WHERE batch_id = ? AND state IN (?, ?)",
        (IN_DOUBT, DOUBT_S, batch.batch_id, CLAIMED, SUBMITTING),
    )
    put_batch(connection, replace(batch, sequence=-1, is_current=True))


def _values(row: BatchRow | JobRow | SubmissionRow) -> tuple[Any, ...]:
    """Return the values of a row as SQLite takes them. File names are bytes, and need not be text."""
    return tuple([_storable(value) for value in _VALUES[type(row)](row)])


def _storable(value: Any) -> Any:
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return _ESCAPED + value.encode("utf-8", "surrogatepass").hex()
    return value


def _restored(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_ESCAPED):
        return bytes.fromhex(value.removeprefix(_ESCAPED)).decode("utf-8", "surrogatepass")
    return value


def _job(row: Sequence[Any]) -> JobRow:
    job = JobRow(*map(_restored, row))
    return replace(job, takes_slot=bool(job.takes_slot))


def _batch(row: Sequence[Any]) -> BatchRow:
    batch = BatchRow(*map(_restored, row))
    return replace(batch, is_current=bool(batch.is_current))
