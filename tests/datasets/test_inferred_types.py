"""Rows whose types a loader infers equally in every split."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from batchrunner.datasets.inferred_types import AS_JSON, TEXT, encoded, inferred_types
from batchrunner.datasets.items import Description, Dtype, Item, MediaFile


class Rows:
    """A data set with these values of one column, by split."""

    def __init__(self, values: Mapping[str, list[Any]], kind: Dtype) -> None:
        self.values = values
        self.description = Description("x")
        self.splits = tuple(values)
        self.columns: Mapping[str, Dtype] = {"x": kind}
        self.roles: tuple[str, ...] = ()

    def count(self, split: str) -> int:
        return len(self.values[split])

    def items(self, split: str) -> Iterator[Item]:
        clip = MediaFile(Path("x"), "", 0, ".mp4")
        return (Item("", ("a",), split, clip, {}, {"x": value}) for value in self.values[split])


@pytest.mark.parametrize(
    ("kind", "train", "test", "expected"),
    [
        ("int64", [1, None], [2], "int64"),
        ("int64", [None], [None], "int64"),  # the same null type everywhere
        ("int64", [1], [None], AS_JSON),
        ("bool", [None], [True], AS_JSON),
        ("string", ["a", None], ["b"], "string"),
        ("string", ["a"], [None], TEXT),
        ("string", ["2026-11-30"], ["b"], AS_JSON),  # a loader makes a time of it
        ("string", ["2026-11-30 12:00", "b"], ["b"], "string"),
        ("string", ["2026-11-30"], [None], AS_JSON),
        ("string", ["2026-11-30T06:56:31.373Z"], ["b"], "string"),
        ("strings", [["a"]], [["b"]], "strings"),
        ("strings", [[]], [[]], AS_JSON),
        ("strings", [["2026-11-30"]], [["b"]], AS_JSON),
        ({"a": "string", "b": "float64"}, [{"a": "x", "b": 1.0}], [{"a": None, "b": None}], {"a": TEXT, "b": AS_JSON}),
        ({"a": "float64"}, [{"a": 1.0}], [None], {"a": AS_JSON}),
        ({"x_file_name": "string"}, [{"x_file_name": "a"}], [{"x_file_name": "b"}], AS_JSON),
        ({"file_names": "string"}, [{"file_names": "a"}], [{"file_names": "b"}], AS_JSON),
        ("int64", [None] * 1_000 + [1], [1], AS_JSON),  # not in the rows from which a loader infers
        ("string", [None] * 1_000 + ["a"], ["a"], TEXT),
    ],
)
def test_a_type_stands_only_if_every_split_shows_it(kind: Dtype, train: Any, test: Any, expected: Dtype) -> None:
    assert inferred_types(Rows({"train": train, "empty": [], "test": test}, kind)) == {"x": expected}


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (None, AS_JSON, ""),
        (3, AS_JSON, "3"),
        ("2026-11-30", AS_JSON, '"2026-11-30"'),
        ([], AS_JSON, "[]"),
        ({"b": 1, "a": "ü"}, AS_JSON, '{"a":"ü","b":1}'),
        (None, TEXT, ""),
        ("a", TEXT, "a"),
        (None, "string", None),
        (1.5, "float64", 1.5),
        (None, {"a": TEXT, "b": "int64"}, {"a": "", "b": None}),
    ],
)
def test_values_are_written_as_their_type(value: Any, kind: Dtype, expected: Any) -> None:
    assert encoded(value, kind) == expected
