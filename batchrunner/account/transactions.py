"""The reads and writes in one transaction of the index. The caller opens and ends it; `now` is an argument.

Only `claim` decides something, and it decides with everything that other processes have committed.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

from batchrunner.account.base import Claim, Clip, Granted, OverBudget, Wait
from batchrunner.account.fairness import Waiting, ahead_of
from batchrunner.account.limits import Limits, day_of, month_of, over_budget
from batchrunner.account.reuse import Rows, Unsettled, decide
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

WAIT_S = 5.0  # a batch that has not asked again for so long does not wait any more
_MOST_THROTTLE_S = 7200.0  # a longer time comes from a clock that was set back
_BATCH = ", ".join(columns(BatchRow))
_JOB = ", ".join(columns(JobRow))
_SUBMISSION = columns(SubmissionRow)
_PREFIXED_JOB = ", ".join(f"jobs.{name}" for name in columns(JobRow))
_PREFIXED_BATCH = ", ".join(f"batches.{name}" for name in columns(BatchRow))
_PUT_JOB = f"INSERT OR REPLACE INTO jobs ({_JOB}) VALUES ({', '.join('?' * len(columns(JobRow)))})"
_PUT_BATCH = f"INSERT OR REPLACE INTO batches ({_BATCH}) VALUES ({', '.join('?' * len(columns(BatchRow)))})"
# A settled charge counts instead of what a later reply quotes.
_PUT_SUBMISSION = (
    f"INSERT INTO submissions ({', '.join(_SUBMISSION)}) VALUES ({', '.join('?' * len(_SUBMISSION))}) "
    "ON CONFLICT (account, request_id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _SUBMISSION if name not in ("account", "request_id", "cost"))
    + ", cost = coalesce(charge, excluded.cost)"
)
# No generation is in flight for a day.
_OPEN_SLOT = (
    "takes_slot = 1 AND (slot_until IS NULL OR slot_until > :now) AND coalesce(submitted_at, :now) > :now - 86400.0"
)
_MOST_ORPHANS = 16
_ESCAPED = "\x00utf-8:"  # begins text that UTF-8 cannot encode


@dataclass(frozen=True, slots=True)
class Request:
    """A claim that is asked for. useless: generations of the job that failed in this batch.

    reuse: whether the paid work of other batches counts; if not, the job is submitted all the same.
    """

    batch: BatchRow
    fingerprint: str
    request_id: str
    model: str
    estimate: float | None
    useless: frozenset[str] = frozenset()
    reuse: bool = True


@dataclass(frozen=True, slots=True)
class Outside:
    """The facts for a claim from outside the index. exists: of a clip's file."""

    is_running: Callable[[str], bool]
    exists: Callable[[Clip], bool]


def claim(
    connection: sqlite3.Connection, request: Request, limits: Limits, outside: Outside, now: float
) -> Claim | Unsettled:
    """Claim a job, or say why not. A granted claim takes a slot and reserves its estimate."""
    batch = request.batch
    if waits := _rebuilding(connection, batch, outside):
        return waits
    rows = others(connection, batch, request.fingerprint) if request.reuse else ()
    decision = decide(rows, outside.is_running, outside.exists, request.useless)
    if not isinstance(decision, Granted):
        return decision
    refusal = _throttled(connection, batch.account, now) or _slot(connection, request, limits, outside, now)
    if refusal is not None:
        return refusal
    spent = spend(connection, batch.account, now, limits)
    kind, why = over_budget(limits, *spent, request.estimate)
    if kind:
        return OverBudget(kind, why)
    row = JobRow(
        batch.account, request.fingerprint, batch.batch_id, CLAIMED, request.request_id, None, now, takes_slot=True
    )
    cost = request.estimate or 0.0
    submission = SubmissionRow(
        batch.account,
        request.request_id,
        request.fingerprint,
        batch.batch_id,
        request.model,
        None,
        now,
        request.estimate,
        None,
        cost,
        CLAIMED,
    )
    store(connection, [row], [submission])
    connection.execute("UPDATE batches SET waits_until = 0 WHERE batch_id = ?", (batch.batch_id,))
    return decision


