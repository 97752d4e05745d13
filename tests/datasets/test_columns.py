"""Columns have one type each, and every row has every column."""

from typing import Any

import pytest

from batchrunner.datasets.columns import Columns, public_source, role_of
from batchrunner.providers import registry


def row(params: dict[str, Any] | None = None, model: str = "alibaba/wan2.2-14b-animate-replace", **more: Any) -> Any:
    values = dict.fromkeys(("width_px", "height_px", "duration_s", "bytes", "sha256", "generation_id", "verdict"))
    inputs = {"video": {"source": "a/walk.mp4", "sha256": "11"}, "image": {"source": "hero.jpg", "sha256": None}}
    request = {"model": model, "video": "a/walk.mp4", "image": "hero.jpg", **(params or {})}
    row = {"id": "a", "job": "a", "take": 1, "fingerprint": "sha256:00", "attempts": [], "quality": None, "tags": {}}
    return {**row, **values, "inputs": inputs, "request": request, **more}


def columns_of(*rows: Any) -> Columns:
    columns = Columns(registry.models())
    for item in rows:
        columns.add(item)
    return columns


HEAD = {"name": "heroes", "provider": "aimlapi"}


def test_every_row_has_every_column_in_one_order() -> None:
    rows = [row({"seed": 1}, tags={"b": "1"}), row({"resolution": "480p"}, tags={"a": "x"})]
    columns = columns_of(*rows)
    found = [columns.values(item, ["a"], HEAD) for item in rows]
    assert [list(item) for item in found] == [list(columns.types())] * 2
    assert found[0]["tags"] == {"a": None, "b": "1"}
    assert found[1]["seed"] is None
    assert found[0]["reference_sha256"] == "11"
    assert found[0]["reference_source"] == "walk.mp4"
    assert found[0]["character_sha256"] is None


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, 2], "int64", [1, 2]),
        ([1, 2.5], "float64", [1.0, 2.5]),
        ([True, None], "bool", [True, None]),
        ([1, "x"], "string", ["1", "x"]),
        ([True, 1], "string", ["true", "1"]),
        ([[1], {"b": 2}], "string", ["[1]", '{"b": 2}']),
        ([1, 1 << 70], "string", ["1", str(1 << 70)]),
        ([1.0, float("inf")], "float64", [1.0, None]),
    ],
)
def test_values_of_several_types_get_one(values: list[Any], kind: str, expected: list[Any]) -> None:
    rows = [row({"other": value}) for value in values]
    columns = columns_of(*rows)
    assert columns.types()["other"] == kind
    assert [columns.values(item, ["a"], HEAD)["other"] for item in rows] == expected


def test_the_type_of_a_parameter_comes_from_its_model() -> None:
    """`shift` is a number: a manifest that writes 5 and one that writes 5.0 give the same column."""
    columns = columns_of(row({"shift": 5}))
    assert columns.types()["shift"] == "float64"
    value = columns.values(row({"shift": 5}), ["a"], HEAD)["shift"]
    assert (value, type(value)) == (5.0, float)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("id", "parameter_id"),
        ("tags", "parameter_tags"),
        ("quality", "parameter_quality"),
        ("reference_sha256", "parameter_reference_sha256"),
        ("mask_file_name", "parameter_mask_file_name_"),
        ("video_path", "parameter_video_path"),
    ],
)
def test_a_parameter_takes_no_other_column_s_name(name: str, column: str) -> None:
    columns = columns_of(row({name: "x"}, tags={"a": "b"}))
    assert columns.values(row({name: "x"}, tags={"a": "b"}), ["a"], HEAD)[column] == "x"


def test_sources_have_no_folder_and_no_secret() -> None:
    assert public_source("../home/ann/walk.mp4") == "walk.mp4"
    assert public_source("C:\\media\\walk.mp4") == "walk.mp4"
    assert public_source("https://example.com/a/walk.mp4?…") == "https://example.com/a/walk.mp4"
    assert public_source("https://ann:pw@example.com/walk.mp4?X-Amz-Signature=abc#x") == "https://example.com/walk.mp4"
    assert public_source("data:image/png;base64,iVBOR…") == "data:"


def test_the_first_input_of_a_kind_has_the_usual_role() -> None:
    assert role_of({"video": "video", "image": "image"}) == {"video": "reference", "image": "character"}
    assert role_of({"a": "video", "b": "video"}) == {"a": "reference", "b": "b"}


def test_a_caption_is_taken_and_not_made_up() -> None:
    columns = columns_of(row())
    for item, caption in (
        (row(), None),
        (row({"prompt": "p"}), "p"),
        (row({"prompt": "p"}, tags={"caption": "t"}), "t"),
    ):
        assert columns.values(item, ["a"], HEAD)["caption"] == caption
