"""Expand the manifest to one row per job: defaults, tables, matrix, patterns. Pure: files are an argument.

Rows are in written order: first jobs, then tables, then the matrix. In a matrix row the last key varies fastest. Rows
are generated lazily, and at most MAX_ROWS. The manifest's value of a job is dropped as soon as its row exists.
"""

import fnmatch
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from batchrunner.manifest.diagnostics.diagnostic import Findings
from batchrunner.manifest.inputs import is_pattern
from batchrunner.manifest.row import Row, job_fields, row_fields
from batchrunner.manifest.yaml_source.values import YamlList, YamlMapping
from batchrunner.media.probe import MediaProblem
from batchrunner.providers import registry
from batchrunner.providers.models import ModelSpec
from batchrunner.storage.paths import expanded

MAX_ROWS = 1_000_000
MAX_COMPARISONS = 50_000_000
_NAMES = {"jobs": "job", "jobs_from": "row", "matrix": "matrix row"}

# Takes a pattern, and returns the matching paths as they would be written, in any order.
Glob = Callable[[str], list[str]]
# Takes a table's name, its place in the manifest and whether it may be empty, and yields its rows without defaults.
Read = Callable[[str, int, bool], Iterator[Row]]


class _RowContext(NamedTuple):
    """The context that the rows of one manifest share. unusable: rejected fields of the defaults."""

    defaults: Mapping[str, Any]
    default_marks: Mapping[str, int]
    unusable: frozenset[str]
    allow_empty: bool
    bad: set[tuple[str | int, ...]]
    glob: Glob
    findings: Findings
    has_files: bool


def expand(
    root: Any,
    bad: set[tuple[str | int, ...]],
    glob: Glob,
    read: Read,
    findings: Findings,
    *,
    has_files: bool = True,
) -> Iterator[Row]:
    """Yield the rows of `root` (from `parser.parse`), without the values at the `bad` places (from `schema.check`).

    has_files: whether the input files are expected to exist. Otherwise a pattern without a match is not an error.
    Consumes the lists of `root`. Records an error and stops if there are too many rows.
    """
    top = root if isinstance(root, YamlMapping) else {"jobs": root}
    defaults = top.get("defaults")
    if not isinstance(defaults, YamlMapping):
        defaults = YamlMapping(0)
    known = row_fields()
    usable = {key: element for key, element in defaults.items() if key in known and ("defaults", key) not in bad}
    allow_empty = top.get("allow_empty") is True
    refused = frozenset(defaults) - usable.keys()
    model = top.get("model")
    if model in registry.models() and model != registry.DEFAULT_MODEL:
        usable["model"] = model  # the batch's model is a default of its jobs
    context = _RowContext(usable, defaults.value_marks, refused, allow_empty, bad, glob, findings, has_files)
    count = 0
    for place, rows in _groups(top, context, read):
        for row in rows:
            count += int(row.fields.get("takes", 1))
            if count > MAX_ROWS:
                message, hint = f"more than {MAX_ROWS:,} jobs up to here", "split the batch"
                findings.error("too-many", place, message, hint)
                return
            yield row


def _groups(top: Mapping[str, Any], context: _RowContext, read: Read) -> Iterator[tuple[int, Iterator[Row]]]:
    """Yield the place in the manifest and the rows of each entry of each section."""
    for index, item, place in _spent(top.get("jobs")):
        if isinstance(item, YamlMapping):
            yield place, iter((_job(item, ("jobs", index), context),))
    for _, name, place in _tables(top, context):
        yield place, _table(name, place, context, read)
    for index, item, place in _spent(top.get("matrix")):
        if isinstance(item, YamlMapping):
            yield place, _combinations(item, ("matrix", index), context)


def _spent(items: Any) -> Iterator[tuple[int, Any, int]]:
    """Yield the entries of a list with their numbers and places, and remove them from the list."""
    if isinstance(items, YamlList):
        for index, place in enumerate(items.marks):
            item, items[index] = items[index], None
            yield index, item, place


