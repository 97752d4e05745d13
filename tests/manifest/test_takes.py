"""Takes: ids, file names and fingerprints of each, collisions with other names, and takes that a run added."""

from pathlib import Path
from typing import Any

import pytest

from batchrunner.errors import UsageError
from batchrunner.job import Retake, named_take
from batchrunner.manifest.takes import jobs_of, with_retakes
from tests.conftest import make_entries
from tests.manifest_tools import error_places, job, loaded, refused


def names(manifest: object, folder: Path) -> list[tuple[str, str, int, str]]:
    return [(entry.id, entry.base, entry.take, entry.file) for entry in loaded(folder, manifest).entries]


def test_each_take_is_an_entry_and_a_job_of_its_own(tmp_path: Path) -> None:
    plain = loaded(tmp_path, [job(id="a")]).entries[0].job
    entries = loaded(tmp_path, [job(id="a", takes=3, priority=2, tags={"who": "x"}), job(id="b", shift=2)]).entries
    assert [(entry.position, entry.id, entry.base, entry.take, entry.file) for entry in entries] == [
        (0, "a", "a", 1, "a.mp4"),
        (1, "a.t2", "a", 2, "a.t2.mp4"),
        (2, "a.t3", "a", 3, "a.t3.mp4"),
        (3, "b", "b", 1, "b.mp4"),
    ]
    assert entries[0].job == plain, "a first take is what the job was without takes"
    assert len({entry.job.fingerprint for entry in entries[:3]}) == 3
    assert {(entry.priority, entry.tags["who"]) for entry in entries[:3]} == {(2, "x")}
    again = loaded(tmp_path, [job(id="renamed", takes=2)]).entries
    assert [entry.job for entry in again] == [entry.job for entry in entries[:2]]


@pytest.mark.parametrize(
    "manifest",
    [
        {"defaults": {"takes": 2}, "jobs": [job(id="a"), job(id="b", shift=2, takes=1)]},
        {"jobs": [job(id="a", takes=2.0), job(id="b", shift=2)]},
    ],
    ids=["defaults", "job"],
)
def test_defaults_and_jobs_set_takes(tmp_path: Path, manifest: object) -> None:
    assert [entry.id for entry in loaded(tmp_path, manifest).entries] == ["a", "a.t2", "b"]


def test_a_matrix_row_gives_all_takes_of_each_combination(tmp_path: Path) -> None:
    row = job(shift=[1, 2], takes=2, file="{video}-{shift}")
    assert [item[1:] for item in names({"matrix": [row]}, tmp_path)] == [
        (f"walk-hero-480p-shift{shift}-a67e2e9c97", take, f"walk-{shift}{end}.mp4")
        for shift in (1, 2)
        for take, end in ((1, ""), (2, ".t2"))
    ]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_table_has_a_column_for_takes(tmp_path: Path, ending: str) -> None:
    rows = {
        "csv": "id,video,image,takes\na,https://e.com/a.mp4,https://e.com/h.png,2\nb,https://e.com/b.mp4,https://e.com/h.png,\n",
        "jsonl": '{"id":"a","video":"https://e.com/a.mp4","image":"https://e.com/h.png","takes":2}\n'
        '{"id":"b","video":"https://e.com/b.mp4","image":"https://e.com/h.png"}\n',
    }
    (tmp_path / f"rows.{ending}").write_text(rows[ending])
    assert [entry.id for entry in loaded(tmp_path, {"jobs_from": f"rows.{ending}"}).entries] == ["a", "a.t2", "b"]


@pytest.mark.parametrize("takes", [0, -1, 1001, 1.5, "many", True, [1, 2], None])
def test_other_numbers_of_takes_are_refused(tmp_path: Path, takes: object) -> None:
    assert error_places(refused(tmp_path, [job(takes=takes)]))


def test_equal_jobs_share_their_takes(tmp_path: Path) -> None:
    batch = loaded(tmp_path, [job(id="a", takes=2), job(id="b", takes=3)])
    assert [entry.id for entry in batch.entries] == ["a", "a.t2", "b", "b.t2", "b.t3"]
    jobs = [entry.job for entry in batch.entries]
    assert jobs[0] is jobs[2]
    assert jobs[1] is jobs[3]
    assert [item.code for item in batch.warnings] == ["same-job"]
    assert "'takes: 2' makes two different results" in batch.warnings[0].hint


