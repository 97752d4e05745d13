"""From what the journal holds and what the manifest asks to where each job starts. Pure.

Rule: a fresh run is the resume of an empty journal; there is no other path. What was being submitted when a process
died is in doubt, and nothing that may have been paid for becomes pending again unless the user asked for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from batchrunner.confirmation import UNNAMED_FAILURE
from batchrunner.errors import Problem
from batchrunner.job import Entry, Move, Record, State, advance

IN_DOUBT_HINT = (
    "It is held, and looked for in the service's log at every run. Look there yourself, or accept that it may be paid "
    "for twice and run again with --in-doubt resubmit."
)
# Failures that are not the service's last word: what it accepted and then did not show may be there after all.
RECHECKED = {"unknown_generation", "no_link", "bad_file", "check_limit", "poll_refused", UNNAMED_FAILURE}
LOST = Problem(
    "process_died",
    "the program ended while this job was being submitted; the service may have accepted it",
    IN_DOUBT_HINT,
)


def take_up(
    known: Mapping[str, Record],
    entries: Sequence[Entry],
    *,
    retry_failed: bool,
    resubmit_in_doubt: bool,
) -> tuple[dict[str, Record], list[Record]]:
    """Every job's record at the start, by fingerprint, and those of them that are new or changed, to be stored.

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
