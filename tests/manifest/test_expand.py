"""Matrix rows, exclusions, patterns, priorities, file names, and stable ids."""

import os
import random
from pathlib import Path
from typing import Any

import pytest

from batchrunner.manifest import Batch
from tests.conftest import MEDIA
from tests.manifest_tools import IMAGE, VIDEO, error_places, job, loaded, params, refused


def ids(batch: Batch) -> list[str]:
    return [entry.id for entry in batch.entries]


def test_exclusions_remove_combinations(tmp_path: Path) -> None:
    row = job(resolution=["480p", "580p", "720p"], shift=[1, 2], exclude=[{"resolution": "720p"}, {"shift": 2.0}])
    assert params(loaded(tmp_path, {"matrix": [row]}).entries, "resolution", "shift") == [("480p", 1.0), ("580p", 1.0)]
    row["exclude"] = [{"resolution": "720p", "shift": 2}]
    assert len(loaded(tmp_path, {"matrix": [row]}).entries) == 5


def test_an_exclusion_matches_defaults_and_patterns(tmp_path: Path) -> None:
    picture = (MEDIA / "hopper.jpg").read_bytes()
    for number, name in enumerate(("a.jpg", "bad-1.jpg", "bad-2.jpg")):
        (tmp_path / name).write_bytes(picture + bytes(number))
    manifest: dict[str, Any] = {
        "defaults": {"video": VIDEO},
        "matrix": [{"image": "*.jpg", "shift": [4, 5], "exclude": [{"image": "bad-*.jpg"}]}],
    }
    assert [entry.job.inputs["image"].source for entry in loaded(tmp_path, manifest).entries] == ["a.jpg", "a.jpg"]
    manifest["matrix"][0]["exclude"] = [{"video": VIDEO, "resolution": "480p", "shift": 4, "image": "a.jpg"}]
    assert len(loaded(tmp_path, manifest).entries) == 5  # 480p by the documented default


def test_a_matched_name_that_is_not_utf_8_is_shown_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"a\xff.jpg")).write_bytes((MEDIA / "hopper.jpg").read_bytes())
    manifest: dict[str, Any] = {"defaults": {"video": VIDEO}, "matrix": [{"image": "*.jpg"}]}
    [found] = refused(tmp_path, manifest)
    assert found.message == r"the path $'a\xff.jpg' is not valid UTF-8"


def test_exclusions_that_match_nothing_or_everything(tmp_path: Path) -> None:
    row = job(shift=[1, 2], exclude=[{"shift": 3}, {"shift": 1}])
    batch = loaded(tmp_path, {"matrix": [row]})
    assert [(item.code, item.column) for item in batch.warnings] == [("no-match", 125)]
    row["exclude"] = [{"resolution": "480p"}]
    assert [code for code, *_ in error_places(refused(tmp_path, {"matrix": [row]}))] == ["no-match"]
    row["allow_empty"] = True
    assert loaded(tmp_path, {"matrix": [row]}).entries == ()


@pytest.mark.parametrize("top", [True, False])
def test_a_pattern_without_matches_needs_allow_empty(tmp_path: Path, top: bool) -> None:
    row: dict[str, Any] = {"video": "none/*.mp4", "image": IMAGE}
    manifest: dict[str, Any] = {"jobs": [job()], "matrix": [row]}
    assert error_places(refused(tmp_path, manifest))[0][0] == "no-match"
    (manifest if top else row)["allow_empty"] = True
    assert len(loaded(tmp_path, manifest).entries) == 1
    row["allow_empty"] = False
    assert error_places(refused(tmp_path, manifest))[0][0] == "no-match"


def test_comparisons_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchrunner.manifest.expand.MAX_COMPARISONS", 7)
    row = job(shift=[1, 2, 3, 4], exclude=[{"shift": 1}])
    assert len(loaded(tmp_path, {"matrix": [row]}).entries) == 3
    row["exclude"] = [{"shift": 1}, {"shift": 2}]
    assert [code for code, *_ in error_places(refused(tmp_path, {"matrix": [row]}))] == ["too-many"]


