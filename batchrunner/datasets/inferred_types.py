"""Rows for loaders that infer the type of each column from the rows of each split. Pure.

Hugging Face reads the beginning of each metadata.jsonl and refuses a data set whose files differ in a type. A value
that a whole split lacks has no type there, and a text such as ``2026-11-30`` becomes a time. So where a split would not
show a column's type, its values are text in all splits: a text itself, "" if it is missing, and JSON for other values.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from batchrunner.datasets.items import Dataset, Dtype

TEXT = "text"  # a text, or "" for a missing one
AS_JSON = "json"  # JSON text, or "" for a missing value
_FIRST_ROWS = 1_000  # a loader infers from 10 MB at least
_DATE = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d(:?\d\d(:?\d\d)?)?(Z|[+-]\d\d(:?\d\d)?)?)?", re.ASCII)
_OPENED = re.compile(r"(.*_)?file_names?", re.DOTALL)  # a loader opens the value of such a key as a file
_Leaf = tuple[str, ...]  # the names of a column and of a value nested in it


class _Seen:
    """What a split shows of a value. type_shown, only_dates: in its first rows. any: in some row."""

    __slots__ = ("any", "only_dates", "type_shown")

    def __init__(self) -> None:
        self.type_shown = self.only_dates = self.any = False

    def add(self, value: Any, *, is_early: bool) -> None:
        """Add a row's value, which is not missing."""
        self.any = True
        if is_early:
            is_date = isinstance(value, str) and bool(_DATE.fullmatch(value))
            self.type_shown |= not is_date
            self.only_dates = not self.type_shown


def inferred_types(dataset: Dataset) -> dict[str, Dtype]:
    """Return the columns as `encoded` writes them: those of the data set, with TEXT or AS_JSON where needed."""
    leaves = dict(_leaves(dataset.columns))
    splits = [_seen(dataset, split, leaves) for split in dataset.splits if dataset.count(split)]
    changed = {leaf: _changed(leaves[leaf], [seen[leaf] for seen in splits]) for leaf in leaves}
    return {name: _with(changed, (name,), kind) for name, kind in dataset.columns.items()}


def _leaves(columns: Mapping[str, Dtype], above: _Leaf = ()) -> Iterator[tuple[_Leaf, str]]:
    for name, kind in columns.items():
        if isinstance(kind, str):
            yield (*above, name), kind
        else:
            yield from _leaves(kind, (*above, name))


def _seen(dataset: Dataset, split: str, leaves: Iterable[_Leaf]) -> dict[_Leaf, _Seen]:
    found = {leaf: _Seen() for leaf in leaves}
    for number, item in enumerate(dataset.items(split)):
        for leaf, seen in found.items():
            if seen.type_shown:
                continue
            value: Any = item.values
            for name in leaf:
                value = value and value.get(name)
            for one in value if isinstance(value, list | tuple) else (value,):
                if one is not None:
                    seen.add(one, is_early=number < _FIRST_ROWS)
    return found


def _changed(kind: str, splits: list[_Seen]) -> str:
    if all(seen.type_shown for seen in splits) or (kind != "strings" and not any(seen.any for seen in splits)):
        return kind
    return TEXT if kind == "string" and not any(seen.only_dates for seen in splits) else AS_JSON


def _with(changed: Mapping[_Leaf, str], leaf: _Leaf, kind: Dtype) -> Dtype:
    if isinstance(kind, str):
        return changed[leaf]
    if any(map(_OPENED.fullmatch, kind)):
        return AS_JSON
    return {name: _with(changed, (*leaf, name), item) for name, item in kind.items()}


def encoded(value: Any, kind: Dtype) -> Any:
    """Return a value as a column of `inferred_types` has it."""
    if kind == AS_JSON:
        return "" if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    if kind == TEXT:
        return value or ""
    if isinstance(kind, Mapping):
        return {name: encoded((value or {}).get(name), item) for name, item in kind.items()}
    return value
