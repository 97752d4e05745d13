"""The format `webdataset`, read with `tarfile`: names, order, bytes, sizes of shards."""

import hashlib
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchrunner.app.export import ExportRequest, export
from batchrunner.datasets.formats import FormatOptions, MediaRefused
from batchrunner.datasets.items import Item, MediaFile
from batchrunner.datasets.tar import members
from batchrunner.datasets.webdataset import WebDatasetFormat
from tests.datasets.sample_batches import Sample, make_batch, tree_of

SAMPLES = [
    Sample("first", reference=b"walk0"),
    Sample("second", reference=b"walk0", image=None),
    Sample("third", reference=None, tags={"note": "\ud800"}),
    Sample("fourth", content=bytes(4000), reference=b"walk1"),
    Sample("failed", content=None),
]


def exported(folder: Path, out: str = "out", **more: Any) -> Path:
    rundir = make_batch(folder, SAMPLES) if not (folder / "run").exists() else folder / "run"
    request = ExportRequest(**{"form": "webdataset", "version": "1", **more})
    path = rundir if isinstance(rundir, Path) else rundir.path
    assert export([path], folder / out, request, lambda _: None, lambda _: None) == 0
    return folder / out


def test_a_sample_has_clip_inputs_and_row_under_one_key(tmp_path: Path) -> None:
    out = exported(tmp_path)
    with tarfile.open(out / "train-000000.tar") as tar:
        found = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    rows = {
        row["id"]: row for name, content in found.items() if name.endswith(".json") for row in [json.loads(content)]
    }
    assert list(rows) == ["first", "second", "third", "fourth"]
    keys = {name: row["fingerprint"].removeprefix("sha256:") for name, row in rows.items()}
    expected = {
        f"{keys['first']}.mp4": b"clip of first",
        f"{keys['first']}.character.jpg": b"hero",
        f"{keys['first']}.reference.mp4": b"walk0",
        f"{keys['second']}.mp4": b"clip of second",
        f"{keys['second']}.reference.mp4": b"walk0",
        f"{keys['third']}.mp4": b"clip of third",
        f"{keys['third']}.character.jpg": b"hero",
        f"{keys['fourth']}.mp4": bytes(4000),
        f"{keys['fourth']}.character.jpg": b"hero",
        f"{keys['fourth']}.reference.mp4": b"walk1",
    }
    assert {name: content for name, content in found.items() if not name.endswith(".json")} == expected
    assert [name.partition(".")[0] for name in found] == sorted(
        (name.partition(".")[0] for name in found), key=list(keys.values()).index
    ), "the members of a sample are adjacent"
    assert {tuple(row) for row in rows.values()} == {tuple(rows["first"])}
    assert rows["third"]["tags"] == {"note": "\ufffd"}


