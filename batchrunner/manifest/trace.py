"""Where the contents of a manifest stand in its files: recorded on request while a manifest is loaded. Pure.

A lock file is compared with a manifest after the manifest was loaded, and a difference names its place. Recording costs
memory, so only such a load does it. Of a table, only lines are recorded.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from batchrunner.job import Entry, Media
from batchrunner.manifest.diagnostics.diagnostic import START, Findings
from batchrunner.manifest.row import Places, Row

Place = tuple[Findings, int]


class Content(NamedTuple):
    """The content of a file: hex digest and size. etag: of an object in a bucket, which has no digest."""

    sha256: str
    size_bytes: int
    etag: str = ""


def input_key(media: Media) -> str:
    """Return the text that identifies an input within a batch: the URL or data URI, or the path as written."""
    return media.uri or media.source


@dataclass(slots=True)
class Trace:
    """The places and contents of one load. All fields are filled by the load.

    findings: of the manifest itself. rows: the place of each row. row_inputs: the inputs of each row; equal jobs share
    one Job, whose inputs have the paths of its first row. inputs: by `input_key`, where it is first used.
    tables: by name as written, where the manifest names it. contents: of the tables, by name. variables: each inserted
    value by name, sorted; variable_marks: where each is first used.
    """

    findings: Findings = field(default_factory=lambda: Findings(""))
    rows: Places = field(default_factory=Places)
    row_inputs: list[Mapping[str, Media]] = field(default_factory=list)
    inputs: dict[str, Place] = field(default_factory=dict)
    tables: dict[str, Place] = field(default_factory=dict)
    contents: dict[str, Content] = field(default_factory=dict)
    variables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    variable_marks: Mapping[str, int] = field(default_factory=dict)

    @property
    def start(self) -> Place:
        """The start of the manifest."""
        return self.findings, START

    def see(self, row: Row, inputs: Mapping[str, Media]) -> None:
        """Record the inputs of a row. inputs: by their names in the row."""
        self.row_inputs.append(inputs)
        at_hand = isinstance(row.marks, dict)  # a table computes its marks on access, which would be slow here
        for name, media in inputs.items():
            key = input_key(media)
            if key not in self.inputs:
                self.inputs[key] = row.findings, row.place(name) if at_hand else row.mark

    def entries(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, Place, Mapping[str, Media]]]:
        """Yield the manifest's entries with the places and inputs of their rows. All takes of a job have one row."""
        position = -1
        for entry in entries:
            position += entry.take == 1
            yield entry, self.rows.at(position), self.row_inputs[position]
