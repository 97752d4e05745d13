"""croissant.json: stated facts, origin and what is missing. tests/loaders/test_croissant.py loads it."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batchrunner.app.export import ExportRequest, export
from batchrunner.datasets.collect import Choice, Collection
from batchrunner.datasets.croissant import croissant
from batchrunner.datasets.details import WANTED, missing
from batchrunner.datasets.splits import Splits
from batchrunner.errors import UsageError
from tests.datasets.sample_batches import Sample, make_batch, open_batch

BLOCK: Mapping[str, Any] = {
    "license": "cc-by-4.0",
    "pretty_name": "Heroes",
    "description": "Walks.",
    "homepage": "https://example.com/heroes",
    "citation": "@misc{heroes, title={Heroes}}",
    "version": "1.0.0",
    "date_published": "2027-01-31",
    "keywords": ["walks", "video"],
    "creators": ["Ada", {"name": "Studio", "type": "organization", "url": "https://example.com"}],
    "responsible_ai": {
        "data_collection": "filmed by us",
        "data_biases": ["adults only", "indoors"],
        "data_limitations": "hands",
        "personal_sensitive_information": "actors who agreed",
        "data_collection_timeframe": ["2026-01-01", "2026-02-01"],
    },
}
FILES = [{"path": "nights/batch.yaml", "sha256": "ab" * 32}, {"path": "nights/jobs.csv", "sha256": "cd" * 32}]


def collected(folder: Path, samples: Sequence[Sample] = (Sample("a"),), **settings: Any) -> Collection:
    rundir = make_batch(folder, samples, settings=settings)
    return Collection([open_batch(rundir)], Choice(splits=Splits.parse("train=1,test=0")))


def written(dataset: Collection, form: str = "folder", names: Sequence[str] = ("train/metadata.jsonl",)) -> Any:
    files = {name: SimpleNamespace(name=name, sha256="ef" * 32, bytes=7) for name in names}
    return json.loads(croissant(dataset, form, files))


def test_what_the_manifest_states_is_stated(tmp_path: Path) -> None:
    content = written(collected(tmp_path, dataset=BLOCK))
    assert content["name"] == "Heroes"
    assert content["description"].startswith("Walks.\n\nThe clips of this data set are synthetic")
    assert "Not stated" not in content["description"]
    expected = {
        "license": "cc-by-4.0",
        "url": "https://example.com/heroes",
        "citeAs": "@misc{heroes, title={Heroes}}",
        "version": "1.0.0",
        "datePublished": "2027-01-31",
        "keywords": ["synthetic", "video", "walks"],
        "creator": [
            {"@type": "sc:Person", "name": "Ada"},
            {"@type": "sc:Organization", "name": "Studio", "url": "https://example.com"},
        ],
        "rai:dataBiases": ["adults only", "indoors"],
        "rai:dataCollectionTimeframe": ["2026-01-01", "2026-02-01"],
        "rai:personalSensitiveInformation": "actors who agreed",
    }
    assert {name: content[name] for name in expected} == expected


def test_what_is_missing_is_named_and_not_made_up(tmp_path: Path) -> None:
    content = written(collected(tmp_path, dataset={"license": "mit", "responsible_ai": {"data_biases": "x"}}))
    assert content["name"] == "heroes"
    named = content["description"].rpartition("Not stated by the author of this data set: ")[2].removesuffix(".")
    assert named.split(", ") == [name for name in WANTED if name not in {"license", "responsible_ai.data_biases"}]
    assert not {"creator", "citeAs", "url", "version", "datePublished", "rai:dataCollection"} & content.keys()


def test_everything_is_missing_without_a_block() -> None:
    assert missing({}) == tuple(WANTED)
    assert missing({"responsible_ai": None, "creators": []}) == tuple(WANTED)
    assert missing(BLOCK) == ()


def test_origin_names_run_service_models_times_and_files_of_the_manifest(tmp_path: Path) -> None:
    content = written(collected(tmp_path, manifest_files=FILES))
    (activity,) = content["prov:wasGeneratedBy"]
    labels = [agent["prov:label"] for agent in activity["prov:wasAssociatedWith"]]
    assert labels == ["api.example.com", "alibaba/wan2.2-14b-animate-replace", "batchrunner 0"]
    assert activity["@id"] == "urn:batchrunner:run:run1"
    assert activity["prov:startedAtTime"] == "2027-01-15T08:00:00.000Z"
    assert [entity["@id"] for entity in content["prov:wasDerivedFrom"]] == [
        f"urn:sha256:{'ab' * 32}", f"urn:sha256:{'cd' * 32}",
    ]  # fmt: skip
    assert "nights" not in json.dumps(content["prov:wasDerivedFrom"]), "a folder of the author's machine"
    fields = content["recordSet"][1]["field"]
    assert {field["name"]: field["equivalentProperty"] for field in fields if "equivalentProperty" in field} == {
        "model": "prov:wasAttributedTo",
        "service": "prov:wasAttributedTo",
        "run_id": "prov:wasGeneratedBy",
        "generation_id": "prov:wasGeneratedBy",
        "completed_at": "prov:generatedAtTime",
        "reference_sha256": "prov:wasDerivedFrom",
        "character_sha256": "prov:wasDerivedFrom",
    }


@pytest.mark.parametrize(
    ("form", "names", "of"),
    [
        ("folder", ["train/metadata.jsonl", "train/clips/a.mp4"], "metadata.jsonl"),
        ("webdataset", ["train-000000.tar", "train-000001.tar", "train-x.tar"], "train-rows"),
        ("parquet", ["data/train-00000-of-00001.parquet"], "train-rows"),
    ],
)
def test_ids_are_unique_and_every_reference_has_a_node(tmp_path: Path, form: str, names: list[str], of: str) -> None:
    tags = {"a b": "1", "a%20b": "2", "ä": "3", "../x": "4", "q\"'\\": "5"}
    content = written(collected(tmp_path, [Sample("a", tags=tags)]), form, names)
    nodes: list[str] = []
    references: list[str] = []

    def visit(value: Any) -> None:
        if isinstance(value, dict):
            if "@id" in value:
                (nodes if "@type" in value and not value["@type"].startswith("@") else references).append(value["@id"])
            for item in value.values():
                visit(item)
        elif isinstance(value, list):
            for item in value:
                visit(item)

    visit({name: value for name, value in content.items() if name != "@context"})
    assert len(set(nodes)) == len(nodes)
    assert set(references) <= set(nodes)
    assert all(node.isascii() and " " not in node for node in nodes)
    assert any(reference.endswith(of) for reference in references)


def test_a_rehearsal_is_named(tmp_path: Path) -> None:
    dataset = collected(tmp_path)
    dataset.description.reports[0]["provider"] = "sandbox"  # type: ignore[index]  # a dict
    content = written(dataset)
    assert "stand-ins of a rehearsal" in content["description"]


def test_the_sandbox_is_no_model(tmp_path: Path) -> None:
    dataset = collected(tmp_path)
    dataset.description.reports[0]["runs"][0]["provider"] = "sandbox"
    (activity,) = written(dataset)["prov:wasGeneratedBy"]
    assert [agent["prov:label"] for agent in activity["prov:wasAssociatedWith"]] == ["api.example.com", "batchrunner 0"]


def stored_report(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Return a run directory without a journal, whose report.json was changed."""
    rundir = make_batch(folder, [Sample("a")], settings={"dataset": BLOCK, "manifest_files": FILES})
    report = dict(open_batch(rundir).head)
    report["jobs"] = [dict(row) for row in open_batch(rundir).rows]
    change(report)
    rundir.journal.unlink()
    (rundir.path / "report.json").write_text(json.dumps(report))
    return rundir.path


