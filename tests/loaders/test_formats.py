"""All formats of a rendered batch, loaded by other projects: the bytes and rows are those of the run directory."""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from batchrunner.app.export import ExportRequest, export
from batchrunner.datasets import sums
from batchrunner.datasets.formats import FormatOptions
from tests.datasets.sample_batches import Sample, make_batch, tree_of
from tests.loaders.conftest import require

pytestmark = pytest.mark.filterwarnings("ignore")  # of other projects
FORMATS = ("folder", "webdataset", "parquet")
SPLIT = "train=.6,val=.4,test=0"
SHARD_BYTES = 250_000  # several shards


@dataclass(frozen=True)
class Loaded:
    """A clip as a loader gives it. row: without file names."""

    split: str
    video: bytes
    reference: bytes | None
    character: bytes | None
    row: Mapping[str, Any]


def exported(run_dirs: list[Path], out: Path, form: str, shard_bytes: int = SHARD_BYTES) -> Path:
    if form == "parquet":
        require("pyarrow")
    request = ExportRequest(form=form, split=SPLIT, version="1", options=FormatOptions(shard_bytes))
    lines: list[str] = []
    assert export(run_dirs, out, request, lines.append, lines.append) == 0, lines
    assert any(re.fullmatch("no clip fell to .*test: the card leaves the empty split out", line) for line in lines)
    return out


