"""From what the manifest says to one row per job: defaults, tables, matrix, patterns. Pure: files are an argument.

Rule: rows come in the order in which they are written, jobs first, then tables, then the matrix, and in a matrix row
the last key varies fastest. Rows are made one by one as they are asked for, and never more than MAX_ROWS. What the
manifest said of a job is let go as soon as its row is made.
"""

import fnmatch
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from batchrunner.manifest.diagnostics.diagnostic import Findings
from batchrunner.manifest.fingerprint import PARAMETERS
from batchrunner.manifest.inputs import is_pattern
from batchrunner.manifest.row import FIELDS, Row
from batchrunner.manifest.yaml_source.parser import YamlList, YamlMapping
from batchrunner.storage.paths import expanded

MAX_ROWS = 1_000_000
MAX_COMPARISONS = 50_000_000
_FILES = ("video", "image")
_INPUTS = frozenset(_FILES)
_NAMES = {"jobs": "job", "jobs_from": "row", "matrix": "matrix row"}

# Takes a pattern, gives the matching paths as they would be written, in no particular order.
Glob = Callable[[str], list[str]]
# Takes a table's name, its place in the manifest and whether it may be empty; gives its rows, their own fields alone.
Read = Callable[[str, int, bool], Iterator[Row]]


@dataclass(frozen=True, slots=True)
class _RowContext:
    """What the rows of one manifest share. unusable: fields of the defaults that were refused."""

    defaults: Mapping[str, Any]
    default_marks: Mapping[str, int]
    unusable: frozenset[str]
    allow_empty: bool
    bad: set[tuple[str | int, ...]]
    glob: Glob
    findings: Findings


def expand(root: Any, bad: set[tuple[str | int, ...]], glob: Glob, read: Read, findings: Findings) -> Iterator[Row]:
    """The rows of `root` (from `source.parse`), without the values at the `bad` places (from `schema.check`).

    Takes the lists of `root` apart as it goes. Ends early where there are too many rows, which is noted.
    """
    top = root if isinstance(root, YamlMapping) else {"jobs": root}
    defaults = top.get("defaults")
    if not isinstance(defaults, YamlMapping):
        defaults = YamlMapping(0)
    usable = {key: each for key, each in defaults.items() if key in FIELDS and ("defaults", key) not in bad}
    allow_empty = top.get("allow_empty") is True
    refused = frozenset(defaults) - usable.keys()
    sheet = _RowContext(usable, defaults.value_marks, refused, allow_empty, bad, glob, findings)
    made = 0
    for place, rows in _groups(top, sheet, read):
        for row in rows:
            made += 1
            if made > MAX_ROWS:
                message, hint = f"more than {MAX_ROWS:,} jobs up to here", "split the batch"
                findings.error("too-many", place, message, hint)
                return
            yield row


def _groups(top: Mapping[str, Any], sheet: _RowContext, read: Read) -> Iterator[tuple[int, Iterator[Row]]]:
    """The rows that each entry of each section stands for, with its place in the manifest."""
    for index, item, place in _spent(top.get("jobs")):
        if isinstance(item, YamlMapping):
            yield place, iter((_job(item, ("jobs", index), sheet),))
    for _, name, place in _tables(top, sheet):
        yield place, _table(name, place, sheet, read)
    for index, item, place in _spent(top.get("matrix")):
        if isinstance(item, YamlMapping):
            yield place, _combinations(item, ("matrix", index), sheet)


def _spent(items: Any) -> Iterator[tuple[int, Any, int]]:
    """The entries of a list with their numbers and places; each is let go as it is handed out."""
    if isinstance(items, YamlList):
        for index, place in enumerate(items.marks):
            item, items[index] = items[index], None
            yield index, item, place


def _tables(top: Mapping[str, Any], sheet: _RowContext) -> Iterator[tuple[int, str, int]]:
    named = top.get("jobs_from")
    if isinstance(named, str) and isinstance(top, YamlMapping) and ("jobs_from",) not in sheet.bad:
        yield 0, named, top.value_marks["jobs_from"]
    for index, name, place in _spent(named):
        if isinstance(name, str) and ("jobs_from", index) not in sheet.bad:
            yield index, name, place


def _table(name: str, place: int, sheet: _RowContext, read: Read) -> Iterator[Row]:
    """The rows of a table, with the defaults below them."""
    for own in read(name, place, sheet.allow_empty):
        row = replace(own, fields=_over_defaults(own.fields, sheet)) if sheet.defaults else own
        _require_inputs(row, "jobs_from", sheet)
        yield row


def _job(item: YamlMapping, where: tuple[str, int], sheet: _RowContext) -> Row:
    own, unusable = _own(item, FIELDS | {"id"}, where, sheet)
    row = _row(item, own, item.value_marks, unusable, sheet)
    _require_inputs(row, "jobs", sheet)
    return row


def _own(
    item: YamlMapping, known: frozenset[str], where: tuple[str, int], sheet: _RowContext
) -> tuple[dict[str, Any], frozenset[str]]:
    """The item's fields that can be used, and the names of those that cannot."""
    own = {key: value for key, value in item.items() if key in known and (*where, key) not in sheet.bad}
    unusable = frozenset(item) - own.keys() if len(own) < len(item) else frozenset()
    return own, unusable