def _rebuilding(connection: sqlite3.Connection, batch: BatchRow, outside: Outside) -> Wait | Unsettled | None:
    """Wait for batches that ran while the index was made again: their latest claims may be missing."""
    query = "SELECT batch_id, name FROM batches WHERE account = ? AND is_current = 0 AND batch_id <> ?"
    missing = connection.execute(query, (batch.account, batch.batch_id)).fetchall()
    ended = tuple(batch_id for batch_id, _ in missing if not outside.is_running(batch_id))
    if ended:
        return Unsettled(ended)
    if missing:
        return Wait(f"the account's index was made again; waiting until the batch {missing[0][1]} has its jobs in it")
    return None


def _throttled(connection: sqlite3.Connection, account: str, now: float) -> Wait | None:
    row = connection.execute("SELECT until, why FROM throttles WHERE account = ?", (account,)).fetchone()
    if row is None or not now < row[0] <= now + _MOST_THROTTLE_S:
        return None
    return Wait(row[1], row[0])


def _slot(
    connection: sqlite3.Connection, request: Request, limits: Limits, outside: Outside, now: float
) -> Wait | Unsettled | None:
    """Return None if a slot is free and no other batch goes first; the batch counts as waiting otherwise."""
    if limits.concurrency is None:
        return None
    batch = request.batch
    values = {"account": batch.account, "now": now}
    open_slots = connection.execute(
        f"SELECT count(DISTINCT coalesce(generation_id, batch_id || fingerprint)) FROM jobs "
        f"WHERE account = :account AND {_OPEN_SLOT}",
        values,
    ).fetchone()[0]
    free = limits.concurrency - open_slots
    orphans: tuple[str, ...] = ()
    if free <= 0:
        if stale := _stale_slots(connection, batch, outside):
            return Unsettled(stale)
        why = f"all {limits.concurrency} slots of the account are taken"
        orphans = _orphans(connection, batch, outside, now)
    elif len(_ahead(connection, batch, outside, now)) < free:
        return None
    else:
        why = "another batch of the account goes first"
    connection.execute(
        "UPDATE batches SET waits_since = CASE WHEN waits_until BETWEEN ? AND ? THEN waits_since ELSE ? END, "
        "waits_until = ? WHERE batch_id = ?",
        (now, now + WAIT_S, now, now + WAIT_S, batch.batch_id),
    )
    return Wait(why, orphans=orphans)


def _orphans(connection: sqlite3.Connection, batch: BatchRow, outside: Outside, now: float) -> tuple[str, ...]:
    """Return generations with slots of batches that no process runs."""
    query = (
        f"SELECT DISTINCT batch_id, generation_id FROM jobs WHERE account = :account AND batch_id <> :own "
        f"AND generation_id IS NOT NULL AND {_OPEN_SLOT}"
    )
    values = {"account": batch.account, "own": batch.batch_id, "now": now}
    found = connection.execute(query, values).fetchall()
    running = {batch_id: outside.is_running(batch_id) for batch_id in {row[0] for row in found}}
    return tuple(generation_id for batch_id, generation_id in found if not running[batch_id])[:_MOST_ORPHANS]


def _stale_slots(connection: sqlite3.Connection, batch: BatchRow, outside: Outside) -> tuple[str, ...]:
    """Return the batches with slots whose process was killed, and whose journal was not read since."""
    query = (
        "SELECT DISTINCT batch_id FROM jobs JOIN batches USING (batch_id) "
        "WHERE jobs.account = ? AND takes_slot = 1 AND sequence IS NULL AND batch_id <> ?"
    )
    found = connection.execute(query, (batch.account, batch.batch_id)).fetchall()
    return tuple(batch_id for (batch_id,) in found if not outside.is_running(batch_id))