def test_rows_are_generated_lazily(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two matrix rows of 900,000 jobs each reach the limit, and neither is stored as a whole."""
    monkeypatch.setattr("batchrunner.manifest.expand.MAX_ROWS", 1000)
    row = job(num_inference_steps=list(range(1, 31)), shift=list(range(1, 31)))
    assert [code for code, *_ in error_places(refused(tmp_path, {"matrix": [row, row]}))] == ["too-many"]


def test_priority_and_file_name_belong_to_the_entry_not_the_job(tmp_path: Path) -> None:
    plain = loaded(tmp_path, [job(id="a")]).entries[0]
    manifest = {
        "defaults": {"priority": -3, "file": "{id}-{resolution}"},
        "jobs": [job(id="a", priority=7), job(id="b", resolution="720p", file="{id}")],
        "matrix": [job(shift=[1, 2], priority=1000, file="{video}-{shift}")],
    }
    entries = loaded(tmp_path, manifest).entries
    assert [(entry.priority, entry.file) for entry in entries] == [
        (7, "a-480p.mp4"),
        (-3, "b.mp4"),
        (1000, "walk-1.mp4"),
        (1000, "walk-2.mp4"),
    ]
    assert entries[0].job.fingerprint == plain.job.fingerprint
    assert (plain.priority, plain.file) == (0, "a.mp4")
    for bad in (1001, -1001, 1.5, "high", True):
        assert error_places(refused(tmp_path, [job(priority=bad)]))


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("{video}_{image}", "My Walk.v2_hero"),
        ("{resolution}-{num_inference_steps}-{shift}", "480p-20-7.5"),
        ("{video_quality}{video_write_mode}", "highbalanced"),
        ("{enable_safety_checker}-{id}", "true-x"),
        ("{tags.scene}-{id}", "Szene 12-Café-x"),
        ("{tags.a.b}{tags.a.b}", "dotdot"),
        ("fixed", "fixed"),
        ("{tags.scene}/Élodie danse/{id}", "Szene 12-Café/Élodie danse/x"),
        ("日本/{tags.up}", "日本/etc-passwd"),
    ],
)
def test_placeholders_are_replaced(tmp_path: Path, pattern: str, name: str) -> None:
    tags = {"scene": "Szene 12/Café", "a.b": "dot", "up": "../etc/passwd"}
    fields = job(id="x", shift=7.5, enable_safety_checker=True, tags=tags, file=pattern)
    fields["video"] = "https://example.com/x/My%20Walk.v2.mp4?sig=1"
    assert loaded(tmp_path, [fields]).entries[0].file == f"{name}.mp4"


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("{vidoe}", "did you mean {video}?"),
        ("{index}-{id}", "a row's position changes when rows are added: use {id}"),
        ("{tags.}", ""),
        ("{tags.missing}", ""),
        ("{enable_safety_checker}", ""),
        ("{tags.odd}", "use {id}"),
        ("{}", ""),
        ("{id", ""),
        ("id}", ""),
        ("{{id}}", ""),
        ("../{id}", ""),
        ("/{id}", "use x"),
        ("a//{id}", "use a/x"),
        ("a/", "use a"),
        ("a/../{id}", "use a/x"),
        ("a/CON/{id}", "use a/job-CON/x"),
        ("a./{id}", "use a/x"),
        ("a.mp4/{id}", "use a/x"),
        ("report.html/{id}", "add {id}"),
        (".batchrunner/{id}", "use batchrunner/x"),
        ("a\\{id}", "use a-x"),
        (".{id}", ""),
        ("{id} ", ""),
        ("~{id}", "use x"),
        ("{id}.mp4", "use x"),
        ("con", "use job-con"),
        ("{id}" * 60, ""),
        ("\0{id}", ""),
        ("\u202e{id}", "use x"),
    ],
)
def test_invalid_file_names_are_refused(tmp_path: Path, pattern: str, hint: str) -> None:
    row = job(id="xx" if pattern == "{id}" * 60 else "x", tags={"odd": "..?"}, file=pattern)
    found = refused(tmp_path, [row])
    assert [code for code, *_ in error_places(found)] == ["file-name"]
    assert hint in found[0].hint
    in_defaults = {"defaults": {"file": pattern}, "jobs": [job(id=name, tags={"odd": "..?"}) for name in ("x", "xy")]}
    assert error_places(refused(tmp_path, in_defaults))


def test_a_wrong_pattern_in_the_defaults_is_reported_once_at_its_place(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"video,image\n{VIDEO},{IMAGE}\n")
    found = refused(tmp_path, {"defaults": {"file": "{no}"}, "jobs": [job(), job(shift=2)], "jobs_from": "t.csv"})
    assert error_places(found) == [("file-name", "batch.yaml", 1, 23)]


def test_file_names_collide_regardless_of_case_and_both_places_are_named(tmp_path: Path) -> None:
    manifest = f"- {{id: a, video: {VIDEO}, image: {IMAGE}}}\n- {{id: b, video: {VIDEO}, image: {IMAGE}, file: A}}\n"
    found = refused(tmp_path, manifest)
    assert error_places(found) == [("duplicate-file", "batch.yaml", 2, 91)]
    assert "line 1" in found[0].message
    assert loaded(tmp_path, manifest.replace("file: A", "file: C")).entries[1].file == "C.mp4"
    swapped = loaded(tmp_path, manifest.replace("{id: a,", "{id: a, file: b,").replace("file: A", "file: a"))
    assert [entry.file for entry in swapped.entries] == ["b.mp4", "a.mp4"]


@pytest.mark.parametrize(
    ("first", "second"),
    [("Élodie", "E\u0301lodie"), ("Élodie", "élodie"), ("STRASSE", "straße"), ("Train/a", "train/A")],
)
def test_names_that_some_file_system_takes_for_one_are_refused(tmp_path: Path, first: str, second: str) -> None:
    files = [job(id="a", file=first), job(id="b", file=second, shift=2)]
    assert [code for code, *_ in error_places(refused(tmp_path, files))] == ["duplicate-file"]
    if "/" not in first:
        same = [job(id=first), job(id=second, shift=2)]
        assert [code for code, *_ in error_places(refused(tmp_path, same))] == ["duplicate-id"]
    apart = loaded(tmp_path, [job(id="a", file=f"x/{first}"), job(id="b", file=f"y/{second}", shift=2)])
    assert [entry.file for entry in apart.entries] == [f"x/{first}.mp4", f"y/{second}.mp4"]


def test_ids_stay_when_tables_and_matrix_rows_grow(tmp_path: Path) -> None:
    lines = [f"https://example.com/{folder}/walk.mp4,{IMAGE}" for folder in range(40)]

    def by_content(table: list[str], steps: list[int]) -> dict[str, str]:
        (tmp_path / "t.csv").write_text("\n".join(["video,image", *table]))
        matrix = [job(num_inference_steps=steps, resolution=["580p", "720p"])]
        batch = loaded(tmp_path, {"jobs_from": "t.csv", "matrix": matrix})
        return {entry.job.fingerprint: entry.id for entry in batch.entries}

    first = by_content(lines[10:30], [20, 30])
    shuffled = lines[:]
    random.Random(5).shuffle(shuffled)
    then = by_content(shuffled, [10, 30, 20, 40])
    assert first.items() <= then.items()
    assert len(set(then.values())) == len(then) == 48


def test_many_equal_rows_are_numbered_quickly(tmp_path: Path) -> None:
    batch = loaded(tmp_path, [job() for _ in range(3000)])
    assert len(set(ids(batch))) == 3000
    assert ids(batch)[2999].endswith("-3000")