def test_the_tar_is_ustar_and_states_no_time_or_user(tmp_path: Path) -> None:
    content = (exported(tmp_path) / "train-000000.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        states = {(info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode, info.type) for info in tar}
        names = [(info.name, info.offset_data, info.size, "") for info in tar]
    assert states == {(0, 0, 0, "", "", 0o644, tarfile.REGTYPE)}
    assert content[257:265] == b"ustar\x0000"
    assert len(content) % 512 == 0
    assert content.endswith(bytes(1024))
    assert [tuple(member) for member in members(io.BytesIO(content), len(content))] == names


def test_the_same_batch_gives_the_same_bytes(tmp_path: Path) -> None:
    assert tree_of(exported(tmp_path)) == tree_of(exported(tmp_path, "again"))


@pytest.mark.parametrize(("shard_bytes", "shards"), [(1, 4), (12_000, 2), (1_000_000, 1)])
def test_shards_have_at_most_the_size_and_all_samples_in_order(tmp_path: Path, shard_bytes: int, shards: int) -> None:
    out = exported(tmp_path, options=FormatOptions(shard_bytes))
    found = sorted(out.glob("*.tar"))
    assert [path.name for path in found] == [f"train-{number:06}.tar" for number in range(shards)]
    ids = []
    for path in found:
        with tarfile.open(path) as tar:
            rows = [json.loads(tar.extractfile(info).read()) for info in tar if info.name.endswith("json")]  # type: ignore[union-attr]
        ids += [row["id"] for row in rows]
        assert len(rows) == 1 or path.stat().st_size - 1024 <= shard_bytes
    assert ids == ["first", "second", "third", "fourth"]


def test_a_split_without_clips_has_no_tar_and_is_not_in_the_card(tmp_path: Path) -> None:
    out = exported(tmp_path, split="train=1,test=0")
    assert not list(out.glob("test*"))
    head = yaml.safe_load((out / "README.md").read_text("utf-8").split("---")[1])
    assert [item["split"] for item in head["configs"][0]["data_files"]] == ["train"]


def test_the_card_states_every_field(tmp_path: Path) -> None:
    """A loader that infers fields from the first samples fails where one of them lacks an input."""
    head = yaml.safe_load((exported(tmp_path) / "README.md").read_text("utf-8").split("---")[1])
    stated = {item["name"]: item for item in head["dataset_info"]["features"]}
    assert [stated[name]["dtype"] for name in ("mp4", "reference.mp4", "character.jpg")] == ["video", "video", "image"]
    assert {"name": "ids", "list": "string"} in stated["json"]["struct"]
    assert {"name": "tags", "struct": [{"name": "note", "dtype": "string"}]} in stated["json"]["struct"]


class OneItem:
    """A data set with one item."""

    def __init__(self, item: Item) -> None:
        self.item = item
        self.splits, self.roles = ("train",), tuple(item.inputs)
        self.columns: dict[str, str] = {}

    def items(self, split: str) -> list[Item]:
        return [self.item]


def one_item(tmp_path: Path) -> Item:
    (tmp_path / "clip").write_bytes(b"x")
    media = MediaFile(tmp_path / "clip", hashlib.sha256(b"x").hexdigest(), 1, ".mp4")
    return Item("ab" * 32, ("x",), "train", media, {}, {"id": "x"})


@pytest.mark.parametrize("role", ["Mask", "a/b", "mask.left", "n" * 80, "\u0444"])
def test_odd_names_of_inputs_get_plain_members(tmp_path: Path, role: str) -> None:
    item = one_item(tmp_path)
    item = replace(item, inputs={role: replace(item.clip, suffix=".png")})
    form = WebDatasetFormat(FormatOptions())
    [unit] = form.units(OneItem(item))  # type: ignore[arg-type]
    to = io.BytesIO()
    unit.write(to)
    with tarfile.open(fileobj=io.BytesIO(to.getvalue())) as tar:
        [_, name, _] = [info.name.partition(".")[2] for info in tar]
    assert name.startswith("input-")
    assert name.endswith(".png")
    assert name.isascii()


def test_a_clip_too_large_for_the_format_is_refused(tmp_path: Path) -> None:
    item = one_item(tmp_path)
    item = replace(item, clip=replace(item.clip, bytes=8 << 30))
    [unit] = WebDatasetFormat(FormatOptions()).units(OneItem(item))  # type: ignore[arg-type]
    with pytest.raises(MediaRefused, match="8 GiB"):
        unit.write(io.BytesIO())


def test_the_recipe_changes_with_each_part_of_a_sample(tmp_path: Path) -> None:
    item = one_item(tmp_path)
    variants = [
        item,
        replace(item, key="cd" * 32),
        replace(item, values={"id": "y"}),
        replace(item, clip=replace(item.clip, sha256="0" * 64)),
        replace(item, inputs={"character": item.clip}),
        replace(item, inputs={"reference": item.clip}),
        replace(item, inputs={"reference": replace(item.clip, suffix=".mov")}),
    ]
    recipes = {
        next(iter(WebDatasetFormat(FormatOptions()).units(OneItem(one)))).recipe  # type: ignore[arg-type]
        for one in variants
    }
    assert len(recipes) == len(variants)
