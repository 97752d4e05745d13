"""The takes of a batch beside the manifest's own: those that earlier runs added, and those that ``--retake`` adds now.

A run stores the takes that it adds together with its start, before anything is submitted. It also appends them to
``.batchrunner.retakes``: a run with --recover holds those in doubt that the journal has lost.
"""

import json
from collections.abc import Sequence
from dataclasses import replace

from batchrunner.app.setup import Setup
from batchrunner.job import Retake, Snapshot, State
from batchrunner.journal import journal, summary
from batchrunner.manifest.takes import with_retakes
from batchrunner.plan.retakes import Known, next_takes
from batchrunner.plan.selection import chosen
from batchrunner.review import verdicts
from batchrunner.storage import durable_files
from batchrunner.storage.durable_files import Disk
from batchrunner.storage.line_file import append_line
from batchrunner.storage.run_directory import RunDir


def settled(setup: Setup) -> Setup:
    """Return the setup with all takes of the batch. Raises UsageError, JournalError, LocalFault.

    A run calls it under the lock of the run directory. A run with --recover reads its takes later, from the journal
    that it recovers (`stored`).
    """
    if not setup.recover:
        setup = _requested(setup) if setup.retake else _with(setup, summary.retakes(setup.rundir.journal))
    chosen(setup.batch.entries, setup.only, setup.others.match)
    return setup


def stored(setup: Setup, snapshot: Snapshot | None) -> Setup:
    """Return the setup with the takes in a journal."""
    return _with(setup, snapshot.retakes) if snapshot else setup


def recovered(setup: Setup) -> Setup:
    """Return the setup with the takes that a journal has lost, as takes that this run adds."""
    firsts = {entry.job.fingerprint: entry.base for entry in setup.batch.entries if entry.take == 1}
    known = {(entry.base, entry.take) for entry in setup.batch.entries}
    lost = (item for item in _appended(setup.rundir) if item.fingerprint in firsts)
    missing = tuple(item for item in lost if (firsts[item.fingerprint], item.take) not in known)
    return replace(_with(setup, missing), retakes=(*setup.retakes, *missing))


def append(rundir: RunDir, retakes: Sequence[Retake]) -> None:
    """Store takes beside the journal. They are on the disk when this returns. Raises LocalFault."""
    path = rundir.retakes
    lines = "".join(json.dumps({"fingerprint": item.fingerprint, "take": item.take}) + "\n" for item in retakes)
    try:
        append_line(path, lines.encode())
        Disk().flush_folder(path.parent)
    except OSError as error:
        raise durable_files.fault(error, f"the takes to add could not be stored in {path}") from error


def _appended(rundir: RunDir) -> tuple[Retake, ...]:
    try:
        with durable_files.open_plain(rundir.retakes) as file:
            lines = file.read().splitlines()
    except OSError:
        return ()
    found: dict[Retake, None] = {}
    for line in lines:
        try:
            row = json.loads(line)
            if isinstance(row["take"], int) and row["take"] > 1:
                found[Retake(str(row["fingerprint"]), row["take"])] = None
        except (ValueError, LookupError, TypeError, RecursionError):
            continue
    return tuple(found)


def _requested(setup: Setup) -> Setup:
    """Return the setup with the takes in the journal and those that --retake asks for."""
    snapshot = journal.read(setup.rundir.journal)
    setup = stored(setup, snapshot)
    entries = setup.batch.entries
    known = Known(entries)
    if snapshot is not None:
        rejected, accepted = _verdicts_of(setup, snapshot)
        known = Known(entries, snapshot.records, snapshot.retakes, rejected, accepted, snapshot.run)
    retakes, notices = next_takes(known, setup.retake)
    return replace(_with(setup, retakes), retakes=retakes, warnings=(*setup.warnings, *notices))


def _with(setup: Setup, retakes: tuple[Retake, ...]) -> Setup:
    if not retakes:
        return setup
    return replace(setup, batch=replace(setup.batch, entries=with_retakes(setup.batch.entries, retakes)))


def _verdicts_of(setup: Setup, snapshot: Snapshot) -> tuple[frozenset[str], frozenset[str]]:
    """Return the ids of the entries whose present clip is rejected, and of those whose clip is accepted."""
    clips = {}
    for entry in setup.batch.entries:
        record = snapshot.records.get(entry.job.fingerprint)
        if record is not None and record.state is State.SUCCEEDED and record.result is not None:
            clips[entry.id] = record.result.sha256
    found = {name: item.verdict for name, item in verdicts.load(setup.rundir.path, clips).items()}
    rejected, accepted = (
        frozenset(name for name, verdict in found.items() if verdict == wanted)
        for wanted in (verdicts.REJECT, verdicts.ACCEPT)
    )
    return rejected, accepted
