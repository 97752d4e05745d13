"""Valid manifests and their meaning. Invalid ones are in manifest/test_bad_manifests.py."""

import base64
import hashlib
import json
import os
import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from batchrunner.errors import ManifestError, UsageError
from batchrunner.job import Entry, Job, Media
from batchrunner.manifest import Batch, Diagnostic, ids, load, safe_names, schema
from batchrunner.manifest.diagnostics.diagnostic import Findings, column_of, line_of, mark, nearest
from batchrunner.manifest.fingerprint import fingerprint, take_of
from batchrunner.manifest.inputs import remote
from batchrunner.manifest.row import row_fields
from batchrunner.manifest.yaml_source import parser as source
from batchrunner.manifest.yaml_source.values import YamlList, YamlMapping
from batchrunner.media.probe import MediaProblem, probe
from batchrunner.providers import registry
from batchrunner.settings import SETTINGS, parse

MEDIA = Path(__file__).parents[2] / "manifests" / "media"
MODEL, PARAMETERS = registry.DEFAULT_MODEL, registry.default_model().defaults
complete = registry.default_model().complete
VIDEO = "https://example.com/walk.mp4"
IMAGE = "https://example.com/hero.png"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with the demo's media in media/."""
    (tmp_path / "media").symlink_to(MEDIA)
    return tmp_path


def loaded(folder: Path, manifest: object, name: str = "batch.yaml") -> Batch:
    path = folder / name
    path.write_text(manifest if isinstance(manifest, str) else json.dumps(manifest), encoding="utf-8")
    return load(path)


def refused(folder: Path, manifest: object) -> list[Diagnostic]:
    with pytest.raises(ManifestError) as caught:
        loaded(folder, manifest)
    return [item for item in caught.value.diagnostics if isinstance(item, Diagnostic)]


def job(**fields: Any) -> dict[str, Any]:
    return {"video": VIDEO, "image": IMAGE, **fields}


def names(batch: Batch) -> list[str]:
    return [entry.id for entry in batch.entries]


CONTRACT = """\
version: 1
name: nightly-heroes            # default: the file's stem
provider: aimlapi               # or sandbox
model: alibaba/wan2.2-14b-animate-replace
concurrency: 8                  # generations in flight
output: output/nightly-heroes   # relative to the working directory
defaults: {resolution: 720p, num_inference_steps: 20}
jobs:
  - id: hero-walk
    video: media/bunny.mp4
    image: https://example.com/hero.png
    resolution: 480p
matrix:
  - video: media/*.mp4
    image: [media/astronaut.jpg, media/hopper.jpg]
    resolution: [480p, 720p]
"""


def test_the_example_of_the_contract_loads(here: Path) -> None:
    batch = loaded(here, CONTRACT)
    assert batch.name == "nightly-heroes"
    assert batch.settings == {"output": "output/nightly-heroes", "provider": "aimlapi", "concurrency": 8}
    assert batch.warnings == ()
    assert [entry.position for entry in batch.entries] == [0, 1, 2, 3, 4]
    assert [
        (e.job.inputs["video"].source, e.job.inputs["image"].source, e.job.params["resolution"]) for e in batch.entries
    ] == [
        ("media/bunny.mp4", "https://example.com/hero.png", "480p"),
        ("media/bunny.mp4", "media/astronaut.jpg", "480p"),
        ("media/bunny.mp4", "media/astronaut.jpg", "720p"),
        ("media/bunny.mp4", "media/hopper.jpg", "480p"),
        ("media/bunny.mp4", "media/hopper.jpg", "720p"),
    ]
    assert names(batch) == [
        "hero-walk",
        "bunny-astronaut-480p-c4e5b0de55",
        "bunny-astronaut-720p-c4e5b0de55",
        "bunny-hopper-480p-2bf26d7f06",
        "bunny-hopper-720p-2bf26d7f06",
    ]
    assert batch.entries[0].job.inputs["video"].path == here / "media" / "bunny.mp4"
    assert batch.entries[0].job.model == MODEL


