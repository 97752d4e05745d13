"""Tables of jobs: CSV, TSV and JSON Lines files, read row by row with the line of each.

Rule: a column is a field of a job, or ``tags.<name>``; an empty cell is a field that is not set. A table is read as a
stream: no more than one row of it is held as text. What is wrong is noted under the table's own name. Paths in a table
start from the table's folder. A table is data from elsewhere: no variables and no patterns.
"""

import csv
import json
import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from batchrunner.manifest import schema
from batchrunner.manifest.diagnostics import Findings, mark, nearest
from batchrunner.manifest.inputs import is_remote
from batchrunner.manifest.row import FIELDS, Row
from batchrunner.manifest.source import YamlMapping

MAX_LINE_BYTES: Final = 64 << 20
_COLUMNS = tuple(sorted(FIELDS - {"tags"} | {"id"}))
_FILES = ("video", "image")
_CSV_WORDS = (
    ("unexpected end of data", "a quoted text never ends", "close the quote; a quote inside is written twice"),
    ("expected after", "text follows the closing quote", "a quote inside a quoted text is written twice"),
    ("new-line character", "lines end in bare carriage returns", "save it with ordinary line ends"),
    ("field larger", "a cell is far too large", ""),
)


class _Stop(Exception):
    """The rest of the table cannot be understood; why is noted already."""


@dataclass(slots=True)
class Table:
    """A table that is being read. file: open for reading in binary. folder: what its relative paths start from,
    as `files.folder_of` gives it."""

    file: Any
    folder: str
    findings: Findings
    line: int = 0  # the last one read
    record: list[str] = field(default_factory=list)  # the lines of the row at hand
    start: int = 1  # the line it starts on

    def lines(self) -> Iterator[str]:
        """The lines of text, ends included."""
        while data := self.file.readline(MAX_LINE_BYTES + 1):
            self.line += 1
            if len(data) > MAX_LINE_BYTES:
                self.stop("table", 1, f"the line is longer than {MAX_LINE_BYTES >> 20} MiB")
            try:
                text = data.decode("utf-8-sig" if self.line == 1 else "utf-8")
            except UnicodeDecodeError as error:
                column = len(data[: error.start].decode("utf-8", "replace")) + 1
                self.stop("encoding", column, "the table is not UTF-8 text", "save it as UTF-8 (Excel: CSV UTF-8)")
            self.record.append(text)
            yield text

    def next_row(self) -> None:
        """What is read from here on belongs to the next row."""
        self.record, self.start = [], self.line + 1

    def stop(self, code: str, column: int, message: str, hint: str = "") -> None:
        """Note what is wrong on the last line that was read, and give up."""
        self.findings.error(code, mark(max(self.line, 1), column), message, hint)
        raise _Stop


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
    except _Stop:
        return


# CSV


@dataclass(frozen=True, slots=True)
class _Column:
    """A column. name: the field; tag: the tag's name for a column of tags; index: from 0."""

    name: str
    tag: str
    index: int


def _csv(table: Table, delimiter: str = ",") -> Iterator[Row]:
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = table.lines()
    first = next(lines, None)
    if first is None:
        return
    if delimiter == "," and "," not in first and ";" in first:  # what spreadsheets write where 1,5 is a number
        delimiter = ";"
    reader = csv.reader(_again(first, lines), delimiter=delimiter, strict=True)
    columns: list[_Column] | None = None
    while (cells := _next(reader, table)) is not None:
        if columns is None:
            columns = _header(cells, table, delimiter)
        elif cells and any(cells):
            yield _csv_row(cells, columns, table, delimiter)
        table.next_row()


def _again(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _next(reader: Iterator[list[str]], table: Table) -> list[str] | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        words = next((each for each in _CSV_WORDS if each[0] in str(error)), ("", str(error), ""))
        begun = f"it began on line {table.start}" if table.start < table.line else ""
        table.stop("table", 1, f"not valid CSV: {words[1]}", "; ".join(filter(None, (words[2], begun))))
        return None


def _header(cells: list[str], table: Table, delimiter: str) -> list[_Column]:
    """The columns that the first line names; those that are nothing are noted, once."""
    columns: list[_Column] = []
    seen: set[str] = set()
    places = _CellPlaces(table.record, table.start, delimiter)
    for index, cell in enumerate(cells):
        name = cell.strip()
        field_name, _, tag = name.partition(".")
        if name in seen:
            table.findings.error("duplicate-key", places[index], f"the column '{name[:60]}' stands here a second time")
        elif name in _COLUMNS:
            columns.append(_Column(name, "", index))
        elif field_name == "tags" and tag:
            columns.append(_Column("tags", tag, index))
        elif name or len(cells) == 1:
            table.findings.error("unknown-key", places[index], f"a job has no field '{name[:60]}'", _column_hint(name))
        seen.add(name or f"\0{index}")
    return columns


def _column_hint(name: str) -> str:
    if name == "tags":
        return "give each tag a column of its own: tags.<name>"
    guess = schema.hint_for(name) or nearest(name, _COLUMNS)
    if guess in _COLUMNS:
        return f"did you mean '{guess}'?"
    return guess or "the first line names the columns: " + ", ".join((*_COLUMNS, "tags.<name>"))


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
            fields[column.name] = schema.typed(column.name, cell)
    if tags:
        fields["tags"] = tags
    places = _CellPlaces(table.record, table.start, delimiter)
    width = max((column.index for column in columns), default=0) + 1
    if len(cells) > width and any(cells[width:]) and columns:
        at = next(index for index in range(width, len(cells)) if cells[index])
        hint = "quote a text that holds the separator"
        table.findings.error("table", places[at], "this row has more cells than the first line names", hint)
    return _checked(fields, _Marks({column.name: column.index for column in reversed(columns)}, places), table)


class _CellPlaces:
    """Where each cell of a row stands, worked out when asked."""

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


class _Marks(Mapping[str, int]):
    """Places of fields, worked out when asked: a row whose cells are right never asks."""

    __slots__ = ("_places", "_steps")

    def __init__(self, steps: Mapping[str, Any], places: Any) -> None:
        self._steps, self._places = steps, places

    def __getitem__(self, name: str) -> int:
        place: int = self._places[self._steps[name]]
        return place

    def __iter__(self) -> Iterator[str]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)


