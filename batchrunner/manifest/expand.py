"""From what the manifest says to one row per job: defaults, matrix, patterns. Pure: the file system is an argument.

Rule: rows come in the order in which they are written, jobs before the matrix, and in a matrix row the last key
varies fastest. The number of rows is known, and bounded, before the first is made.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from batchrunner.manifest.diagnostics import Findings
from batchrunner.manifest.inputs import is_pattern
from batchrunner.manifest.row import FIELDS, Row
from batchrunner.manifest.source import YamlList, YamlMapping

MAX_ROWS = 1_000_000
_FILES = ("video", "image")

# Takes a pattern, gives the matching paths as they would be written, in no particular order.
Glob = Callable[[str], list[str]]


@dataclass(frozen=True, slots=True)
class _Sheet:
    """What the rows of one manifest share."""

    defaults: Mapping[str, Any]
    default_marks: Mapping[str, int]
    bad: set[tuple[str | int, ...]]
    glob: Glob
    findings: Findings


def expand(root: Any, bad: set[tuple[str | int, ...]], glob: Glob, findings: Findings) -> list[Row]:
    """The rows of `root` (from `source.parse`), without the values at the `bad` places (from `schema.check`)."""
    top = root if isinstance(root, YamlMapping) else {"jobs": root}
    defaults = top.get("defaults")
    if not isinstance(defaults, YamlMapping):
        defaults = YamlMapping(0)
    usable = {key: each for key, each in defaults.items() if key in FIELDS and ("defaults", key) not in bad}
    sheet = _Sheet(usable, defaults.value_marks, bad, glob, findings)
    rows: list[Row] = []
    for section, make in (("jobs", _job), ("matrix", _combinations)):
        items = top.get(section)
        if not isinstance(items, YamlList):
            continue
        for index, item in enumerate(items):
            if isinstance(item, YamlMapping):
                rows += make(item, (section, index), sheet)
            if len(rows) > MAX_ROWS:
                place = items.marks[index]
                findings.error("too-many", place, f"more than {MAX_ROWS:,} jobs up to here", "split the batch")
                return []
    return rows


def _job(item: YamlMapping, where: tuple[str, int], sheet: _Sheet) -> list[Row]:
    known = FIELDS | {"id"}
    own = {key: value for key, value in item.items() if key in known and (*where, key) not in sheet.bad}
    row = _row(item, own, item.value_marks, sheet)
    _require_inputs(row, item, where, sheet)
    return [row]


def _row(item: YamlMapping, own: dict[str, Any], own_marks: Mapping[str, int], sheet: _Sheet) -> Row:
    """A row of its `own` fields and, below them, the defaults. Tags are merged key by key."""
    fields = {**sheet.defaults, **own}
    if "tags" in fields:
        fields["tags"] = {**sheet.defaults.get("tags", {}), **own.get("tags", {})}
    marks = {**sheet.default_marks, **own_marks} if sheet.defaults else own_marks
    return Row(fields, marks, item.mark)


def _require_inputs(row: Row, item: YamlMapping, where: tuple[str, int], sheet: _Sheet) -> None:
    """Note a missing video or image, unless it is there and was found unusable already."""
    for name in _FILES:
        if name not in row.fields and name not in item and ("defaults", name) not in sheet.bad:
            kind = "job" if where[0] == "jobs" else "matrix row"
            hint = f"add '{name}:' here or in 'defaults'"
            sheet.findings.error("missing-key", item.mark, f"the {kind} has no '{name}'", hint)


def _combinations(item: YamlMapping, where: tuple[str, int], sheet: _Sheet) -> list[Row]:
    """Every combination of what is listed in a matrix row."""
    axes: dict[str, list[tuple[Any, int]]] = {}
    for key, value in item.items():
        if key in FIELDS and (*where, key) not in sheet.bad:
            axes[key] = list(_choices(key, value, item.value_marks[key], sheet))
    bare = Row({**sheet.defaults, **axes}, {}, item.mark)
    _require_inputs(bare, item, where, sheet)
    number = math.prod(len(axis) for axis in axes.values())
    if number > MAX_ROWS:
        message = f"the matrix row stands for {number:,} jobs, at most {MAX_ROWS:,} are allowed"
        sheet.findings.error("too-many", item.mark, message, "list fewer values, or split the batch")
        return []
    return [
        _row(
            item,
            {key: value for key, (value, _) in zip(axes, choice, strict=True)},
            {key: place for key, (_, place) in zip(axes, choice, strict=True)},
            sheet,
        )
        for choice in itertools.product(*axes.values())
    ]


def _choices(key: str, value: Any, place: int, sheet: _Sheet) -> Iterator[tuple[Any, int]]:
    """The values that one key of a matrix row stands for, with their places; patterns are worked out, sorted."""
    listed = zip(value, value.marks, strict=True) if isinstance(value, YamlList) else ((value, place),)
    for each, each_place in listed:
        if key in _FILES and isinstance(each, str) and is_pattern(each):
            matches = sorted(sheet.glob(each))
            if not matches:
                hint = "patterns are relative to the manifest"
                sheet.findings.error("no-match", each_place, f"no file matches {each}", hint)
            yield from ((match, each_place) for match in matches)
        else:
            yield each, each_place