def test_a_bare_list_is_a_manifest(tmp_path: Path) -> None:
    batch = loaded(tmp_path, f"- {{video: '{VIDEO}', image: '{IMAGE}'}}\n", "my batch.yaml")
    assert batch.name == "my batch"
    assert batch.settings == {}
    assert batch.entries[0].job.params == {
        "resolution": "480p",
        "num_inference_steps": 20,
        "shift": 5.0,
        "video_quality": "high",
        "video_write_mode": "balanced",
    }


def test_params_are_the_values_that_are_sent(tmp_path: Path) -> None:
    fields = {"shift": 7, "num_inference_steps": 30.0, "enable_safety_checker": False}
    params = loaded(tmp_path, [job(**fields)]).entries[0].job.params
    assert list(params) == list(PARAMETERS)
    assert (params["shift"], type(params["shift"])) == (7.0, float)
    assert (params["num_inference_steps"], type(params["num_inference_steps"])) == (30, int)
    assert params["enable_safety_checker"] is False


def test_relative_paths_are_relative_to_the_manifest(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"video": "media/bunny.mp4", "image": "media/hopper.jpg"}
    there = loaded(here, [row]).entries
    monkeypatch.chdir(here)
    assert [entry.job.fingerprint for entry in load(Path("batch.yaml")).entries] == [there[0].job.fingerprint]


def test_rows_override_defaults_and_tags_are_merged(tmp_path: Path) -> None:
    manifest = {
        "defaults": job(shift=2, tags={"client": "acme", "scene": "1"}),
        "jobs": [{}, {"shift": 3, "tags": {"scene": "2"}}],
        "matrix": [{"resolution": ["580p", "720p"]}],
    }
    entries = loaded(tmp_path, manifest).entries
    assert [e.job.params["shift"] for e in entries] == [2.0, 3.0, 2.0, 2.0]
    assert [e.tags["scene"] for e in entries] == ["1", "2", "1", "1"]
    assert all(e.tags["client"] == "acme" for e in entries)


def test_a_matrix_is_expanded_in_written_order_last_key_fastest(tmp_path: Path) -> None:
    manifest = f"matrix:\n  - shift: [1, 2]\n    video: {VIDEO}\n    resolution: [720p, 480p]\n    image: {IMAGE}\n"
    entries = loaded(tmp_path, manifest).entries
    assert [(e.job.params["shift"], e.job.params["resolution"]) for e in entries] == [
        (1.0, "720p"),
        (1.0, "480p"),
        (2.0, "720p"),
        (2.0, "480p"),
    ]


def test_matches_are_sorted_and_names_with_wildcards_are_literal(tmp_path: Path) -> None:
    picture = (MEDIA / "hopper.jpg").read_bytes()
    for number, name in enumerate(("b.jpg", "a.jpg", "[c].jpg", "sub/d.jpg", "c.png")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture + bytes(number))  # equal pictures would give equal jobs

    def sources(pattern: str) -> list[str]:
        batch = loaded(tmp_path, {"matrix": [{"video": VIDEO, "image": pattern}]})
        return [entry.job.inputs["image"].source for entry in batch.entries]

    assert sources("*.jpg") == ["[c].jpg", "a.jpg", "b.jpg"]
    assert sources("[c].jpg") == ["[c].jpg"]
    assert sources("**/*.jpg") == ["[c].jpg", "a.jpg", "b.jpg", "sub/d.jpg"]
    assert sources(f"{tmp_path}/?.jpg") == [f"{tmp_path}/a.jpg", f"{tmp_path}/b.jpg"]


