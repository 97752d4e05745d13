"""A manifest alone chooses no bucket, and nothing is kept nowhere."""

import json
from pathlib import Path

import pytest

from batchrunner.app import setup as prepare
from batchrunner.app.bucket_results import undelivered
from batchrunner.errors import UsageError
from tests.conftest import MEDIA

MANIFEST = "provider: sandbox\n{}\njobs: [{{id: {}, video: bunny.mp4, image: hopper.jpg}}]"


def load(folder: Path, settings: str, *buckets: str, name: str = "a", **flags: object) -> prepare.Setup:
    for media in ("bunny.mp4", "hopper.jpg"):
        (folder / media).write_bytes((MEDIA / media).read_bytes())
    (folder / "batch.yaml").write_text(MANIFEST.format(settings, name))
    environment = {"BATCHRUNNER_STATE": str(folder / "state")}
    flags = {"output": str(folder / "out"), **flags}
    return prepare.load(folder / "batch.yaml", flags, environment, buckets=buckets)


def test_a_bucket_that_only_the_manifest_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="s3://clips is not allowed"):
        load(tmp_path, "deliver: s3://clips/results/")
    setup = load(tmp_path, "deliver: s3://clips/results/", "clips")
    assert setup.settings.deliver == "s3://clips/results/"
    assert setup.settings.keep_local
    assert json.loads(prepare.run_of(setup, "", "", 0.0).settings_json)["deliver"] == "s3://clips/results/"


@pytest.mark.parametrize("value", ["no", "off", "false"])
def test_clips_are_not_removed_without_a_bucket(tmp_path: Path, value: str) -> None:
    with pytest.raises(UsageError, match="needs the setting deliver"):
        load(tmp_path, f"keep_local: {value}")
    assert not load(tmp_path, f"deliver: s3://clips/\nkeep_local: {value}", "clips").settings.keep_local


def test_a_name_that_no_object_can_have_is_refused_before_anything_is_paid(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="more than 1,024 bytes"):
        load(tmp_path, f"deliver: s3://clips/{'p' * 1000}/", "clips", name="a" * 60)


def test_a_rehearsal_delivers_only_what_the_command_itself_asks_for(tmp_path: Path) -> None:
    text = "deliver: s3://clips/results/\nkeep_local: no"
    (tmp_path / "own").mkdir()
    folder = tmp_path / "own"
    load(folder, text, "clips")
    manifest = folder / "batch.yaml"
    manifest.write_text(manifest.read_text().replace("provider: sandbox", "provider: aimlapi"))
    environment = {"BATCHRUNNER_STATE": str(tmp_path / "state")}
    flags = {"provider": "sandbox"}
    rehearsal = prepare.load(manifest, flags, environment, buckets=["clips"])
    assert (rehearsal.settings.deliver, rehearsal.settings.keep_local) == (None, True)
    asked = prepare.load(manifest, flags | {"deliver": "s3://clips/x/"}, environment, buckets=["clips"])
    assert (asked.settings.deliver, asked.settings.keep_local) == ("s3://clips/x/", False)


def test_a_plan_counts_the_clips_that_are_not_in_the_bucket(tmp_path: Path) -> None:
    setup = load(tmp_path, "deliver: s3://clips/results/", "clips")
    assert undelivered("s3://clips/results/", setup.batch.entries, {}) == 1
    plan, *_ = prepare.plan_batch(setup)
    egress = prepare.egress_of(setup, plan)
    assert (egress.deliver, egress.delivered) == ("s3://clips/results/", 1)
    assert egress.as_facts()["deliver"] == "s3://clips/results/"
