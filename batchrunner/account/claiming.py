"""Decide about claims in one transaction, with everything that other processes have committed.

All claims that a process has at one time are decided together. `now` is an argument (wall time, s).
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import NamedTuple

from batchrunner.account import transactions
from batchrunner.account.base import Claim, Clip, Granted, OverBudget, Wait
from batchrunner.account.fairness import Waiting, ahead_of
from batchrunner.account.limits import Limits, over_budget
from batchrunner.account.reuse import Unsettled, decide
from batchrunner.account.rows import CLAIMED, BatchRow, JobRow, SubmissionRow

WAIT_S = 5.0  # a batch that has not asked again for so long does not wait any more
_MOST_THROTTLE_S = 7200.0  # a longer time comes from a clock that was set back
# No generation is in flight for a day.
_OPEN_SLOT = (
    "takes_slot = 1 AND (slot_until IS NULL OR slot_until > :now) AND coalesce(submitted_at, :now) > :now - 86400.0"
)
_MOST_ORPHANS = 16


class Request(NamedTuple):
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


class Outside(NamedTuple):
    """The facts for a claim from outside the index. exists: of a clip's file."""

    is_running: Callable[[str], bool]
    exists: Callable[[Clip], bool]


def claim_all(
    connection: sqlite3.Connection, requests: Sequence[Request], limits: Limits, outside: Outside, now: float
) -> list[Claim | Unsettled]:
    """Claim jobs of one batch, or say why not. A granted claim takes a slot and, under limits, reserves its estimate.

    Without limits, the submission is stored with the next records of the batch, within a second.
    """
    batch = requests[0].batch
    query = (
        "SELECT EXISTS (SELECT 1 FROM batches WHERE account = :account AND batch_id <> :own), "
        "EXISTS (SELECT 1 FROM batches WHERE account = :account AND batch_id <> :own AND is_current = 0), "
        "(SELECT waits_until FROM batches WHERE batch_id = :own), until, why "
        "FROM (SELECT 1) LEFT JOIN throttles ON account = :account"
    )
    values = {"account": batch.account, "own": batch.batch_id}
    has_others, is_rebuilt, waits_until, until, why = connection.execute(query, values).fetchone()
    if is_rebuilt and (waits := _rebuilding(connection, batch, outside)):
        return [waits] * len(requests)
    wanted = [request.fingerprint for request in requests if request.reuse]
    known = transactions.others(connection, batch, wanted) if has_others else {}
    throttled = Wait(why, until) if until is not None and now < until <= now + _MOST_THROTTLE_S else None
    spent = list(transactions.spend(connection, batch.account, now, limits))
    slots = _Slots(connection, batch, limits, outside, now)
    answers: list[Claim | Unsettled] = []
    granted: list[Request] = []
    for request in requests:
        rows = known.get(request.fingerprint, ())
        answer: Claim | Unsettled = Granted()
        if rows:
            answer = decide(rows, outside.is_running, outside.exists, request.useless)
        if isinstance(answer, Granted):
            answer = throttled or slots.refusal() or _over_budget(limits, spent, request) or answer
        if isinstance(answer, Granted):
            granted.append(request)
            slots.taken += 1
            spent = [amount + (request.estimate or 0.0) for amount in spent]
        answers.append(answer)
    transactions.put(connection, "jobs", [_job(request, now) for request in granted])
    if limits.any:
        # They have no charges yet.
        transactions.put(connection, "submissions", [_submission(request, now) for request in granted])
    if granted and waits_until:
        connection.execute("UPDATE batches SET waits_until = 0 WHERE batch_id = ?", (batch.batch_id,))
    return answers


def _job(request: Request, now: float) -> JobRow:
    batch = request.batch
    return JobRow(
        batch.account, request.fingerprint, batch.batch_id, CLAIMED, request.request_id, None, now, takes_slot=True
    )


def _submission(request: Request, now: float) -> SubmissionRow:
    return SubmissionRow(
        account=request.batch.account,
        request_id=request.request_id,
        fingerprint=request.fingerprint,
        batch_id=request.batch.batch_id,
        model=request.model,
        generation_id=None,
        at=now,
        estimate=request.estimate,
        quote=None,
        cost=request.estimate or 0.0,
        outcome=CLAIMED,
    )


def _over_budget(limits: Limits, spent: Sequence[float], request: Request) -> OverBudget | None:
    today, month = spent
    kind, why = over_budget(limits, today, month, request.estimate)
    return OverBudget(kind, why) if kind else None


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


class _Slots:
    """The account's slots in one transaction. taken: by claims of this transaction."""

    def __init__(
        self, connection: sqlite3.Connection, batch: BatchRow, limits: Limits, outside: Outside, now: float
    ) -> None:
        self.taken = 0
        self._connection = connection
        self._batch = batch
        self._limit = limits.concurrency
        self._outside = outside
        self._now = now
        self._open: int | None = None

    def refusal(self) -> Wait | Unsettled | None:
        """Return None where a slot is free and no other batch goes first; the batch counts as waiting otherwise."""
        if self._limit is None:
            return None
        if self._open is None:
            query = (
                "SELECT count(DISTINCT coalesce(generation_id, batch_id || fingerprint)) FROM jobs "
                f"WHERE account = :account AND {_OPEN_SLOT}"
            )
            values = {"account": self._batch.account, "now": self._now}
            self._open = int(self._connection.execute(query, values).fetchone()[0])
        free = self._limit - self._open - self.taken
        if free <= 0:
            if stale := _stale_slots(self._connection, self._batch, self._outside):
                return Unsettled(stale)
            orphans = _orphans(self._connection, self._batch, self._outside, self._now)
            return self._wait(f"the account has no free slot (concurrency: {self._limit} in config.yaml)", orphans)
        ahead = _ahead(self._connection, self._batch, self._outside, self._now, self.taken)
        return None if len(ahead) < free else self._wait("another batch of the account goes first")

    def _wait(self, why: str, orphans: tuple[str, ...] = ()) -> Wait:
        now = self._now
        self._connection.execute(
            "UPDATE batches SET waits_since = CASE WHEN waits_until BETWEEN ? AND ? THEN waits_since ELSE ? END, "
            "waits_until = ? WHERE batch_id = ?",
            (now, now + WAIT_S, now, now + WAIT_S, self._batch.batch_id),
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


def _ahead(connection: sqlite3.Connection, batch: BatchRow, outside: Outside, now: float, taken: int) -> list[str]:
    """Return the batches that wait and go before this one, which has taken so many more slots."""
    query = (
        "SELECT batch_id, priority, "
        f"(SELECT count(*) FROM jobs WHERE account = :account AND jobs.batch_id = batches.batch_id AND {_OPEN_SLOT})"
        ", waits_since, waits_until FROM batches WHERE account = :account "
        "AND (batch_id = :own OR waits_until BETWEEN :now AND :now + :wait_s)"
    )
    values = {"account": batch.account, "own": batch.batch_id, "now": now, "wait_s": WAIT_S}
    own, others_ = Waiting(batch.batch_id, batch.priority, 0, now), []
    for batch_id, priority, slots, since, until in connection.execute(query, values):
        if batch_id == batch.batch_id:
            own = Waiting(batch_id, priority, slots + taken, since if now <= until <= now + WAIT_S else now)
        else:
            others_.append(Waiting(batch_id, priority, slots, since))
    return [batch_id for batch_id in ahead_of(own, others_) if outside.is_running(batch_id)]
