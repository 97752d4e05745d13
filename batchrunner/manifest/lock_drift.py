"""The differences between a manifest and its lock file, with places and next steps. Pure.

A difference in the manifest has its place there. An item that only the lock file has is at its line there. Causes come
before their effects: the recipe, models, variables, tables and inputs, then the jobs. Jobs that changed in the same way
are one difference.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from batchrunner.formatting import count_text, printable, size_text
from batchrunner.manifest.diagnostics.diagnostic import Diagnostic
from batchrunner.manifest.loader import Batch
from batchrunner.manifest.lockfile import Document
from batchrunner.manifest.trace import Place, Trace, input_key

_MOST_NAMES = 10
_MAX_VALUE = 80
_ITEM = re.compile(r'    ("(?:[^"\\]|\\.)*"): ')
_SECTION = re.compile(r'  "(\w+)": \{')
_COLUMN = 5  # of the items of a lock file


class Difference(NamedTuple):
    """One difference. place: in the manifest or a table; None for an `item` of a `section` of the lock file."""

    message: str
    place: Place | None
    section: str = ""
    item: str = ""


@dataclass(slots=True)
class _Comparison:
    """A lock file's content beside that of the manifest as it is now. places: of jobs, inputs and models, by name."""

    locked: Document
    current: Document
    trace: Trace
    places: Mapping[str, Mapping[str, Place]]
    changed_inputs: set[str] = field(default_factory=set)
    changed_models: set[str] = field(default_factory=set)
    _positions: dict[str, int] = field(default_factory=dict)

    def place(self, section: str, name: str) -> Place:
        """Return the place of an item in the manifest, or the manifest's start."""
        return self.places.get(section, {}).get(name, self.trace.start)

    def position(self, name: str) -> int:
        """Return the position of a job in the manifest; 0 for one that only the lock file has."""
        if not self._positions:
            self._positions = {job: number for number, job in enumerate(self.places["jobs"])}
        return self._positions.get(name, 0)

    def pairs(self, section: str) -> Iterator[tuple[str, Any, Any]]:
        """Yield the items that differ, by name, with both values; None for a missing one."""
        locked, current = self.locked[section], self.current[section]
        for name in sorted(locked.keys() | current.keys()):
            if locked.get(name) != current.get(name):
                yield name, locked.get(name), current.get(name)


def differences(locked: Document, current: Document, batch: Batch, trace: Trace) -> list[Difference]:
    """Return the differences between a lock file and a manifest. current: what `lockfile.build` makes of `batch`."""
    if locked == current:
        return []
    pair = _Comparison(locked, current, trace, _places(batch, trace))
    found = list(_recipe(pair))
    found += _models(pair)
    found += _variables(pair)
    found += _tables(pair)
    found += _inputs(pair)
    found += _jobs(pair)
    return found


def _places(batch: Batch, trace: Trace) -> Mapping[str, Mapping[str, Place]]:
    jobs: dict[str, Place] = {}
    models: dict[str, Place] = {}
    inputs: dict[str, Place] = {}
    for entry, place, media in trace.entries(batch.entries):
        jobs[entry.id] = place
        models.setdefault(entry.job.model, place)
        for item in media.values():
            inputs.setdefault(item.source, trace.inputs.get(input_key(item), place))
    variables = {name: (trace.findings, mark) for name, mark in trace.variable_marks.items()}
    return {"jobs": jobs, "models": models, "inputs": inputs, "tables": trace.tables, "variables": variables}


def _recipe(pair: _Comparison) -> Iterator[Difference]:
    name = "fingerprint_recipe"
    if (old := pair.locked[name]) != (new := pair.current[name]):
        message = f"the lock has fingerprints of recipe {old}, and this version of batchrunner makes recipe {new}"
        yield Difference(f"{message}: every job is another one", pair.trace.start)
        pair.changed_models |= pair.current["models"].keys()


def _models(pair: _Comparison) -> Iterator[Difference]:
    for name, old, new in pair.pairs("models"):
        if old is None:
            yield Difference(f"the model {name} was added since the lock", pair.place("models", name))
        elif new is None:
            yield Difference(f"the model {name} is in the lock, but no job uses it", None, "models", name)
        else:
            pair.changed_models.add(name)
            texts = _changes(old["defaults"], new["defaults"])
            message = f"this version of batchrunner has other defaults for the model {name} than the lock"
            yield Difference(f"{message}: {'; '.join(texts)}", pair.place("models", name))


def _variables(pair: _Comparison) -> Iterator[Difference]:
    for name, old, new in pair.pairs("variables"):
        if old is None:
            yield Difference(f"the variable {name} was added since the lock", pair.place("variables", name))
        elif new is None:
            yield Difference(f"the variable {name} is in the lock, but is not used", None, "variables", name)
        else:
            message = f"the variable {name} changed since the lock: {_text(old)} -> {_text(new)}"
            yield Difference(message, pair.place("variables", name))


def _tables(pair: _Comparison) -> Iterator[Difference]:
    for name, old, new in pair.pairs("tables"):
        if old is None:
            yield Difference(f"the table {name} was added since the lock", pair.place("tables", name))
        elif new is None:
            message = f"the table {name} is in the lock, but the manifest does not name it"
            yield Difference(message, None, "tables", name)
        else:
            message = f"the table {name} changed since the lock: {_content(old)} -> {_content(new)}"
            yield Difference(message, pair.place("tables", name))


