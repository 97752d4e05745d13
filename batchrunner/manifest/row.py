"""A job as the manifest writes it, defaults and matrix worked in: fields and their places. Pure."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from batchrunner.manifest.diagnostics.diagnostic import Findings, line_of
from batchrunner.manifest.fingerprint import PARAMETERS

# What a matrix row and the defaults may say; a job may have an id besides.
FIELDS = frozenset({"video", "image", "tags", "priority", "file", *PARAMETERS})


@dataclass(slots=True)  # frozen ones take three times as long to make, and this is one a job, let go at once
class Row:
    """One job to be.

    mark: where its row starts; marks: where each field's value stands. findings: of the file that it stands in.
    unusable: fields that are there with a value that was refused already.
    """

    fields: Mapping[str, Any]
    marks: Mapping[str, int]
    mark: int
    findings: Findings
    unusable: frozenset[str] = frozenset()

    def place(self, field: str) -> int:
        """Where the field stands, or the row if it does not say."""
        return self.marks.get(field, self.mark)

    def error(self, code: str, field: str, message: str, hint: str = "") -> None:
        """Note what is wrong with a field of this row."""
        self.findings.error(code, self.place(field), message, hint)


class Places:
    """Where each row of a batch stands, small enough for a million of them."""

    def __init__(self) -> None:
        self._marks = array("Q")
        self._files: list[Findings] = []

    def add(self, row: Row) -> None:
        """Remember the next row's place: that of its id where it has one at hand."""
        at_hand = isinstance(row.marks, dict)  # a table works its marks out when asked: not here
        self._marks.append(row.marks.get("id", row.mark) if at_hand else row.mark)
        self._files.append(row.findings)

    def line(self, position: int, here: Findings) -> str:
        """The line of the row at `position` in words: ``line 3``, or ``line 3 of clips.csv`` seen from elsewhere."""
        file = self._files[position]
        line = f"line {line_of(self._marks[position])}"
        return line if file is here else f"{line} of {file.file}"
