"""Tables of jobs: CSV, TSV and JSON Lines files, read row by row with the line of each.

Rule: a column is a field of a job, or ``tags.<name>``; an empty cell is a field that is not set. A table is data from
elsewhere: no variables and no patterns. Paths in a table start from the table's folder. The ending of its name says
what is in it.
"""

import posixpath
from collections.abc import Callable, Iterator

from batchrunner.manifest.row import Row
from batchrunner.manifest.tables import csv_rows, jsonl_rows
from batchrunner.manifest.tables.reader import Stop, Table

_READERS: dict[str, Callable[[Table], Iterator[Row]]] = {
    ".csv": csv_rows.read,
    ".tsv": lambda table: csv_rows.read(table, "\t"),
    ".jsonl": jsonl_rows.read,
    ".ndjson": jsonl_rows.read,
}


def is_table(name: str) -> bool:
    """Whether a file of this name is read as a table."""
    return posixpath.splitext(name)[1].lower() in _READERS


def endings() -> str:
    """The endings of tables' names, in words."""
    return ", ".join(_READERS)


def rows(table: Table, name: str) -> Iterator[Row]:
    """The rows of the table, in order, with the fields that can be used; the rest is noted."""
    reader = _READERS[posixpath.splitext(name)[1].lower()]
    try:
        yield from reader(table)
    except Stop:
        return