def test_a_question_mark_in_a_url_is_not_a_pattern(tmp_path: Path) -> None:
    url = "https://example.com/a.png?size=[1]*"
    batch = loaded(tmp_path, {"matrix": [{"video": VIDEO, "image": url.replace("[1]", "1")}]})
    assert batch.entries[0].job.inputs["image"].uri == "https://example.com/a.png?size=1*"
    assert batch.entries[0].job.inputs["image"].source == "https://example.com/a.png?…"


def by_content(entries: Sequence[Entry]) -> dict[str, str]:
    return {entry.job.fingerprint: entry.id for entry in entries}


def test_ids_are_stable_when_rows_are_added_removed_or_moved(tmp_path: Path) -> None:
    rows = [
        job(video=f"https://example.com/{folder}/walk.mp4", shift=shift, resolution=resolution)
        for folder in ("a", "b")
        for shift in (5, 7.5)
        for resolution in ("480p", "720p")
    ]
    first = by_content(loaded(tmp_path, rows).entries)
    shuffled = rows[:]
    random.Random(7).shuffle(shuffled)
    extra = [job(video="https://example.com/c/walk.mp4"), *shuffled, job(id="mine", shift=9)]
    then = by_content(loaded(tmp_path, extra).entries)
    assert len(set(first.values())) == len(rows)
    assert first.items() <= then.items()
    assert by_content(loaded(tmp_path, rows[3:]).entries).items() <= first.items()


@pytest.mark.parametrize(
    ("fields", "readable"),
    [
        ({}, "walk-hero-480p"),
        ({"resolution": "720p"}, "walk-hero-720p"),
        ({"num_inference_steps": 20, "shift": 5, "video_quality": "high"}, "walk-hero-480p"),
        ({"num_inference_steps": 30}, "walk-hero-480p-steps30"),
        ({"shift": 7.5}, "walk-hero-480p-shift7.5"),
        ({"shift": 7}, "walk-hero-480p-shift7"),
        ({"video_quality": "low"}, "walk-hero-480p-q-low"),
        ({"video_write_mode": "small"}, "walk-hero-480p-small"),
        ({"enable_safety_checker": True}, "walk-hero-480p-safety"),
        ({"enable_safety_checker": False}, "walk-hero-480p-nosafety"),
        ({"video": "clips/Füße & Co!.final.MP4"}, "fusse-co-final-hero-480p"),
        ({"video": "https://example.com/x/My%20Clip.mp4?sig=1"}, "my-clip-hero-480p"),
        ({"video": "https://example.com/"}, "video-hero-480p"),
        ({"video": "映画.mp4"}, "video-hero-480p"),
        ({"video": "data:video/mp4;base64,AAAA"}, "inline-hero-480p"),
        ({"video": "x" * 50 + ".mp4"}, "x" * 32 + "-hero-480p"),
    ],
)
def test_derived_ids_are_readable(fields: Mapping[str, Any], readable: str) -> None:
    derived = ids.derive(job(**fields))
    stem, digits = derived.rsplit("-", 1)
    assert stem == readable
    assert len(digits) == 10
    assert safe_names.cleaned(derived) == derived  # a derived id is also valid as an explicit one


def test_equal_rows_are_numbered_and_explicit_ids_take_precedence(tmp_path: Path) -> None:
    derived = ids.derive(job())
    batch = loaded(tmp_path, [job(), job(), job(id=derived), job()])
    assert names(batch) == [f"{derived}-2", f"{derived}-3", derived, f"{derived}-4"]


def test_equal_jobs_are_one_job_and_give_a_warning(here: Path) -> None:
    (here / "copy.mp4").write_bytes((MEDIA / "bunny.mp4").read_bytes())
    manifest = (
        "- {id: a, video: media/bunny.mp4, image: media/hopper.jpg}\n"
        "- {id: b, video: copy.mp4, image: media/hopper.jpg, shift: 5, tags: {x: y}}\n"
        "- {id: c, video: copy.mp4, image: media/hopper.jpg, shift: 6}\n"
    )
    batch = loaded(here, manifest)
    first, second, third = batch.entries
    assert first.job is second.job
    assert third.job is not first.job
    assert [entry.file for entry in batch.entries] == ["a.mp4", "b.mp4", "c.mp4"]
    assert [(item.severity, item.line, item.message) for item in batch.warnings] == [
        ("warning", 2, "'b' is the same job as 'a' on line 1")
    ]


