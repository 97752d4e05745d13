"""A report.json of anyone: each value is checked before it is used, and a fault is named with its place."""

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchrunner.app.export import AllRefused, ExportRequest, export
from batchrunner.datasets import stored_reports
from batchrunner.datasets.batches import read_batch
from batchrunner.datasets.columns import public_source
from batchrunner.errors import UsageError
from batchrunner.storage.run_directory import RunDir
from tests.datasets.sample_batches import Sample, accept, make_batch, open_batch, tree_of

MEASURES = {"version": 1, "sharpness": 2.5}
MARKS = [{"kind": "frozen", "action": "warn", "message": "m"}]
BLOCK = {"license": "mit", "creators": ["A"], "keywords": ["walk"]}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run directory without its journal, and its report."""
    samples = [Sample("a", tags={"split": "test"}, quality=MEASURES), Sample("b", reference=None)]
    folder = tmp_path_factory.mktemp("stored")
    rundir = make_batch(folder, samples, settings={"dataset": BLOCK})
    accept(rundir, "a")
    batch = open_batch(rundir)
    report = {**batch.head, "jobs": [dict(row) for row in batch.rows]}
    report["jobs"][0]["quality"]["marks"] = MARKS
    rundir.internal_dir.rename(folder / "elsewhere")
    return rundir.path, json.loads(json.dumps(report))


def exported(path: Path, report: Any, out: Path, form: str = "folder") -> int:
    (path / "report.json").write_text(json.dumps(report))
    return export([path], out, ExportRequest(form=form), lambda _: None, lambda _: None)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for file in sorted(out.glob("*/metadata.jsonl")) for line in file.read_text().split("\n")[:-1]
    ]


def test_service_and_run_are_those_that_rendered_the_clip(stored: tuple[Path, Any], tmp_path: Path) -> None:
    path, report = stored
    changed = copy.deepcopy(report)
    assert report["jobs"][0]["rendered_by"]["run_id"]
    changed["jobs"][1]["rendered_by"] = {"service": "other.example.com", "run_id": None}
    exported(path, changed, tmp_path / "out")
    found = {row["id"]: (row["service"], row["run_id"]) for row in rows_of(tmp_path / "out")}
    assert found["a"] == (report["service"], report["run_id"])
    assert found["b"][0] == "other.example.com"
    croissant = json.loads((tmp_path / "out" / "croissant.json").read_text())
    fields = {field["name"] for field in croissant["recordSet"][1]["field"]}
    assert {"service", "run_id"} <= fields


KEY = "is {} instead of 'sha256:' and 64 lower-case hex digits"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("fingerprint", "../../zz", KEY.format('"../../zz"')),
        ("fingerprint", "sha256:/abs/x", KEY.format('"sha256:/abs/x"')),
        ("fingerprint", "", KEY.format('""')),
        ("fingerprint", "sha256:" + "A" * 64, "instead of 'sha256:'"),
        ("fingerprint", "sha256:" + "a" * 64 + "\n", "instead of 'sha256:'"),
        ("id", "", 'is "" instead of a name'),
        ("id", "a\x1b[2J", "instead of a name"),
        ("job", "x" * 301, "instead of a name"),
        ("file", "a\0.mp4", "instead of the name of a file"),
        ("file", "\ud800", "instead of the name of a file"),
        ("state", "done", 'is "done" instead of one of failed, in_doubt'),
        ("sha256", "A" * 64, "instead of 64 lower-case hex digits"),
        ("bytes", None, "is null instead of a whole number from 0"),
        ("quality", 3, "is 3 instead of a mapping"),
        ("quality", [1], "is a list instead of a mapping"),
        ("quality", {"measures": [1]}, ".measures is a list instead of a mapping"),
        ("quality", {"measures": {"x": 10**400}}, ".measures.x is 1000"),
        ("quality", {"marks": ["x"]}, '.marks[0] is "x" instead of a mapping'),
        ("attempts", 5, "is 5 instead of a list"),
        ("attempts", ["x"], '[0] is "x" instead of a mapping'),
        ("attempts", [{"completed_at": 5}], "[0].completed_at is 5 instead of text"),
        ("verdict", "accept", 'is "accept" instead of a mapping'),
        ("verdict", {"verdict": "accept", "rating": 1.5}, ".rating is 1.5"),
        ("tags", None, "is null instead of a mapping"),
        ("tags", {"split": ["../x"]}, ".split is a list instead of text"),
        ("duration_s", "x", 'is "x" instead of a number'),
        ("width_px", 10**30, "instead of a whole number"),
        ("take", "x", 'is "x" instead of a whole number'),
        ("take", True, "is true instead of a whole number"),
        ("rendered_by", [], "is a list instead of a mapping"),
        ("request", {}, ".model is missing"),
        ("request", {"model": "m", "deep": [[[[[[[[[[[[1]]]]]]]]]]]]}, ""),
        ("inputs", {"video": {"source": "http://[", "sha256": None, "bytes": None, "mime": None}}, ".video.source is"),
        ("inputs", {"video": {"source": "a\0", "sha256": None, "bytes": None, "mime": None}}, ".video.source is"),
        ("inputs", {"video": {"source": "a", "sha256": None, "bytes": None, "mime": ["x"]}}, ".video.mime is a list"),
    ],
)
def test_a_value_of_a_row_that_does_not_fit_is_named(
    stored: tuple[Path, Any], tmp_path: Path, key: str, value: Any, message: str
) -> None:
    path, report = stored
    changed = copy.deepcopy(report)
    changed["jobs"][0][key] = value
    if not message:  # it fits
        assert exported(path, changed, tmp_path / "out") == 0
        return
    with pytest.raises(UsageError) as caught:
        exported(path, changed, tmp_path / "out", "webdataset")
    assert f"is not a report of batchrunner: jobs[0].{key}" in caught.value.message
    assert message in caught.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema_version", 99, "a newer version of batchrunner wrote it (schema_version 99)"),
        ("schema_version", "2", "its schema_version is not a whole number"),
        ("name", 5, "name is 5 instead of text"),
        ("runs", [{"run_id": 1}], "runs[0].run_id is 1 instead of text"),
        ("models", "m", 'models is "m" instead of a list'),
        ("manifest", {"path": "a\0"}, "manifest.path is"),
        ("dataset", {"creators": 5}, "dataset is a mapping instead of a `dataset` block"),
        ("jobs", {}, "jobs is a mapping instead of a list"),
        ("jobs", [1], "jobs[0] is 1 instead of a mapping"),
    ],
)
def test_a_value_of_the_head_that_does_not_fit_is_named(
    stored: tuple[Path, Any], tmp_path: Path, key: str, value: Any, message: str
) -> None:
    path, report = stored
    with pytest.raises(UsageError) as caught:
        exported(path, {**report, key: value}, tmp_path / "out")
    assert message in caught.value.message


def test_ids_that_take_the_names_of_others_lose_no_clip(stored: tuple[Path, Any], tmp_path: Path) -> None:
    path, report = stored
    row = {**report["jobs"][1], "verdict": None}
    digits = "c" * 64
    names = ["x", f"x-{digits[:8]}", f"x-{digits}", "x"]
    keys = [f"{number}" * 64 for number in range(3)] + [digits]
    rows = [{**row, "id": name, "fingerprint": f"sha256:{key}"} for name, key in zip(names, keys, strict=True)]
    assert exported(path, {**report, "jobs": rows}, tmp_path / "out") == 0
    assert len({row["file_name"] for row in rows_of(tmp_path / "out")}) == 4


def test_each_row_is_checked_once(stored: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work grows with the rows, and not with their square."""
    _, report = stored
    calls: list[int] = []

    def counted(text: Any, *arguments: Any) -> Any:
        calls.append(1)
        return public_source(text, *arguments)

    monkeypatch.setattr(stored_reports, "public_source", counted)
    (tmp_path / "report.json").write_text(json.dumps({**report, "jobs": report["jobs"] * 50}))
    batch = read_batch(RunDir(tmp_path), "0")
    assert batch is not None
    assert len(batch.rows) == 100
    assert len(calls) == sum(len(row["inputs"]) for row in batch.rows)


