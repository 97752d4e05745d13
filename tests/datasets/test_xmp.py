"""XMP is added to a copy that still is the same clip: the same frames, and the check finds nothing wrong."""

import io
from pathlib import Path

import av
import pytest

from batchrunner.datasets.xmp import XmpMarker, xmp_box
from batchrunner.media import decoder, mp4_structure, synthetic_marks
from tests.media.test_synthetic_marks import PLAIN, c2pa_box
from tests.media.test_synthetic_marks import xmp_box as other_xmp

MARK = ("xmp:trainedAlgorithmicMedia",)


def frames(content: bytes) -> list[bytes]:
    with av.open(io.BytesIO(content), "r") as container:
        return [frame.to_ndarray().tobytes() for frame in container.decode(video=0)]


def remuxed(clip: bytes, flags: str, folder: Path) -> bytes:
    target = folder / "remuxed.mp4"
    with (
        av.open(io.BytesIO(clip), "r") as source,
        av.open(target, "w", options={"movflags": flags}) as container,
    ):
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    return target.read_bytes()


def ending_open(clip: bytes) -> bytes:
    """Let the last box name no size: it goes to the end of the file."""
    last = mp4_structure.last_box(io.BytesIO(clip), len(clip))
    return clip[: last.start] + bytes(4) + clip[last.start + 4 :]


def mark(path: Path, content: bytes) -> tuple[str, bytes]:
    path.write_bytes(content)
    return XmpMarker().mark(path, "trainedAlgorithmicMedia"), path.read_bytes()


@pytest.fixture(params=["plain", "faststart", "fragmented", "open end", "stray end", "wide box"])
def content(request: pytest.FixtureRequest, clip: bytes, tmp_path: Path) -> bytes:
    built = {
        "plain": lambda: clip,
        "faststart": lambda: remuxed(clip, "faststart", tmp_path),
        "fragmented": lambda: remuxed(clip, "frag_keyframe+empty_moov+default_base_moof", tmp_path),
        "open end": lambda: ending_open(remuxed(clip, "faststart", tmp_path)),
        "stray end": lambda: clip + b"\0\0\0",
        "wide box": lambda: clip + b"\0\0\0\1free" + (24).to_bytes(8) + bytes(8),
    }
    return built[request.param]()


def test_a_marked_copy_decodes_to_the_same_frames(tmp_path: Path, content: bytes) -> None:
    why, marked = mark(tmp_path / "clip.mp4", content)
    assert why == ""
    assert synthetic_marks.read(io.BytesIO(marked), len(marked)) == MARK
    assert frames(marked) == frames(content)
    before = tmp_path / "before.mp4"
    before.write_bytes(content)
    found = decoder.inspect(tmp_path / "clip.mp4", len(marked))
    assert (found.frames, found.duration_s) == ((old := decoder.inspect(before, len(content))).frames, old.duration_s)


def test_no_byte_before_the_mark_moves(tmp_path: Path, content: bytes) -> None:
    _, marked = mark(tmp_path / "clip.mp4", content)
    box = xmp_box("trainedAlgorithmicMedia")
    at = marked.index(box)
    unmarked = marked[:at] + marked[at + len(box) :]
    differing = [place for place in range(len(content)) if unmarked[place] != content[place]]
    assert len(unmarked) == len(content)
    assert len(differing) <= 4, "only a size that was missing"
    assert b"moov" not in marked[at + len(box) :]
    assert b"moof" not in marked[at + len(box) :]


def test_the_same_clip_gives_the_same_bytes(tmp_path: Path, clip: bytes) -> None:
    assert mark(tmp_path / "a", clip)[1] == mark(tmp_path / "b", clip)[1]


def test_the_index_of_fragments_stays_last(tmp_path: Path, clip: bytes) -> None:
    content = remuxed(clip, "frag_keyframe+empty_moov", tmp_path)
    _, marked = mark(tmp_path / "clip.mp4", content)
    assert mp4_structure.last_box(io.BytesIO(marked), len(marked)).type == b"mfra"
    assert int.from_bytes(marked[-4:]) == int.from_bytes(content[-4:])


@pytest.mark.parametrize("extra", [c2pa_box(), other_xmp(PLAIN), other_xmp(b"<x/>")])
def test_a_clip_with_credentials_or_xmp_stays_as_it_is(tmp_path: Path, clip: bytes, extra: bytes) -> None:
    why, marked = mark(tmp_path / "clip.mp4", clip + extra)
    assert why
    assert marked == clip + extra


@pytest.mark.parametrize("content", [b"", b"no clip at all"])
def test_what_is_no_mp4_is_a_value_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "clip").write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        XmpMarker().mark(tmp_path / "clip", "trainedAlgorithmicMedia")


def test_ffmpeg_s_own_boxes_stay_readable(tmp_path: Path, clip: bytes) -> None:
    """A second mark is not added, and the first is not changed."""
    _, once = mark(tmp_path / "clip.mp4", clip)
    why, twice = mark(tmp_path / "clip.mp4", once)
    assert "XMP" in why
    assert once == twice