def _row(
    item: YamlMapping, own: Mapping[str, Any], marks: Mapping[str, int], unusable: frozenset[str], sheet: _RowContext
) -> Row:
    """A row of its `own` fields and, below them, the defaults."""
    whole = {**sheet.default_marks, **marks} if sheet.defaults else marks
    return Row(_over_defaults(own, sheet), whole, item.mark, sheet.findings, unusable)


def _over_defaults(own: Mapping[str, Any], sheet: _RowContext) -> Mapping[str, Any]:
    """The fields with the defaults for those that are not there. Tags are merged key by key."""
    if not sheet.defaults:
        return own
    fields = {**sheet.defaults, **own}
    if "tags" in fields:
        fields["tags"] = {**sheet.defaults.get("tags", {}), **own.get("tags", {})}
    return fields


def _require_inputs(row: Row, section: str, sheet: _RowContext) -> None:
    """Note a missing video or image, unless it is there and was found unusable already."""
    if row.fields.keys() >= _INPUTS:
        return
    for name in _FILES:
        if name not in row.fields and name not in row.unusable and name not in sheet.unusable:
            hint = f"fill the column '{name}', or add it to 'defaults'"
            if section != "jobs_from":
                hint = f"add '{name}:' here or in 'defaults'"
            row.findings.error("missing-key", row.mark, f"the {_NAMES[section]} has no '{name}'", hint)


def _combinations(item: YamlMapping, where: tuple[str, int], sheet: _RowContext) -> Iterator[Row]:
    """Every combination of what is listed in a matrix row, but for those that it excludes."""
    own, unusable = _own(item, FIELDS, where, sheet)
    allow_empty = item.get("allow_empty", sheet.allow_empty) is True
    axes = {key: list(_choices(key, own[key], item.value_marks[key], allow_empty, sheet)) for key in own}
    _require_inputs(Row({**sheet.defaults, **axes}, {}, item.mark, sheet.findings, unusable), "matrix", sheet)
    number = math.prod(len(axis) for axis in axes.values())
    exclude = item.get("exclude") if (*where, "exclude") not in sheet.bad else None
    exclusions = _exclusions(exclude, sheet) if isinstance(exclude, YamlList) else []
    if number > MAX_ROWS or number * len(exclusions) > MAX_COMPARISONS:
        message = f"the matrix row stands for {number:,} jobs, at most {MAX_ROWS:,} are allowed"
        if number <= MAX_ROWS:
            message = f"{len(exclusions):,} exclusions from {number:,} jobs are too many to compare"
        sheet.findings.error("too-many", item.mark, message, "list fewer values, or split the batch")
        return
    left = 0
    for choice in itertools.product(*axes.values()):
        fields = {key: value for key, (value, _) in zip(axes, choice, strict=True)}
        marks = {key: place for key, (_, place) in zip(axes, choice, strict=True)}
        row = _row(item, fields, marks, unusable, sheet)
        if not _excluded(row, exclusions):
            left += 1
            yield row
    _tell_of_exclusions(item, exclusions, number - left, sheet, all_gone=bool(number) and not left and not allow_empty)


@dataclass(slots=True)
class _Exclusion:
    """A combination that is left out: what each field must be. hits: how many jobs it fits."""

    fields: Mapping[str, Any]
    place: int
    hits: int = 0


def _exclusions(listed: YamlList, sheet: _RowContext) -> list[_Exclusion]:
    return [
        _Exclusion({key: each[key] for key in each if key in FIELDS}, place)
        for each, place in zip(listed, listed.marks, strict=True)
        if isinstance(each, YamlMapping)
    ]


def _excluded(row: Row, exclusions: list[_Exclusion]) -> bool:
    """Whether an exclusion fits the row; every one that does is counted."""
    excluded = False
    for each in exclusions:
        if all(_fits(wanted, key, row) for key, wanted in each.fields.items()):
            each.hits += 1
            excluded = True
    return excluded


def _fits(wanted: Any, key: str, row: Row) -> bool:
    value = row.fields.get(key, PARAMETERS.get(key))
    if key in _FILES and isinstance(value, str) and is_pattern(wanted):
        return wanted == value or fnmatch.fnmatchcase(value, expanded(wanted))
    return bool(value == wanted)


def _tell_of_exclusions(
    item: YamlMapping, exclusions: list[_Exclusion], number: int, sheet: _RowContext, *, all_gone: bool
) -> None:
    for each in exclusions:
        if not each.hits and not (sheet.allow_empty or item.get("allow_empty") is True):
            hint = "its values must be written as they are listed in the row"
            sheet.findings.warn("no-match", each.place, "this exclusion fits no job of its row", hint)
    if all_gone:
        message = f"the matrix row excludes all of its {number:,} jobs"
        sheet.findings.error("no-match", item.key_marks["exclude"], message, "'allow_empty: true' in it lets it be")


def _choices(key: str, value: Any, place: int, allow_empty: bool, sheet: _RowContext) -> Iterator[tuple[Any, int]]:
    """The values that one key of a matrix row stands for, with their places; patterns are worked out, sorted."""
    listed = zip(value, value.marks, strict=True) if isinstance(value, YamlList) else ((value, place),)
    for each, each_place in listed:
        if key in _FILES and isinstance(each, str) and is_pattern(each):
            matches = sorted(sheet.glob(each))
            if not matches and not allow_empty:
                hint = "patterns are relative to the manifest; 'allow_empty: true' lets it be"
                sheet.findings.error("no-match", each_place, f"no file matches {each}", hint)
            yield from ((match, each_place) for match in matches)
        else:
            yield each, each_place
