"""The reads and writes of rows in a transaction of the index. The caller opens and ends it; nothing here decides.

A row whose checksum does not fit raises RowDamaged. A part of a row is updated only where its checksum leaves it out.

Every call of SQLite releases the interpreter lock and acquires it again, which takes longer than the work on a row
while the event loop is busy. So many rows are written by few statements.
"""

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from batchrunner.account.checksums import COLUMNS, require_valid, signed
from batchrunner.account.limits import Limits, day_of, month_of
from batchrunner.account.reuse import Rows
from batchrunner.account.rows import (
    CLAIMED,
    DOUBT_S,
    IN_DOUBT,
    SUBMITTING,
    UNREAD,
    BatchRow,
    JobRow,
    SubmissionRow,
)
from batchrunner.plan.settlement import by_generation, total_of
from batchrunner.providers.base import Charge

_MOST_ROWS = 32  # in one statement
_COLUMNS = {table: (*names, "checksum") for table, names in COLUMNS.items()}
_BATCH = ", ".join(_COLUMNS["batches"])
_SUBMISSION = ", ".join(_COLUMNS["submissions"])
_PREFIXED_JOB = ", ".join(f"jobs.{name}" for name in _COLUMNS["jobs"])
_PREFIXED_BATCH = ", ".join(f"batches.{name}" for name in _COLUMNS["batches"])
# A replaced row would get another place in its table, and not take the trigger of a removed one.
_KEYS = {
    "jobs": ("account", "fingerprint", "batch_id"),
    "submissions": ("account", "request_id"),
    "batches": ("batch_id",),
}
_UPDATE = {
    table: f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[table] if name not in key)
    for table, key in _KEYS.items()
}
_PAYMENT = "SELECT request_id, generation_id, charge FROM submissions"
# Without statistics, SQLite would rather read all rows of the account.
_BY_GENERATION = "INDEXED BY submissions_by_generation"
_REPEATED = (
    "SELECT account, generation_id FROM submissions WHERE generation_id IS NOT NULL GROUP BY 1, 2 HAVING count(*) > 1"
)
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
    width = len(_COLUMNS["jobs"])
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
    """Store rows. A settled charge counts instead of what a later reply quotes.

    A generation is one payment. So a row replaces the rows of other requests that have its generation: a recovered
    journal has a new request id for a generation that the index knows.
    """
    put(connection, "jobs", list(jobs))
    latest = {row.generation_id or ("request", row.request_id): row for row in submissions}
    put(connection, "submissions", _replacing(connection, list(latest.values())))


def put(connection: sqlite3.Connection, table: str, rows: Sequence[Sequence[Any]]) -> None:
    """Store rows with their checksums. rows: values in the order of `checksums.COLUMNS`.

    Text that UTF-8 cannot encode is stored escaped: file names are bytes, and need not be text.
    """
    try:
        _put(connection, table, rows)
    except UnicodeEncodeError:
        _put(connection, table, [tuple(map(_storable, row)) for row in rows])


def _put(connection: sqlite3.Connection, table: str, rows: Sequence[Sequence[Any]]) -> None:
    head = f"INSERT {'' if table in _UPDATE else 'OR REPLACE '}INTO {table} ({', '.join(_COLUMNS[table])}) VALUES "
    for start in range(0, len(rows), _MOST_ROWS):
        some = [signed(table, row) for row in rows[start : start + _MOST_ROWS]]
        text = f"({', '.join('?' * len(some[0]))})"
        query = f"{head}{', '.join([text] * len(some))}{_UPDATE.get(table, '')}"
        connection.execute(query, [item for row in some for item in row])


def copy_unsigned(old: sqlite3.Connection, new: sqlite3.Connection) -> None:
    """Copy all rows of an index of version 1, whose rows have no checksums. Raises sqlite3.Error, RowDamaged."""
    new.execute("BEGIN IMMEDIATE")
    for table, names in COLUMNS.items():
        put(new, table, old.execute(f"SELECT {', '.join(names)} FROM {table}").fetchall())
    remove_repeated(new)
    new.execute("COMMIT")


