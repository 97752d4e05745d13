"""Choose the takes that ``run --retake rejected`` and ``run --retake ID`` add. Pure.

A job gets its next take only when its latest one has a clip. So a request that is repeated while its take is unfinished
adds nothing. Neither does one that is repeated because the run with it stopped early, unless the clip was rejected.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from batchrunner.errors import ExitStatus, UsageError
from batchrunner.formatting import count_text
from batchrunner.job import Entry, Record, Retake, Run, State

REJECTED = "rejected"
_ENDED = {ExitStatus.OK, ExitStatus.FAILED}


class Known(NamedTuple):
    """What is known of a batch. entries: with all retakes so far. records: by fingerprint. retakes: those so far.

    rejected, accepted: ids of the entries whose clip is. latest_run: None before the first run.
    """

    entries: Sequence[Entry]
    records: Mapping[str, Record] = {}
    retakes: Sequence[Retake] = ()
    rejected: Collection[str] = ()
    accepted: Collection[str] = ()
    latest_run: Run | None = None


def next_takes(known: Known, names: Sequence[str]) -> tuple[tuple[Retake, ...], tuple[str, ...]]:
    """Return the takes to add, and a notice for each request that adds none.

    names: ids of jobs or of their takes, or REJECTED for every job whose latest take is rejected and that has no
    accepted take. Raises UsageError for an id that no job has.
    """
    latest = _latest_takes(known.entries)
    wanted = [_base(name, known.entries) for name in names if name != REJECTED]
    found, notices = _rejected(known, latest) if REJECTED in names else ([], [])
    added: dict[Retake, None] = {}
    by_name = {entry.id: entry for entry in known.entries if entry.take == 1}
    for base in dict.fromkeys((*found, *wanted)):
        refusal = _refusal(known, latest[base])
        if refusal:
            notices.append(f"--retake {base}: no take was added: {refusal}")
        else:
            added[Retake(by_name[base].job.fingerprint, latest[base].take + 1)] = None
    return tuple(added), tuple(notices)


def _rejected(known: Known, latest: Mapping[str, Entry]) -> tuple[list[str], list[str]]:
    """Return the jobs that REJECTED names, and a notice about others. A job with an accepted take needs no other."""
    rejected = [base for base, entry in latest.items() if entry.id in known.rejected]
    accepted = {entry.base for entry in known.entries if entry.id in known.accepted}
    found = [base for base in rejected if base not in accepted]
    notices = [] if rejected else ["--retake rejected: no job's latest take is rejected"]
    left_out = [base for base in rejected if base in accepted]
    if left_out:
        how = f"--retake {left_out[0]} adds one all the same"
        who = left_out[0] if len(left_out) == 1 else count_text(len(left_out), "job")
        notices.append(f"--retake rejected: no take was added to {who}, because an earlier take is accepted; {how}")
    return found, notices


def _latest_takes(entries: Sequence[Entry]) -> dict[str, Entry]:
    """Return the entry of each job's latest take, by the job's id, in manifest order."""
    latest: dict[str, Entry] = {}
    for entry in entries:
        if entry.base not in latest or latest[entry.base].take < entry.take:
            latest[entry.base] = entry
    return latest


def _base(name: str, entries: Sequence[Entry]) -> str:
    bases = {entry.id: entry.base for entry in entries}
    if name not in bases:
        close = get_close_matches(name, bases, n=1, cutoff=0.6)
        guess = f"; did you mean {close[0]}?" if close else ""
        hint = "Name ids as plan shows them, or 'rejected'. Nothing was submitted."
        raise UsageError(f"--retake {name}: no job of the manifest has this id{guess}", hint)
    return bases[name]


def _refusal(known: Known, latest: Entry) -> str:
    """Return why a job gets no next take, or ""."""
    record = known.records.get(latest.job.fingerprint)
    if record is None or record.state is not State.SUCCEEDED:
        state = "was not submitted" if record is None else _STATES[record.state]
        return f"its latest take {latest.id} {state}"
    run = known.latest_run
    if latest.id in known.rejected or run is None or run.exit_status in _ENDED:
        return ""
    runs = (retake.run_id for retake in _retakes_of(known, latest))
    return f"the latest run, which stopped early, added {latest.id}" if run.run_id in runs else ""


def _retakes_of(known: Known, latest: Entry) -> Iterator[Retake]:
    """Return the retakes that are the entry of a latest take."""
    firsts = {entry.job.fingerprint for entry in known.entries if entry.id == latest.base}
    return (item for item in known.retakes if item.take == latest.take and item.fingerprint in firsts)


_STATES = {
    State.PENDING: "was not submitted",
    State.SUBMITTING: "is being submitted",
    State.IN_FLIGHT: "is in flight",
    State.IN_DOUBT: "is in doubt",
    State.FAILED: "failed; --retry-failed submits it again",
}