def _inputs(pair: _Comparison) -> Iterator[Difference]:
    for name, old, new in pair.pairs("inputs"):
        if old is not None:
            pair.changed_inputs.add(name)
        if old is None:
            yield Difference(f"the input {name} was added since the lock", pair.place("inputs", name))
        elif new is None:
            yield Difference(f"the input {name} is in the lock, but no job uses it", None, "inputs", name)
        else:
            message = f"the input {name} changed since the lock: {_contents(old)} -> {_contents(new)}"
            yield Difference(message, pair.place("inputs", name))


def _jobs(pair: _Comparison) -> Iterator[Difference]:
    """Yield the differences of jobs that are not only effects of other differences. Equal changes are one."""
    changed: dict[str, list[str]] = {}
    added: list[str] = []
    removed: list[str] = []
    for name, old, new in pair.pairs("jobs"):
        if old is None:
            added.append(name)
        elif new is None:
            removed.append(name)
        elif texts := _job_changes(old, new, pair):
            changed.setdefault("; ".join(texts), []).append(name)
    for text, names in changed.items():
        yield Difference(f"{_counted(names, pair, 'changed since the lock')}: {text}", _first(names, pair))
    if added:
        predicates = ("was added since the lock", "were added since the lock")
        yield Difference(_counted(added, pair, *predicates), _first(added, pair))
    if removed:
        predicates = ("is in the lock, but not in the manifest", "are in the lock, but not in the manifest")
        yield Difference(_counted(removed, pair, *predicates), None, "jobs", removed[0])


def _first(names: Sequence[str], pair: _Comparison) -> Place:
    return pair.place("jobs", min(names, key=pair.position))


def _counted(names: Sequence[str], pair: _Comparison, one: str, many: str = "") -> str:
    """Return a sentence about jobs, with the first of their names in the order of the manifest."""
    names = sorted(names, key=pair.position)
    listed = ", ".join(printable(name, _MAX_VALUE) for name in names[:_MOST_NAMES])
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return f"{count_text(len(names), 'job')} {one if len(names) == 1 else many or one} ({listed}{more})"


def _job_changes(old: Mapping[str, Any], new: Mapping[str, Any], pair: _Comparison) -> list[str]:
    """Return the changes of one job as text; empty if other differences explain them."""
    texts = _changes(_fields(old), _fields(new), _defaults(old, pair.locked), _defaults(new, pair.current))
    if texts or old["fingerprint"] == new["fingerprint"]:
        return texts
    if old["model"] in pair.changed_models or not pair.changed_inputs.isdisjoint(new["inputs"].values()):
        return []
    return ["its fingerprint, but nothing else that the lock has of it; was the lock edited by hand?"]


def _fields(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the lock has of a job besides its fingerprint, field by field."""
    fields = {"model": job["model"], "take": job.get("take"), "file": job.get("file")}
    fields |= job["inputs"] | job.get("params", {})
    fields |= {f"tags.{name}": text for name, text in job.get("tags", {}).items()}
    return {name: value for name, value in fields.items() if value is not None}


def _defaults(job: Mapping[str, Any], document: Document) -> Mapping[str, Any]:
    found: Mapping[str, Any] = document["models"].get(job["model"], {}).get("defaults", {})
    return found


_NO_DEFAULTS: Mapping[str, Any] = MappingProxyType({})


def _changes(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    old_defaults: Mapping[str, Any] = _NO_DEFAULTS,
    new_defaults: Mapping[str, Any] = _NO_DEFAULTS,
) -> list[str]:
    """Return the fields that differ, ``name: old -> new``. A field that neither has is the same at any default."""
    texts = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name, old_defaults.get(name)), new.get(name, new_defaults.get(name))
        if before != after:
            texts.append(f"{name}: {_text(before)} -> {_text(after)}")
    return texts


def _text(value: Any) -> str:
    """Return a value for people."""
    if value is None:
        return "not set"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return printable(str(value), _MAX_VALUE)


def _contents(value: Any) -> str:
    return ", ".join(map(_content, value if isinstance(value, list) else [value]))


def _content(value: Mapping[str, Any]) -> str:
    """Return a digest and a size for people."""
    if "url_sha256" in value:
        return f"the URL with SHA-256 {value['url_sha256'][:12]}"
    if "etag" in value:
        return f"ETag {printable(value['etag'], _MAX_VALUE)}, {size_text(value['bytes'])}"
    return f"SHA-256 {value['sha256'][:12]}, {size_text(value['bytes'])}" if "sha256" in value else "not read"


def as_diagnostics(found: Iterable[Difference], shown: str, text: str, hint: str) -> list[Diagnostic]:
    """Return the differences as errors. shown, text: path and content of the lock file. hint: the next step."""
    lines: Mapping[tuple[str, str], int] | None = None
    diagnostics = []
    for item in found:
        message = printable(item.message)
        if item.place is not None:
            findings, mark = item.place
            diagnostics.append(findings.diagnostic("lock", mark, message, hint))
            continue
        lines = _line_numbers(text) if lines is None else lines
        line = lines.get((item.section, item.item))
        place = (1, 1) if line is None else (line, _COLUMN)
        diagnostics.append(Diagnostic("lock", "error", shown, *place, message, hint))
    return diagnostics


def _line_numbers(text: str) -> Mapping[tuple[str, str], int]:
    """Return the line of each item of a lock file, by section and name, if the file has one item a line."""
    found: dict[tuple[str, str], int] = {}
    section = ""
    for number, line in enumerate(text.split("\n"), 1):
        if start := _SECTION.match(line):
            section = start[1]
        elif item := _ITEM.match(line):
            found[section, json.loads(item[1])] = number
    return found
