"""From what the journal holds and what the manifest asks to where each job starts. Pure.

Rule: a fresh run is the resume of an empty journal; there is no other path. What was being submitted when a process
died is in doubt, and nothing that may have been paid for becomes pending again unless the user asked for it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from batchrunner.engine.confirmation import UNNAMED_FAILURE
from batchrunner.errors import Problem
from batchrunner.job import Entry, Job, Move, Record, State, advance

IN_DOUBT_HINT = (
    "It is held, and searched for in the service's log at every run. Look there yourself. --in-doubt evidence frees it "
    "when that log shows later jobs as finished and still lacks it; --in-doubt resubmit may pay for it twice."
)
# Failures that are not the service's last word: what it accepted and then did not show may be there after all.
RECHECKED = {"unknown_generation", "no_link", "bad_file", "check_limit", "poll_refused", UNNAMED_FAILURE}
LOST = Problem(
    "process_died",
    "the program ended while this job was being submitted; the service may have accepted it",
    IN_DOUBT_HINT,
)
ROLLED_BACK = Problem(
    "journal_rolled_back",
    "the journal was lost, damaged, or older than what was done: this job may have been submitted and paid for",
    IN_DOUBT_HINT,
)


def held_in_doubt(
    known: Mapping[str, Record],
    entries: Sequence[Entry],
    run_id: str,
    now: float,
    estimate: Callable[[Job], float | None],
) -> dict[str, Record]:
    """Records for a run that recovers a journal which may lack what was done last (`batchrunner.app.recovery`).

    A job of the manifest that seems not to be submitted is in doubt, under a request id that was never sent:
    `GenerationOwners` finds it in the service's log by its key. A job in flight is followed, and not paid for again if
    it failed: that may have been done. estimate: the price of a job in credits, for the budget. now: wall time, s.
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
    """Every job's record at the start, by fingerprint, and those of them that are new or changed, to be stored.

    resubmit_in_doubt: what comes of it where the service's log lists none of them. A run searches that log first.
    Jobs of the manifest get their inputs from it (the journal holds none); jobs it no longer names are kept as they
    are, since what is in flight is fetched all the same.
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