def test_aliased_jobs_with_one_id_are_an_error(tmp_path: Path) -> None:
    found = refused(tmp_path, f"- &a {{id: x, video: '{VIDEO}', image: '{IMAGE}'}}\n- *a\n")
    assert [item.code for item in found] == ["duplicate-id"]


def test_each_file_is_read_once_under_all_its_names(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probed: list[str] = []

    def counting(path: Path, kind: Any, source: str) -> Media:
        probed.append(f"{kind} {path.name}")
        return probe(path, kind, source)

    monkeypatch.setattr("batchrunner.manifest.inputs.probe", counting)
    rows = [{"video": "media/bunny.mp4", "image": "media/hopper.jpg", "shift": n} for n in range(1, 201)]
    rows.append({"video": "./media/../media/bunny.mp4", "image": str(MEDIA / "hopper.jpg"), "shift": 201})
    assert len(loaded(here, rows).entries) == 201
    assert sorted(probed) == ["image hopper.jpg", "video bunny.mp4"]


def test_the_fingerprint_is_stable() -> None:
    """The literal must not change: a new fingerprint makes every user pay for every job again."""
    video = Media("video", "a.mp4", sha256="00" * 32)
    image = Media("image", IMAGE, uri=IMAGE)
    expected = "sha256:bc4e28dc3ac887cfbc35be4112986965eb96d17dad57afe146913c9a7c4c1a17"
    assert fingerprint(MODEL, {"video": video, "image": image}, complete({})) == expected
    spelled = {"shift": 5, "num_inference_steps": 20.0, "resolution": "480p", "video_quality": "high"}
    assert fingerprint(MODEL, {"video": video, "image": image}, complete(spelled)) == expected
    for change in (
        {"shift": 5.5},
        {"num_inference_steps": 21},
        {"resolution": "580p"},
        {"video_quality": "low"},
        {"video_write_mode": "fast"},
        {"enable_safety_checker": True},
        {"enable_safety_checker": False},
    ):
        assert fingerprint(MODEL, {"video": video, "image": image}, complete(change)) != expected


def test_only_a_take_above_the_first_changes_the_fingerprint() -> None:
    """The literals must not change: existing journals have the first, and those with takes the second."""
    image = Media("image", IMAGE, uri=IMAGE)
    inputs = {"video": Media("video", "a.mp4", sha256="00" * 32), "image": image}
    first = Job(fingerprint(MODEL, inputs, complete({}), 1), MODEL, inputs, complete({}))
    assert first.fingerprint == "sha256:bc4e28dc3ac887cfbc35be4112986965eb96d17dad57afe146913c9a7c4c1a17"
    second = take_of(first, 2)
    assert second.fingerprint == "sha256:0c9c4f49970b1cde725a09b20c3d7c9065a3f8fc3ae1acec2b65456e74cbbb8f"
    assert (second.take, take_of(second, 1)) == (2, first)
    assert take_of(replace(first, params=dict(first.params)), 2).fingerprint == second.fingerprint


def data_uri(name: str, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode((MEDIA / name).read_bytes()).decode()}"


@pytest.mark.parametrize(
    ("fields", "fingerprint", "id_"),
    [
        (
            {"video": VIDEO, "image": IMAGE},
            "sha256:7a6a3adc1786f417640c1f2759c3117f150b2b9a03aec2aca6eb9708430888d9",
            "walk-hero-480p-a67e2e9c97",
        ),
        (
            {"video": "media/bunny.mp4", "image": "media/hopper.jpg"},
            "sha256:cc87a3c02cb8f5ae18c9ebd24109e43dbade8c67100583550c382006e0a6e739",
            "bunny-hopper-480p-2bf26d7f06",
        ),
        (
            {"video": data_uri("bunny.mp4", "video/mp4"), "image": data_uri("hopper.jpg", "image/jpeg")},
            "sha256:cc87a3c02cb8f5ae18c9ebd24109e43dbade8c67100583550c382006e0a6e739",
            "inline-inline-480p-a2b33196ff",
        ),
        (
            {"video": VIDEO, "image": "media/hopper.jpg", "resolution": "720p"},
            "sha256:a0aad6bb6c34de5768b7265cb7b5f4d71db463645d6d7f6237dfcb08066e626f",
            "walk-hopper-720p-557b81f978",
        ),
        (
            {
                "video": "media/bunny.mp4",
                "image": "https://example.com/h%C3%A9ro.png?a=1&b=2",
                "shift": 7,
                "enable_safety_checker": False,
            },
            "sha256:909f7e0c58f1ab602a18fce39d9789517c10c41fe7146771b1118714a2dc7d9d",
            "bunny-hero-480p-nosafety-shift7-7cc478fa9d",
        ),
    ],
    ids=["https", "file", "data", "https_and_file", "parameters"],
)
def test_the_fingerprint_of_each_kind_of_input_is_a_promise(
    here: Path, fields: dict[str, Any], fingerprint: str, id_: str
) -> None:
    """The literals are in existing journals. A changed one makes people pay again."""
    entry = loaded(here, [fields]).entries[0]
    assert (entry.job.fingerprint, entry.id) == (fingerprint, id_)


def test_the_fingerprint_of_an_object_is_its_address_and_its_etag() -> None:
    """The literal is a promise too. A signed link and what a probe measures are not part of it."""
    clip = Media("video", "s3://clips/a.mp4", uri="s3://clips/a.mp4", etag="9dd4e461268c8034f5c8564e155c67a6")
    image = Media("image", IMAGE, uri=IMAGE)
    expected = fingerprint(MODEL, {"video": clip, "image": image}, complete({}))
    assert expected == "sha256:43219dc99a23d0db1bd02db828b1ad4f85d00e69ddf5459f8940002b7eb4aa1e"
    measured = clip._replace(size_bytes=1, duration_s=2.0, frames=60, source="shown")
    assert fingerprint(MODEL, {"video": measured, "image": image}, complete({})) == expected
    for change in (clip._replace(etag="other"), clip._replace(uri="s3://clips/b.mp4"), clip._replace(etag=None)):
        assert fingerprint(MODEL, {"video": change, "image": image}, complete({})) != expected


def test_the_batch_knows_the_manifests_hash(tmp_path: Path) -> None:
    batch = loaded(tmp_path, [job()])
    assert batch.sha256 == hashlib.sha256(batch.path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://example.com/a.mp4", "https://example.com/a.mp4"),
        ("https://example.com/a.mp4?X-Sig=secret", "https://example.com/a.mp4?…"),
        ("https://example.com/a.mp4#secret", "https://example.com/a.mp4"),
        ("HTTPS://EXAMPLE.com/a", "https://EXAMPLE.com/a"),
        ("http://127.0.0.1:8000/a.mp4", "http://127.0.0.1:8000/a.mp4"),
        ("http://localhost/a", "http://localhost/a"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
    ],
)
def test_urls_are_sent_unchanged_and_shown_without_secrets(url: str, shown: str) -> None:
    assert (remote(url, "video").uri, remote(url, "video").source) == (url, shown)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1.example.com/a",
        "http://localhost@example.com/",
        "https://:@example.com/",
        'https://e.com/"',
        "https://\u202eexample.com/",
        "https://e.com/\n",
        "s3://bucket/a",
        "https://[fe80::1%25eth0/",
        "https://?",
    ],
)
def test_unusable_urls_are_refused(url: str) -> None:
    with pytest.raises(MediaProblem) as caught:
        remote(url, "video")
    assert "@" not in caught.value.message


