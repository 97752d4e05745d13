"""croissant.json in mlcroissant: it validates without a warning, and its record sets give the rows of the data set."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from batchrunner.app.export import ExportRequest, export
from batchrunner.datasets.formats import FORMATS, FormatOptions
from tests.datasets.sample_batches import Sample, make_batch
from tests.datasets.test_croissant import BLOCK
from tests.loaders.conftest import require

pytestmark = pytest.mark.filterwarnings("ignore")  # of other projects
PROV = "http://www.w3.org/ns/prov#"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with two splits with clips, and one without."""
    folder = tmp_path_factory.mktemp("croissant")
    tags = ({"scene": "12a", "odd name": "x", "a.b": "1", 'quo"te': "y"}, {"scene": ""}, {"where": "0012"})
    samples = [
        Sample(
            f"job-{number}",
            reference=f"walk{number % 4}".encode(),
            tags=tags[number % 3] | {"split": "odd" if number % 4 else "train"},
            params={"resolution": "480p", "num_inference_steps": number, "shift": 5.0},
        )
        for number in range(12)
    ]
    rundir = make_batch(folder, samples, settings={"dataset": BLOCK})
    lines: list[str] = []
    request = ExportRequest(split="train=.5,odd=.5,test=0", version="1.0")
    assert export([rundir.path], folder / "out", request, lines.append, lines.append) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def loaded(exported: Path) -> Any:
    return require("mlcroissant").Dataset(jsonld=str(exported / "croissant.json"))


def plain(value: Any, parent: str) -> Any:
    """Return a loaded value as JSON has it. mlcroissant gives texts as bytes, and names as paths."""
    if isinstance(value, dict):
        return {name.removeprefix(parent): plain(item, f"{name}/") for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item, "") for item in value]
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if hasattr(value, "item") else value


def test_it_validates_without_a_warning(loaded: Any) -> None:
    issues = loaded.metadata.ctx.issues
    assert issues.errors == set()
    assert issues.warnings == set()
    assert loaded.metadata.license == ["cc-by-4.0"]
    assert [creator.name for creator in loaded.metadata.creators] == ["Ada", "Studio"]
    assert loaded.metadata.data_biases == ["adults only", "indoors"]


@pytest.mark.parametrize("split", ["train", "odd"])
def test_a_record_set_gives_the_rows_of_its_split(loaded: Any, exported: Path, split: str) -> None:
    records = [plain(dict(record), f"{split}-clips/") for record in loaded.records(f"{split}-clips")]
    lines = (exported / split / "metadata.jsonl").read_text("utf-8").splitlines()
    assert len(records) == len(lines) > 0
    for record, row in zip(records, map(json.loads, lines), strict=True):
        tags = {name: value for name, value in row["tags"].items() if '"' not in name}
        found = {name.replace("%20", " "): value for name, value in record.pop("tags").items()}
        assert found == tags
        assert record == {name: row[name] for name in record}
        assert {"id", "ids", "file_name", "sha256", "reference_sha256", "num_inference_steps"} <= record.keys()


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_the_record_sets_of_every_format_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    if form == "parquet":
        require("pyarrow")
    mlcroissant = require("mlcroissant")
    extract = importlib.import_module("mlcroissant._src.operation_graph.operations.extract")
    monkeypatch.setattr(extract, "EXTRACT_PATH", require("etils.epath").Path(tmp_path / "unpacked"))
    rundir = make_batch(tmp_path, [Sample(f"job-{number}", image=None, tags={"n": "1"}) for number in range(5)])
    request = ExportRequest(form=form, options=FormatOptions(shard_bytes=6_000))
    assert export([rundir.path], tmp_path / "out", request, lambda _: None, lambda _: None) == 0
    loaded = mlcroissant.Dataset(jsonld=str(tmp_path / "out" / "croissant.json"))
    records = [plain(dict(record), "train-clips/") for record in loaded.records("train-clips")]
    rows = [json.loads(record["json"]) if "json" in record else record for record in records]
    assert sorted(row["id"] for row in rows) == [f"job-{number}" for number in range(5)]
    assert all(row["tags"] == {"n": "1"} and len(row["reference_sha256"]) == 64 for row in rows)
    assert all(str(record.get("video", "clip")).startswith("clip") for record in records)


def test_ids_that_look_like_numbers_stay_texts(tmp_path: Path) -> None:
    samples = [Sample("0012"), Sample("0012.t2", take=2, key="0012"), Sample("007", params={"resolution": "720p"})]
    rundir = make_batch(tmp_path, samples)
    assert export([rundir.path], tmp_path / "out", ExportRequest(), lambda _: None, lambda _: None) == 0
    loaded = require("mlcroissant").Dataset(jsonld=str(tmp_path / "out" / "croissant.json"))
    records = [plain(dict(record), "train-clips/") for record in loaded.records("train-clips")]
    assert [(record["id"], record["job"]) for record in records] == [
        ("0012", "0012"), ("0012.t2", "0012"), ("007", "007"),
    ]  # fmt: skip


def test_a_split_without_clips_has_no_record_set(loaded: Any) -> None:
    assert [item.id for item in loaded.metadata.record_sets] == ["splits", "train-clips", "odd-clips"]


def test_the_origin_is_a_graph_of_prov(exported: Path) -> None:
    rdflib = require("rdflib")
    graph = rdflib.Graph().parse(data=(exported / "croissant.json").read_text("utf-8"), format="json-ld")
    prov = rdflib.Namespace(PROV)
    (activity,) = graph.subjects(rdflib.RDF.type, prov.Activity)
    assert str(activity) == "urn:batchrunner:run:run1"
    agents = {str(graph.value(agent, prov.label)) for agent in graph.objects(activity, prov.wasAssociatedWith)}
    assert agents == {"api.example.com", "alibaba/wan2.2-14b-animate-replace", "batchrunner 1.0"}
    (data_set,) = graph.subjects(rdflib.RDF.type, rdflib.URIRef("https://schema.org/Dataset"))
    assert set(graph.objects(data_set, prov.wasGeneratedBy)) == {activity}
    assert {str(item).rpartition("/")[2] for item in graph.objects(None, prov.wasDerivedFrom)} >= {
        "train-inputs-files",
        "odd-inputs-files",
    }
