"""Manifests of several models: fields, values and inputs that one model has and another one has not.

The third model is that of `tests.providers.dummy`. Its fields ``resolution`` and ``shift`` have other values than those
of the packaged models, and its input ``motion`` is optional.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from batchrunner import manifest
from batchrunner.errors import ManifestError
from batchrunner.manifest import Batch, Diagnostic, editor_schema
from batchrunner.providers import registry
from tests.providers.dummy import SPEC, offered

PACKAGED = registry.DEFAULT_MODEL
SCHEMA = Path(manifest.__file__).with_name("schema.json")
STILL, WALK = "https://example.com/still.png", "https://example.com/walk.mp4"
OWN = {"model": SPEC.name, "still": STILL}
OTHER = {"video": WALK, "image": STILL}


@pytest.fixture
def _three_models() -> Iterator[None]:
    with offered():
        yield


three_models = pytest.mark.usefixtures("_three_models")


def load(folder: Path, content: object, name: str = "batch.yaml") -> Batch:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return manifest.load(path)


def errors(folder: Path, content: object) -> list[Diagnostic]:
    with pytest.raises(ManifestError) as caught:
        load(folder, content)
    return list(caught.value.diagnostics)


def message(folder: Path, **fields: Any) -> str:
    [found] = errors(folder, {"jobs": [fields]})
    return f"{found.code}: {found.message}"


@three_models
def test_one_batch_may_have_jobs_of_models_with_other_inputs(tmp_path: Path) -> None:
    batch = load(tmp_path, {"jobs": [OTHER, OWN, {**OWN, "motion": WALK, "shift": "left"}, {**OTHER, "shift": 6}]})
    inputs = [dict.fromkeys(entry.job.inputs) for entry in batch.entries]
    assert [list(names) for names in inputs] == [["video", "image"], ["still"], ["still", "motion"], ["video", "image"]]
    assert batch.entries[1].job.params == {"seconds": 4, "resolution": "1080p", "shift": "none"}
    assert batch.entries[3].job.params["shift"] == 6
    assert len({entry.job.fingerprint for entry in batch.entries}) == 4


@three_models
def test_an_optional_input_is_part_of_the_identity_only_where_it_is_set(tmp_path: Path) -> None:
    """The literal fingerprint changes if the recipe changes: then users would pay again."""
    without, with_motion = load(tmp_path, {"jobs": [OWN, {**OWN, "motion": WALK}]}).entries
    assert without.job.fingerprint == "sha256:27aac61167d81bcdcbe25db36e623db8d180d7bb4114230b51cc938359371bb7"
    assert with_motion.job.fingerprint != without.job.fingerprint
    assert without.id != with_motion.id


@three_models
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({**OWN, "shift": 5}, "not-allowed: 'shift' is 5, must be one of none, left, right, for the model studio"),
        ({**OWN, "shift": "up"}, "not-allowed: 'shift' is 'up', must be one of none, left, right, for the model"),
        ({**OTHER, "shift": "left"}, "wrong-type: 'shift' is text, must be a number, for the model alibaba"),
        ({**OTHER, "shift": 0}, "out-of-range: 'shift' is 0, must be more than 0, for the model alibaba"),
        ({**OWN, "resolution": "720p"}, "not-allowed: 'resolution' is '720p', must be one of 480p, 1080p, for"),
        ({**OTHER, "resolution": "1080p"}, "not-allowed: 'resolution' is '1080p', must be one of 480p, 580p"),
        ({**OWN, "video_quality": "low"}, "unknown-key: the model studio/still-motion has no field 'video_quality'"),
        ({**OTHER, "still": STILL}, "unknown-key: the model alibaba/wan2.2-14b-animate-replace has no field 'still'"),
        ({**OWN, "seconds": 13}, "out-of-range: 'seconds' is 13, must be at most 12"),
        ({"model": SPEC.name, "motion": WALK}, "missing-key: the job has no 'still'"),
        ({**OWN, "model": "studio/still"}, "not-allowed: 'model' is 'studio/still', must be one of"),
    ],
)
def test_a_field_is_checked_against_the_jobs_own_model(tmp_path: Path, fields: dict[str, Any], expected: str) -> None:
    assert message(tmp_path, **fields).startswith(expected)


@three_models
def test_the_batchs_model_applies_to_its_jobs(tmp_path: Path) -> None:
    still = {"still": STILL, "shift": "left"}
    batch = load(tmp_path, {"model": SPEC.name, "jobs": [still, {**OTHER, "model": PACKAGED}], "matrix": [still]})
    assert [entry.job.model for entry in batch.entries] == [SPEC.name, PACKAGED, SPEC.name]
    messages = [found.message for found in errors(tmp_path, {"model": SPEC.name, "jobs": [OTHER]})]
    assert "the job has no 'still'" in messages
    assert f"the model {SPEC.name} has no field 'video'" in messages


@three_models
def test_a_table_may_name_a_model_in_each_row(tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text(
        f"model,still,video,image,shift,seconds\n{SPEC.name},{STILL},,,left,7\n{PACKAGED},,{WALK},{STILL},6.5,\n"
    )
    first, second = load(tmp_path, {"jobs_from": ["jobs.csv"]}).entries
    assert first.job.params == {"seconds": 7, "resolution": "1080p", "shift": "left"}
    assert second.job.params["shift"] == 6.5


@three_models
def test_a_matrix_pattern_and_a_file_name_work_with_inputs_of_any_name(tmp_path: Path) -> None:
    row = {"still": [STILL, "https://example.com/other.png"], "file": "{still}-{shift}"}
    batch = load(tmp_path, {"model": SPEC.name, "matrix": [row]})
    assert [entry.file for entry in batch.entries] == ["still-none.mp4", "other-none.mp4"]


@three_models
def test_the_schema_for_editors_knows_the_fields_of_the_jobs_model() -> None:
    check = jsonschema.Draft202012Validator(editor_schema())
    jsonschema.Draft202012Validator.check_schema(editor_schema())
    assert check.is_valid({"jobs": [OTHER, {**OWN, "shift": "left"}, {**OTHER, "model": PACKAGED, "shift": 3}]})
    for wrong in ({**OWN, "shift": 3}, {**OTHER, "model": PACKAGED, "shift": "left"}, {**OWN, "video_quality": "low"}):
        assert not check.is_valid({"jobs": [wrong]})
    with_fields = editor_schema()["$defs"]["row"]["properties"]
    assert list(with_fields)[-1] == "file", "the fields of a model precede those of every job"


def test_the_packaged_schema_is_the_one_for_editors() -> None:
    """If the test fails, write the output of ``batchrunner schema`` there."""
    assert json.loads(SCHEMA.read_text("utf-8")) == editor_schema()


def test_models_of_other_tests_are_removed(tmp_path: Path) -> None:
    before = editor_schema()
    with offered():
        assert editor_schema() != before
    assert editor_schema() == before
    assert [found.code for found in errors(tmp_path, {"jobs": [OWN]})] == ["not-allowed", "unknown-key"]


def test_each_model_is_offered_once(tmp_path: Path) -> None:
    with offered(), pytest.raises(ValueError, match="studio/still-motion"), offered():
        pass
    assert SPEC.name not in registry.models()