@pytest.fixture(scope="module", params=FORMATS)
def out(request: pytest.FixtureRequest, twenty_clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    return exported([twenty_clips], folder / request.param, request.param)


@pytest.fixture(scope="module")
def expected(twenty_clips: Path) -> dict[str, Any]:
    """The job of each clip in report.json, by id."""
    report = json.loads((twenty_clips / "report.json").read_bytes())
    return {job["id"]: job for job in report["jobs"]}


def load(datasets: Any, out: Path, cache: Path) -> Iterator[Loaded]:
    """Load a data set as its card says, without decoding."""
    for split, table in datasets.load_dataset(str(out), cache_dir=str(cache)).items():
        for name, feature in table.features.items():
            if isinstance(feature, datasets.Video | datasets.Image):
                table = table.cast_column(name, type(feature)(decode=False))  # noqa: PLW2901
        for sample in table:
            yield _loaded(out, split, sample)


def _loaded(out: Path, split: str, sample: dict[str, Any]) -> Loaded:
    def content(value: dict[str, Any] | None) -> bytes | None:
        if value is None:
            return None
        return value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()

    if out.name == "webdataset":
        key = sample["json"]["fingerprint"].removeprefix("sha256:")
        assert sample["__key__"].endswith(key)
        video, reference, character = (content(sample[name]) for name in ("mp4", "reference.mp4", "character.jpg"))
        return Loaded(split, video or b"", reference, character, sample["json"])
    if out.name == "parquet":
        video, reference, character = (content(sample.pop(name)) for name in ("video", "reference", "character"))
        return Loaded(split, video or b"", reference, character, sample)
    image = sample.pop("character")
    character = (out / split / image).read_bytes() if image else None
    video, reference = content(sample.pop("video")), content(sample.pop("reference"))
    return Loaded(split, video or b"", reference, character, sample)


def test_hugging_face_loads_the_bytes_and_rows_of_the_batch(
    hugging_face: Any, out: Path, tmp_path: Path, twenty_clips: Path, expected: dict[str, Any]
) -> None:
    loaded = list(load(hugging_face, out, tmp_path))
    assert sorted(item.row["id"] for item in loaded) == sorted(expected)
    assert {item.split for item in loaded} == {"train", "val"}
    for item in loaded:
        job = expected[item.row["id"]]
        assert item.video == (twenty_clips / job["file"]).read_bytes()
        for name, content in (("video", item.reference), ("image", item.character)):
            assert content is not None
            assert hashlib.sha256(content).hexdigest() == job["inputs"][name]["sha256"]
        same = ("model", "resolution", "num_inference_steps", "seed")
        assert {name: item.row.get(name) for name in same} == {name: job["request"].get(name) for name in same}
        assert (item.row["width"], item.row["duration_s"]) == (job["width_px"], job["duration_s"])
        assert (item.row["generation_id"], item.row["sha256"]) == (job["generation_id"], job["sha256"])
    references = [
        {item.row["reference_sha256"] for item in loaded if item.split == split} for split in ("train", "val")
    ]
    assert not references[0] & references[1], "no reference is in two splits"


def rows_of(item: Loaded) -> dict[str, Any]:
    """Return what all formats have in common: "" and null are both a missing value in a folder."""
    row = {name: value for name, value in item.row.items() if not name.endswith(("_path", "file_name"))}
    return {
        name: {key: text or None for key, text in value.items()} if name == "tags" else value or None
        for name, value in row.items()
    }


def test_the_rows_are_equal_in_all_formats(hugging_face: Any, twenty_clips: Path, tmp_path: Path) -> None:
    found = []
    for form in FORMATS:
        out = exported([twenty_clips], tmp_path / form, form)
        loaded = load(hugging_face, out, tmp_path / f"{form}-cache")
        found.append({item.row["id"]: (item.split, rows_of(item)) for item in loaded})
    assert found[0] == found[1] == found[2]


def test_webdataset_loads_the_shards(out: Path, twenty_clips: Path, expected: dict[str, Any]) -> None:
    if out.name != "webdataset":
        pytest.skip("another format")
    webdataset = require("webdataset")
    ids = []
    shards = sorted(map(str, out.glob("*.tar")))
    assert len(shards) > 2
    for sample in webdataset.WebDataset(shards, shardshuffle=False):
        row = json.loads(sample["json"])
        job = expected[row["id"]]
        ids.append(row["id"])
        assert f"sha256:{sample['__key__']}" == job["fingerprint"]
        assert sample["mp4"] == (twenty_clips / job["file"]).read_bytes()
        assert hashlib.sha256(sample["reference.mp4"]).hexdigest() == job["inputs"]["video"]["sha256"]
        assert hashlib.sha256(sample["character.jpg"]).hexdigest() == job["inputs"]["image"]["sha256"]
    assert sorted(ids) == sorted(expected)


def test_pyarrow_reads_the_files(hugging_face: Any, out: Path, twenty_clips: Path, expected: dict[str, Any]) -> None:
    if out.name != "parquet":
        pytest.skip("another format")
    parquet = require("pyarrow.parquet")
    paths = sorted(out.glob("data/*.parquet"))
    assert len(paths) > 2
    ids = []
    for path in paths:
        file = parquet.ParquetFile(path)
        columns = {
            file.metadata.row_group(0).column(number).path_in_schema: file.metadata.row_group(0).column(number)
            for number in range(file.metadata.num_columns)
        }
        assert columns["video.bytes"].compression == "UNCOMPRESSED"
        assert not columns["video.bytes"].is_stats_set, "a clip is no statistic"
        assert columns["id"].is_stats_set
        assert all(column.has_offset_index for column in columns.values())
        stated = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
        assert hugging_face.Features.from_dict(stated).to_dict() == stated
        assert hugging_face.Features.from_dict(stated).arrow_schema.names == file.schema_arrow.names
        for row in file.read().to_pylist():
            job = expected[row["id"]]
            ids.append(row["id"])
            assert row["video"]["bytes"] == (twenty_clips / job["file"]).read_bytes()
            assert row["video"]["path"] == f"{job['fingerprint'].removeprefix('sha256:')}.mp4"
    assert sorted(ids) == sorted(expected)


def test_another_export_gives_the_same_bytes(out: Path, twenty_clips: Path, tmp_path: Path) -> None:
    assert tree_of(exported([twenty_clips], tmp_path / "again", out.name)) == tree_of(out)


def test_it_can_be_checked_in_an_empty_directory(out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(out, copy)
    with (copy / "SHA256SUMS").open("rb") as file:
        listed = {item.name for item in sums.read(file)}
    assert listed == set(tree_of(copy)) - {"SHA256SUMS"}
    if (program := shutil.which("sha256sum")) is None:
        pytest.skip("there is no sha256sum here")
    command = [program, "-c", "--quiet", "--strict", "SHA256SUMS"]
    assert subprocess.run(command, cwd=copy, check=False).returncode == 0
    name = max(listed)
    (copy / name).write_bytes((copy / name).read_bytes() + b"x")
    assert subprocess.run(command, cwd=copy, check=False, capture_output=True).returncode == 1


SAMPLES = [
    *(Sample(f"remote-{number}", reference=None, image=None) for number in range(6)),
    Sample("with video", image=None, reference=b"walk"),
    Sample("with both", tags={"date": "2026-11-30", "a.b": "\ud800", "_type": "Value", "": "empty"}),
    *(Sample(f"more-{number}", params={"resolution": "480p", "shift": 5.0}) for number in range(3)),
]


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
def test_samples_may_differ_in_their_inputs(hugging_face: Any, form: str, tmp_path: Path) -> None:
    """The first samples lack inputs, parameters and tags that later ones have."""
    out = exported([make_batch(tmp_path, SAMPLES).path], tmp_path / form, form, 1_000_000)
    found = {item.row["id"]: item for item in load(hugging_face, out, tmp_path / "cache")}
    assert {name: item.video for name, item in found.items()} == {
        sample.id: f"clip of {sample.id}".encode() for sample in SAMPLES
    }
    assert {item.reference for name, item in found.items() if name.startswith("remote")} == {None}
    assert (found["with video"].reference, found["with video"].character) == (b"walk", None)
    assert (found["with both"].reference, found["with both"].character) == (b"walk", b"hero")
    assert found["with both"].row["tags"] == {"date": "2026-11-30", "a.b": "\ufffd", "_type": "Value", "": "empty"}
    assert {found[f"more-{number}"].row["shift"] for number in range(3)} == {5.0}


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
def test_an_altered_clip_is_left_out_and_the_rest_is_complete(hugging_face: Any, form: str, tmp_path: Path) -> None:
    require("pyarrow")
    rundir = make_batch(tmp_path, [Sample(f"job-{number}") for number in range(5)])
    path = rundir.path / "job-3.mp4"
    path.write_bytes(bytes(path.stat().st_size))
    lines: list[str] = []
    assert export([rundir.path], tmp_path / form, ExportRequest(form=form), lines.append, lines.append) == 1
    assert any("job-3" in line and "left out" in line for line in lines)
    found = [item.row["id"] for item in load(hugging_face, tmp_path / form, tmp_path / "cache")]
    assert found == ["job-0", "job-1", "job-2", "job-4"]
