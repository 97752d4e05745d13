"""The index's rows, and how they follow from a job's record. Pure.

A batch's rows in the index mirror its journal. The journal is the truth: rows can be made again from it at any time.
"""

import json
from collections.abc import Callable, Iterable
from typing import NamedTuple

from batchrunner.job import Attempt, Record, Result, State
from batchrunner.plan.ledger import spend_of_attempt
from batchrunner.plan.resume import RECHECKED

UNREAD = -1  # sequence of a batch whose journal could not be read
DOUBT_S = 1800.0  # a submission in doubt takes a slot for no longer, once no process runs its batch

CLAIMED = "claimed"  # in the index, and not in the journal yet
SUBMITTING = "submitting"
IN_FLIGHT = "in_flight"
IN_DOUBT = "in_doubt"
SUCCEEDED = "succeeded"
WITHHELD = "withheld"  # paid for, and the service did not show its result
FAILED = "failed"


class BatchRow(NamedTuple):
    """A run directory. batch_id: the id of its journal.

    sequence: the journal's last commit that the rows include, or None while a process runs the batch or was killed.
    epoch: counts the runs that have registered. is_current: False for a batch that ran while the index was made again,
    until its process has registered again.
    """

    batch_id: str
    account: str
    directory: str
    name: str
    service: str
    priority: int = 0
    opened_at: float = 0.0
    sequence: int | None = None
    epoch: int = 0
    is_current: bool = True
    waits_since: float = 0.0
    waits_until: float = 0.0


class JobRow(NamedTuple):  # creating a frozen dataclass takes five times as long, for each row
    """A job of one batch, as its journal has it. The last four describe the delivered file."""

    account: str
    fingerprint: str
    batch_id: str
    state: str
    request_id: str | None = None
    generation_id: str | None = None
    submitted_at: float | None = None
    takes_slot: bool = False
    slot_until: float | None = None
    file: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    result_json: str | None = None


class SubmissionRow(NamedTuple):
    """One submission. cost: its cost in budgets. outcome: of the attempt, or ``claimed``. A completed generation has
    succeeded here before its clip is delivered.

    charge: the settled amount, from the provider's transactions. The index may know it before the journal.
    """

    account: str
    request_id: str
    fingerprint: str
    batch_id: str
    model: str
    generation_id: str | None
    at: float
    estimate: float | None
    quote: float | None
    cost: float
    outcome: str
    charge: float | None = None


def job_row(batch: BatchRow, record: Record, file: str | None) -> JobRow | None:
    """Return the row of a record; None for a job that nothing is paid for. file: its result's name, if delivered."""
    if not record.attempts:
        return None
    last, state = record.last, _STATES.get(record.state)
    if record.state is State.FAILED and record.error is not None and record.error.kind in RECHECKED:
        state = WITHHELD if last.generation_id else FAILED
    if state is None:
        return None
    result = record.result if state == SUCCEEDED else None
    return JobRow(
        batch.account,
        record.job.fingerprint,
        batch.batch_id,
        state,
        last.request_id,
        last.generation_id,
        last.submitted_at,
        _takes_slot(state, last),
        last.submitted_at + DOUBT_S if state == IN_DOUBT else None,
        *((file, result.size_bytes, result.sha256, _details(result)) if result else ()),
    )


def _details(result: Result) -> str:
    """Return the details of a result that a row has no columns for, as JSON."""
    details = {
        "width_px": result.width_px,
        "height_px": result.height_px,
        "duration_s": result.duration_s,
        "warnings": result.warnings,
    }
    return json.dumps(details)


def _takes_slot(state: str, last: Attempt) -> bool:
    """Whether a generation is or may be in flight. A reused one takes the slot of the batch that submitted it."""
    open_ = state in (SUBMITTING, IN_DOUBT) or (state == IN_FLIGHT and last.completed_at is None)
    return open_ and not last.is_reused


_STATES = {
    State.SUBMITTING: SUBMITTING,
    State.IN_FLIGHT: IN_FLIGHT,
    State.IN_DOUBT: IN_DOUBT,
    State.SUCCEEDED: SUCCEEDED,
    State.FAILED: FAILED,
}


def submission_row(batch: BatchRow, record: Record, attempt: Attempt) -> SubmissionRow | None:
    """Return the row of an attempt; None for one that was never submitted, because its result was reused."""
    if attempt.is_reused:
        return None
    spend = spend_of_attempt(attempt)
    is_completed = attempt.completed_at is not None and attempt.outcome == "accepted"
    return SubmissionRow(
        batch.account,
        attempt.request_id,
        record.job.fingerprint,
        batch.batch_id,
        record.job.model,
        attempt.generation_id,
        attempt.submitted_at,
        attempt.estimate,
        attempt.credits,
        spend.spent + spend.reserved,
        "succeeded" if is_completed else attempt.outcome or "open",
        attempt.settled,
    )


def rows_of(
    batch: BatchRow, records: Iterable[Record], file_of: Callable[[str], str | None]
) -> tuple[list[JobRow], list[SubmissionRow]]:
    """Return all rows of a journal's records. file_of: the name of a job's result by its fingerprint."""
    jobs: list[JobRow] = []
    submissions: list[SubmissionRow] = []
    for record in records:
        row = job_row(batch, record, file_of(record.job.fingerprint) if record.result is not None else None)
        if row is not None:
            jobs.append(row)
        for attempt in record.attempts:
            submission = submission_row(batch, record, attempt)
            if submission is not None:
                submissions.append(submission)
    return jobs, submissions


def result_of(row_json: str, size_bytes: int, sha256: str) -> Result:
    """Return the result that a row describes. Unknown or missing details are left out."""
    try:
        stored = json.loads(row_json)
        known = {name: stored.get(name) for name in ("width_px", "height_px", "duration_s")}
        warnings = tuple(map(str, stored.get("warnings") or ()))
    except (ValueError, AttributeError, TypeError):
        return Result(size_bytes, sha256)
    return Result(size_bytes, sha256, **known, warnings=warnings)
