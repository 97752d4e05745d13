"""One job of the manifest with defaults and matrix applied: fields and their places. Pure."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchrunner.manifest.diagnostics.diagnostic import Findings, line_of
from batchrunner.providers import registry


@registry.cached
def row_fields() -> frozenset[str]:
    """The fields of a matrix row. A job may have an id besides; the defaults have no model."""
    return registry.field_names() | {"model", "tags", "priority", "takes", "file"}


@registry.cached
def job_fields() -> frozenset[str]:
    """The fields of a job."""
    return row_fields() | {"id"}


@dataclass(slots=True)  # not frozen: that would take three times as long to create, for each job
class Row:
    """One job before its inputs are checked.

    mark: where its row starts. marks: where each field's value is. findings: those of its file.
    unusable: fields with a value that has already been rejected.
    """

    fields: Mapping[str, Any]
    marks: Mapping[str, int]
    mark: int
    findings: Findings
    unusable: frozenset[str] = frozenset()

    def place(self, field: str) -> int:
        """Return the place of the field, or of the row if the field is not set."""
        return self.marks.get(field, self.mark)

    def error(self, code: str, field: str, message: str, hint: str = "") -> None:
        """Record an error of a field of this row."""
        self.findings.error(code, self.place(field), message, hint)


class Places:
    """The place of each row of a batch, in compact form for a million rows."""

    def __init__(self) -> None:
        self._marks = array("Q")
        self._files: list[Findings] = []

    def add(self, row: Row) -> None:
        """Store the next row's place, or that of its id if it is available."""
        at_hand = isinstance(row.marks, dict)  # a table computes its marks on access, which would be slow here
        self._marks.append(row.marks.get("id", row.mark) if at_hand else row.mark)
        self._files.append(row.findings)

    def at(self, position: int) -> tuple[Findings, int]:
        """Return the findings of the row's file, and the row's place."""
        return self._files[position], self._marks[position]

    def line(self, position: int, here: Findings) -> str:
        """Return the row's line as text: ``line 3``, or ``line 3 of clips.csv`` if `here` is another file."""
        file = self._files[position]
        line = f"line {line_of(self._marks[position])}"
        return line if file is here else f"{line} of {file.file}"