# JSON Lines


class _Twice(Exception):
    """A key stands twice in one object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return made


def _no_number(word: str) -> float:
    raise ValueError(f"{word[:20]} is not finite, or far too large a number")


def _int(text: str) -> int:
    return int(text) if len(text) < 16 else int(_no_number(text))


def _float(text: str) -> float:
    value = float(text)
    return value if -1e15 < value < 1e15 else _no_number(text)


_decode = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_no_number, parse_int=_int, parse_float=_float
).decode


def _jsonl(table: Table) -> Iterator[Row]:
    for text in table.lines():
        if text.strip():
            value = _value(text, table)
            if isinstance(value, dict):
                places = _KeyPlaces(text, table.line)
                yield _checked(_flat(value), _Marks({name: name for name in value}, places), table)
            elif value is not None:
                what = "the line holds no job"
                hint = 'one object a line: {"video": …, "image": …}'
                table.findings.error("wrong-type", mark(table.line, 1), what, hint)
        table.next_row()


def _value(text: str, table: Table) -> Any:
    """The line's value; None where it cannot be read, which is noted."""
    column, message, hint = 1, "", ""
    try:
        value = _decode(text.rstrip())
        if "\\u" in text:  # half of a character, which no file could hold
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        column, message = error.colno, f"not valid JSON: {error.msg[:1].lower()}{error.msg[1:]}"
        hint = "JSON Lines: one object a line, whole on its line" if error.pos >= len(text.rstrip()) else ""
    except _Twice as error:
        message = f"the key '{str(error)[:60]}' stands in this line twice"
    except RecursionError:
        message = "the line is nested far too deep"
    except UnicodeEncodeError:
        message = "the line holds half of a character (a lone surrogate)"
    except ValueError as error:
        message = f"not valid JSON: {str(error)[:80]}"
    table.findings.error("table", mark(table.line, column), message, hint)
    return None


def _flat(value: dict[str, Any]) -> dict[str, Any]:
    """The object with its ``tags.<name>`` keys put into its tags, and nulls left out as empty cells are."""
    if any("." in name for name in value):
        tags = value.get("tags")
        dotted = {name: value.pop(name) for name in list(value) if name.startswith("tags.") and name != "tags."}
        if dotted:
            value["tags"] = {**(tags if isinstance(tags, dict) else {}), **{k[5:]: v for k, v in dotted.items()}}
    return {name: each for name, each in value.items() if each is not None}


class _KeyPlaces:
    """Where the values of an object on one line stand, by key, worked out when asked."""

    __slots__ = ("_line", "_text")

    def __init__(self, text: str, line: int) -> None:
        self._text, self._line = text, line

    def __getitem__(self, wanted: str) -> int:
        decode = json.JSONDecoder().raw_decode
        at = self._after_space(self._text.index("{") + 1)
        while self._text[at : at + 1] == '"':
            key, at = decode(self._text, at)
            at = self._after_space(self._after_space(at) + 1)
            if key == wanted:
                return mark(self._line, at + 1)
            at = self._after_space(self._after_space(decode(self._text, at)[1]) + 1)
        raise KeyError(wanted)

    def _after_space(self, at: int) -> int:
        while self._text[at : at + 1].isspace():
            at += 1
        return at


# Both


def _checked(fields: dict[str, Any], marks: _Marks, table: Table) -> Row:
    """A row of the fields that can be used, its paths made relative to the manifest; the rest is noted."""
    start = mark(table.start, 1)
    unusable: frozenset[str] = frozenset()
    if not schema.job_fits(fields):
        whole = YamlMapping(start)
        for name, value in fields.items():
            place = marks.get(name, marks.get(f"tags.{name}", start))
            whole.put(name, value, place, place)
        unusable = schema.check_job(whole, table.findings)
        fields = {name: value for name, value in fields.items() if name in _KNOWN and name not in unusable}
    for name in _FILES:
        path = fields.get(name)
        if path and table.folder and not is_remote(path):
            fields[name] = _joined(table.folder, path)
    return Row(fields, marks, start, table.findings, unusable)


def _joined(folder: str, path: str) -> str:
    """`path` from a table in `folder`, without the detours of ``./`` and ``../`` at its beginning."""
    while path.startswith(("./", "../")):
        if path.startswith("../"):
            if posixpath.basename(folder) in ("", ".."):  # "lists/" may be a link: see files.folder_of
                break
            folder = posixpath.dirname(folder)
        path = path.partition("/")[2].lstrip("/")
    return posixpath.join(folder, path)


_KNOWN = FIELDS | {"id"}
_READERS: dict[str, Callable[[Table], Iterator[Row]]] = {
    ".csv": _csv,
    ".tsv": lambda table: _csv(table, "\t"),
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
}