def _ahead(connection: sqlite3.Connection, batch: BatchRow, outside: Outside, now: float) -> list[str]:
    """Return the batches that wait and go before this one."""
    query = (
        "SELECT batch_id, priority, "
        f"(SELECT count(*) FROM jobs WHERE jobs.batch_id = batches.batch_id AND {_OPEN_SLOT})"
        ", waits_since, waits_until FROM batches WHERE account = :account "
        "AND (batch_id = :own OR waits_until BETWEEN :now AND :now + :wait_s)"
    )
    values = {"account": batch.account, "own": batch.batch_id, "now": now, "wait_s": WAIT_S}
    own, others_ = Waiting(batch.batch_id, batch.priority, 0, now), []
    for batch_id, priority, slots, since, until in connection.execute(query, values):
        if batch_id == batch.batch_id:
            own = Waiting(batch_id, priority, slots, since if now <= until <= now + WAIT_S else now)
        else:
            others_.append(Waiting(batch_id, priority, slots, since))
    return [batch_id for batch_id in ahead_of(own, others_) if outside.is_running(batch_id)]


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


def others(connection: sqlite3.Connection, batch: BatchRow, fingerprint: str) -> Rows:
    """Return what other batches of the account have for the job."""
    query = (
        f"SELECT {_PREFIXED_JOB}, {_PREFIXED_BATCH} FROM jobs JOIN batches USING (batch_id) "
        "WHERE jobs.account = ? AND fingerprint = ? AND batch_id <> ?"
    )
    width = len(columns(JobRow))
    found = connection.execute(query, (batch.account, fingerprint, batch.batch_id)).fetchall()
    return [(_job(row[:width]), _batch(row[width:])) for row in found]


def has_others(connection: sqlite3.Connection, batch: BatchRow) -> bool:
    """Return whether another batch of the account has any job."""
    query = "SELECT 1 FROM jobs WHERE account = ? AND batch_id <> ? LIMIT 1"
    return connection.execute(query, (batch.account, batch.batch_id)).fetchone() is not None


def store(connection: sqlite3.Connection, jobs: Iterable[JobRow], submissions: Iterable[SubmissionRow]) -> None:
    """Store rows. A generation that is known to have ended takes no slot, whatever the batch knows."""
    stored = list(jobs)
    connection.executemany(_PUT_JOB, map(_values, stored))
    connection.executemany(_PUT_SUBMISSION, map(_values, submissions))
    if any(row.takes_slot and row.generation_id for row in stored):
        connection.executemany(
            "UPDATE jobs SET takes_slot = 0 WHERE account = ?1 AND fingerprint = ?2 AND generation_id = ?3 "
            "AND EXISTS (SELECT 1 FROM ended WHERE account = ?1 AND generation_id = ?3)",
            [(row.account, row.fingerprint, row.generation_id) for row in stored if row.takes_slot],
        )


def remove(connection: sqlite3.Connection, batch: BatchRow, fingerprints: Iterable[str]) -> None:
    """Remove the rows of jobs that nothing is paid for."""
    values = [(batch.account, fingerprint, batch.batch_id) for fingerprint in fingerprints]
    connection.executemany("DELETE FROM jobs WHERE account = ? AND fingerprint = ? AND batch_id = ?", values)


def free_slot(connection: sqlite3.Connection, batch: BatchRow, fingerprint: str, generation_id: str | None) -> None:
    """End a job's slot, in every batch that has the generation."""
    connection.execute(
        "UPDATE jobs SET takes_slot = 0 WHERE account = ? AND fingerprint = ? AND batch_id = ?",
        (batch.account, fingerprint, batch.batch_id),
    )
    if generation_id is not None:
        end_generation(connection, batch.account, generation_id)


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
    return tuple(_storable(value) for value in astuple(row))


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
