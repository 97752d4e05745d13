"""A group of changes as SQL: few statements, in order, and only the last of several changes to one row."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from batchrunner.journal import journal
from batchrunner.journal.rows import ATTEMPT_COLUMNS, signed
from batchrunner.journal.statements import (
    MOST_ROWS,
    MOVE_JOB,
    PUT_ATTEMPT,
    PUT_FILE,
    PUT_JOB,
    REMOVE_ENTRIES,
    Change,
    in_few,
)


@pytest.fixture
def tables() -> Iterator[sqlite3.Connection]:
    """An empty journal."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(Path(journal.__file__).with_name("schema.sql").read_text())
        connection.execute("PRAGMA foreign_keys = ON")
        yield connection


def job(name: str, state: str = "pending") -> Change:
    return PUT_JOB, (*signed("jobs", (name, "{}")), *signed("standing", (name, state, None, None))[1:])


def moved(name: str, state: str, error: str | None = None, result: str | None = None) -> Change:
    return MOVE_JOB, signed("standing", (name, state, error, result))


def attempt(name: str, **values: object) -> Change:
    known = {
        "fingerprint": name,
        "number": 1,
        "request_id": f"r.{name}",
        "submitted_at": 1.5,
        "polls": 0,
        "checksum": 0,
        **values,
    }
    return PUT_ATTEMPT, tuple(known.get(column) for column in ATTEMPT_COLUMNS)


def write(connection: sqlite3.Connection, *changes: Change) -> int:
    """Return the number of statements."""
    statements = list(in_few(changes))
    for statement, values in statements:
        connection.execute(statement, values)
    return len(statements)


def test_a_group_takes_few_statements_for_any_number_of_rows(tables: sqlite3.Connection) -> None:
    names = [f"j{number:03d}" for number in range(2 * MOST_ROWS + 1)]
    assert write(tables, *map(job, names)) == 3
    saves = [
        change for name in names for change in (moved(name, "in_flight"), attempt(name, generation_id=f"g.{name}"))
    ]
    assert write(tables, *saves) == 6
    assert tables.execute("SELECT DISTINCT state FROM jobs").fetchall() == [("in_flight",)]
    found = tables.execute("SELECT fingerprint, generation_id, submitted_at FROM attempts ORDER BY 1").fetchall()
    assert found == [(name, f"g.{name}", 1.5) for name in names]


def test_only_the_last_of_several_changes_to_one_row_counts(tables: sqlite3.Connection) -> None:
    write(tables, job("a"), job("b"))
    write(
        tables,
        *(moved("a", "submitting"), attempt("a")),
        moved("b", "failed", error="{}"),
        *(moved("a", "succeeded", result="{}"), attempt("a", polls=2)),
    )
    standing = tables.execute("SELECT fingerprint, state, error_json, result_json FROM jobs ORDER BY 1").fetchall()
    assert standing == [("a", "succeeded", None, "{}"), ("b", "failed", "{}", None)]
    assert tables.execute("SELECT polls FROM attempts").fetchall() == [(2,)]


def test_the_identity_of_an_attempt_is_never_changed(tables: sqlite3.Connection) -> None:
    write(tables, job("a"), attempt("a"))
    write(tables, attempt("a", request_id="another", outcome="failed"))
    assert tables.execute("SELECT request_id, outcome FROM attempts").fetchall() == [("r.a", "failed")]


def test_statements_are_in_order_of_first_use(tables: sqlite3.Connection) -> None:
    """A job is stored before the rows that refer to it, and old entries are removed before new ones are added."""
    placed = PUT_FILE, ("a.mp4", "b", "0", 1, 0)
    changes = [job("a"), attempt("a"), job("b"), (REMOVE_ENTRIES, ()), placed, attempt("b")]
    assert [text.split(" (")[0] for text, _ in in_few(changes)] == [
        "INSERT INTO jobs",
        "INSERT INTO attempts",
        "DELETE FROM entries",
        "INSERT INTO files",
    ]
    write(tables, *changes)


def test_a_move_of_a_missing_job_is_refused_with_its_attempt(tables: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        write(tables, moved("nobody", "submitting"), attempt("nobody"))
