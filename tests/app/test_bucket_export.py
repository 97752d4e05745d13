"""Data sets are uploaded to a bucket: SHA256SUMS last, nothing replaced, and an interrupted upload continues."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from batchrunner.app.export import ExportRequest, export, to_bucket
from batchrunner.app.verify_bucket import verify_bucket
from batchrunner.app.verify_files import ALTERED, EXTRA, MISSING, REFUSED
from batchrunner.errors import BatchrunnerError, ExitStatus, LocalFault, NetworkFault, UsageError
from batchrunner.media.decoder_pool import Here
from batchrunner.storage.objects.address import ObjectAddress
from batchrunner.workers.engines import Workers
from tests.datasets.sample_batches import Sample, make_batch
from tests.transfer.memory_bucket import MemoryBucket

PLACE = "s3://sets/heroes/v1/"


@dataclass
class Reader:
    """Reaches a bucket in memory, as `ObjectReader` does."""

    bucket: MemoryBucket = field(default_factory=MemoryBucket)

    def open(self, _: ObjectAddress) -> Any:
        return self.bucket

    def read_into(self, address: str, file: Any) -> str:
        return asyncio.run(self.bucket.download(ObjectAddress.parse(address).key, file))


@dataclass
class Case:
    """A run directory with two clips, and the command that exports it to a bucket."""

    folder: Path
    reader: Any = field(default_factory=Reader)
    lines: list[str] = field(default_factory=list)

    @property
    def objects(self) -> dict[str, bytes]:
        return {key.removeprefix("heroes/v1/"): content for key, content in self.bucket.objects.items()}

    @property
    def bucket(self) -> MemoryBucket:
        bucket: MemoryBucket = self.reader.bucket
        return bucket

    def export(self, *samples: Sample, place: str = PLACE) -> int:
        run_dir = make_batch(self.folder, samples or [Sample("a"), Sample("b")]).path
        out, request = to_bucket(place, run_dir, ExportRequest(), self.reader)
        return export([run_dir], out, request, self.lines.append, self.lines.append, objects=self.reader)

    def bad(self) -> dict[str, str]:
        found = verify_bucket(PLACE, Workers(Here()), self.reader, deep=False)
        return {item.name: item.kind for item in found if item.kind}

    @property
    def left(self) -> list[str]:
        """What is beside the run directory and its inputs."""
        return sorted(path.name for path in self.folder.iterdir() if path.name not in {"run", "media"})


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_all_files_are_uploaded_with_the_list_of_their_hashes_last(case: Case) -> None:
    assert case.export() == ExitStatus.OK
    assert case.bucket.puts[-1] == "heroes/v1/SHA256SUMS"
    lines = [line.split(" *") for line in case.objects["SHA256SUMS"].decode().splitlines()]
    listed = {name: digest for digest, name in lines}
    found = {name: hashlib.sha256(content).hexdigest() for name, content in case.objects.items()}
    assert found.pop("SHA256SUMS")
    assert found == listed
    assert {"README.md", "croissant.json", "train/metadata.jsonl"} < found.keys()
    assert any(line.startswith(f"{PLACE}: 2 clips") for line in case.lines)
    assert f"check    batchrunner verify {PLACE} --allow-bucket s3://sets" in case.lines
    assert case.bad() == {}
    assert case.left == []


def test_the_same_command_uploads_nothing_again(case: Case) -> None:
    case.export()
    before = list(case.bucket.puts)
    case.reader.bucket.puts.clear()
    assert case.export() == ExitStatus.OK
    assert any("is up to date" in line for line in case.lines)
    assert sorted(case.bucket.puts) == []
    assert before
    assert case.left == []


@pytest.mark.parametrize("fault", [NetworkFault("bucket_unreachable", "down"), LocalFault("bucket_refused", "403")])
@pytest.mark.parametrize("after", [0, 1, 4])
def test_an_upload_that_fails_leaves_no_data_set_and_continues(case: Case, fault: Exception, after: int) -> None:
    calls: list[str] = []

    def fail(call: str, key: str) -> None:
        if call == "put" and len(calls) >= after:
            raise fault
        calls.extend([key] * (call == "put"))

    case.bucket.before_call = fail
    with pytest.raises(type(fault)):
        case.export()
    assert "SHA256SUMS" not in case.objects
    [folder] = case.left
    assert (case.folder / folder / "SHA256SUMS").is_file()
    case.bucket.before_call = lambda *_: None
    assert case.export() == ExitStatus.OK
    assert len(set(case.bucket.puts)) == len(case.bucket.puts) == len(case.objects), "nothing is uploaded twice"
    assert case.bad() == {}
    assert case.left == []


@pytest.mark.parametrize("name", ["other.txt", "train/clips/zzz.mp4"])
def test_a_place_with_other_objects_is_refused_and_stays(case: Case, name: str) -> None:
    case.bucket.objects[f"heroes/v1/{name}"] = b"foreign"
    with pytest.raises(UsageError, match="1 other object"):
        case.export()
    assert case.objects == {name: b"foreign"}


@pytest.mark.parametrize("content", [b"x", b""])
def test_no_object_of_another_content_is_replaced(case: Case, content: bytes) -> None:
    case.export()
    name = next(name for name in case.objects if name.endswith("metadata.jsonl"))
    same_size = content * len(case.objects[name])
    case.bucket.objects[f"heroes/v1/{name}"] = same_size
    with pytest.raises(BatchrunnerError, match=r"another (content|size)"):
        case.export()
    assert case.objects[name] == same_size


def test_another_data_set_does_not_replace_the_first(case: Case) -> None:
    case.export()
    before = case.objects
    other = Case(case.folder / "other", case.reader)
    other.folder.mkdir()
    with pytest.raises(UsageError, match="1 other object"):
        other.export(Sample("a"), Sample("c"))
    assert case.objects == before


def test_a_bucket_that_cannot_be_reached_is_found_before_anything_is_written(case: Case) -> None:
    def refuse(call: str, _: str) -> None:
        assert call == "list"
        raise LocalFault("bucket_missing", "the bucket s3://sets does not exist")

    case.bucket.before_call = refuse
    with pytest.raises(LocalFault, match="does not exist"):
        case.export()
    assert case.left == []


def test_a_whole_bucket_is_refused(case: Case) -> None:
    with pytest.raises(UsageError, match="whole bucket"):
        case.export(place="s3://sets")


def flip(objects: dict[str, bytes], name: str) -> None:
    objects[name] = objects[name][:-1] + b"\0"


@pytest.mark.parametrize(
    ("harm", "kind"),
    [
        (flip, ALTERED),
        (lambda objects, name: objects.pop(name), MISSING),
        (lambda objects, name: objects.update({f"{name}.new": objects.pop(name)}), MISSING),
    ],
)
def test_every_harm_to_an_object_is_named(case: Case, harm: Callable[[dict[str, bytes], str], Any], kind: str) -> None:
    case.export()
    for name in [name for name in case.objects if name != "SHA256SUMS"]:
        kept = dict(case.bucket.objects)
        harm(case.bucket.objects, f"heroes/v1/{name}")
        assert case.bad()[name] == kind
        case.bucket.objects = kept
    case.bucket.objects["heroes/v1/extra/x.mp4"] = b"x"
    assert case.bad() == {"extra/x.mp4": EXTRA}


def test_a_list_that_leads_outside_is_refused_and_not_read(case: Case) -> None:
    digest = hashlib.sha256(b"x").hexdigest()
    case.bucket.objects = {"heroes/v1/SHA256SUMS": f"{digest} *../v2/x\n".encode(), "heroes/v2/x": b"x"}
    assert case.bad() == {"../v2/x": REFUSED}


def test_a_place_without_a_list_has_nothing_to_check_against(case: Case) -> None:
    with pytest.raises(UsageError, match="nothing to check against"):
        case.bad()


def test_delivered_clips_are_checked_against_the_report_beside_them(case: Case, clip: bytes) -> None:
    row = f'{{"id": "a", "file": "a.mp4", "sha256": "{hashlib.sha256(clip).hexdigest()}", "bytes": {len(clip)}}}'
    report = f'{{"schema_version": 2, "jobs": [{row}]}}'.encode()
    kept = {"heroes/v1/.kept/x.mp4": b"former", "heroes/v1/.batchrunner": b"marker", "heroes/v1/report.html": b""}
    case.bucket.objects = {"heroes/v1/report.json": report, "heroes/v1/a.mp4": clip, **kept}
    assert case.bad() == {}
    case.bucket.objects["heroes/v1/b.mp4"] = b"x"
    flip(case.bucket.objects, "heroes/v1/a.mp4")
    assert case.bad() == {"a.mp4": ALTERED, "b.mp4": EXTRA}