def manifest_error(path: Path) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load(path)
    return caught.value


def test_a_path_that_is_not_a_manifest_file_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "nightly.yaml").write_text("- {}")
    os.mkfifo(tmp_path / "fifo.yaml")
    assert manifest_error(tmp_path / "nigthly.yaml").hint == f"did you mean {tmp_path / 'nightly.yaml'}?"
    assert "is a directory" in manifest_error(tmp_path).message
    assert "not a regular file" in manifest_error(tmp_path / "fifo.yaml").message
    assert "cannot read" in manifest_error(tmp_path / "nightly.yaml" / "x").message
    assert "cannot read" in manifest_error(tmp_path / "a\0b").message
    assert manifest_error(tmp_path / "gone" / "x.yaml").hint == ""


def parsed(text: str) -> Any:
    findings = Findings("m")
    root = source.parse(text.encode(), findings)
    assert findings.all == ()
    return root


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("20", 20),
        ("0x10", 16),
        ("7.5", 7.5),
        ("true", True),
        ("~", None),
        ("'20'", "20"),
        ("2026-11-22", "2026-11-22"),
        ("!!str 20", "20"),
        ("!!float '3'", 3.0),
        ("0b_", "0b_"),
        ("=", "="),
        ("a b", "a b"),
    ],
)
def test_scalars_have_the_values_of_the_safe_loader(text: str, value: object) -> None:
    assert parsed(f"- {text}") == [value]
    assert type(parsed(f"- {text}")[0]) is type(value)


