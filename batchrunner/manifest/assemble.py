"""From rows to entries: ids, inputs, file names and fingerprints of one batch, row by row.

Rule: a row is taken, looked at and let go; what stays is what an Entry needs, and equal parts of entries are one
object. Names are settled last, because an id that is given anywhere goes before one that is derived.
"""

import itertools
from collections.abc import Mapping

from batchrunner.job import Entry, Job
from batchrunner.manifest.filenames import FileNames
from batchrunner.manifest.fingerprint import MODEL, complete, fingerprint
from batchrunner.manifest.ids import Ids
from batchrunner.manifest.inputs import Inputs
from batchrunner.manifest.row import Places, Row
from batchrunner.media.probe import Kind, MediaProblem

_NO_TAGS: Mapping[str, str] = {}


class Assembly:
    """The entries of one batch: `add` each row in order; then `settle`; then, if nothing is wrong, `entries`."""

    def __init__(self, inputs: Inputs) -> None:
        self._inputs = inputs
        self._places = Places()
        self._ids = Ids(self._places)
        self._files = FileNames(self._places)
        self._jobs: list[Job | None] = []
        self._tags: list[Mapping[str, str]] = []
        self._priorities: dict[int, int] = {}
        self._first: dict[str, int] = {}  # by fingerprint: the first row with that job
        self._again: list[tuple[int, int, Row]] = []  # row, earlier row of the same job
        self._names: list[str] = []
        self._file_names: Mapping[int, str] = {}

    def add(self, row: Row) -> None:
        """Take the next row; what is wrong with it is noted."""
        position = len(self._jobs)
        self._places.add(row)
        self._ids.add(row)
        self._files.add(row)
        self._tags.append(row.fields.get("tags") or _NO_TAGS)
        if priority := row.fields.get("priority"):
            self._priorities[position] = int(priority)
        self._jobs.append(self._job(row, position))

    def _job(self, row: Row, position: int) -> Job | None:
        """The row's job, which is the earlier one where they are equal; None where an input cannot be used."""
        fields = row.fields
        try:
            video, image = self._inputs.get("video", fields["video"]), self._inputs.get("image", fields["image"])
        except (KeyError, MediaProblem):
            self._tell(row, "video")
            self._tell(row, "image")
            return None
        for kind in ("video", "image") if self._inputs.warnings else ():
            if warning := self._inputs.warnings.pop(fields[kind], None):
                row.findings.warn(kind, row.place(kind), *warning)
        params = complete(fields)
        key = fingerprint(MODEL, video, image, params)
        first = self._first.setdefault(key, position)
        if first == position:
            return Job(key, MODEL, video, image, params)
        self._again.append((position, first, Row({}, {}, row.mark, row.findings)))
        return self._jobs[first]

    def _tell(self, row: Row, kind: Kind) -> None:
        """Note why an input cannot be used; that one is missing is noted already."""
        try:
            if kind in row.fields:
                self._inputs.get(kind, row.fields[kind])
        except MediaProblem as problem:
            row.error(kind, kind, problem.message, problem.hint)

    def settle(self) -> None:
        """Settle ids and file names; collisions are noted."""
        self._names = self._ids.settled()
        self._file_names = self._files.settled(self._names)

    def entries(self) -> tuple[Entry, ...]:
        """The entries of a batch in which nothing is wrong. That equal jobs are one is told."""
        for position, first, row in self._again:
            line = self._places.line(first, row.findings)
            message = f"'{self._names[position]}' is the same job as '{self._names[first]}' on {line}"
            row.findings.warn("same-job", row.mark, message, "it is paid for once and delivered under both ids")
        parts = zip(itertools.count(), self._names, self._jobs, self._tags)
        return tuple(
            Entry(position, name, job, tags, self._priorities.get(position, 0), self._file_names.get(position, ""))
            for position, name, job, tags in parts
            if job is not None
        )
