"""Find the run directories that ``runs.jsonl`` lists, and refuse to go on without those that the index needs.

The index knows what was paid for in the batches that it includes, wherever their run directories are. If it had to be
made again, it includes only those that were found. What was paid for in the others is then unknown, so a run would pay
for it again.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from batchrunner.account import journals, runs_log, transactions
from batchrunner.errors import BatchrunnerError, UsageError
from batchrunner.formatting import shell_quoted

_MOST_SIBLINGS = 2000  # folders that are searched for a run directory that was renamed
_MOST_NAMED = 5


class Missing(NamedTuple):
    """A run directory that the index lacks. why: why it cannot be read."""

    line: runs_log.Line
    why: str


def find(line: runs_log.Line) -> tuple[Path, journals.Stored | None]:
    """Return where the batch of a line is, and its journal; None if it is not found. Raises JournalError, LocalFault.

    A run directory that was renamed is found beside its old place.
    """
    directory = Path(line.directory)
    stored = journals.read(directory)
    if stored is not None and stored.mark.journal_id == line.batch_id:
        return directory, stored
    with suppress(OSError):
        for path in islice(directory.parent.iterdir(), _MOST_SIBLINGS):
            if path != directory and journals.has_id(path, line.batch_id):
                return path, journals.read(path)
    return directory, None


def lacking(connection: sqlite3.Connection, state: Path) -> list[runs_log.Line]:
    """Return the lines of runs.jsonl whose batch the index lacks. Raises OSError."""
    known = {row.batch_id for row in transactions.batch_rows(connection)}
    return [line for line in runs_log.read(state) if line.batch_id not in known]


def missing(connection: sqlite3.Connection, state: Path, account: str) -> list[Missing]:
    """Return the run directories of an account that the index lacks and that cannot be read. Raises OSError."""
    found = []
    for line in lacking(connection, state):
        if line.account != account:
            continue
        try:
            _, stored = find(line)
            why = "" if stored else "its batch is not there"
        except BatchrunnerError as error:
            why = error.message
        if why:
            found.append(Missing(line, why))
    return found


def require_found(connection: sqlite3.Connection, state: Path, account: str, own_id: str) -> None:
    """Refuse to submit while run directories are missing, except that of the batch `own_id`. Raises UsageError."""
    gone = [item for item in missing(connection, state, account) if item.line.batch_id != own_id]
    if gone:
        place = shell_quoted(gone[0].line.directory) if len(gone) == 1 else "DIR"
        raise UsageError(
            f"the account's index was lost, and what was paid for in these run directories is unknown: {listed(gone)}",
            "If it was moved, name its new place: batchrunner account --scan DIR. If it is gone for good: batchrunner "
            f"account --forget {place}. Nothing was submitted.",
        )


def listed(gone: Sequence[Missing]) -> str:
    """Return the directories with their reasons, for people."""
    more = f"; and {len(gone) - _MOST_NAMED} more" if len(gone) > _MOST_NAMED else ""
    return "; ".join(f"{item.line.directory} ({item.why})" for item in gone[:_MOST_NAMED]) + more
