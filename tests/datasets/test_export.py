"""An export is complete or absent, continues after a kill, and gives the same bytes each time."""

import hashlib
import io
import json
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from batchrunner.datasets.collect import Choice, Collection
from batchrunner.datasets.export import compare, write
from batchrunner.datasets.folder import FolderFormat
from batchrunner.datasets.splits import Splits
from batchrunner.datasets.workspace import Workspace
from batchrunner.errors import BatchLocked, LocalFault, UsageError
from batchrunner.storage.durable_files import Disk
from tests.datasets.sample_batches import Sample, make_batch, open_batch, tree_of

SPLITS = Splits.parse("train=.5,val=.3,test=.2")
SAMPLES = [Sample(f"clip-{n}", reference=f"r{n // 2}".encode(), image=f"i{n % 3}".encode()) for n in range(10)]


class NoProgress:
    def begin(self, total_bytes: int, label: str = "exporting") -> None: ...

    def add(self, size_bytes: int) -> None: ...


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_batch(tmp_path, SAMPLES).path


def collection_of(run_dir: Path, splits: Splits | None = SPLITS) -> Collection:
    from batchrunner.storage.run_directory import RunDir

    return Collection([open_batch(RunDir(run_dir))], Choice(splits=splits))


def export(run_dir: Path, out: Path, disk: Disk | None = None) -> Collection:
    collection = collection_of(run_dir)
    with Workspace(out, disk or Disk()) as workspace:
        write(collection, FolderFormat(), workspace, NoProgress())
    return collection


