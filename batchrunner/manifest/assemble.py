"""Build entries from rows: ids, inputs, file names and fingerprints of one batch, row by row.

A row is not kept: only the values that an Entry needs are stored, and equal values are shared between entries. Names
are settled last, because an explicit id takes precedence over a derived one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from batchrunner.job import Entry, Job, Media
from batchrunner.manifest import schema
from batchrunner.manifest.filenames import FileNames
from batchrunner.manifest.fingerprint import fingerprint
from batchrunner.manifest.ids import Ids
from batchrunner.manifest.inputs import Inputs
from batchrunner.manifest.packed import BLOCK, Content, PackedEntries, pack
from batchrunner.manifest.row import Places, Row
from batchrunner.manifest.takes import with_takes
from batchrunner.manifest.trace import Trace
from batchrunner.media.probe import MediaProblem
from batchrunner.providers import registry
from batchrunner.providers.models import ModelSpec

_NO_TAGS: Mapping[str, str] = {}


def _without_foreign_fields(row: Row) -> Row:
    """Return the row with those fields that its model has, and with values that this model takes.

    The schema has checked the fields against all models together. What is left out is recorded as an error.
    """
    if "model" in row.unusable:
        return row
    spec = registry.spec_of(row.fields)
    foreign = registry.foreign_fields(spec.name)
    wrong = [name for name in row.fields if name in foreign]
    for name in wrong:
        row.error("unknown-key", name, f"the model {spec.name} has no field '{name}'", "leave it out for this model")
    for name, code, message, hint in schema.model_errors(spec, row.fields):
        row.error(code, name, message, hint)
        wrong.append(name)
    if not wrong:
        return row
    fields = {name: value for name, value in row.fields.items() if name not in wrong}
    return replace(row, fields=fields, unusable=row.unusable.union(wrong))


class Assembly:
    """The entries of one batch: `add` each row in order; then `settle`; then, if nothing is wrong, `entries`.

    trace: records the places of rows and inputs, if it is wanted.
    """

    def __init__(self, inputs: Inputs, trace: Trace | None = None) -> None:
        self._inputs = inputs
        self._trace = trace
        self._places = trace.rows if trace else Places()
        self._ids = Ids(self._places)
        self._files = FileNames(self._places)
        self._jobs: list[Job] = []
        self.count = 0  # of rows
        self._tags: list[Mapping[str, str]] = []
        self._priorities: dict[int, int] = {}
        self._first: dict[str, int] = {}  # by fingerprint: the first row of that job
        self._again: list[tuple[int, int, Row]] = []  # position, first position of the same job, row
        self._names: list[str] = []
        self._file_names: Mapping[int, str] = {}
        self._mixed = registry.fields_differ()
        self._is_refused = False  # an input is unusable, so there will be no entries

    def add(self, row: Row) -> None:
        """Add the next row. Problems are recorded as findings."""
        position = self.count
        self.count += 1
        if self._mixed:
            row = _without_foreign_fields(row)
        self._places.add(row)
        self._ids.add(row)
        self._files.add(row)
        spec = registry.spec_of(row.fields)
        try:
            inputs = self._inputs.all(row.fields, spec)
        except (KeyError, MediaProblem):
            self._report(row, spec)
            self._is_refused = True
            return
        if self._inputs.warnings:
            self._warn(row, spec)
        if not self._is_refused:
            self._add_job(row, spec, inputs, position)

    def _add_job(self, row: Row, spec: ModelSpec, inputs: Mapping[str, Media], position: int) -> None:
        if self._trace is not None:
            self._trace.see(row, inputs)
        params = spec.complete(row.fields)
        job = Job(fingerprint(spec.name, inputs, params), spec.name, inputs, params)
        first = self._keep(job, row.fields, position)
        if first != position:
            self._again.append((position, first, Row({}, {}, row.mark, row.findings)))

    def _keep(self, job: Job, fields: Mapping[str, Any], position: int) -> int:
        """Keep what an entry needs. Returns the first position of the same job."""
        first = self._first.setdefault(job.fingerprint, position)
        self._jobs.append(job if first == position else self._jobs[first])
        self._tags.append(fields.get("tags") or _NO_TAGS)
        if priority := fields.get("priority"):
            self._priorities[position] = int(priority)
        return first

    def _report(self, row: Row, spec: ModelSpec) -> None:
        """Record why inputs are unusable. A missing input has already been reported."""
        for name, kind in spec.kinds:
            try:
                if name in row.fields:
                    self._inputs.get(kind, row.fields[name])
            except MediaProblem as problem:
                row.error(kind, name, problem.message, problem.hint)

    def _warn(self, row: Row, spec: ModelSpec) -> None:
        """Record the warnings about inputs of the row."""
        for name, kind in spec.kinds:
            if name in row.fields and (warning := self._inputs.warnings.pop(row.fields[name], None)):
                row.findings.warn(kind, row.place(name), *warning)

    def settle(self) -> None:
        """Settle ids and file names. Collisions are recorded as findings."""
        self._names = self._ids.settled()
        self._file_names = self._files.settled(self._names, self._ids.takes)

    def entries(self) -> Sequence[Entry]:
        """Return the entries of a batch without errors. Equal jobs give a warning."""
        self._warn_of_equal_jobs()
        priority, file_name = self._priorities.get, self._file_names.get
        entries = (
            Entry(position, name, job, tags, priority(position, 0), file_name(position, ""))
            for position, (name, job, tags) in enumerate(zip(self._names, self._jobs, self._tags, strict=True))
        )
        return with_takes(entries, self._ids.takes) if self._ids.takes else tuple(entries)

    @property
    def jobs(self) -> int:
        """The number of entries."""
        return self.count + sum(takes - 1 for takes in self._ids.takes.values())

    def _warn_of_equal_jobs(self) -> None:
        for position, first, row in self._again:
            line = self._places.line(first, row.findings)
            message = f"'{self._names[position]}' is the same job as '{self._names[first]}' on {line}"
            hint = "it is paid for once and delivered under both ids; 'takes: 2' makes two different results"
            row.findings.warn("same-job", row.mark, message, hint)


class Packed(Assembly):
    """Assembles entries that are packed (`batchrunner.manifest.packed`), row by row."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        inputs.forgets_urls = True
        self._fingerprints: list[str] = []
        self._blocks: list[bytes] = []
        self._rows: list[Content] = []  # of the next block

    def _keep(self, job: Job, fields: Mapping[str, Any], position: int) -> int:
        self._fingerprints.append(job.fingerprint)
        tags = dict(fields.get("tags") or _NO_TAGS)
        self._rows.append((job.model, job.inputs, job.params, tags, int(fields.get("priority") or 0)))
        if len(self._rows) == BLOCK:
            self._pack()
        return self._first.setdefault(job.fingerprint, position)

    def _pack(self) -> None:
        self._blocks.append(pack(self._rows))
        self._rows.clear()

    def entries(self) -> Sequence[Entry]:
        """Return the entries of a batch without errors. Equal jobs give a warning."""
        self._warn_of_equal_jobs()
        if self._rows:
            self._pack()
        entries = PackedEntries(self._blocks, self._names, self._fingerprints, self._file_names)
        return with_takes(entries, self._ids.takes) if self._ids.takes else entries


class Check(Assembly):
    """Checks rows and keeps no entries: of a row, its id, its place and 64 bits of its fingerprint."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__(inputs)
        inputs.forgets_urls = True
        self._keys: dict[int, int] = {}  # by the start of a fingerprint, as in `Job.key`: the first row of that job

    def _keep(self, job: Job, fields: Mapping[str, Any], position: int) -> int:
        return self._keys.setdefault(int(job.key, 16), position)

    def entries(self) -> Sequence[Entry]:
        """Return no entries. Equal jobs give a warning."""
        self._warn_of_equal_jobs()
        return ()
