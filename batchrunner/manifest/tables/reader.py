"""A table that is being read: its lines one by one, and what becomes of a row's fields. For the readers of its forms.

Rule: no more than one row is held as text. What is wrong is noted under the table's own name, at the line where it
stands; where a field stands in it is worked out only when someone asks.
"""

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from batchrunner.manifest import schema
from batchrunner.manifest.diagnostics.diagnostic import Findings, mark
from batchrunner.manifest.inputs import is_remote
from batchrunner.manifest.row import FIELDS, Row
from batchrunner.manifest.yaml_source.parser import YamlMapping

MAX_LINE_BYTES: Final = 64 << 20
KNOWN: Final = FIELDS | {"id"}
_FILES = ("video", "image")


class Stop(Exception):
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
        raise Stop


class Marks(Mapping[str, int]):
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


def checked(fields: dict[str, Any], marks: Mapping[str, int], table: Table) -> Row:
    """A row of the fields that can be used; the rest is noted."""
    if schema.job_fits(fields):
        return usable(fields, marks, table)
    start = mark(table.start, 1)
    whole = YamlMapping(start)
    for name, value in fields.items():
        place = marks.get(name, marks.get(f"tags.{name}", start))
        whole.put(name, value, place, place)
    refused = schema.check_job(whole, table.findings)
    fields = {name: value for name, value in fields.items() if name in KNOWN and name not in refused}
    return usable(fields, marks, table, refused)


def usable(
    fields: dict[str, Any], marks: Mapping[str, int], table: Table, refused: frozenset[str] = frozenset()
) -> Row:
    """A row of fields that can be used, its paths made relative to the manifest. refused: fields that cannot."""
    if table.folder:
        for name in _FILES:
            path = fields.get(name)
            if path and not path.startswith("~") and not is_remote(path):
                fields[name] = _joined(table.folder, path)
    return Row(fields, marks, mark(table.start, 1), table.findings, refused)


def _joined(folder: str, path: str) -> str:
    """`path` from a table in `folder`, without the detours of ``./`` and ``../`` at its beginning."""
    while path.startswith(("./", "../")):
        if path.startswith("../"):
            if posixpath.basename(folder) in ("", ".."):  # "lists/" may be a link: see files.folder_of
                break
            folder = posixpath.dirname(folder)
        path = path.partition("/")[2].lstrip("/")
    return posixpath.join(folder, path)