def test_values_record_their_places() -> None:
    root = parsed("# first\na: 1\nb:\n  - x\n  - {c: y}\n")
    assert isinstance(root, YamlMapping)
    assert isinstance(root["b"], YamlList)
    assert root.key_marks == {"a": mark(2, 1, 1), "b": mark(3, 1, 1)}
    assert root.value_marks == {"a": mark(2, 4, 1), "b": mark(4, 3)}
    assert root["b"].marks == [mark(4, 5, 1), mark(5, 5, 1)]
    assert root["b"][1].key_marks == {"c": mark(5, 6, 1)}


def test_marks_pack_line_and_column() -> None:
    for line, column in ((1, 1), (100_000, 17), (3, 1_000_000)):
        assert (line_of(mark(line, column)), column_of(mark(line, column))) == (line, column)
    assert column_of(mark(1, 10**9)) < column_of(mark(1, 10**9)) + 1  # clipped, so it does not overflow into the line
    assert line_of(mark(1, 10**9)) == 1


def test_a_mapping_overrides_its_merge_keys() -> None:
    root = parsed("a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {z: 3, <<: [*a, *b]}\nd: {<<: *a, '<<': 4}\n")
    assert root["c"] == {"x": 1, "y": 1, "z": 3}
    assert root["d"] == {"x": 1, "y": 1, "<<": 4}


def test_keys_are_the_text_as_written() -> None:
    assert parsed("{1: a, no: b, ~: c}") == {"1": "a", "no": "b", "~": "c"}


YAMLISH = st.text(st.sampled_from(list("ab1:-[]{}&*!|>'\"%@`#,? \n\t~<=.\\x0")), max_size=60)


@given(st.one_of(st.binary(max_size=60), YAMLISH.map(str.encode), st.text(max_size=40).map(str.encode)))
@example(b"\xef\xbb\xbf- a")
@example(b"\xff\xfe-\0 \0a\0")
@example(b"&a : *a")
@example(b"? ? ? a")
@example(b'- "\\ud800"')
@example(b"- !!int ''")
@example(b"- !!bool x")
@example(b"- !!binary a\n- !!set {a}\n- !!python/object:os.system x")
@example(b"- " + b"9" * 5000)
@example(b"- 0x" + b"f" * 5000)
@example(b"- 1:" + b"59:" * 3000 + b"1.0")
@example(b"- " + b"?" * 2000)
@settings(max_examples=400, deadline=None, derandomize=True)
def test_any_bytes_load_without_a_traceback(data: bytes) -> None:
    findings = Findings("m")
    root = source.parse(data, findings)
    if root is None:
        assert findings.errors
        return
    bad = schema_check(root, findings)
    assert bad or findings.errors or isinstance(root, YamlMapping | YamlList)


