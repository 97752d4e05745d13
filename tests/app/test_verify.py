"""Verification reads, compares and decodes, and finds every difference from the records."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchrunner.app.verify import verify
from batchrunner.errors import LocalFault
from batchrunner.job import Record, Result, Snapshot, State
from batchrunner.media.decoder_pool import Here
from batchrunner.report import writer
from batchrunner.storage.run_directory import RunDir
from batchrunner.workers.engines import Workers
from tests.conftest import make_entries, make_record, make_run, result_of


@pytest.fixture
def rundir(tmp_path: Path) -> RunDir:
    directory = RunDir(tmp_path)
    directory.make()
    return directory


def check(rundir: RunDir, snapshot: Snapshot) -> dict[str, str | None]:
    return {finding.name: finding.message or None for finding in verify(rundir, snapshot, Workers(Here()))}


def holding(rundir: RunDir, content: bytes, result: Result | None = None) -> Snapshot:
    """Make a delivered job `a`, a second name for it, and jobs in every other state, and write the report."""
    done = make_record("a", State.SUCCEEDED, result=result or result_of(content))
    others = [make_record(state.value, state) for state in State if state is not State.SUCCEEDED]
    records: dict[str, Record] = {record.job.fingerprint: record for record in (done, *others)}
    entries = make_entries(
        "a", "copy=a", *(f"{state.value}={state.value}" for state in State if state.value != "succeeded")
    )
    snapshot = Snapshot(make_run(finished_at=5.0, exit_status=1), entries, records)
    for name in ("a.mp4", "copy.mp4"):
        (rundir.path / name).write_bytes(content)
    writer.write(snapshot, rundir.path, "0")
    return snapshot


def test_valid_results_have_no_complaint_and_other_files_are_ignored(rundir: RunDir, clip: bytes) -> None:
    assert check(rundir, holding(rundir, clip)) == {"a.mp4": None, "copy.mp4": None}


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (flipped, "SHA-256 differs"),
        (lambda path: path.unlink(), "cannot be read: No such file or directory"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes instead of"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "bytes instead of"),
        (lambda path: path.write_bytes(b""), "0 bytes instead of"),
        (lambda path: (path.unlink(), path.mkdir()), ""),
    ],
)
def test_a_damaged_file_is_found_and_its_copy_is_not_blamed(
    rundir: RunDir, clip: bytes, harm: Callable[[Path], Any], expected: str
) -> None:
    snapshot = holding(rundir, clip)
    harm(rundir.path / "a.mp4")
    complaints = check(rundir, snapshot)
    assert complaints["copy.mp4"] is None
    complaint = complaints["a.mp4"]
    assert complaint is not None
    assert expected in complaint


def test_a_file_with_the_right_checksum_that_does_not_decode_is_found(rundir: RunDir, clip: bytes) -> None:
    for content in (b"not a clip at all", clip[:-200]):
        complaints = check(rundir, holding(rundir, content))
        assert all(complaints.values())
        assert len(complaints) == 2


def test_a_result_without_a_record_is_a_complaint(rundir: RunDir, clip: bytes) -> None:
    snapshot = holding(rundir, clip)
    records = {name: replace(record, result=None) for name, record in snapshot.records.items()}
    assert all(check(rundir, replace(snapshot, records=records)).values())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"jobs": 5}', '{"jobs": [{"id": "a"}]}', "null", "\udcff"])
def test_an_unreadable_report_is_a_complaint(rundir: RunDir, clip: bytes, text: str) -> None:
    snapshot = holding(rundir, clip)
    (rundir.path / "report.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    complaint = check(rundir, snapshot)["a.mp4"]
    assert complaint is not None
    assert "batchrunner report" in complaint


def test_a_report_older_than_a_result_does_not_blame_the_file(rundir: RunDir, clip: bytes) -> None:
    snapshot = holding(rundir, clip)
    path = rundir.path / "report.json"
    data = json.loads(path.read_text())
    data["jobs"][0]["sha256"] = None
    path.write_text(json.dumps(data))
    assert check(rundir, snapshot)["a.mp4"] is None


def test_a_report_with_another_checksum_is_a_complaint(rundir: RunDir, clip: bytes) -> None:
    snapshot = holding(rundir, clip)
    path = rundir.path / "report.json"
    data = json.loads(path.read_text())
    data["jobs"][0]["sha256"] = "0" * 64
    path.write_text(json.dumps(data))
    complaints = check(rundir, snapshot)
    assert complaints["a.mp4"] is not None
    assert complaints["copy.mp4"] is None


def test_without_a_report_the_journal_is_enough(rundir: RunDir, clip: bytes) -> None:
    snapshot = holding(rundir, clip)
    (rundir.path / "report.json").unlink()
    assert check(rundir, snapshot) == {"a.mp4": None, "copy.mp4": None}


def test_verify_writes_nothing(rundir: RunDir, clip: bytes) -> None:
    snapshot = holding(rundir, clip)
    flipped(rundir.path / "a.mp4")

    def files() -> dict[str, tuple[bytes, int]]:
        return {
            file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in rundir.path.iterdir() if file.is_file()
        }

    before = files()
    check(rundir, snapshot)
    assert files() == before


def test_verify_needs_no_event_loop(rundir: RunDir, clip: bytes) -> None:
    snapshot = holding(rundir, clip)

    async def inside() -> dict[str, str | None]:
        return check(rundir, snapshot)

    assert asyncio.run(inside()) == check(rundir, snapshot)


class Objects:
    """Reads objects from memory."""

    def __init__(self, **objects: bytes) -> None:
        self.objects = {f"s3://clips/{name}.mp4": content for name, content in objects.items()}

    def require_allowed(self, address: str) -> None:
        assert address.startswith("s3://clips/")

    def fetch(self, address: str, sha256: str, path: Path) -> None:
        if address not in self.objects:
            raise LocalFault("object_missing", f"there is no object {address}")
        path.write_bytes(self.objects[address])
        if hashlib.sha256(self.objects[address]).hexdigest() != sha256:
            raise LocalFault("object_differs", f"{address} has another content")


def test_copies_in_a_bucket_are_read_back_and_may_be_the_only_ones(rundir: RunDir, clip: bytes) -> None:
    copies = {f"s3://clips/{name}.mp4": "etag" for name in ("a", "copy")}
    snapshot = holding(rundir, clip, result_of(clip, objects=copies))
    snapshot = replace(snapshot, run=replace(snapshot.run, settings_json=json.dumps({"deliver": "s3://clips/"})))

    def found(**objects: bytes) -> dict[str, str]:
        reader: Any = Objects(**objects)
        return {item.name: item.message for item in verify(rundir, snapshot, Workers(Here()), reader)}

    good = {"a.mp4": "", "s3://clips/a.mp4": "", "copy.mp4": "", "s3://clips/copy.mp4": ""}
    assert found(a=clip, copy=clip) == good
    assert found(a=clip) == good | {"s3://clips/copy.mp4": "there is no object s3://clips/copy.mp4"}
    assert found(a=clip, copy=b"x") == good | {"s3://clips/copy.mp4": "s3://clips/copy.mp4 has another content"}
    (rundir.path / "a.mp4").unlink()
    (rundir.path / "copy.mp4").unlink()
    assert found(a=clip, copy=clip) == {"s3://clips/a.mp4": "", "s3://clips/copy.mp4": ""}
