"""Read a table line by line and build rows. Shared by the readers of all formats.

At most one row is kept as text. Problems are recorded under the table's own name, with their line. The place of a field
in a row is computed only on access.
"""

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from batchrunner.manifest import schema
from batchrunner.manifest.diagnostics.diagnostic import Findings, mark
from batchrunner.manifest.inputs import is_remote
from batchrunner.manifest.row import Row, job_fields
from batchrunner.manifest.yaml_source.values import YamlMapping
from batchrunner.providers import registry

MAX_LINE_BYTES: Final = 64 << 20


class Stop(Exception):
    """The remaining table cannot be read. A finding has already been recorded."""


@dataclass(slots=True)
class Table:
    """A table that is being read. file: open for reading in binary. folder: the folder that its relative paths start
    from, as `files.folder_of` returns it."""

    file: Any
    folder: str
    findings: Findings
    line: int = 0  # the last line that was read
    record: list[str] = field(default_factory=list)  # the lines of the current row
    start: int = 1  # the first line of the current row

    def lines(self) -> Iterator[str]:
        """Yield the lines of text, line ends included."""
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
            self.findings.search(text, self.line)
            yield text

    def next_row(self) -> None:
        """Start the next row: lines read from here on belong to it."""
        self.record, self.start = [], self.line + 1

    def stop(self, code: str, column: int, message: str, hint: str = "") -> None:
        """Record an error on the last line that was read, and stop reading the table."""
        self.findings.error(code, mark(max(self.line, 1), column), message, hint)
        raise Stop


class Marks(Mapping[str, int]):
    """Places of fields, computed on access: a row without problems never needs them."""

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


def checked(fields: dict[str, Any], marks: Mapping[str, int], table: Table) -> Row:
    """Check the fields and return a row of the usable ones. Problems are recorded as findings."""
    if schema.job_fits(fields):
        return usable(fields, marks, table)
    start = mark(table.start, 1)
    whole = YamlMapping(start)
    for name, value in fields.items():
        place = marks.get(name, marks.get(f"tags.{name}", start))
        whole.put(name, value, place, place)
    refused = schema.check_job(whole, table.findings)
    fields = {name: value for name, value in fields.items() if name in job_fields() and name not in refused}
    return usable(fields, marks, table, refused)


def usable(
    fields: dict[str, Any], marks: Mapping[str, int], table: Table, refused: frozenset[str] = frozenset()
) -> Row:
    """Return a row of usable fields, with paths relative to the manifest. refused: names of unusable fields."""
    if table.folder:
        for name in registry.input_names():
            path = fields.get(name)
            if path and not path.startswith("~") and not is_remote(path):
                fields[name] = _joined(table.folder, path)
    return Row(fields, marks, mark(table.start, 1), table.findings, refused)


def _joined(folder: str, path: str) -> str:
    """Join `folder` and `path`, and resolve leading ``./`` and ``../``."""
    while path.startswith(("./", "../")):
        if path.startswith("../"):
            if posixpath.basename(folder) in ("", ".."):  # "lists/" may be a link: see files.folder_of
                break
            folder = posixpath.dirname(folder)
        path = path.partition("/")[2].lstrip("/")
    return posixpath.join(folder, path)
