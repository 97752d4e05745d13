"""Differences between a manifest and its lock file: each one is named once, with its place and the next step."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from batchrunner.manifest import Diagnostic, load, lock_drift, lockfile
from batchrunner.manifest.loader import LoadOptions
from batchrunner.manifest.trace import Content, Trace

MODEL, MOVE = "alibaba/wan2.2-14b-animate-replace", "alibaba/wan2.2-14b-animate-move"
FILES = {name: Content(name[0] * 64, len(name)) for name in ("a.mp4", "b.mp4", "hero.png", "c.mp4")}
MANIFEST = """\
vars: {res: 480p}
defaults: {image: hero.png, resolution: "${res}"}
jobs:
  - {id: a, video: a.mp4}
  - {id: b, video: b.mp4}
  - {id: url, video: "https://example.com/a.mp4?v=1"}
jobs_from: rows.csv
"""
EDITED = "its fingerprint, but nothing else that the lock has of it; was the lock edited by hand?"
ROWS = "id,video,tags.who\nrow1,a.mp4,x\nrow2,b.mp4,y\n"


class Project:
    """A manifest, a table and files whose contents are only digests; all are attributes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.manifest, self.rows = folder, MANIFEST, ROWS
        self.files: dict[str, Content] = dict(FILES)
        self.assignments: dict[str, str] = {}

    def current(self) -> tuple[lockfile.Document, Any, Trace]:
        (self.folder / "rows.csv").write_text(self.rows, encoding="utf-8")
        path = self.folder / "batch.yaml"
        path.write_text(self.manifest, encoding="utf-8")
        trace = Trace()
        batch = load(path, self.assignments, {}, (), None, LoadOptions(trace, self.files))
        return lockfile.build(batch, trace), batch, trace

    def differences(self, locked: lockfile.Document) -> list[Diagnostic]:
        current, batch, trace = self.current()
        found = lock_drift.differences(locked, current, batch, trace)
        return lock_drift.as_diagnostics(found, "batch.yaml.lock", lockfile.text_of(locked), "HINT")

    def shown(self, locked: lockfile.Document) -> list[str]:
        """Return place and message of each difference."""
        return [f"{Path(one.file).name}:{one.line}:{one.column}: {one.message}" for one in self.differences(locked)]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def locked(project: Project) -> lockfile.Document:
    document = project.current()[0]
    return lockfile.parse(lockfile.text_of(document), "batch.yaml.lock", "")


def test_an_unchanged_manifest_has_no_differences(project: Project, locked: lockfile.Document) -> None:
    assert project.differences(locked) == []
    project.manifest = "# a comment\nmax_cost: 5USD\n" + MANIFEST
    assert project.differences(locked) == [], "comments and settings of a run are not locked"


def test_a_changed_input_is_one_difference_at_its_first_use(project: Project, locked: lockfile.Document) -> None:
    project.files["b.mp4"] = Content("f" * 64, 2_000)
    [found] = project.differences(locked)
    assert (Path(found.file).name, found.line, found.column) == ("batch.yaml", 5, 20)
    assert found.message == (
        f"the input b.mp4 changed since the lock: SHA-256 {'b' * 12}, 5 bytes -> SHA-256 {'f' * 12}, 2.0 kB"
    )
    assert (found.code, found.severity, found.hint) == ("lock", "error", "HINT")
    assert found.source == "  - {id: b, video: b.mp4}"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "res: 480p",
            "res: 720p",
            [
                "batch.yaml:2:42: the variable res changed since the lock: 480p -> 720p",
                "batch.yaml:4:10: 5 jobs changed since the lock (a, b, url, row1, row2): resolution: 480p -> 720p",
            ],
        ),
        (
            "?v=1",
            "?v=2",
            ["batch.yaml:6:22: the input https://example.com/a.mp4?… changed since the lock: the URL with SHA-256"],
        ),
        (
            "  - {id: b, video: b.mp4}\n",
            "",
            ["batch.yaml.lock:22:5: 1 job is in the lock, but not in the manifest (b)"],
        ),
        (
            "video: b.mp4",
            "video: c.mp4",
            [
                "batch.yaml:5:20: the input c.mp4 was added since the lock",
                "batch.yaml:5:10: 1 job changed since the lock (b): video: b.mp4 -> c.mp4",
            ],
        ),
        (
            "id: b, video",
            "id: b, takes: 2, tags: {who: z}, file: x, video",
            [
                "batch.yaml:5:10: 1 job changed since the lock (b): file: not set -> x.mp4; tags.who: not set -> z",
                "batch.yaml:5:10: 1 job was added since the lock (b.t2)",
            ],
        ),
        (
            "jobs_from: rows.csv\n",
            "",
            [
                "batch.yaml.lock:9:5: the table rows.csv is in the lock, but the manifest does not name it",
                "batch.yaml.lock:23:5: 2 jobs are in the lock, but not in the manifest (row1, row2)",
            ],
        ),
        (
            '"${res}"',
            "480p",
            ["batch.yaml.lock:12:5: the variable res is in the lock, but is not used"],
        ),
        (
            "id: b, ",
            f"id: b, shift: 4, model: {MOVE}, ",
            [
                f"batch.yaml:5:10: the model {MOVE} was added since the lock",
                f"batch.yaml:5:10: 1 job changed since the lock (b): model: {MODEL} -> {MOVE}; shift: 5.0 -> 4.0",
            ],
        ),
    ],
    ids=["variable", "query", "job removed", "input of a job", "takes", "table removed", "variable removed", "model"],
)
def test_a_change_of_the_manifest_is_named(
    project: Project, locked: lockfile.Document, old: str, new: str, expected: list[str]
) -> None:
    project.manifest = MANIFEST.replace(old, new)
    found = project.shown(locked)
    assert [text[: len(wanted)] for text, wanted in zip(found, expected, strict=True)] == expected


