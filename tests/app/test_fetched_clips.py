"""Clips that are only in a bucket come back for a data set, each once, and nothing else is written or removed."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from batchrunner.app.fetched_clips import fetched_batches, remove_fetched
from batchrunner.datasets.batches import Batch
from batchrunner.errors import LocalFault, NetworkFault, UsageError

CONTENTS = {name: f"clip {name}".encode() for name in ("a", "b", "c")}


class Objects:
    """Reads objects from memory. faults: by address."""

    def __init__(self) -> None:
        self.faults: dict[str, Exception] = {}
        self.fetched: list[str] = []

    def require_allowed(self, address: str) -> None:
        assert address.startswith("s3://clips/")

    def fetch(self, address: str, sha256: str, path: Path) -> None:
        if address in self.faults:
            raise self.faults[address]
        self.fetched.append(address)
        path.write_bytes(CONTENTS[Path(address).stem])


def row(name: str, **more: Any) -> dict[str, Any]:
    sha256 = hashlib.sha256(CONTENTS[name]).hexdigest()
    known = {"id": name, "state": "succeeded", "file": f"{name}.mp4", "sha256": sha256, "bytes": 6, "verdict": None}
    return {**known, "object": {"address": f"s3://clips/{name}.mp4", "etag": "e"}, **more}


def fetched(folder: Path, objects: Any, *rows: dict[str, Any], only_accepted: bool = False) -> dict[str, bytes]:
    (folder / "run").mkdir(exist_ok=True)
    batch = Batch(folder / "run", {}, rows)
    [found] = fetched_batches([batch], folder / "set.fetched", objects, lambda _: None, only_accepted=only_accepted)
    return {row["id"]: found.clip(row).read_bytes() for row in rows if found.clip(row).exists()}


def test_only_clips_without_a_file_come_back_and_an_interrupted_export_copies_the_others(tmp_path: Path) -> None:
    objects = Objects()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "b.mp4").write_bytes(CONTENTS["b"])
    objects.faults["s3://clips/c.mp4"] = NetworkFault("bucket_unreachable", "down")
    with pytest.raises(NetworkFault):
        fetched(tmp_path, objects, row("a"), row("b"), row("c"))
    objects.faults.clear()
    assert fetched(tmp_path, objects, row("a"), row("b"), row("c")) == CONTENTS
    assert objects.fetched == ["s3://clips/a.mp4", "s3://clips/c.mp4"]


def test_other_rows_are_not_copied(tmp_path: Path) -> None:
    objects = Objects()
    rows = [row("a", object=None), row("b", state="failed"), row("c", verdict={"verdict": "reject"})]
    assert fetched(tmp_path, objects, *rows, only_accepted=True) == {}
    assert objects.fetched == []
    assert not (tmp_path / "set.fetched").exists()


def test_an_object_that_is_gone_leaves_its_clip_out(tmp_path: Path) -> None:
    objects = Objects()
    objects.faults["s3://clips/a.mp4"] = LocalFault("object_missing", "there is no object s3://clips/a.mp4")
    assert fetched(tmp_path, objects, row("a"), row("b")) == {"b": CONTENTS["b"]}


def test_only_copies_are_removed_and_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    fetched(tmp_path, Objects(), row("a"))
    own = tmp_path / "set.fetched" / "notes.txt"
    own.write_text("mine")
    remove_fetched(tmp_path / "set.fetched")
    assert list((tmp_path / "set.fetched").iterdir()) == [own]
    own.unlink()
    remove_fetched(tmp_path / "set.fetched")
    assert not (tmp_path / "set.fetched").exists()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "set.fetched").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="symbolic link"):
        fetched(tmp_path, Objects(), row("a"))
    assert list((tmp_path / "elsewhere").iterdir()) == []