def _replacing(connection: sqlite3.Connection, rows: Sequence[SubmissionRow]) -> list[SubmissionRow]:
    """Remove the rows that these replace. Return these with the charges that are settled in the index.

    All are of one account, and no two of one generation.
    """
    by_request: dict[str, float] = {}
    by_generation: dict[str, float] = {}
    replaced: list[tuple[str, str]] = []
    for start in range(0, len(rows), _MOST_ROWS):
        some = rows[start : start + _MOST_ROWS]
        requests = {_storable(row.request_id) for row in some}
        for request_id, generation_id, charge in _known(connection, some, requests):
            if request_id not in requests:
                replaced.append((some[0].account, request_id))
            if charge is not None:
                by_request[request_id] = by_generation[generation_id] = charge
    if replaced:
        connection.executemany("DELETE FROM submissions WHERE account = ? AND request_id = ?", replaced)
    if not by_request:
        return list(rows)
    return [_with_charge(row, by_request, by_generation) for row in rows]


def _known(connection: sqlite3.Connection, rows: Sequence[SubmissionRow], requests: Collection[str]) -> list[Any]:
    """Return request id, generation id and charge of stored rows: settled ones, and other requests' ones."""
    account, own = rows[0].account, ", ".join("?" * len(requests))
    generations = [_storable(row.generation_id) for row in rows if row.generation_id is not None]
    query = f"{_PAYMENT} WHERE account = ? AND request_id IN ({own}) AND charge IS NOT NULL"
    values = [account, *requests]
    if generations:
        of_others = f"generation_id IN ({', '.join('?' * len(generations))}) AND request_id NOT IN ({own})"
        query += f" UNION ALL {_PAYMENT} {_BY_GENERATION} WHERE account = ? AND {of_others}"
        values += [account, *generations, *requests]
    return connection.execute(query, values).fetchall()


def _with_charge(
    row: SubmissionRow, by_request: Mapping[str, float], by_generation: Mapping[str, float]
) -> SubmissionRow:
    charge = by_request.get(_storable(row.request_id), by_generation.get(_storable(row.generation_id)))
    return row if charge is None else row._replace(charge=charge, cost=charge)


def remove_repeated(connection: sqlite3.Connection) -> None:
    """Leave one row of each generation: that of the latest submission, with a job's row before one without.

    An index of an earlier version has several rows of one after ``run --recover``. Raises RowDamaged.
    """
    query = (
        f"SELECT {_SUBMISSION} FROM submissions {_BY_GENERATION} WHERE account = ? AND generation_id = ? "
        "ORDER BY EXISTS (SELECT 1 FROM jobs WHERE jobs.account = submissions.account "
        "AND jobs.fingerprint = submissions.fingerprint AND jobs.batch_id = submissions.batch_id "
        "AND jobs.request_id = submissions.request_id), at"
    )
    for account, generation_id in connection.execute(_REPEATED).fetchall():
        rows = connection.execute(query, (account, generation_id)).fetchall()
        store(connection, (), [_submission(row) for row in rows])


def settle(connection: sqlite3.Connection, account: str, generation_id: str, charge: float) -> None:
    """Store the settled charge of a generation's submissions."""
    query = f"SELECT {_SUBMISSION} FROM submissions {_BY_GENERATION} WHERE account = ? AND generation_id = ?"
    rows = [_submission(row) for row in connection.execute(query, (account, _storable(generation_id))).fetchall()]
    put(connection, "submissions", [row._replace(charge=charge, cost=charge) for row in rows])


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
    put(connection, "ended", [(account, generation_id)])
    connection.execute(
        "UPDATE jobs SET takes_slot = 0 WHERE account = ? AND generation_id = ? AND takes_slot = 1",
        (account, generation_id),
    )


def settle_charges(connection: sqlite3.Connection, account: str, charges: Sequence[Charge]) -> None:
    """Store charges that the service lists. They count instead of quotes and estimates."""
    for generation_id, rows in by_generation(charges).items():
        name = _storable(generation_id)
        known = _charge(connection, account, name)
        total = total_of(known, rows)
        if total is not None and total != known:
            put(connection, "charges", [(account, name, *total)])
            settle(connection, account, generation_id, total[0])


def _charge(connection: sqlite3.Connection, account: str, name: str) -> tuple[float, float] | None:
    query = f"SELECT {', '.join(_COLUMNS['charges'])} FROM charges WHERE account = ? AND reference_id = ?"
    row = connection.execute(query, (account, name)).fetchone()
    if row is None:
        return None
    require_valid("charges", row)
    return float(row[2]), float(row[3])


