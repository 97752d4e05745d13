"""The checksums of the index's rows, so that a changed byte is found before anything is decided by it.

Each row ends with the checksum of its values, as in the journal. Some columns are left out, because they are updated
alone: `takes_slot`, which the partial index jobs_by_slot repeats, and the times of a wait, which count for seconds.
The sums of days are compared with the submissions that they are of.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from batchrunner.account.rows import BatchRow, JobRow, SubmissionRow
from batchrunner.journal.rows import RowDamaged, checksum, verified

_UNSIGNED = {"takes_slot", "waits_since", "waits_until"}
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "batches": BatchRow._fields,
    "jobs": JobRow._fields,
    "submissions": SubmissionRow._fields,
    "ended": ("account", "generation_id"),
    "charges": ("account", "reference_id", "credits", "at"),
    "throttles": ("account", "until", "why"),
}
_SIGNED = {table: tuple(name for name in names if name not in _UNSIGNED) for table, names in COLUMNS.items()}
_signed_values = {table: itemgetter(*map(COLUMNS[table].index, names)) for table, names in _SIGNED.items()}
_TOLERANCE = 1.0  # credits by which rounding may move a sum
_DAYS_DIFFER = """
SELECT account, day FROM (
    SELECT account, CAST(at / 86400 AS INTEGER) AS day, cost FROM submissions
    UNION ALL SELECT account, day, -cost FROM spend_by_day
) GROUP BY account, day HAVING abs(sum(cost)) > ? LIMIT 1
"""


def signed(table: str, values: Sequence[Any]) -> tuple[Any, ...]:
    """Return the values of a row, in the order of `COLUMNS`, with their checksum."""
    return (*values, checksum(table, _signed_values[table](values)))


def require_valid(table: str, row: Sequence[Any]) -> None:
    """Check a row that has the columns of `COLUMNS` and its checksum. Raises RowDamaged."""
    verified(table, (*_signed_values[table](row), row[-1]))


def require_all_valid(connection: sqlite3.Connection) -> None:
    """Check every row. Raises RowDamaged."""
    for table, names in _SIGNED.items():
        for row in connection.execute(f"SELECT {', '.join(names)}, checksum FROM {table}"):
            verified(table, row)
    if connection.execute(_DAYS_DIFFER, (_TOLERANCE,)).fetchone() is not None:
        raise RowDamaged("a sum of spend_by_day differs from its submissions")
