"""Every model's file is well formed, matches the service's documentation, and keeps the identity of jobs."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from batchrunner import sandbox
from batchrunner.clock import LoopClock
from batchrunner.job import Job, Media
from batchrunner.manifest.fingerprint import fingerprint
from batchrunner.providers import registry
from batchrunner.providers.endpoint import Endpoint
from batchrunner.providers.models import COMMON, ModelSpec, parse_spec, read_spec
from batchrunner.sandbox import SandboxConfig
from batchrunner.sandbox.validation import Order, check
from tests.conftest import ROOT, Inline
from tests.providers.conformance import render
from tests.scenarios.world import EPOCH, Loop, in_virtual_time

PACKAGED = sorted((ROOT / "batchrunner" / "providers").glob("*/models/*.json"))
DUMMY = Path(__file__).with_name("dummy_model.json")
URLS = {"video": "https://example.com/walk.mp4", "image": "https://example.com/hero.png"}
# A changed literal means that users pay again for jobs that they have.
FINGERPRINTS = {
    "alibaba/wan2.2-14b-animate-replace": "sha256:7a6a3adc1786f417640c1f2759c3117f150b2b9a03aec2aca6eb9708430888d9",
    "alibaba/wan2.2-14b-animate-move": "sha256:9369df6cd988562de8cf33b73165c03caada220b86be478ef053fac398597999",
    "studio/still-motion": "sha256:c8a7f0698d4b1c9de5b79ba9f1d0101b6547b7900b763dd592a8d9f849442b52",
}
# As the service documents them: the fields of both models, and the other name of each.
REQUEST = {
    "video_url": URLS["video"],
    "image_url": URLS["image"],
    "resolution": "720p",
    "num_inference_steps": 12,
    "enable_safety_checker": True,
    "shift": 4.5,
    "video_quality": "maximum",
    "video_write_mode": "small",
}
ALIASES = {
    "alibaba/wan2.2-14b-animate-replace": "wan/v2.2-14b/animate/replace",
    "alibaba/wan2.2-14b-animate-move": "wan/v2.2-14b/animate/move",
}


def job_of(spec: ModelSpec, **fields: Any) -> Job:
    inputs = {item.name: Media(item.kind, URLS[item.kind], uri=URLS[item.kind]) for item in spec.inputs}
    params = spec.complete(fields)
    return Job(fingerprint(spec.name, inputs, params), spec.name, inputs, params)


def data() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DUMMY.read_text("utf-8"))
    return loaded


@pytest.mark.parametrize("path", [*PACKAGED, DUMMY], ids=lambda path: path.stem)
def test_a_models_file_is_well_formed(path: Path) -> None:
    spec = read_spec(path)
    for name, schema in spec.fields.items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["title"], name
        assert schema["description"].endswith("."), name
        if "default" in schema:
            jsonschema.validate(schema["default"], schema)
    assert spec.required
    assert spec.id_words.keys() <= spec.parameters.keys()
    if spec.price is not None:
        assert set(spec.price.credits) == set(spec.parameters[spec.price.by]["enum"])


@pytest.mark.parametrize("path", [*PACKAGED, DUMMY], ids=lambda path: path.stem)
def test_the_fingerprint_of_a_models_job_does_not_change(path: Path) -> None:
    spec = read_spec(path)
    assert job_of(spec).fingerprint == FINGERPRINTS[spec.name]


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: path.stem)
def test_the_sandbox_accepts_the_documented_request(path: Path) -> None:
    spec = read_spec(path)
    for name in (spec.name, ALIASES[spec.name]):
        order = check(json.dumps({"model": name, **REQUEST}).encode())
        assert isinstance(order, Order), order
        assert list(order.inputs) == ["video", "image"]
        assert order.params == {key: value for key, value in REQUEST.items() if key not in {"video_url", "image_url"}}
    assert list(spec.aliases) == [ALIASES[spec.name]]


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: path.stem)
def test_the_sandbox_accepts_every_choice_that_the_client_sends(path: Path, tmp_path: Path) -> None:
    spec = read_spec(path)
    jobs = [job_of(spec)]
    for name, schema in spec.parameters.items():
        jobs += [job_of(spec, **{name: choice}) for choice in schema.get("enum", ())]
    jobs.append(job_of(spec, enable_safety_checker=False, shift=1, num_inference_steps=3))

    async def main(_: Loop) -> None:
        clock = LoopClock(EPOCH)
        config = SandboxConfig(queue_limit=100, state_dir=tmp_path / "sandbox")
        service = await sandbox.start(config, clock=clock, render=render)
        try:
            async with registry.connect(Endpoint(service.url, "k"), clock, Inline()) as client:
                for number, job in enumerate(jobs):
                    await client.submit(job, f"run.{job.key}.{number}")
            accepted = [event for event in service.ledger() if event["event"] == "accepted"]
        finally:
            await service.close()
        assert [event["model"] for event in accepted] == [spec.name] * len(jobs)
        assert [event["params"] for event in accepted] == [dict(job.params) for job in jobs]

    in_virtual_time(main)


Change = Callable[[dict[str, Any]], object]
BAD: dict[str, Change] = {
    "no name": lambda spec: spec.pop("name"),
    "no inputs": lambda spec: spec.pop("inputs"),
    "no parameters": lambda spec: spec.pop("parameters"),
    "an unknown key": lambda spec: spec.update(colour="red"),
    "an unknown key of an input": lambda spec: spec["inputs"][0].update(colour="red"),
    "an input without a kind": lambda spec: spec["inputs"][0].pop("kind"),
    "a kind that does not exist": lambda spec: spec["inputs"][0].update(kind="sound"),
    "a field that every job has": lambda spec: spec["inputs"][0].update(name="tags"),
    "a name with capitals": lambda spec: spec["inputs"][0].update(name="Still"),
    "one name for two inputs": lambda spec: spec["inputs"][1].update(name="still"),
    "one name for an input and a parameter": lambda spec: spec["parameters"].update(still={"type": "string"}),
    "a length of no input": lambda spec: spec["result"].update(length_of="video"),
    "a short side of no parameter": lambda spec: spec["result"].update(short_side="size"),
    "an unknown key of the result": lambda spec: spec["result"].update(colour="red"),
    "a price of no input": lambda spec: spec.update(
        price={
            "input": "video",
            "frames_per_second": 16,
            "by": "resolution",
            "credits": {},
            "as_of": "2026-11-22",
            "source": "a test",
        }
    ),
    "a price without a source": lambda spec: spec.update(price={"input": "motion", "by": "resolution"}),
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_a_file_that_cannot_be_used_is_refused_with_its_name(change: Change, tmp_path: Path) -> None:
    parse_spec(data())
    bad = copy.deepcopy(data())
    change(bad)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(bad))
    with pytest.raises(ValueError, match=r"bad\.json"):
        read_spec(path)


@pytest.mark.parametrize("content", ["", "[]", "3", '{"name": 3}', "{"])
def test_an_unknown_model_is_refused_with_its_name(content: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"bad\.json"):
        read_spec(path)


@pytest.mark.parametrize("name", sorted(COMMON))
def test_no_model_may_use_a_field_of_every_job(name: str) -> None:
    bad = data()
    bad["parameters"][name] = {"type": "string"}
    with pytest.raises(ValueError, match=name):
        parse_spec(bad)


def test_numbers_are_written_as_the_schema_types_them() -> None:
    """``20.0`` and ``20`` are one value of an integer: one job, and one payment."""
    spec = registry.default_model()
    params = spec.complete({"num_inference_steps": 20.0, "shift": 5})
    assert params.json == spec.complete({}).json
    assert type(params["num_inference_steps"]) is int
    assert type(params["shift"]) is float


def test_inputs_are_kept_in_the_order_of_the_model() -> None:
    spec = read_spec(DUMMY)
    assert list(spec.ordered({"motion": 1, "still": 2})) == ["still", "motion"]
    assert list(spec.ordered({"other": 1, "still": 2})) == ["still", "other"]