def charges_of(connection: sqlite3.Connection, batch_id: str) -> dict[str, tuple[float, float]]:
    """Return the settled charges of a batch's generations, and when they were recorded, by generation id."""
    query = (
        "SELECT generation_id, charges.credits, charges.at FROM submissions "
        "JOIN charges ON charges.account = submissions.account AND reference_id = generation_id WHERE batch_id = ?"
    )
    return {_restored(name): (amount, at) for name, amount, at in connection.execute(query, (batch_id,))}


def throttle(connection: sqlite3.Connection, account: str, until: float, why: str) -> None:
    """Let no batch of the account submit before `until`."""
    put(connection, "throttles", [(account, until, why)])


def batch_row(connection: sqlite3.Connection, batch_id: str) -> BatchRow | None:
    """Return a batch, or None."""
    row = connection.execute(f"SELECT {_BATCH} FROM batches WHERE batch_id = ?", (batch_id,)).fetchone()
    return None if row is None else _batch(row)


def batch_rows(connection: sqlite3.Connection, account: str | None = None) -> list[BatchRow]:
    """Return the batches of an account, or all; in the order of their latest start."""
    where, values = ("WHERE account = ?", (account,)) if account is not None else ("", ())
    return list(map(_batch, connection.execute(f"SELECT {_BATCH} FROM batches {where} ORDER BY opened_at", values)))


def jobs_of(connection: sqlite3.Connection, batch_id: str) -> list[JobRow]:
    """Return the jobs of a batch."""
    query = f"SELECT {', '.join(_COLUMNS['jobs'])} FROM jobs WHERE batch_id = ?"
    return list(map(_job, connection.execute(query, (batch_id,))))


def put_batch(connection: sqlite3.Connection, batch: BatchRow) -> BatchRow | None:
    """Store a batch, and return its former row. Its jobs and submissions follow it to another account."""
    before = batch_row(connection, batch.batch_id)
    put(connection, "batches", [batch])
    if before is not None and before.account != batch.account:
        for table in ("jobs", "submissions"):
            names, own = ", ".join(_COLUMNS[table]), (batch.batch_id,)
            rows = connection.execute(f"SELECT {names} FROM {table} WHERE batch_id = ?", own).fetchall()
            for row in rows:
                require_valid(table, row)
            connection.execute(f"DELETE FROM {table} WHERE batch_id = ?", own)
            put(connection, table, [(batch.account, *row[1:-1]) for row in rows])
    return before


def import_rows(
    connection: sqlite3.Connection, batch: BatchRow, jobs: Sequence[JobRow], submissions: Sequence[SubmissionRow]
) -> None:
    """Replace a batch's rows with those of its journal. Claims that the journal never began are released."""
    if put_batch(connection, batch) is not None:
        connection.execute("DELETE FROM jobs WHERE batch_id = ?", (batch.batch_id,))
        connection.execute("DELETE FROM submissions WHERE batch_id = ? AND outcome = ?", (batch.batch_id, CLAIMED))
    store(connection, jobs, submissions)
    # What is known to have ended takes no slot, whatever the batch knows.
    connection.execute(
        "UPDATE jobs SET takes_slot = 0 WHERE account = ?1 AND batch_id = ?2 AND takes_slot = 1 "
        "AND generation_id IN (SELECT generation_id FROM ended WHERE account = ?1)",
        (batch.account, batch.batch_id),
    )


def doubt_unread(connection: sqlite3.Connection, batch: BatchRow) -> None:
    """Treat a killed batch whose journal cannot be read: jobs that it may have submitted are in doubt."""
    rows = [row for row in jobs_of(connection, batch.batch_id) if row.state in (CLAIMED, SUBMITTING)]
    store(
        connection,
        [row._replace(state=IN_DOUBT, takes_slot=True, slot_until=(row.submitted_at or 0.0) + DOUBT_S) for row in rows],
        (),
    )
    put_batch(connection, batch._replace(sequence=UNREAD, is_current=True))


def _storable(value: Any) -> Any:
    """Return a value as SQLite takes it."""
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
    require_valid("jobs", row)
    job = JobRow(*map(_restored, row[:-1]))
    return job._replace(takes_slot=bool(job.takes_slot))


def _batch(row: Sequence[Any]) -> BatchRow:
    require_valid("batches", row)
    batch = BatchRow(*map(_restored, row[:-1]))
    return batch._replace(is_current=bool(batch.is_current))


def _submission(row: Sequence[Any]) -> SubmissionRow:
    require_valid("submissions", row)
    return SubmissionRow(*map(_restored, row[:-1]))
