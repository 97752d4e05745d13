"""Files are checked against report.json or SHA256SUMS, without the journal, on any machine."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batchrunner.app import verify_files, verify_output
from batchrunner.app.verify_files import (
    ALTERED,
    EXTRA,
    INVALID,
    MISSING,
    REFUSED,
    UNDECODABLE,
    UNREADABLE,
    Check,
    Expected,
    Finding,
)
from batchrunner.datasets import sums
from batchrunner.errors import UsageError
from batchrunner.media.decoder_pool import Here
from batchrunner.storage.beneath import Folder
from batchrunner.storage.objects.address import AllowedBuckets
from batchrunner.storage.objects.blocking import ObjectReader
from batchrunner.storage.objects.store import Access
from batchrunner.workers.engines import Workers
from tests.app.test_verify import Objects
from tests.datasets.test_tar import packed

KEY = "ab" * 32


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_sums(root: Path, *, extra: bytes = b"") -> Path:
    """Write a SHA256SUMS of every file below `root`."""
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name != sums.SUMS)
    lines = (sums.entry_line(name, sha256((root / name).read_bytes())) for name in names)
    path = root / sums.SUMS
    path.write_bytes(b"".join(lines) + extra)
    return path


@pytest.fixture
def dataset(tmp_path: Path, clip: bytes, other_clip: bytes) -> Path:
    """A data set with all kinds of files."""
    root = tmp_path / "set"
    for name, content in {
        "README.md": b"card",
        "train/metadata.jsonl": b"{}\n",
        "train/clips/a.mp4": clip,
        "train/clips/b.mp4": other_clip,
        "train/inputs/0123.mp4": b"an input that no check decodes",
        "train-000000.tar": packed({f"{KEY}.mp4": clip, f"{KEY}.json": b"{}", f"{KEY}.reference.mp4": b"input"}),
        "data/train-00000-of-00001.parquet": b"parquet",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    write_sums(root)
    return root


def report_of(rows: list[Any], **head: Any) -> str:
    return json.dumps({"schema_version": 2, **head, "jobs": rows})


def row(name: str, content: bytes, **more: Any) -> dict[str, Any]:
    return {"id": name, "state": "succeeded", "file": name, "sha256": sha256(content), "bytes": len(content), **more}


@pytest.fixture
def delivered(tmp_path: Path, clip: bytes, other_clip: bytes) -> Path:
    """A copy of a run directory without its journal."""
    root = tmp_path / "run"
    (root / "deep").mkdir(parents=True)
    (root / "a.mp4").write_bytes(clip)
    (root / "deep" / "b.mp4").write_bytes(other_clip)
    rows = [row("a.mp4", clip), row("deep/b.mp4", other_clip), {"id": "c", "file": None, "sha256": None}]
    (root / "report.json").write_text(report_of(rows))
    (root / "report.html").write_text("page")
    return root


def bad(findings: Iterator[Finding]) -> dict[str, str]:
    return {finding.name: finding.kind for finding in findings if finding.kind}


def check(path: Path, *, deep: bool = False) -> dict[str, str]:
    target = verify_output.recognize(path)
    assert target is not None
    return bad(verify_output.check(target, Workers(Here()), deep=deep))


@pytest.mark.parametrize("deep", [False, True])
def test_a_complete_data_set_is_fine_also_after_it_was_moved(dataset: Path, tmp_path: Path, *, deep: bool) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(dataset, moved)
    shutil.rmtree(dataset)
    assert check(moved, deep=deep) == {}
    assert check(moved / sums.SUMS, deep=deep) == {}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def become_a_link(path: Path) -> None:
    target = path.with_name("target")
    path.rename(target)
    path.symlink_to(target)


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("name", ["README.md", "train/clips/a.mp4", "train-000000.tar", "train/inputs/0123.mp4"])
@pytest.mark.parametrize(
    ("harm", "kind"),
    [
        (flip, ALTERED),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), ALTERED),
        (lambda path: path.write_bytes(b""), ALTERED),
        (lambda path: path.unlink(), MISSING),
        (lambda path: (path.unlink(), path.mkdir()), UNREADABLE),
        (become_a_pipe, UNREADABLE),
        (become_a_link, REFUSED),
    ],
)
def test_every_harm_to_a_file_of_a_data_set_is_named(
    dataset: Path, name: str, harm: Callable[[Path], Any], kind: str
) -> None:
    harm(dataset / name)
    found = check(dataset / sums.SUMS, deep=True)
    assert found == {name: kind}


def test_files_that_a_data_set_does_not_list_are_named(dataset: Path) -> None:
    (dataset / "train" / "clips" / "new.mp4").write_bytes(b"x")
    (dataset / "linked").symlink_to("/etc")
    (dataset / ".cache").mkdir()
    (dataset / ".cache" / "note").write_text("of a tool")
    (dataset / ".gitattributes").write_text("of a tool")
    assert check(dataset) == {"train/clips/new.mp4": EXTRA, "linked": EXTRA}
    assert check(dataset / sums.SUMS) == {}, "a list alone is about the files that it names"


def test_a_folder_that_became_a_link_is_refused_although_its_files_are_right(dataset: Path, tmp_path: Path) -> None:
    (dataset / "train").rename(tmp_path / "train")
    (dataset / "train").symlink_to(tmp_path / "train")
    found = check(dataset)
    assert {found[name] for name in found if name.startswith("train/")} == {REFUSED}


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret", "..", "./../set/../secret"])
def test_a_path_that_leads_outside_is_refused_and_not_read(dataset: Path, name: str) -> None:
    (dataset.parent / "secret").write_bytes(b"secret")
    write_sums(dataset, extra=f"{sha256(b'secret')}  {name}\n".encode())
    assert check(dataset / sums.SUMS) == {name: REFUSED}


def test_the_report_alone_is_enough(delivered: Path) -> None:
    assert check(delivered, deep=True) == check(delivered / "report.json", deep=True) == {}


@pytest.mark.parametrize("name", ["a.mp4", "deep/b.mp4"])
@pytest.mark.parametrize(
    ("harm", "kind"),
    [(flip, ALTERED), (lambda path: path.unlink(), MISSING), (become_a_link, REFUSED)],
)
def test_every_harm_to_a_clip_of_a_report_is_named(
    delivered: Path, name: str, harm: Callable[[Path], Any], kind: str
) -> None:
    harm(delivered / name)
    assert check(delivered)[name] == kind


def test_a_clip_that_the_report_does_not_name_is_extra(delivered: Path) -> None:
    (delivered / "deep" / "c.MP4").write_bytes(b"x")
    assert check(delivered) == {"deep/c.MP4": EXTRA}


def test_a_clip_that_only_a_bucket_has_is_read_there(delivered: Path, clip: bytes, other_clip: bytes) -> None:
    rows = [
        row("a.mp4", clip, object={"address": "s3://clips/a.mp4", "etag": "e"}),
        row("b.mp4", clip, object={"address": "s3://clips/b.mp4", "etag": "e"}),
    ]
    (delivered / "report.json").write_text(report_of(rows))
    (delivered / "deep" / "b.mp4").unlink()

    def found(objects: Any, *, deep: bool = True) -> dict[str, str]:
        target = verify_output.recognize(delivered / "report.json")
        assert target is not None
        return {
            item.name: item.kind for item in verify_output.check(target, Workers(Here()), deep=deep, objects=objects)
        }

    assert found(Objects(b=clip)) == {"a.mp4": "", "s3://clips/b.mp4": ""}, "the file is enough"
    assert found(Objects(b=other_clip)) == {"a.mp4": "", "s3://clips/b.mp4": ALTERED}
    assert found(Objects(b=clip[:-200])) == {"a.mp4": "", "s3://clips/b.mp4": ALTERED}
    assert found(Objects()) == {"a.mp4": "", "s3://clips/b.mp4": MISSING}
    assert found(None) == {"a.mp4": "", "b.mp4": MISSING}
    rows[1] |= {"sha256": sha256(clip[:-200])}
    (delivered / "report.json").write_text(report_of(rows))
    assert found(Objects(b=clip[:-200]))["s3://clips/b.mp4"] == UNDECODABLE
    assert found(Objects(b=clip[:-200]), deep=False)["s3://clips/b.mp4"] == ""
    with pytest.raises(UsageError, match="the bucket s3://clips is not allowed"):
        found(ObjectReader(lambda: Access(AllowedBuckets())))


@pytest.mark.parametrize("name", ["../a.mp4", "/etc/hostname", "deep/../../a.mp4", "", "a\0b"])
def test_a_report_that_leads_outside_is_refused(delivered: Path, clip: bytes, name: str) -> None:
    (delivered.parent / "a.mp4").write_bytes(clip)
    (delivered / "report.json").write_text(report_of([row(name, clip), row("a.mp4", clip)]))
    found = check(delivered, deep=True)
    assert found.pop("deep/b.mp4") == EXTRA
    assert found == {name: REFUSED}


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (5, "a row of jobs"),
        ({"id": "x", "file": 7}, "x"),
        ({"id": "x", "file": "a.mp4", "sha256": None}, "a.mp4"),
        ({"id": "x", "file": "a.mp4", "sha256": "A" * 64}, "a.mp4"),
        ({"id": "x", "file": "a.mp4", "sha256": [1]}, "a.mp4"),
    ],
)
def test_a_row_of_another_form_is_named(delivered: Path, value: Any, name: str) -> None:
    (delivered / "report.json").write_text(report_of([value]))
    assert check(delivered)[name] == INVALID


def test_a_size_of_another_form_is_ignored_because_the_hash_decides(delivered: Path, clip: bytes) -> None:
    (delivered / "report.json").write_text(report_of([row("a.mp4", clip, bytes="many")]))
    assert check(delivered) == {"deep/b.mp4": EXTRA}


def test_a_report_that_is_cut_short_is_named_and_its_clips_are_checked(delivered: Path) -> None:
    text = (delivered / "report.json").read_text()
    (delivered / "report.json").write_text(text[: text.index('"deep/b')])
    flip(delivered / "a.mp4")
    found = check(delivered)
    assert (found["a.mp4"], found["report.json"]) == (ALTERED, INVALID)


def test_only_deep_finds_a_clip_that_was_broken_when_it_was_listed(dataset: Path, clip: bytes) -> None:
    (dataset / "train" / "clips" / "a.mp4").write_bytes(clip[:-200])
    tar = packed({f"{KEY}.mp4": clip, "cd" * 32 + ".mp4": clip[:-200]})
    (dataset / "train-000000.tar").write_bytes(tar)
    (dataset / "cut.tar").write_bytes(tar[:2000])
    write_sums(dataset)
    assert check(dataset) == {}
    names = {"train/clips/a.mp4", "train-000000.tar", "cut.tar"}
    assert check(dataset, deep=True) == dict.fromkeys(names, UNDECODABLE)


@pytest.mark.parametrize(
    "tar",
    [packed({"../../x.mp4": b""}), packed({"/abs/x.json": b"{}"}), packed({"a.json": b"{}"}, link="a.mp4")],
    ids=["parent", "absolute", "link"],
)
def test_deep_refuses_a_tar_that_is_not_safe_to_unpack(dataset: Path, tar: bytes) -> None:
    (dataset / "train-000000.tar").write_bytes(tar)
    write_sums(dataset)
    assert check(dataset, deep=True) == {"train-000000.tar": REFUSED}


@pytest.mark.parametrize("version", [99, "2", 0, True, None])
def test_a_report_of_an_unknown_version_is_refused(delivered: Path, version: Any) -> None:
    path = delivered / "report.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": version}))
    with pytest.raises(ValueError, match="version"):
        list(verify_files.read_report(path))


def test_deep_counts_the_clips_and_not_the_inputs(dataset: Path) -> None:
    target = verify_output.recognize(dataset)
    assert target is not None
    assert sum(finding.clips for finding in verify_output.check(target, Workers(Here()), deep=True)) == 3


def test_a_list_of_any_length_is_checked_with_few_files_at_a_time(tmp_path: Path) -> None:
    """The list is read as far as files are checked: memory does not grow with its length."""
    (tmp_path / "a").write_bytes(b"a")
    taken = 0

    def endless() -> Iterator[Expected]:
        nonlocal taken
        while True:
            taken += 1
            yield Expected("a", sha256(b"a"))

    with Folder(tmp_path) as folder:
        findings = verify_files.check_all(Check(folder, Workers(Here())), endless())
        for _ in range(100):
            assert next(findings) == Finding("a")
        findings.close()  # type: ignore[attr-defined]  # a generator
    assert taken < 130


def test_a_list_without_line_ends_does_not_fill_the_memory(tmp_path: Path) -> None:
    line = b"0" * 64 + b"  " + b"x" * 1_000_000
    (tmp_path / sums.SUMS).write_bytes(line + b"\n" + f"{sha256(b'a')}  a\n".encode())
    (tmp_path / "a").write_bytes(b"a")
    assert check(tmp_path / sums.SUMS) == {"line 1": INVALID}


def test_nothing_is_written(dataset: Path, delivered: Path) -> None:
    def states() -> dict[str, tuple[int, int]]:
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(dataset.parent.rglob("*"))}

    flip(delivered / "a.mp4")
    before = states()
    check(dataset, deep=True)
    check(delivered, deep=True)
    assert states() == before
