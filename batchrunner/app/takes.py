"""The takes of a batch beside the manifest's own: those that earlier runs added, and those that ``--retake`` adds now.

Nothing is written here. A run stores the takes that it adds together with its start, before anything is submitted.
"""

from dataclasses import replace

from batchrunner.app.setup import Setup
from batchrunner.job import Retake, Snapshot, State
from batchrunner.journal import journal, summary
from batchrunner.manifest.takes import with_retakes
from batchrunner.plan.retakes import Known, next_takes
from batchrunner.plan.selection import chosen
from batchrunner.review import verdicts


def settled(setup: Setup) -> Setup:
    """Return the setup with all takes of the batch. Raises UsageError, JournalError, LocalFault.

    A run calls it under the lock of the run directory. A run with --recover reads its takes later, from the journal
    that it recovers (`stored`).
    """
    if not setup.recover:
        setup = _requested(setup) if setup.retake else _with(setup, summary.retakes(setup.rundir.journal))
    chosen(setup.batch.entries, setup.only)
    return setup


def stored(setup: Setup, snapshot: Snapshot | None) -> Setup:
    """Return the setup with the takes in a journal."""
    return _with(setup, snapshot.retakes) if snapshot else setup


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
