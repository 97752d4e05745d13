"""Marked exports: copies only, both hashes in the rows, and nothing marked twice."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchrunner.app import export as exporting
from batchrunner.app import verify_output
from batchrunner.app.export import ExportRequest
from batchrunner.datasets.xmp import XmpMarker
from batchrunner.errors import BatchrunnerError, UsageError
from batchrunner.media.decoder_pool import Here
from batchrunner.providers import registry
from batchrunner.workers.engines import Workers
from tests.datasets.sample_batches import Sample, make_batch, tree_of
from tests.media.test_synthetic_marks import c2pa_box

CREDENTIALS = c2pa_box()


@pytest.fixture
def run(tmp_path: Path, clip: bytes, other_clip: bytes) -> Path:
    """A run directory with two plain clips and one that has credentials."""
    samples = [Sample("a", clip), Sample("b", other_clip), Sample("signed", clip + CREDENTIALS)]
    return make_batch(tmp_path, samples).path


def export(run: Path, out: Path, **options: Any) -> tuple[int, list[str]]:
    warnings = list[str]()
    request = ExportRequest(**{"mark": "xmp", **options})
    return exporting.export([run], out, request, lambda _: None, warnings.append), warnings


def rows(out: Path) -> dict[str, dict[str, Any]]:
    lines = (out / "train" / "metadata.jsonl").read_text().splitlines()
    return {row["id"]: row for row in map(json.loads, lines)}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_copies_are_marked_and_rows_have_both_hashes(run: Path, tmp_path: Path) -> None:
    before = tree_of(run)
    status, warnings = export(run, out := tmp_path / "out")
    assert status == 0
    assert tree_of(run) == before
    found = rows(out)
    for name in ("a", "b"):
        row = found[name]
        copy = out / "train" / row["file_name"]
        assert (row["mark"], row["synthetic_marks"]) == ("xmp", "xmp:compositeWithTrainedAlgorithmicMedia")
        assert (row["sha256"], row["bytes"]) == (sha256(copy), copy.stat().st_size)
        assert row["original_sha256"] == sha256(run / f"{name}.mp4") != row["sha256"]
    signed = found["signed"]
    assert (signed["mark"], signed["synthetic_marks"]) == ("", "c2pa")
    assert signed["sha256"] == signed["original_sha256"] == sha256(out / "train" / signed["file_name"])
    assert any("1 clip without a new mark: it has a C2PA manifest" in line for line in warnings)
    target = verify_output.recognize(out)
    assert target is not None
    assert [item for item in verify_output.check(target, Workers(Here()), deep=True) if item.kind] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["media", "out", "run"]


def test_the_same_batch_gives_the_same_bytes_and_an_export_can_be_compared(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "one")
    export(run, tmp_path / "two")
    assert tree_of(tmp_path / "one") == tree_of(tmp_path / "two")
    assert export(run, tmp_path / "one")[0] == 0
    with pytest.raises(UsageError, match="another data set"):
        export(run, tmp_path / "one", mark=None)


class Killed(Exception):
    """Stands for the end of the process."""


def test_a_killed_export_continues_without_marking_again(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked = list[str]()
    original = XmpMarker.mark

    def counted(self: XmpMarker, copy: Path, source_type: str) -> str:
        if len(marked) == 1:
            marked.append("killed")
            raise Killed
        marked.append(copy.name)
        return original(self, copy, source_type)

    monkeypatch.setattr(XmpMarker, "mark", counted)
    with pytest.raises(Killed):
        export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export(run, tmp_path / "out")
    assert len(set(marked)) == len(marked) == 4  # one, the kill, and two more
    monkeypatch.undo()
    export(run, tmp_path / "other")
    assert tree_of(tmp_path / "out") == tree_of(tmp_path / "other")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [flip, lambda path: path.write_bytes(b"x"), lambda path: path.unlink()])
def test_a_copy_of_an_earlier_export_that_was_changed_is_made_again(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], Any]
) -> None:
    monkeypatch.setattr(exporting, "write", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        export(run, tmp_path / "out")
    monkeypatch.undo()
    for copy in (tmp_path / "out.partial" / "marked").glob("*.mp4"):
        harm(copy)
    assert export(run, tmp_path / "out")[0] == 0
    export(run, tmp_path / "other")
    assert tree_of(tmp_path / "out") == tree_of(tmp_path / "other")


def test_a_clip_that_is_not_what_the_batch_recorded_is_left_out(run: Path, tmp_path: Path) -> None:
    flip(run / "a.mp4")
    status, warnings = export(run, tmp_path / "out")
    assert status == 1
    assert set(rows(tmp_path / "out")) == {"b", "signed"}
    assert any("SHA-256 differs" in line for line in warnings)


def test_an_export_without_a_usable_clip_leaves_nothing(tmp_path: Path, clip: bytes) -> None:
    run = make_batch(tmp_path, [Sample("a", clip)]).path
    flip(run / "a.mp4")
    with pytest.raises(BatchrunnerError, match="no clip"):
        export(run, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_a_clip_that_is_no_mp4_is_exported_without_a_mark(tmp_path: Path) -> None:
    run = make_batch(tmp_path, [Sample("a", b"not an mp4")]).path
    _, warnings = export(run, tmp_path / "out")
    assert rows(tmp_path / "out")["a"]["mark"] == ""
    assert any("it cannot be marked" in line for line in warnings)


def test_an_export_without_marks_has_no_columns_for_them(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out", mark=None)
    assert "mark" not in rows(tmp_path / "out")["a"]


def test_each_model_has_a_digital_source_type() -> None:
    types = {name.rpartition("-")[2]: spec.result.source_type for name, spec in registry.models().items()}
    assert types["replace"] == "compositeWithTrainedAlgorithmicMedia"
    assert types["move"] == "trainedAlgorithmicMedia"


@pytest.mark.parametrize(
    "options",
    [
        {"mark": "c2pa"},
        {"mark": "c2pa", "c2pa_key": Path("key.pem")},
        {"mark": None, "c2pa_key": Path("key.pem")},
        {"mark": "xmp", "c2pa_certificates": Path("key.pem")},
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_written(
    run: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(UsageError) as caught:
        export(run, tmp_path / "out", **options)
    assert isinstance(caught.value, BatchrunnerError)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["media", "run"]


@pytest.mark.parametrize("found", ["folder", "link"])
def test_a_folder_of_the_user_beside_the_data_set_stays_as_it_is(run: Path, tmp_path: Path, found: str) -> None:
    mine = tmp_path / ("out.marked" if found == "folder" else "mine")
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    if found == "link":
        (tmp_path / "out.marked").symlink_to(mine)
    assert export(run, tmp_path / "out")[0] == 0
    assert tree_of(mine) == {"notes.txt": b"mine"}
    assert export(run, tmp_path / "out")[0] == 0  # compared now
    assert tree_of(mine) == {"notes.txt": b"mine"}


@pytest.mark.parametrize("then", ["without a mark", "compared"])
def test_no_copy_is_left_when_another_export_follows(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    if then == "compared":
        export(run, tmp_path / "out")
    monkeypatch.setattr(
        exporting, "compare" if then == "compared" else "write", lambda *_: (_ for _ in ()).throw(Killed)
    )
    with pytest.raises(Killed):
        export(run, tmp_path / "out")
    assert list((tmp_path / "out.partial" / "marked").glob("*.mp4"))
    monkeypatch.undo()
    assert export(run, tmp_path / "out", mark="xmp" if then == "compared" else None)[0] == 0
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out"]


def test_a_marked_copy_is_never_written_through_a_link(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "write", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        export(run, tmp_path / "out")
    monkeypatch.undo()
    (mine := tmp_path / "mine").write_bytes(b"mine")
    for path in list((tmp_path / "out.partial" / "marked").iterdir()):
        path.unlink()
        path.hardlink_to(mine)
    assert export(run, tmp_path / "out")[0] == 0
    assert mine.read_bytes() == b"mine"
    export(run, tmp_path / "other")
    assert tree_of(tmp_path / "out") == tree_of(tmp_path / "other")