def test_the_data_set_is_complete_and_its_sums_are_right(run_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    export(run_dir, out)
    files = tree_of(out)
    listed = dict(line.split(" *")[::-1] for line in files.pop("SHA256SUMS").decode().splitlines())
    assert listed == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    rows = [json.loads(line) for split in SPLITS.names for line in files[f"{split}/metadata.jsonl"].splitlines()]
    assert sorted(row["id"] for row in rows) == sorted(sample.id for sample in SAMPLES)
    assert len({tuple(row) for row in rows}) == 1
    assert not list(tmp_path.glob("*.partial"))


def test_the_same_batch_gives_the_same_bytes(run_dir: Path, tmp_path: Path) -> None:
    export(run_dir, tmp_path / "one")
    export(run_dir, tmp_path / "two")
    assert tree_of(tmp_path / "one") == tree_of(tmp_path / "two")


class Killed(BaseException):
    """Ends the process: nothing but the end of the process may catch it."""


class KillingFile(io.BufferedWriter):
    """A file of which a kill leaves a part."""

    def __init__(self, file: BinaryIO, disk: "KillingDisk") -> None:
        self._inner = file
        self._disk = disk

    def write(self, content: Any) -> int:
        view = memoryview(content)
        if self._disk.is_last():
            self._inner.write(view[: len(view) // 2])
            self._inner.close()
            raise Killed
        return self._inner.write(view)

    def fileno(self) -> int:
        return self._inner.fileno()

    def flush(self) -> None:
        self._inner.flush()

    def close(self) -> None:
        self._inner.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class KillingDisk(Disk):
    """Kills the process at its operation number `last`."""

    def __init__(self, last: int = -1) -> None:
        self.last = last
        self.count = 0

    def is_last(self) -> bool:
        self.count += 1
        return self.count - 1 == self.last

    def open(self, path: Path, mode: str) -> BinaryIO:
        self._step()
        return KillingFile(super().open(path, mode), self)

    def _step(self) -> None:
        if self.is_last():
            raise Killed

    def flush(self, file: BinaryIO) -> None:
        self._step()
        super().flush(file)

    def flush_all(self, paths: Any) -> None:
        self._step()
        super().flush_all(paths)

    def rename_all(self, names: Any) -> None:
        self._step()
        super().rename_all(names)
        self._step()

    def make_folder(self, folder: Path) -> None:
        self._step()
        super().make_folder(folder)

    def remove(self, path: Path) -> None:
        self._step()
        super().remove(path)


@dataclass
class Victim:
    """A batch, its data set, and the number of operations that an export takes."""

    run_dir: Path
    files: dict[str, bytes]
    operations: int


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Victim:
    folder = tmp_path_factory.mktemp("victim")
    run_dir, disk = make_batch(folder, SAMPLES).path, KillingDisk()
    export(run_dir, folder / "set", disk)
    return Victim(run_dir, tree_of(folder / "set"), disk.count)


@pytest.fixture
def expected(run_dir: Path, tmp_path: Path) -> dict[str, bytes]:
    export(run_dir, tmp_path / "expected")
    return tree_of(tmp_path / "expected")


@pytest.mark.parametrize("seed", range(20))
def test_an_export_that_is_killed_at_any_moment_continues(victim: Victim, tmp_path: Path, seed: int) -> None:
    chance, out, kills = random.Random(seed), tmp_path / "set", 0
    for _ in range(2):  # a continued export may be killed again
        try:
            export(victim.run_dir, out, KillingDisk(chance.randrange(victim.operations)))
        except Killed:
            kills += 1
            assert not out.exists() or tree_of(out) == victim.files
        except UsageError:  # it was killed after the folder got its name
            assert tree_of(out) == victim.files
    assert kills
    if not out.exists():
        export(victim.run_dir, out)
    assert tree_of(out) == victim.files


class CountingDisk(Disk):
    def __init__(self) -> None:
        self.opened: list[str] = []

    def open(self, path: Path, mode: str) -> BinaryIO:
        self.opened.append(path.name)
        return super().open(path, mode)


def stop_before_the_end(run_dir: Path, out: Path) -> None:
    """Leave a complete data set without its name."""

    class Stopping(Disk):
        def rename_all(self, names: Any) -> None:
            raise Killed

    with pytest.raises(Killed):
        export(run_dir, out, Stopping())
    assert not out.exists()


def test_complete_files_are_not_written_again(run_dir: Path, tmp_path: Path, expected: dict[str, bytes]) -> None:
    out = tmp_path / "set"
    stop_before_the_end(run_dir, out)
    disk = CountingDisk()
    export(run_dir, out, disk)
    assert disk.opened == []
    assert tree_of(out) == expected


def test_files_that_changed_meanwhile_are_written_again(
    run_dir: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    out = tmp_path / "set"
    stop_before_the_end(run_dir, out)
    data = tmp_path / "set.partial" / "data"
    (data / "train/metadata.jsonl").write_text("other")
    (data / "README.md").unlink()
    (data / "foreign").write_text("x")
    (data / "folder").mkdir()
    (data / "link").symlink_to(tmp_path)
    progress = tmp_path / "set.partial" / "progress.jsonl"
    progress.write_bytes(progress.read_bytes() + b'{"name": "torn')
    disk = CountingDisk()
    export(run_dir, out, disk)
    assert {"metadata.jsonl", "README.md"} <= set(disk.opened)
    assert "clip-1.mp4" not in disk.opened
    assert tree_of(out) == expected
    assert not (out / "folder").exists()
    assert run_dir.exists()


def test_a_batch_that_went_on_continues_the_same_folder(run_dir: Path, tmp_path: Path) -> None:
    """The rows of an interrupted export may be of an earlier state of the batch."""
    out = tmp_path / "set"
    stop_before_the_end(run_dir, out)
    more = tmp_path / "more"
    more.mkdir()
    run_dir = make_batch(more, [*SAMPLES[1:], Sample("new")]).path
    export(run_dir, out)
    export(run_dir, tmp_path / "fresh")
    assert tree_of(out) == tree_of(tmp_path / "fresh")


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["run/clip-3.mp4", "media/r1.mp4"])
def test_an_altered_file_is_never_exported(run_dir: Path, tmp_path: Path, name: str) -> None:
    """Its size is right, so only the hash of the copied bytes shows it."""
    original = (tmp_path / name).read_bytes()
    alter(tmp_path / name)
    altered = (tmp_path / name).read_bytes()
    out = tmp_path / "set"
    collection = export(run_dir, out)
    files = tree_of(out)
    assert altered not in files.values()
    assert original not in files.values()
    assert {refusal.path for refusal in collection.refusals} == {tmp_path / name}
    assert all("its SHA-256 differs" in refusal.why for refusal in collection.refusals)
    rows = [json.loads(line) for split in SPLITS.names for line in files[f"{split}/metadata.jsonl"].splitlines()]
    assert len(rows) == (9 if name.startswith("run") else 10)
    for row in rows:
        if row["id"] in {"clip-2", "clip-3"}:
            assert row["control_path"] == ("inputs/" + row["reference_sha256"][:16] + ".mp4" if "run" in name else "")
    compare(collection_of(run_dir), FolderFormat(), out, NoProgress())  # the same files are refused again


def test_an_existing_equal_data_set_is_up_to_date(run_dir: Path, tmp_path: Path) -> None:
    export(run_dir, tmp_path / "set")
    exported = compare(collection_of(run_dir), FolderFormat(), tmp_path / "set", NoProgress())
    assert not exported.is_new
    assert exported.edited == ()
    (tmp_path / "set" / "README.md").write_text("licensed")
    (tmp_path / "set" / ".cache").mkdir()  # as an upload leaves it
    assert compare(collection_of(run_dir), FolderFormat(), tmp_path / "set", NoProgress()).edited == ("README.md",)


@pytest.mark.parametrize("harm", ["other splits", "altered", "removed", "no sums", "more in the sums"])
def test_another_folder_is_refused_and_not_touched(run_dir: Path, tmp_path: Path, harm: str) -> None:
    out = tmp_path / "set"
    export(run_dir, out)
    splits: Splits | None = SPLITS
    match harm:
        case "other splits":
            splits = Splits.parse("train=.1,val=.8,test=.1")
        case "altered":
            alter(next(out.rglob("clip-1.mp4")))
        case "removed":
            next(out.rglob("clip-1.mp4")).unlink()
        case "no sums":
            (out / "SHA256SUMS").unlink()
        case _:
            sums = (out / "SHA256SUMS").read_bytes()
            (out / "SHA256SUMS").write_bytes(sums + b"0" * 64 + b" *train/clips/more.mp4\n")
    before = tree_of(out)
    with pytest.raises(UsageError) as error:
        compare(collection_of(run_dir, splits), FolderFormat(), out, NoProgress())
    assert "Nothing was written" in error.value.hint
    assert tree_of(out) == before


def test_two_exports_to_one_folder_do_not_mix(run_dir: Path, tmp_path: Path) -> None:
    with Workspace(tmp_path / "set", Disk()), pytest.raises(BatchLocked, match="another process exports"):
        export(run_dir, tmp_path / "set")
    export(run_dir, tmp_path / "set")


@pytest.mark.parametrize("found", ["file", "folder", "link"])
def test_a_foreign_folder_in_the_way_is_refused(run_dir: Path, tmp_path: Path, found: str) -> None:
    path = tmp_path / "set.partial"
    if found == "file":
        path.write_text("mine")
    elif found == "link":
        path.symlink_to(run_dir)
    else:
        path.mkdir()
        (path / "mine").write_text("mine")
    with pytest.raises(UsageError, match="is in the way"):
        export(run_dir, tmp_path / "set")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("names", [["data"], ["lock", "data", "mine"], ["mine"]])
def test_a_folder_that_no_export_made_is_refused(run_dir: Path, tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / "set.partial" / name).mkdir(parents=True)
    with pytest.raises(UsageError, match="is in the way"):
        export(run_dir, tmp_path / "set")
    assert sorted(path.name for path in (tmp_path / "set.partial").iterdir()) == sorted(names)


@pytest.mark.parametrize("name", ["data", "marked", "progress.jsonl", "lock"])
@pytest.mark.parametrize("kind", ["link", "hard link"])
def test_a_link_in_the_workspace_is_refused(run_dir: Path, tmp_path: Path, name: str, kind: str) -> None:
    stop_before_the_end(run_dir, tmp_path / "set")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").write_text("mine")
    path = tmp_path / "set.partial" / name
    if path.exists():
        path.rename(tmp_path / "old")
    if kind == "link":
        path.symlink_to(mine)
    else:
        path.hardlink_to(mine / "file")
    with pytest.raises(UsageError, match="is in the way"):
        export(run_dir, tmp_path / "set")
    assert tree_of(mine) == {"file": b"mine"}
    assert not os.path.lexists(tmp_path / "set")


@pytest.mark.parametrize(
    "name", ["train", "train/clips", "train/metadata.jsonl", "train/clips/clip-1.mp4", "README.md"]
)
@pytest.mark.parametrize("kind", ["link", "hard link", "dangling link"])
def test_nothing_is_written_through_a_link(
    run_dir: Path, tmp_path: Path, expected: dict[str, bytes], name: str, kind: str
) -> None:
    stop_before_the_end(run_dir, tmp_path / "set")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").write_text("mine")
    path = tmp_path / "set.partial" / "data" / name
    if path.exists():
        path.rename(tmp_path / "old")
    if kind == "hard link":
        path.hardlink_to(mine / "file")
    else:
        target = mine if path.suffix == "" else mine / "file"
        path.symlink_to(target if kind == "link" else tmp_path / "nowhere")
    export(run_dir, tmp_path / "set")
    assert tree_of(mine) == {"file": b"mine"}
    assert not (tmp_path / "nowhere").exists()
    assert tree_of(tmp_path / "set") == expected
    assert not any(found.is_symlink() for found in (tmp_path / "set").rglob("*"))


def test_a_clip_whose_file_has_a_second_name_is_written_again(
    run_dir: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    stop_before_the_end(run_dir, tmp_path / "set")
    clip = next((tmp_path / "set.partial").rglob("clip-1.mp4"))
    (other := tmp_path / "other").hardlink_to(clip)
    export(run_dir, tmp_path / "set")
    other.write_text("changed")
    assert tree_of(tmp_path / "set") == expected


def test_a_folder_in_the_place_of_a_file_is_named(run_dir: Path, tmp_path: Path) -> None:
    stop_before_the_end(run_dir, tmp_path / "set")
    path = tmp_path / "set.partial" / "data" / "README.md"
    path.unlink(missing_ok=True)
    path.mkdir()
    with pytest.raises(UsageError, match=r"README\.md is in the way: it is a folder"):
        export(run_dir, tmp_path / "set")


class FullDisk(Disk):
    def flush_all(self, paths: Any) -> None:
        raise OSError(28, "No space left on device")


def test_a_full_disk_ends_the_export_and_leaves_no_data_set(
    run_dir: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    out = tmp_path / "set"
    with pytest.raises(LocalFault) as error:
        export(run_dir, out, FullDisk())
    assert error.value.kind == "disk_full"
    assert "run the same command again" in error.value.hint
    assert not out.exists()
    export(run_dir, out)
    assert tree_of(out) == expected


def test_an_empty_folder_is_replaced(run_dir: Path, tmp_path: Path, expected: dict[str, bytes]) -> None:
    (tmp_path / "set").mkdir()
    export(run_dir, tmp_path / "set")
    assert tree_of(tmp_path / "set") == expected
