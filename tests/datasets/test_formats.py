"""Rows are one line of JSON each, and media is checked while it is copied."""

import hashlib
import io
import json
from pathlib import Path

import pytest

from batchrunner.datasets.formats import MediaRefused, copy_media, json_line, recipe_of
from batchrunner.datasets.items import MediaFile


def test_a_row_is_one_line_for_every_reader() -> None:
    row = {"a": "x\n\r\u2028\u2029\x85\x0b ü 🎬", "b": None}
    line = json_line(row)
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line) == row
    assert "ü 🎬" in line.decode()


def test_a_lone_surrogate_is_replaced() -> None:
    assert json.loads(json_line({"a": "x\udc80"})) == {"a": "x\ufffd"}


def test_a_recipe_depends_on_the_values_only() -> None:
    assert recipe_of({"a": 1, "b": [2]}) == recipe_of({"b": [2], "a": 1}) != recipe_of({"a": 1, "b": [3]})


def media_of(path: Path, content: bytes) -> MediaFile:
    return MediaFile(path, hashlib.sha256(content).hexdigest(), len(content), ".mp4")


def test_media_is_copied(tmp_path: Path) -> None:
    path, to = tmp_path / "a", io.BytesIO()
    path.write_bytes(b"clip" * 1_000_000)
    copy_media(media_of(path, b"clip" * 1_000_000), to)
    assert to.getvalue() == b"clip" * 1_000_000


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (b"clap", "its SHA-256 differs"),
        (b"cli", "another size"),
        (b"clips", "another size"),
        (None, "is missing"),
    ],
)
def test_other_media_is_refused(tmp_path: Path, found: bytes | None, why: str) -> None:
    if found is not None:
        (tmp_path / "a").write_bytes(found)
    with pytest.raises(MediaRefused, match=why):
        copy_media(media_of(tmp_path / "a", b"clip"), io.BytesIO())


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"clip")
    (tmp_path / "a").symlink_to(tmp_path / "b")
    with pytest.raises(MediaRefused, match="cannot be read"):
        copy_media(media_of(tmp_path / "a", b"clip"), io.BytesIO())
