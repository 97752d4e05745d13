"""The fast check accepts only what the full validator accepts, and it accepts common jobs."""

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.manifest import schema as whole_schema
from batchrunner.manifest import schema_fast
from batchrunner.manifest.schema import typed
from batchrunner.settings import SETTINGS
from tests.manifest_tools import job

DEFINITIONS = whole_schema()["$defs"]
SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 1500),
    st.floats(allow_nan=False),
    st.text(max_size=4),
    st.sampled_from(["480p", "720p", "high", "fast", "15s", "06:00", "10%", "{id}", "x.csv", 1, 1.0, 30.0, "aimlapi"]),
)
FIELDS = st.sampled_from([*DEFINITIONS["job"]["properties"], "exclude", "allow_empty", "other"])
VALUES = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.text(max_size=2), SCALARS, max_size=2),
    st.lists(st.dictionaries(FIELDS, SCALARS, max_size=2), max_size=2),
)
ROW = st.dictionaries(FIELDS, VALUES, max_size=4)
TOP = st.dictionaries(st.sampled_from([*whole_schema()["else"]["properties"], "other"]), VALUES, max_size=4)


@pytest.mark.parametrize("name", ["job", "row", "defaults", ""])
def test_true_is_always_correct(name: str) -> None:
    section = DEFINITIONS[name] if name else whole_schema()
    fits = schema_fast.compiled(section, DEFINITIONS)
    reference: dict[str, Any] = {"$ref": f"#/$defs/{name}", "$defs": DEFINITIONS} if name else whole_schema()
    validator = jsonschema.Draft202012Validator(reference)
    said = []

    @given(ROW if name else st.one_of(TOP.map(lambda top: {**top, "jobs": [{}]}), TOP, st.lists(ROW, max_size=2)))
    @settings(max_examples=200, deadline=None, derandomize=True)
    def check(value: object) -> None:
        yes = fits(value)
        said.append(yes)
        assert not yes or validator.is_valid(value)

    check()
    assert any(said)
    assert not all(said)


def test_a_common_job_is_accepted() -> None:
    fits = schema_fast.compiled(DEFINITIONS["job"], DEFINITIONS)
    for properties in (
        {"resolution": "720p", "num_inference_steps": 30, "shift": 5, "tags": {"a": "b"}, "priority": -1},
        {"id": "x", "shift": 2.5, "enable_safety_checker": False, "video_quality": "low", "file": "{id}"},
    ):
        assert fits(job(**properties))
    row = schema_fast.compiled(DEFINITIONS["row"], DEFINITIONS)
    assert row(job(video=["a", "b"], shift=[1, 2], exclude=[{"shift": 1}], allow_empty=True))
    for example in whole_schema()["examples"]:
        assert schema_fast.compiled(whole_schema(), DEFINITIONS)(example)


def test_an_unknown_keyword_gives_false() -> None:
    assert not schema_fast.compiled({"type": "string", "contentEncoding": "base64"}, {})("x")
    assert schema_fast.compiled({"type": "string"}, {})("x")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("num_inference_steps", "30", 30),
        ("num_inference_steps", " 30 ", 30),
        ("num_inference_steps", "30.0", 30.0),
        ("num_inference_steps", "3e1", "3e1"),
        ("num_inference_steps", "1_000", "1_000"),
        ("num_inference_steps", "9" * 16, "9" * 16),
        ("shift", "-2.5", -2.5),
        ("shift", "nan", "nan"),
        ("enable_safety_checker", "True", True),
        ("enable_safety_checker", "yes", "yes"),
        ("video", "30", "30"),
        ("480p", "30", 30),
        (None, "30", "30"),
    ],
)
def test_text_gets_the_type_of_its_field(name: str | None, text: str, value: object) -> None:
    assert typed(name, text) == value
    assert type(typed(name, text)) is type(value)


def test_each_setting_and_section_has_a_description_and_an_example_or_default() -> None:
    properties = whole_schema()["else"]["properties"]
    for name in (
        *(setting.name for setting in SETTINGS),
        "prices",
        "vars",
        "jobs_from",
        "allow_empty",
        "name",
        "model",
    ):
        entry = properties[name]
        whole = DEFINITIONS.get(entry.get("$ref", "").rpartition("/")[2], {}) | entry
        assert whole["title"]
        assert whole["description"].endswith(".")
        assert "default" in whole or whole["examples"], name
    for definition in DEFINITIONS.values():
        for example in definition.get("examples", ()):
            jsonschema.Draft202012Validator({**definition, "$defs": DEFINITIONS}).validate(example)


@pytest.mark.parametrize("job", [{"s": "a", "x": None}, {"s": "a", "x": 1}, {"s": "b", "x": 1}, {"x": 1}, {"s": 1}, 7])
@pytest.mark.parametrize("condition", [{"s": {"const": "a"}}, {"s": {"enum": ["a"]}}])
def test_a_condition_on_the_text_of_a_property_is_exact(job: Any, condition: dict[str, Any]) -> None:
    branches = {"then": {"properties": {"x": {"type": "null"}}}, "else": {"properties": {"x": {"enum": [None, "c"]}}}}
    schema = {"if": {"properties": condition}, **branches}
    fits = schema_fast.compiled(schema, {})(job)
    assert not fits or jsonschema.Draft202012Validator(schema).is_valid(job)
    if "const" in condition["s"]:
        assert fits == jsonschema.Draft202012Validator(schema).is_valid(job)
