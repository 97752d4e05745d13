"""Look up what other batches of the account have for a batch's jobs. Reads only; it needs no event loop."""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from batchrunner.account import index, journals, presence, summary, transactions
from batchrunner.account.base import Clip, Hold, Reuse
from batchrunner.account.claiming import Outside
from batchrunner.account.limits import AccountBudgets, Limits
from batchrunner.account.names import Account
from batchrunner.account.older_copy import require_current
from batchrunner.account.reuse import Decision, Unsettled, decide
from batchrunner.account.rows import BatchRow
from batchrunner.account.run_directories import require_found
from batchrunner.job import Record

_AT_ONCE = 5_000  # jobs whose records are in memory


def survey(
    connection: sqlite3.Connection, batch: BatchRow, records: Iterable[Record], outside: Outside
) -> dict[str, Decision]:
    """Return the decisions about jobs that other batches of the account know, by fingerprint."""
    found: dict[str, Decision] = {}
    if not transactions.has_others(connection, batch):
        return found
    left = iter(records)
    while by_name := {record.job.fingerprint: record for record in islice(left, _AT_ONCE)}:
        for name, rows in transactions.others(connection, batch, list(by_name)).items():
            found[name] = decide(rows, outside.is_running, outside.exists, useless_of(by_name[name]))
    return found


def useless_of(record: Record) -> frozenset[str]:
    """Return the generations of a job that this batch has seen fail."""
    failed = (attempt.generation_id for attempt in record.attempts if attempt.outcome == "failed")
    return frozenset(name for name in failed if name is not None)


def exists(clip: Clip) -> bool:
    """Return whether a plain file of the recorded size stands there."""
    try:
        status = clip.path.lstat()
    except OSError:
        return False
    return status.st_size == clip.size_bytes and clip.path.is_file() and not clip.path.is_symlink()


class Found(NamedTuple):
    """What a run would find in the account. jobs: what other batches have, by fingerprint. note: what is unknown."""

    jobs: Mapping[str, Reuse | Hold] = {}
    budgets: AccountBudgets = AccountBudgets()
    note: str = ""


def look_up(
    state: Path, account: Account, directory: Path, records: Iterable[Record], limits: Limits, now: float
) -> Found:
    """Return what a run in `directory` would find for these jobs at `now` (wall time, s). Writes nothing.

    records: can be iterated twice, and is false without a job. Batches whose process was killed are read from their
    journals, into a copy of the index in memory.
    Raises LocalFault, UsageError, JournalError.
    """
    mark = journals.mark_of(directory) if directory.exists() else None
    batch = BatchRow(mark.journal_id if mark else "", account.key, str(directory), "", "")
    is_running = partial(presence.is_running, state)
    outside = Outside(is_running, exists)
    with index.viewed(state) as view, closing(index.connect(":memory:")) as copy:
        require_current(view, directory, is_running, batch.batch_id)
        if records:
            require_found(view, state, account.key, batch.batch_id)
        found = survey(view, batch, records, outside)
        unsettled = {name for item in found.values() if isinstance(item, Unsettled) for name in item.batch_ids}
        if unsettled:
            view.backup(copy)
            for batch_id in sorted(unsettled):
                index.settle(copy, batch_id, is_running)
            found = survey(copy, batch, records, outside)
        budgets = summary.budgets(view, account.key, limits, now)
    return Found({name: item for name, item in found.items() if isinstance(item, Reuse | Hold)}, budgets)