TEXTS = st.one_of(st.text(max_size=8), st.sampled_from(["", "../x", "/x", "a\0", "\ud800", "http://[", "~", "x" * 500]))
NUMBERS = st.one_of(st.integers(-3, 3), st.sampled_from([10**30, -(10**400), 1 << 63]), st.floats())
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=5,
)


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value in a JSON value."""
    yield above
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, item in items:
        yield from places(item, (*above, step))


def replaced(report: Any, place: tuple[Any, ...], change: Callable[[Any, Any], None]) -> None:
    inner = report
    for step in place[:-1]:
        inner = inner[step]
    change(inner, place[-1])


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data(), form=st.sampled_from(["folder", "webdataset"]))
def test_no_json_gives_anything_but_a_clean_export_or_a_refusal(
    stored: tuple[Path, Any], tmp_path: Path, data: st.DataObject, form: str
) -> None:
    path, report = stored
    changed = copy.deepcopy(report)
    used = ["jobs", "manifest", "name", "provider", "runs", "models", "dataset", "service", "schema_version"]
    known = [place for place in places({key: changed[key] for key in used}) if place]
    for place in data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=2)):
        value, is_removed = data.draw(VALUES), data.draw(st.integers(0, 9)) == 0

        def change(inner: Any, step: Any, value: Any = value, *, is_removed: bool = is_removed) -> None:
            if is_removed:
                del inner[step]
            else:
                inner[step] = value

        try:
            replaced(changed, place, change)
        except (LookupError, TypeError):  # a change before removed this place
            continue
    # A name of a stored report that leaves the data set leads to a folder that nothing else uses.
    out = tmp_path / "1" / "2" / "3" / "set"
    out.parent.mkdir(parents=True, exist_ok=True)
    before = tree_of(path)
    try:
        status = exported(path, changed, out, form)
    except (UsageError, AllRefused):
        assert not out.exists()
    else:
        assert status in {0, 1}
        assert rows_of(out) or form == "webdataset"
    shutil.rmtree(out, ignore_errors=True)
    assert not tree_of(tmp_path), "a file outside the data set"
    assert {name: content for name, content in tree_of(path).items() if name != "report.json"} == {
        name: content for name, content in before.items() if name != "report.json"
    }
