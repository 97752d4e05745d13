"""Compute each job's initial state from the journal and the manifest. Pure.

A fresh run is the resume of an empty journal; there is only one code path. A submission that was in progress when the
process died is in doubt. A job that may have been paid for becomes pending again only if the user asked for it.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace

from batchrunner.engine.confirmation import UNNAMED_FAILURE
from batchrunner.errors import Problem
from batchrunner.job import Entry, Job, Move, Record, State, advance
from batchrunner.plan.selection import RetryFailed, retries

IN_DOUBT_HINT = (
    "It is held, and each run searches the service's log for it. Check the log yourself. --in-doubt evidence releases "
    "it if the log shows later jobs as finished but not this one; --in-doubt resubmit may pay for it twice."
)
# For a job that an earlier journal may have submitted: the log cannot disprove a submission at an unknown time.
ROLLED_BACK_HINT = (
    "It is held, and each run searches the service's log for a submission of this job. Check the log yourself. "
    "--in-doubt resubmit submits it again, and may pay for it twice."
)
# Failures that may not be final: the service accepted the generation but did not show it, and may show it later.
RECHECKED = {"unknown_generation", "no_link", "bad_file", "check_limit", "poll_refused", UNNAMED_FAILURE}
LOST = Problem(
    "process_died",
    "the program ended while this job was being submitted; the service may have accepted it",
    IN_DOUBT_HINT,
)
ROLLED_BACK = Problem(
    "journal_rolled_back",
    "the journal was lost, damaged or outdated: this job may have been submitted and paid for",
    ROLLED_BACK_HINT,
)
# The kind of a job in doubt whose known attempts failed: a later attempt may be missing in the journal.
LATER_LOST = "later_attempt_lost"
LATER_LOST_HINT = (
    "It is held, and each run searches the service's log for a later attempt. Check the log yourself. "
    "--in-doubt resubmit generates it again, and may pay for it twice."
)


def may_lack_attempts(problem: Problem | None) -> bool:
    """Return whether an attempt with this error is of a recovered journal that may lack later attempts."""
    return problem is not None and problem.kind in {ROLLED_BACK.kind, LATER_LOST}


def may_have_later(record: Record) -> bool:
    """Return whether a failed job of a recovered journal may have a later attempt, which each run searches for."""
    return record.state is State.FAILED and bool(record.attempts) and may_lack_attempts(record.last.error)


def lost_request_id(record: Record) -> str:
    """Return the request id that stands for a lost attempt of a job in searches. It was never sent.

    A job in doubt has it on its latest attempt. A failed one gets that attempt only when a search finds something.
    """
    if record.state is State.IN_DOUBT:
        return record.last.request_id
    return f"lost.{record.job.key}.{len(record.attempts) + 1}"


def hold_later(record: Record, run_id: str, now: float, credits_: float | None) -> Record:
    """Return a failed record in doubt, because the journal may lack a later attempt.

    The attempt in doubt has a request id that was never sent: `GenerationOwners` finds a later attempt in the
    service's log by the job's key. now: wall time, s. credits_: the job's price, for the budget.
    """
    assert record.error is not None
    failure = f"the job failed ({record.error.kind}: {record.error.message}), and the journal may lack a later attempt"
    error = Problem(LATER_LOST, f"{failure} that was paid for", LATER_LOST_HINT, record.error.fault)
    return _hold(advance(record, Move.RETRY), run_id, now, credits_, error)


def fail(record: Record, problem: Problem | None, run_id: str, now: float, credits_: float | None) -> Record:
    """Return a record in flight as failed, or held in doubt if the journal may lack a later attempt.

    A failure that may not be final stays a failure, because each run polls the generation again. It keeps its mark,
    and each run searches the service's log for a later attempt (`may_have_later`).
    now: wall time, s. credits_: the job's price, for the budget.
    """
    failed = advance(record, Move.FAIL, error=problem, ended_at=now)
    if not may_lack_attempts(record.last.error):
        return failed
    if failed.error is None or failed.error.kind in RECHECKED:
        return failed.with_attempt(error=ROLLED_BACK)
    return hold_later(failed, run_id, now, credits_)


def _hold(record: Record, run_id: str, now: float, credits_: float | None, error: Problem) -> Record:
    request_id = f"{run_id}.{record.job.key}.{len(record.attempts) + 1}"
    record = advance(record, Move.BEGIN_SUBMIT, request_id=request_id, submitted_at=now, estimate=credits_)
    return advance(record, Move.DOUBT, error=error)


def held_before_retry(
    known: Mapping[str, Record], run_id: str, now: float, estimate: Callable[[Job], float | None]
) -> dict[str, Record]:
    """Return the records for a run that retries failed jobs: held in doubt if the journal may lack the retry."""
    return {
        fingerprint: _hold(advance(record, Move.RETRY), run_id, now, estimate(record.job), ROLLED_BACK)
        if record.state is State.FAILED and record.error and record.attempts and may_lack_attempts(record.last.error)
        else record
        for fingerprint, record in known.items()
    }


def held_in_doubt(
    known: Mapping[str, Record],
    entries: Sequence[Entry],
    run_id: str,
    now: float,
    estimate: Callable[[Job], float | None],
) -> dict[str, Record]:
    """Return the records for a run with a recovered journal that may lack recent events (`batchrunner.app.recovery`).

    A job of the manifest that seems to be unsubmitted is in doubt, under a request id that was never sent:
    `GenerationOwners` finds it in the service's log by its key. A failed job may have been retried: it is in doubt as
    well (`hold_later`), or polled again where its failure may not be final. A job in flight is polled, and held in
    doubt if its generation failed. The error of its attempt is the mark of that until it is settled. estimate: a
    job's price in credits, for the budget. now: wall time, s.
    """
    records = dict(known)
    asked_for = {entry.job.fingerprint: entry.job for entry in entries}
    for fingerprint in {**records, **asked_for}:
        record = records.get(fingerprint) or Record(asked_for[fingerprint])
        if record.state is State.PENDING and fingerprint in asked_for:
            record = _hold(record, run_id, now, estimate(asked_for[fingerprint]), ROLLED_BACK)
        elif record.state is State.FAILED and record.attempts and record.error:
            if record.error.kind in RECHECKED:
                record = advance(record, Move.RECHECK)
            elif fingerprint in asked_for:
                record = hold_later(record, run_id, now, estimate(asked_for[fingerprint]))
        if record.state is State.SUBMITTING:
            record = advance(record, Move.DOUBT, error=ROLLED_BACK)
        elif record.state is State.IN_DOUBT and not may_lack_attempts(record.error):
            record = replace(record, error=ROLLED_BACK).with_attempt(error=ROLLED_BACK)
        elif record.state is State.IN_FLIGHT and record.attempts:
            record = record.with_attempt(error=ROLLED_BACK)
        records[fingerprint] = record
    return records


def take_up(
    known: Mapping[str, Record],
    entries: Sequence[Entry],
    *,
    retry_failed: RetryFailed,
    resubmit_in_doubt: bool,
    chosen: Container[str] | None = None,
) -> tuple[dict[str, Record], list[Record]]:
    """Return each job's record at the start by fingerprint, and the new or changed ones, which must be stored.

    resubmit_in_doubt: resubmit jobs in doubt that the service's log does not list. A run searches that log first.
    chosen: the only jobs that are submitted again (fingerprints); None: all of the manifest.
    Jobs of the manifest get their inputs from it, as the journal stores none. Jobs that it no longer names are kept
    unchanged, because their generations in flight are still fetched.
    """
    records = dict(known)
    for entry in entries:
        fingerprint = entry.job.fingerprint
        old = records.get(fingerprint)
        records[fingerprint] = Record(entry.job) if old is None else replace(old, job=entry.job)
    asked_for = {entry.job.fingerprint for entry in entries}
    changed = []
    for fingerprint, record in records.items():
        moved = record
        if moved.state is State.SUBMITTING:
            moved = advance(moved, Move.DOUBT, error=LOST)
        named = fingerprint in asked_for and (chosen is None or fingerprint in chosen)
        again = named and moved.state is State.FAILED and retries(moved, retry_failed)
        if moved.state is State.FAILED and moved.error and moved.error.kind in RECHECKED and not again:
            moved = advance(moved, Move.RECHECK)
        if named:
            if moved.state is State.IN_DOUBT and resubmit_in_doubt:
                moved = advance(moved, Move.RELEASE)
            if again:
                moved = advance(moved, Move.RETRY)
        if moved is not record or fingerprint not in known:
            changed.append(moved)
        records[fingerprint] = moved
    return records, changed