def _tables(top: Mapping[str, Any], context: _RowContext) -> Iterator[tuple[int, str, int]]:
    named = top.get("jobs_from")
    if isinstance(named, str) and isinstance(top, YamlMapping) and ("jobs_from",) not in context.bad:
        yield 0, named, top.value_marks["jobs_from"]
    for index, name, place in _spent(named):
        if isinstance(name, str) and ("jobs_from", index) not in context.bad:
            yield index, name, place


def _table(name: str, place: int, context: _RowContext, read: Read) -> Iterator[Row]:
    """Yield the rows of a table with defaults applied."""
    for own in read(name, place, context.allow_empty):
        row = replace(own, fields=_over_defaults(own.fields, context)) if context.defaults else own
        _require_inputs(row, "jobs_from", context)
        yield row


def _job(item: YamlMapping, where: tuple[str, int], context: _RowContext) -> Row:
    own, unusable = _own(item, job_fields(), where, context)
    row = _row(item, own, item.value_marks, unusable, context)
    _require_inputs(row, "jobs", context)
    return row


def _own(
    item: YamlMapping, known: frozenset[str], where: tuple[str, int], context: _RowContext
) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the item's usable fields, and the names of the unusable ones."""
    own = {key: value for key, value in item.items() if key in known and (*where, key) not in context.bad}
    unusable = frozenset(item) - own.keys() if len(own) < len(item) else frozenset()
    return own, unusable


def _row(
    item: YamlMapping, own: Mapping[str, Any], marks: Mapping[str, int], unusable: frozenset[str], context: _RowContext
) -> Row:
    """Return a row of its `own` fields and the defaults."""
    whole = {**context.default_marks, **marks} if context.defaults else marks
    return Row(_over_defaults(own, context), whole, item.mark, context.findings, unusable)


def _over_defaults(own: Mapping[str, Any], context: _RowContext) -> Mapping[str, Any]:
    """Return the fields with defaults for missing ones. Tags are merged key by key."""
    if not context.defaults:
        return own
    fields = {**context.defaults, **own}
    if "tags" in fields:
        fields["tags"] = {**context.defaults.get("tags", {}), **own.get("tags", {})}
    return fields


def _require_inputs(row: Row, section: str, context: _RowContext) -> None:
    """Record a missing input, unless it is present but already reported as unusable."""
    spec = registry.spec_of(row.fields)
    if "model" not in row.unusable and not row.fields.keys() >= spec.required:
        _require(spec, row, section, context)


def _require(spec: ModelSpec, row: Row, section: str, context: _RowContext) -> None:
    for name, _ in spec.kinds:
        if (
            name in spec.required
            and name not in row.fields
            and name not in row.unusable
            and name not in context.unusable
        ):
            hint = f"fill the column '{name}', or add it to 'defaults'"
            if section != "jobs_from":
                hint = f"add '{name}:' here or in 'defaults'"
            row.findings.error("missing-key", row.mark, f"the {_NAMES[section]} has no '{name}'", hint)


