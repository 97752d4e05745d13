"""A region reads as a file with only its bytes would."""

import io
import os
from pathlib import Path

import pytest

from batchrunner.media import decoder
from batchrunner.media.region import Region


def test_a_region_equals_a_file_of_its_own() -> None:
    content = bytes(range(256))
    region = io.BufferedReader(Region(io.BytesIO(content), 10, 100))
    alone = io.BytesIO(content[10:110])
    for offset, whence, count in [(0, 0, 7), (3, 1, 5), (-4, 2, 10), (90, 0, 50), (200, 0, 1), (0, 2, 1), (5, 0, -1)]:
        assert region.seek(offset, whence) == alone.seek(offset, whence)
        assert region.read(count) == alone.read(count)
        assert region.tell() == alone.tell()
    with pytest.raises(ValueError, match="before"):
        Region(io.BytesIO(content), 10, 100).seek(-1, os.SEEK_SET)


def test_a_region_ends_where_its_file_ends() -> None:
    assert Region(io.BytesIO(b"abc"), 1, 100).read() == b"bc"


def test_a_clip_inside_another_file_is_decoded_like_a_clip(tmp_path: Path, clip: bytes) -> None:
    (tmp_path / "alone").write_bytes(clip)
    (tmp_path / "inside").write_bytes(b"x" * 1000 + clip + b"y" * 1000)
    expected = decoder.inspect(tmp_path / "alone", len(clip))
    assert decoder.inspect(tmp_path / "inside", len(clip), start_bytes=1000) == expected
    for start_bytes, size_bytes in ((999, len(clip)), (1000, len(clip) - 1)):
        with pytest.raises(ValueError, match=r"."):
            decoder.inspect(tmp_path / "inside", size_bytes, start_bytes=start_bytes)
