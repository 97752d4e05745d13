"""Tables of jobs: select the reader for a CSV, TSV or JSON Lines file by its extension.

A column is a field of a job, or ``tags.<name>``. An empty cell is a field that is not set. Tables are plain data: they
have no variables and no patterns. Paths in a table are relative to the table's folder.
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
    """Return True if a file with this name is read as a table."""
    return posixpath.splitext(name)[1].lower() in _READERS


def endings() -> str:
    """Return the file extensions of tables, as text."""
    return ", ".join(_READERS)


def rows(table: Table, name: str) -> Iterator[Row]:
    """Yield the rows of the table in order, with their usable fields. Problems are recorded as findings."""
    reader = _READERS[posixpath.splitext(name)[1].lower()]
    try:
        yield from reader(table)
    except Stop:
        return
