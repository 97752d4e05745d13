"""Show the charges that the account has settled since the last run of a batch. Reads only; it needs no event loop."""

from collections.abc import Mapping
from dataclasses import replace

from batchrunner.account import index, journals, transactions
from batchrunner.account.folders import state_folder
from batchrunner.errors import BatchrunnerError
from batchrunner.job import Snapshot
from batchrunner.plan.settlement import Totals, settled_from
from batchrunner.storage.run_directory import RunDir


def with_late_charges(snapshot: Snapshot, rundir: RunDir, environment: Mapping[str, str]) -> Snapshot:
    """Return the batch with the charges that the account's index has settled since its last run. Writes nothing."""
    changed = settled_from(snapshot.records.values(), late_charges(rundir, environment))
    if not changed:
        return snapshot
    return replace(snapshot, records={**snapshot.records, **{record.job.fingerprint: record for record in changed}})


def late_charges(rundir: RunDir, environment: Mapping[str, str]) -> Totals:
    """Return the settled charges of a batch that the account's index has, none if there is no usable index."""
    try:
        mark, state = journals.mark_of(rundir.path), state_folder(environment)
        if mark is None or not index.exists(state):
            return {}
        with index.viewed(state) as connection:
            return transactions.charges_of(connection, mark.journal_id)
    except BatchrunnerError:
        return {}  # the journal's own charges are shown
