"""Read jobs from CSV and TSV: a header that names the columns, then one job per row.

The dialect is that of spreadsheets: a quote inside quotes is doubled, and quoted text may contain line ends. Empty rows
before the header are skipped. A first line ``sep=;`` sets the separator. Without it, a ``.csv`` whose header contains
semicolons or tabs and no comma uses these as separators, and its numbers may have a decimal comma.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from batchrunner.manifest import schema
from batchrunner.manifest.diagnostics.diagnostic import mark, nearest
from batchrunner.manifest.row import Row, job_fields
from batchrunner.manifest.tables import reader as records
from batchrunner.manifest.tables.reader import Marks, Table
from batchrunner.providers import registry

_SEPARATOR = re.compile(r'"?sep=(\\t|[^\s"]|\t)"?\s*', re.IGNORECASE)
_EMPTY = ' \t\r\n,;"\ufeff\u00a0'
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]{1,15},[0-9]{1,15}")
_EXPLANATIONS = (
    ("unexpected end of data", "a quoted text is not closed", "close the quote; write a quote inside it twice"),
    ("expected after", "text follows the closing quote", "write a quote inside a quoted text twice"),
    ("new-line character", "lines end in bare carriage returns", "save it with standard line ends"),
    ("field larger", "a cell is too large", ""),
)


@dataclass(frozen=True, slots=True)
class _Column:
    """A column. name: the field. tag: the tag's name, for a tag column. index: 0-based."""

    name: str
    tag: str
    index: int


@registry.cached
def _column_names() -> tuple[str, ...]:
    return tuple(sorted(job_fields() - {"tags"}))


def read(table: Table, delimiter: str = ",") -> Iterator[Row]:
    """Yield the rows of a table whose cells are separated by `delimiter`."""
    lines = table.lines()
    first = _first_line(lines, table)
    if separator := _SEPARATOR.fullmatch(first):
        delimiter = "\t" if separator[1] == "\\t" else separator[1]
        table.next_row()
        first = _first_line(lines, table)
    elif delimiter == "," and "," not in first:  # spreadsheets write ";" in locales where 1,5 is a number
        delimiter = next((item for item in ";\t" if item in first), ",")
    if not first:
        return
    reader = csv.reader(_again(first, lines), delimiter=delimiter, strict=True)
    columns: list[_Column] | None = None
    while (cells := _next(reader, table)) is not None:
        if columns is None:
            columns = _header(cells, table, delimiter)
        elif any(cell and not cell.isspace() for cell in cells):
            yield _csv_row(cells, columns, table, delimiter)
        table.next_row()


def _first_line(lines: Iterator[str], table: Table) -> str:
    """Return the first line with more than blanks, separators and empty quotes; "" if there is none."""
    for line in lines:
        if line.strip(_EMPTY):
            return line
        table.next_row()
    return ""


def _again(first: str, remaining: Iterator[str]) -> Iterator[str]:
    yield first
    yield from remaining


def _next(reader: Iterator[list[str]], table: Table) -> list[str] | None:
    before = csv.field_size_limit(records.MAX_LINE_BYTES)  # the limit is process-wide, so it is restored
    try:
        return next(reader, None)
    except csv.Error as error:
        explanation = next((item for item in _EXPLANATIONS if item[0] in str(error)), ("", str(error), ""))
        begun = f"it starts on line {table.start}" if table.start < table.line else ""
        table.stop("table", 1, f"not valid CSV: {explanation[1]}", "; ".join(filter(None, (explanation[2], begun))))
        return None
    finally:
        csv.field_size_limit(before)


def _header(cells: list[str], table: Table, delimiter: str) -> list[_Column]:
    """Return the columns that the header names. An unknown column is an error, reported once.

    Raises Stop if no column is known: each row would be wrong for the same reason.
    """
    places = _CellPlaces(table.record, table.start, delimiter)
    names = [cell.strip() for cell in cells]
    if not any(name in _column_names() or name.startswith("tags.") for name in names):
        at = next((index for index, name in enumerate(names) if name), 0)
        message = f"the header names no field of a job: it starts with '{names[at][:60]}'"
        table.findings.error("unknown-key", places[at], message, _header_hint(names))
        raise records.Stop
    columns: list[_Column] = []
    seen: set[str] = set()
    for index, name in enumerate(names):
        field_name, _, tag = name.partition(".")
        if name in seen:
            table.findings.error("duplicate-key", places[index], f"the column '{name[:60]}' appears a second time")
        elif name in _column_names():
            columns.append(_Column(name, "", index))
        elif field_name == "tags" and tag:
            columns.append(_Column("tags", tag, index))
        elif name or len(cells) == 1:
            table.findings.error("unknown-key", places[index], f"a job has no field '{name[:60]}'", _column_hint(name))
        seen.add(name or f"\0{index}")
    return columns


def _header_hint(names: list[str]) -> str:
    """Return the hint for a header without a known name."""
    guesses = {name: guess for name in names if (guess := nearest(name.lower(), _column_names()))}
    if guesses:
        return "did you mean " + ", ".join(f"'{guess}' for '{name[:60]}'" for name, guess in guesses.items()) + "?"
    return "the first line names the columns: " + ", ".join((*_column_names(), "tags.<name>"))


def _column_hint(name: str) -> str:
    if name == "tags":
        return "use one column per tag: tags.<name>"
    guess = schema.hint_for(name) or nearest(name, _column_names())
    if guess in _column_names():
        return f"did you mean '{guess}'?"
    return guess or "the first line names the columns: " + ", ".join((*_column_names(), "tags.<name>"))


def _csv_row(cells: list[str], columns: list[_Column], table: Table, delimiter: str) -> Row:
    fields: dict[str, Any] = {}
    tags: dict[str, str] = {}
    for column in columns:
        cell = cells[column.index].strip() if column.index < len(cells) else ""
        if not cell:
            continue
        if column.tag:
            tags[column.tag] = cell
        else:
            if delimiter != "," and _DECIMAL_COMMA.fullmatch(cell) and schema.is_number(column.name):
                cell = cell.replace(",", ".")
            fields[column.name] = schema.typed(column.name, cell)
    if tags:
        fields["tags"] = tags
    places = _CellPlaces(table.record, table.start, delimiter)
    width = max((column.index for column in columns), default=0) + 1
    if len(cells) > width and any(cells[width:]) and columns:
        at = next(index for index in range(width, len(cells)) if cells[index])
        hint = "quote text that contains the separator"
        table.findings.error("table", places[at], "this row has more cells than the header", hint)
    return records.checked(fields, Marks({column.name: column.index for column in reversed(columns)}, places), table)


class _CellPlaces:
    """The place of each cell of a row, computed on access."""

    __slots__ = ("_delimiter", "_lines", "_start")

    def __init__(self, lines: list[str], start: int, delimiter: str) -> None:
        self._lines, self._start, self._delimiter = lines, start, delimiter

    def __getitem__(self, wanted: int) -> int:
        index, quoted = 0, False
        for line, text in enumerate(self._lines, self._start):
            for column, char in enumerate(text, 1):
                if index == wanted:
                    return mark(line, column)
                quoted ^= char == '"'
                index += char == self._delimiter and not quoted
        return mark(self._start, 1)
