"""Compute each job's initial state from the journal and the manifest. Pure.

A fresh run is the resume of an empty journal; there is only one code path. A submission that was in progress when the
process died is in doubt. A job that may have been paid for becomes pending again only if the user asked for it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from batchrunner.engine.confirmation import UNNAMED_FAILURE
from batchrunner.errors import Problem
from batchrunner.job import Entry, Job, Move, Record, State, advance

IN_DOUBT_HINT = (
    "It is held, and each run searches the service's log for it. Check the log yourself. --in-doubt evidence releases "
    "it if the log shows later jobs as finished but not this one; --in-doubt resubmit may pay for it twice."
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
    IN_DOUBT_HINT,
)


def held_in_doubt(
    known: Mapping[str, Record],
    entries: Sequence[Entry],
    run_id: str,
    now: float,
    estimate: Callable[[Job], float | None],
) -> dict[str, Record]:
    """Return the records for a run with a recovered journal that may lack recent events (`batchrunner.app.recovery`).

    A job of the manifest that seems to be unsubmitted is in doubt, under a request id that was never sent:
    `GenerationOwners` finds it in the service's log by its key. A job in flight is polled, and not submitted again if
    it failed, because that may already have happened. estimate: a job's price in credits, for the budget. now: wall
    time, s.
    """
    records = dict(known)
    asked_for = {entry.job.fingerprint: entry.job for entry in entries}
    for fingerprint in {**records, **asked_for}:
        record = records.get(fingerprint) or Record(asked_for[fingerprint])
        if record.state is State.PENDING and fingerprint in asked_for:
            request_id = f"{run_id}.{record.job.key}.{len(record.attempts) + 1}"
            price = estimate(asked_for[fingerprint])
            record = advance(record, Move.BEGIN_SUBMIT, request_id=request_id, submitted_at=now, estimate=price)
        if record.state is State.SUBMITTING:
            record = advance(record, Move.DOUBT, error=ROLLED_BACK)
        elif record.state is State.IN_DOUBT:
            record = replace(record, error=ROLLED_BACK).with_attempt(error=ROLLED_BACK)
        elif record.state is State.IN_FLIGHT and record.attempts:
            record = record.with_attempt(error=ROLLED_BACK)
        records[fingerprint] = record
    return records


def take_up(
    known: Mapping[str, Record],
    entries: Sequence[Entry],
    *,
    retry_failed: bool,
    resubmit_in_doubt: bool,
) -> tuple[dict[str, Record], list[Record]]:
    """Return each job's record at the start by fingerprint, and the new or changed ones, which must be stored.

    resubmit_in_doubt: resubmit jobs in doubt that the service's log does not list. A run searches that log first.
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
        if moved.state is State.FAILED and moved.error and moved.error.kind in RECHECKED and not retry_failed:
            moved = advance(moved, Move.RECHECK)
        if fingerprint in asked_for:
            if moved.state is State.IN_DOUBT and resubmit_in_doubt:
                moved = advance(moved, Move.RELEASE)
            if moved.state is State.FAILED and retry_failed:
                moved = advance(moved, Move.RETRY)
        if moved is not record or fingerprint not in known:
            changed.append(moved)
        records[fingerprint] = moved
    return records, changed