def schema_check(root: Any, findings: Findings) -> set[tuple[str | int, ...]]:
    from batchrunner.manifest.schema import check

    return check(root, findings)


VALUES = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
        st.sampled_from([VIDEO, "*", "~/x", "${a}", "$${", "${", "${a:-30}", "{id}", "{tags.a}-{video}", "x.csv"]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(
    st.dictionaries(st.sampled_from(["id", *row_fields(), "exclude", "allow_empty", "other"]), VALUES, max_size=5)
    | VALUES,
    max_size=3,
)
MANIFESTS = st.one_of(
    ROWS,
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(("jobs", "matrix"), ROWS)
        | dict.fromkeys(("defaults", "name", "vars", "jobs_from", "allow_empty", "prices"), VALUES)
        | {setting.name: VALUES for setting in SETTINGS},
    ),
)


@given(MANIFESTS)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_values_give_a_batch_or_a_list_of_problems(manifest: object) -> None:
    text = yaml.safe_dump(manifest, allow_unicode=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.yaml"
        path.write_text(text, encoding="utf-8", errors="replace")
        try:
            result: Sequence[object] = load(path).entries
        except ManifestError as error:
            result = error.diagnostics
            assert result
    assert result or isinstance(manifest, dict)  # a batch may be empty with allow_empty


def test_the_pure_parser_works_without_the_c_parser(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = names(loaded(here, CONTRACT))
    monkeypatch.setattr(source, "_LOADER", yaml.SafeLoader)
    assert names(loaded(here, CONTRACT)) == expected
    found = refused(here, "- video: 'a\n")
    assert (found[0].line, found[0].column, found[0].code) == (1, 10, "yaml-quote")


def test_nearest_suggests_similar_names() -> None:
    assert nearest("720P", ["480p", "720p"]) == "720p"
    assert nearest("resolutoin", sorted(row_fields())) == "resolution"
    assert nearest("xyz", sorted(row_fields())) is None


def test_more_rows_than_the_limit_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchrunner.manifest.expand.MAX_ROWS", 3)
    assert len(loaded(tmp_path, [job(shift=n) for n in (1, 2, 3)]).entries) == 3
    assert [item.code for item in refused(tmp_path, [job(shift=n) for n in (1, 2, 3, 4)])] == ["too-many"]


# The schema, the table of settings and the contract agree.


def test_the_schema_is_a_valid_schema_and_so_are_its_examples() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    validator = jsonschema.Draft202012Validator(schema())
    for item in schema()["examples"]:
        validator.validate(item)


def test_the_schema_knows_every_setting_and_no_other_key() -> None:
    properties = schema()["else"]["properties"]
    others = {"version", "name", "model", "prices", "vars", "allow_empty", "defaults", "jobs", "jobs_from", "matrix"}
    others.add("dataset")
    assert set(properties) == {setting.name for setting in SETTINGS} | others
    for setting in SETTINGS:
        entry = properties[setting.name]
        shown = entry.get("default")
        is_text = isinstance(setting.default, str) and not isinstance(shown, str)
        assert shown == (parse(setting, setting.default) if is_text else setting.default)
        assert tuple(entry.get("enum", ())) == setting.choices
        if setting.kind == "count":
            assert (entry["minimum"], entry["maximum"]) == (setting.low, setting.high)
        for value in entry.get("examples", ()):
            parse(setting, value)
    assert schema()["$defs"]["model"]["enum"] == list(registry.models())
    assert schema()["$defs"]["model"]["default"] == MODEL


def test_the_schema_knows_every_parameter_with_its_documented_default() -> None:
    definitions = schema()["$defs"]
    assert set(definitions["job"]["properties"]) == row_fields() | {"id"}
    assert set(definitions["defaults"]["properties"]) == row_fields() - {"model"}
    assert set(definitions["row"]["properties"]) == row_fields() | {"exclude", "allow_empty"}
    assert set(definitions["exclusion"]["properties"]) == row_fields() - {"tags", "priority", "takes", "file"}
    for name, default in PARAMETERS.items():
        assert definitions[name].get("default") == default
    assert definitions["resolution"]["enum"] == ["480p", "580p", "720p"]
    assert definitions["video_quality"]["enum"] == ["low", "medium", "high", "maximum"]
    assert definitions["video_write_mode"]["enum"] == ["fast", "balanced", "small"]


def test_an_editor_finds_a_description_of_every_key() -> None:
    definitions = schema()["$defs"]
    for properties in (schema()["else"]["properties"], definitions["job"]["properties"]):
        for name, entry in properties.items():
            whole = definitions[entry["$ref"].rsplit("/", 1)[1]] | entry if "$ref" in entry else entry
            assert whole["title"], name
            assert whole["description"].endswith("."), name


@pytest.mark.parametrize(
    ("quality", "messages"),
    [
        ("{frozn: reject}", ["'quality' has no key 'frozn'"]),
        ("{frozen: rejct}", ["'frozen' is 'rejct', must be one of off, warn, reject"]),
        ("{frozen: 3, blck: warn}", ["'frozen' is 3, must be one of off, warn, reject", "'quality' has no key 'blck'"]),
        ("{frozen: off, black: on}", []),
    ],
)
def test_each_mistake_in_a_setting_that_is_a_mapping_is_reported_once(
    tmp_path: Path, quality: str, messages: list[str]
) -> None:
    found = refused(tmp_path, f"quality: {quality}\njobs: [{{shift: x}}]\n")
    assert [item.message for item in found if item.line == 1] == messages


def test_diagnostics_are_in_order_of_place(tmp_path: Path) -> None:
    found = refused(tmp_path, "zzz: 1\njobs:\n- {shift: x}\n- {id: '?', video: none.mp4}\n- 3\nconcurrency: 0\n")
    places = [(item.line, item.column) for item in found]
    assert all(one <= other for one, other in pairwise(places))
    assert {item.code for item in found} >= {"unknown-key", "wrong-type", "missing-key", "id", "video", "out-of-range"}


def test_loading_without_local_files_imports_no_heavy_library(tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "m.yaml").write_text(json.dumps([job()]))
    code = (
        "import sys; from pathlib import Path; from batchrunner.manifest import load; "
        f"load(Path({str(tmp_path / 'm.yaml')!r})); "
        "print(sorted({'av', 'PIL', 'numpy', 'aiohttp', 'asyncio', 'rich'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_model_of_a_batch_or_of_a_job_is_part_of_its_identity(tmp_path: Path) -> None:
    move = "alibaba/wan2.2-14b-animate-move"
    own = loaded(tmp_path, [job(), job(model=move)]).entries
    assert [entry.job.model for entry in own] == [MODEL, move]
    assert [entry.id for entry in own] == ["walk-hero-480p-a67e2e9c97", "walk-hero-move-480p-a67e2e9c97"]
    assert own[0].job.fingerprint == "sha256:7a6a3adc1786f417640c1f2759c3117f150b2b9a03aec2aca6eb9708430888d9"
    whole = loaded(tmp_path, {"model": move, "jobs": [job()], "matrix": [job(model=[MODEL, move], shift=[6])]}).entries
    assert [entry.job.model for entry in whole] == [move, MODEL, move]
    assert whole[0].job.fingerprint == own[1].job.fingerprint