@pytest.mark.parametrize("name", ["a.t2", "A.T2", "a.t3"])
@pytest.mark.parametrize("first", [True, False])
def test_an_id_that_is_the_name_of_a_take_is_refused_at_its_place(tmp_path: Path, name: str, first: bool) -> None:
    lines = ["- {id: a, takes: 3, video: https://e.com/a.mp4, image: https://e.com/h.png}"]
    lines.insert(0 if first else 1, f"- {{id: {name}, video: https://e.com/b.mp4, image: https://e.com/h.png}}")
    found = refused(tmp_path, "\n".join(lines))
    assert error_places(found) == [("duplicate-id", "batch.yaml", 1 if first else 2, 8)]
    assert f"the id '{name}' is the name of take {name[-1]} of 'a' on line {2 if first else 1}" in found[0].message


def test_an_id_that_is_no_take_of_the_job_is_accepted(tmp_path: Path) -> None:
    listed = ["a", "a.t1", "a.t02", "a.t4", "b.t2", "t2"]
    manifest = [job(id=name, shift=place, takes=3 if name == "a" else 1) for place, name in enumerate(listed, 1)]
    assert [entry.id for entry in loaded(tmp_path, manifest).entries] == ["a", "a.t2", "a.t3", *listed[1:]]


@pytest.mark.parametrize(
    ("one", "other", "line"),
    [
        ({"id": "a", "takes": 2}, {"id": "b", "file": "a.t2"}, 2),
        ({"id": "a", "takes": 2, "file": "{tags.x}/y", "tags": {"x": "x"}}, {"id": "b", "file": "x/y.t2"}, 2),
        ({"id": "a", "takes": 2, "file": "b"}, {"id": "b.t2"}, 1),
    ],
    ids=["id and pattern", "two patterns", "pattern and id"],
)  # fmt: skip
def test_a_file_name_that_another_take_has_is_refused(
    tmp_path: Path, one: dict[str, Any], other: dict[str, Any], line: int
) -> None:
    found = refused(tmp_path, {"jobs": [job(**one), job(shift=2, **other)]})
    assert [item.code for item in found if item.severity == "error"] == ["duplicate-file"]
    assert ".t2" in found[0].message


def test_takes_count_against_the_limit_of_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchrunner.manifest.expand.MAX_ROWS", 10)
    rows = [job(shift=shift, takes=5) for shift in (1, 2)]
    assert len(loaded(tmp_path, rows).entries) == 10
    assert [code for code, *_ in error_places(refused(tmp_path, [*rows, job(shift=3)]))] == ["too-many"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.t2", ("a", 2)),
        ("a.t2.t10", ("a.t2", 10)),
        ("a.t1", None),
        ("a.t02", None),
        (".t2", None),
        ("a.t", None),
        ("at2", None),
        ("a.t2 ", None),
    ],
)
def test_the_name_of_a_take_is_recognized(name: str, found: tuple[str, int] | None) -> None:
    assert named_take(name) == found


def test_retakes_follow_the_takes_of_their_job(tmp_path: Path) -> None:
    manifest = [job(id="a", takes=2, file="x/{id}"), job(id="b", shift=2), job(id="same as b", shift=2)]
    entries = loaded(tmp_path, manifest).entries
    a, b = entries[0].job.fingerprint, entries[2].job.fingerprint
    retakes = (Retake(a, 2), Retake(a, 4), Retake(b, 2), Retake("sha256:gone", 2))
    found = with_retakes(entries, retakes)
    assert [(entry.position, entry.id, entry.take) for entry in found] == [
        (0, "a", 1),
        (1, "a.t2", 2),
        (2, "a.t4", 4),
        (3, "b", 1),
        (4, "b.t2", 2),
        (5, "same as b", 1),
        (6, "same as b.t2", 2),
    ]
    assert found[2].file == "x/a.t4.mp4"
    assert found[4].job is found[6].job
    assert jobs_of(found, (Retake(a, 4), Retake(b, 2))) == {found[2].job.fingerprint, found[4].job.fingerprint}
    assert with_retakes(found, retakes) == found, "a second time changes nothing"
    wanted = loaded(tmp_path, [{**manifest[0], "takes": 4}]).entries
    assert wanted[3].job == found[2].job, "a retake is the take that the manifest would ask for"


@pytest.mark.parametrize(("name", "file", "kind"), [("A.t2", "", "id"), ("other", "a.t2", "file name")])
def test_a_name_that_a_retake_needs_is_refused(tmp_path: Path, name: str, file: str, kind: str) -> None:
    fields = {"id": name, "shift": 2} | ({"file": file} if file else {})
    entries = loaded(tmp_path, [job(id="a"), job(**fields)]).entries
    with pytest.raises(UsageError, match=f"the {kind} a.t2.* of take 2 of the job a is already used by the job {name}"):
        with_retakes(entries, [Retake(entries[0].job.fingerprint, 2)])


def test_entries_without_retakes_stay_as_they_are() -> None:
    entries = make_entries("a", "b")
    assert with_retakes(entries, ()) == entries == with_retakes(entries, [Retake("sha256:gone", 2)])
