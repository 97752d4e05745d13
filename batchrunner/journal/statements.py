"""The SQL statements that write to a journal. Pure.

Each statement takes any number of rows. Every call of SQLite releases the interpreter lock and acquires it again. While
the event loop is busy, that takes longer than writing the row. So a group of changes is a few statements, not one for
each row.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, final

from batchrunner.errors import LocalFault
from batchrunner.job import Record, State
from batchrunner.journal import rows

MOST_ROWS = 32  # in one statement
_SUBMITTING = State.SUBMITTING.value


class Statement(NamedTuple):
    """An SQL statement: its head, `row` once for each row, its tail.

    key: the number of first values that identify a row. The last of several changes to the same row counts.
    """

    head: str
    row: str = ""
    tail: str = ""
    key: int = 0

    @property
    def of_one(self) -> str:
        """The SQL for one row."""
        return f"{self.head}{self.row}{self.tail}"


Change = tuple[Statement, Sequence[Any]]  # and the values of one row
Guard = Callable[..., LocalFault | None]  # returns why nothing may be written; called with the keyword `intent`


@final
class Bulk(NamedTuple):
    """Many rows for one statement, which are made while they are written: they never exist all at once.

    rows: returns the values of each row, each time anew, because a full disk makes a commit start again.
    """

    statement: Statement
    rows: Callable[[], Iterable[Sequence[Any]]]


def _put(table: str, columns: Sequence[str], key: int) -> Statement:
    """Insert rows, or update all columns of existing ones except the key.

    REPLACE would remove a row from every index and search every table that refers to it.
    """
    return Statement(
        head=f"INSERT INTO {table} ({', '.join(columns)}) VALUES ",
        row=f"({', '.join('?' * len(columns))})",
        tail=f" ON CONFLICT ({', '.join(columns[:key])}) {_update(columns[key:])}",
        key=key,
    )


def _update(columns: Sequence[str], fixed: Sequence[str] = ()) -> str:
    return "DO UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in columns if name not in fixed)


PUT_RUN = _put("runs", rows.RUN_COLUMNS, 1)
PUT_JOB = _put("jobs", rows.JOB_COLUMNS, 1)
PUT_ATTEMPT = Statement(
    head=f"INSERT INTO attempts (job, {', '.join(rows.ATTEMPT_COLUMNS)}) SELECT job, new.* FROM (VALUES ",
    row=f"({', '.join('?' * len(rows.ATTEMPT_COLUMNS))})",
    # Without a job, its number is NULL, which the table refuses.
    tail=") AS new LEFT JOIN jobs ON jobs.fingerprint = new.column1 WHERE true "
    f"ON CONFLICT (job, number) {_update(rows.ATTEMPT_COLUMNS[2:], fixed=['request_id'])}",
    key=2,
)
PUT_ENTRY = _put("entries", rows.ENTRY_COLUMNS, 1)
PUT_TIMELINE_EVENT = _put("timeline_events", rows.TIMELINE_EVENT_COLUMNS, 3)
PUT_FILE = _put("files", rows.FILE_COLUMNS, 1)
PUT_RETAKE = _put("retakes", rows.RETAKE_COLUMNS, 2)
PUT_MARK = _put("mark", rows.MARK_COLUMNS, 1)
REMOVE_ENTRIES = Statement("DELETE FROM entries")
MOVE_JOB = Statement(
    head="UPDATE jobs SET state = moved.column2, error_json = moved.column3, result_json = moved.column4, "
    "checksum = moved.column5 FROM (VALUES ",
    row="(?, ?, ?, ?, ?)",
    tail=") AS moved WHERE jobs.fingerprint = moved.column1",
    key=1,
)


def has_intent(changes: Iterable[Change | Bulk]) -> bool:
    """Return whether the changes store the intent to submit a job."""
    states = [change[1][1] for change in changes if type(change) is not Bulk and change[0] is MOVE_JOB]
    return _SUBMITTING in states


def in_few(changes: Iterable[Change]) -> Iterator[tuple[str, list[Any]]]:
    """Yield the changes as SQL and values, statement by statement, in the order of their first appearance."""
    wanted: dict[Statement, dict[Sequence[Any], Sequence[Any]]] = defaultdict(dict)
    for statement, values in changes:
        wanted[statement][values[: statement.key]] = values
    for statement, latest in wanted.items():
        whole = list(latest.values())
        for start in range(0, len(whole), MOST_ROWS):
            some = whole[start : start + MOST_ROWS]
            text = f"{statement.head}{', '.join([statement.row] * len(some))}{statement.tail}"
            yield text, [value for row in some for value in row]


def saved(record: Record, attempts: int = 1) -> list[Change]:
    """Return the changes that store the state of a job with so many of its latest attempts."""
    return [(MOVE_JOB, rows.moved_row(record)), *latest_attempts(record, attempts)]


def latest_attempts(record: Record, attempts: int = 1) -> list[Change]:
    """Return the changes that store so many of a record's latest attempts. Earlier attempts do not change."""
    latest = record.attempts[-attempts:]
    return [(PUT_ATTEMPT, rows.attempt_row(record.job.fingerprint, attempt)) for attempt in latest]