def _combinations(item: YamlMapping, where: tuple[str, int], context: _RowContext) -> Iterator[Row]:
    """Yield every combination of the values in a matrix row, except for excluded ones."""
    own, unusable = _own(item, row_fields(), where, context)
    allow_empty = item.get("allow_empty", context.allow_empty) is True or not context.has_files
    axes = {key: list(_choices(key, own[key], item.value_marks[key], allow_empty, context)) for key in own}
    whole = Row({**context.defaults, **axes}, {}, item.mark, context.findings, unusable)
    named = [name for name, _ in axes["model"]] if "model" in axes else [context.defaults.get("model")]
    for model in dict.fromkeys(named):
        _require(registry.models()[model or registry.DEFAULT_MODEL], whole, "matrix", context)
    number = math.prod(len(axis) for axis in axes.values())
    exclude = item.get("exclude") if (*where, "exclude") not in context.bad else None
    exclusions = _exclusions(exclude, context) if isinstance(exclude, YamlList) else []
    if number > MAX_ROWS or number * len(exclusions) > MAX_COMPARISONS:
        message = f"the matrix row expands to {number:,} jobs, at most {MAX_ROWS:,} are allowed"
        if number <= MAX_ROWS:
            message = f"{len(exclusions):,} exclusions from {number:,} jobs are too many to compare"
        context.findings.error("too-many", item.mark, message, "list fewer values, or split the batch")
        return
    left = 0
    for choice in itertools.product(*axes.values()):
        fields = {key: value for key, (value, _) in zip(axes, choice, strict=True)}
        marks = {key: place for key, (_, place) in zip(axes, choice, strict=True)}
        row = _row(item, fields, marks, unusable, context)
        if not _excluded(row, exclusions):
            left += 1
            yield row
    _report_exclusions(item, exclusions, number - left, context, all_gone=bool(number) and not left and not allow_empty)


@dataclass(slots=True)
class _Exclusion:
    """A combination to leave out: the value of each field. hits: the number of matching jobs."""

    fields: Mapping[str, Any]
    place: int
    hits: int = 0


def _exclusions(listed: YamlList, context: _RowContext) -> list[_Exclusion]:
    known = row_fields()
    return [
        _Exclusion({key: element[key] for key in element if key in known}, place)
        for element, place in zip(listed, listed.marks, strict=True)
        if isinstance(element, YamlMapping)
    ]


def _excluded(row: Row, exclusions: list[_Exclusion]) -> bool:
    """Return True if an exclusion matches the row. All matching exclusions count a hit."""
    excluded = False
    for element in exclusions:
        if all(_fits(wanted, key, row) for key, wanted in element.fields.items()):
            element.hits += 1
            excluded = True
    return excluded


def _fits(wanted: Any, key: str, row: Row) -> bool:
    value = row.fields.get(key)
    if value is None:
        spec = registry.spec_of(row.fields)
        value = spec.name if key == "model" else spec.defaults.get(key)
    if key in registry.input_names() and isinstance(value, str) and is_pattern(wanted):
        return wanted == value or fnmatch.fnmatchcase(value, expanded(wanted))
    return bool(value == wanted)


def _report_exclusions(
    item: YamlMapping, exclusions: list[_Exclusion], number: int, context: _RowContext, *, all_gone: bool
) -> None:
    for element in exclusions:
        allow_empty = context.allow_empty or item.get("allow_empty") is True or not context.has_files
        if not element.hits and not allow_empty:
            hint = "write its values as they are listed in the row"
            context.findings.warn("no-match", element.place, "this exclusion matches no job of its row", hint)
    if all_gone:
        message = f"the matrix row excludes all of its {number:,} jobs"
        context.findings.error(
            "no-match", item.key_marks["exclude"], message, "'allow_empty: true' in the row allows this"
        )


def _choices(key: str, value: Any, place: int, allow_empty: bool, context: _RowContext) -> Iterator[tuple[Any, int]]:
    """Yield the values of one key of a matrix row with their places. Patterns are expanded and sorted."""
    listed = zip(value, value.marks, strict=True) if isinstance(value, YamlList) else ((value, place),)
    for element, element_place in listed:
        if key in registry.input_names() and isinstance(element, str) and is_pattern(element):
            try:
                matches = sorted(context.glob(element))
            except MediaProblem as problem:
                context.findings.error(key, element_place, problem.message, problem.hint)
                continue
            if not matches and not allow_empty:
                hint = "patterns are relative to the manifest; 'allow_empty: true' allows this"
                context.findings.error("no-match", element_place, f"no file matches {element}", hint)
            yield from ((match, element_place) for match in matches)
        else:
            yield element, element_place