def test_changes_of_a_table_are_named_at_its_line(project: Project, locked: lockfile.Document) -> None:
    project.rows = ROWS.replace("b.mp4,y", "c.mp4,y") + "row3,a.mp4,z\n"
    found = project.shown(locked)
    assert [text.split(":")[0] for text in found] == ["batch.yaml", "rows.csv", "rows.csv", "rows.csv"]
    assert found[0].startswith("batch.yaml:7:12: the table rows.csv changed since the lock: SHA-256 ")
    assert found[1:] == [
        "rows.csv:3:1: the input c.mp4 was added since the lock",
        "rows.csv:3:1: 1 job changed since the lock (row2): video: b.mp4 -> c.mp4",
        "rows.csv:4:1: 1 job was added since the lock (row3)",
    ]


def test_another_recipe_or_another_default_explains_changed_fingerprints(
    project: Project, locked: lockfile.Document
) -> None:
    older = copy.deepcopy(locked)
    for job in older["jobs"].values():
        job["fingerprint"] = "sha256:other"
    assert [text.partition(": ")[2] for text in project.shown(older)] == [
        f"5 jobs changed since the lock (a, b, url, row1, row2): {EDITED}"
    ]
    older["models"][MODEL]["defaults"]["shift"] = 3.0
    assert [text.partition(": ")[2] for text in project.shown(older)] == [
        f"this version of batchrunner has other defaults for the model {MODEL} than the lock: shift: 3.0 -> 5.0"
    ]
    older["models"] = locked["models"]
    older["fingerprint_recipe"] = 0
    [found] = project.shown(older)
    assert "recipe 0, and this version of batchrunner makes recipe 1" in found


def test_a_long_list_of_jobs_is_cut(project: Project, locked: lockfile.Document) -> None:
    project.rows = ROWS + "".join(f"new{number},a.mp4,x\n" for number in range(500))
    [found] = [text for text in project.shown(locked) if "added" in text]
    assert found.endswith(
        "500 jobs were added since the lock (" + ", ".join(f"new{n}" for n in range(10)) + " and 490 more)"
    )


def test_a_reformatted_lock_file_still_fits(project: Project, locked: lockfile.Document) -> None:
    reformatted: Mapping[str, Any] = json.loads(json.dumps(locked, sort_keys=True, indent=8))
    assert project.differences(dict(reformatted)) == []
    project.manifest = MANIFEST.replace("  - {id: b, video: b.mp4}\n", "")
    current, batch, trace = project.current()
    found = lock_drift.differences(dict(reformatted), current, batch, trace)
    [one] = lock_drift.as_diagnostics(found, "batch.yaml.lock", json.dumps(reformatted), "")
    assert (one.file, one.line, one.column) == ("batch.yaml.lock", 1, 1)
