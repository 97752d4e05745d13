"""The Indexed Job: it fits the schema of Kubernetes, and it maps the exit statuses.

``kubernetes.schema.json`` has the kinds Job and PersistentVolumeClaim of Kubernetes 1.37, in their strict form.
"""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from batchrunner.app import setup as prepare
from batchrunner.errors import ExitStatus
from tests.conftest import MEDIA, ROOT

JOB = ROOT / "examples" / "kubernetes" / "job.yaml"
SCHEMA = json.loads(Path(__file__).with_name("kubernetes.schema.json").read_text())


def documents() -> dict[str, dict[str, Any]]:
    return {item["kind"]: item for item in yaml.safe_load_all(JOB.read_text("utf-8"))}


def problems(document: dict[str, Any]) -> list[str]:
    schema = {**SCHEMA["kinds"][document["kind"]], "definitions": SCHEMA["definitions"]}
    return [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(document)]


def test_the_manifest_fits_the_schema_of_kubernetes() -> None:
    assert set(documents()) == {"Job", "PersistentVolumeClaim"}
    for document in documents().values():
        assert problems(document) == []


def test_the_schema_refuses_a_field_that_does_not_exist() -> None:
    job = documents()["Job"]
    job["spec"]["template"]["spec"]["containers"][0]["argz"] = []
    assert problems(job)


def test_each_failure_is_tried_again_or_is_for_a_person() -> None:
    spec = documents()["Job"]["spec"]
    [container] = spec["template"]["spec"]["containers"]
    [rule] = [rule["onExitCodes"] for rule in spec["podFailurePolicy"]["rules"] if rule["action"] == "FailIndex"]
    assert rule["containerName"] == container["name"]
    assert set(rule["values"]) == {ExitStatus.FAILED, ExitStatus.USAGE, ExitStatus.NEEDS_ACTION}
    assert spec["backoffLimitPerIndex"] > 1, "every other status"
    assert spec["template"]["spec"]["restartPolicy"] == "Never", "as a policy for failures requires"


def test_the_pods_run_all_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the arguments of the container, and the index that Kubernetes sets."""
    spec = documents()["Job"]["spec"]
    arguments = spec["template"]["spec"]["containers"][0]["args"]
    monkeypatch.chdir(tmp_path)
    inputs = {"video": str(MEDIA / "bunny.mp4"), "image": str(MEDIA / "hopper.jpg")}
    jobs = [{**inputs, "id": f"job-{number}", "shift": 1 + number / 8} for number in range(12)]
    Path("batch.yaml").write_text(yaml.safe_dump({"version": 1, "provider": "sandbox", "jobs": jobs}))
    planned: list[str] = []
    for index in range(spec["completions"]):
        variables = {"JOB_COMPLETION_INDEX": str(index)}
        setup = prepare.load(Path(arguments[1]), {"shard": arguments[3]}, variables)
        planned += [entry.id for entry in setup.batch.entries]
    assert arguments[2] == "--shard"
    assert sorted(planned) == sorted(str(job["id"]) for job in jobs)