def of_an_earlier_version(report: dict[str, Any]) -> None:
    for name in ("dataset", "models", "price_basis", "columns", "batchrunner_version"):
        del report[name]
    del report["manifest"]["files"]
    for run in report["runs"]:
        del run["provider"], run["service"]
    for row in report["jobs"]:
        del row["parameters"], row["rendered_by"]


def test_a_report_of_an_earlier_version_suffices(tmp_path: Path) -> None:
    path = stored_report(tmp_path, of_an_earlier_version)
    assert export([path], tmp_path / "out", ExportRequest(), lambda _: None, lambda _: None) == 0
    content = json.loads((tmp_path / "out" / "croissant.json").read_text())
    (activity,) = content["prov:wasGeneratedBy"]
    assert [agent["prov:label"] for agent in activity["prov:wasAssociatedWith"]] == ["api.example.com", "batchrunner"]


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "text"},
        {"dataset": {"creators": 5}},
        {"dataset": {"license": "x\ny"}},
        {"runs": 5},
        {"runs": [{}]},
        {"manifest": {"path": "x", "files": [{"path": 1}]}},
    ],
    ids=str,
)
def test_an_altered_report_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = stored_report(tmp_path, lambda report: report.update(change))
    with pytest.raises(UsageError, match="is not a report of batchrunner"):
        export([path], tmp_path / "out", ExportRequest(), lambda _: None, lambda _: None)


def test_halves_of_characters_do_no_harm(tmp_path: Path) -> None:
    def change(report: dict[str, Any]) -> None:
        report["jobs"][0]["tags"] = {"\ud800": "\ud801"}
        report["name"] = "\ud802"
        report["runs"][0]["run_id"] = "\ud803"

    path = stored_report(tmp_path, change)
    assert export([path], tmp_path / "out", ExportRequest(), lambda _: None, lambda _: None) == 0
    json.loads((tmp_path / "out" / "croissant.json").read_text("utf-8"))


def test_export_writes_it_and_the_console_names_what_is_missing(tmp_path: Path) -> None:
    rundir = make_batch(tmp_path, [Sample("a"), Sample("b")], settings={"dataset": {"license": "mit"}})
    lines: list[str] = []
    for name in ("one", "two"):
        assert export([rundir.path], tmp_path / name, ExportRequest(version="1"), lines.append, lines.append) == 0
    one, two = ((tmp_path / name / "croissant.json").read_bytes() for name in ("one", "two"))
    assert one == two
    assert "croissant.json" in (tmp_path / "one" / "SHA256SUMS").read_text()
    assert any("creators, citation, homepage" in line for line in lines)
    assert "`creators`: who made the data set" in (tmp_path / "one" / "README.md").read_text()
