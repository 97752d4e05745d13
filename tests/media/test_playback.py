"""The playable length of a video, and whether a file is as long as its header says."""

import io
import struct
from pathlib import Path
from typing import Any

import pytest

from batchrunner.media.playback import Played, cut_short, declared_bytes
from batchrunner.media.probe import MediaProblem, probe


def clip(form: str, codec: str, *, frames: int = 40, sound_s: float = 0.0, cover: bool = False) -> bytes:
    """Make a clip of changing grey, 10 frames a second; optionally with a silent sound track and a cover picture."""
    import av

    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        stream: Any = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound: Any = container.add_stream("aac", rate=48_000) if sound_s else None
        picture: Any = container.add_stream("png", rate=1) if cover else None
        if cover:
            picture.width, picture.height, picture.pix_fmt = 32, 32, "rgb24"
            picture.disposition = av.stream.Disposition.attached_pic
            container.mux(picture.encode(av.VideoFrame(32, 32, "rgb24")))
        for index in range(frames):
            frame = av.VideoFrame(64, 48, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes([40 + 3 * index]) * plane.buffer_size)
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for index in range(int(sound_s * 48_000 / 1024)):
            silence = av.AudioFrame(format="fltp", layout="mono", samples=1024)
            silence.sample_rate, silence.pts = 48_000, index * 1024
            silence.planes[0].update(bytes(silence.planes[0].buffer_size))
            container.mux(sound.encode(silence))
        if sound is not None:
            container.mux(sound.encode(None))
    return out.getvalue()


FORMS = [("mp4", "libx264"), ("mov", "libx264"), ("webm", "libvpx"), ("matroska", "libx264"), ("avi", "mpeg4")]


def looked_at(tmp_path: Path, data: bytes) -> Any:
    path = tmp_path / "clip"
    path.write_bytes(data)
    return probe(path, "video", "clip")


@pytest.mark.parametrize(("form", "codec"), FORMS)
def test_a_valid_clip_is_measured_by_its_frames(tmp_path: Path, form: str, codec: str) -> None:
    media = looked_at(tmp_path, clip(form, codec))
    assert (media.frames, media.duration_s) == (40, pytest.approx(4.0, abs=0.11))


@pytest.mark.parametrize(("form", "codec"), FORMS)
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_truncated_clip_is_refused(tmp_path: Path, form: str, codec: str, kept: float) -> None:
    data = clip(form, codec)
    with pytest.raises(MediaProblem):
        looked_at(tmp_path, data[: int(kept * len(data))])


@pytest.mark.parametrize(("form", "codec"), FORMS)
def test_a_clip_with_a_zeroed_second_half_is_refused(tmp_path: Path, form: str, codec: str) -> None:
    data = clip(form, codec)
    head = data[: len(data) // 2]
    with pytest.raises(MediaProblem):
        looked_at(tmp_path, head + bytes(len(data) - len(head)))


@pytest.mark.parametrize(("form", "codec"), [form for form in FORMS if form[0] != "webm"])  # WebM has no AAC
def test_sound_longer_than_the_picture_is_not_a_truncation(tmp_path: Path, form: str, codec: str) -> None:
    media = looked_at(tmp_path, clip(form, codec, frames=10, sound_s=9.0))
    assert (media.frames, media.duration_s) == (10, pytest.approx(1.0, abs=0.11))


def test_the_video_counts_and_not_the_cover_before_it(tmp_path: Path) -> None:
    media = looked_at(tmp_path, clip("mp4", "libx264", cover=True))
    assert (media.width_px, media.height_px, media.frames) == (64, 48, 40)


def test_frames_that_an_edit_list_hides_do_not_count(tmp_path: Path) -> None:
    data = bytearray(clip("mp4", "libx264"))
    at = data.index(b"elst") + 4
    assert struct.unpack_from(">II", data, at) == (0, 1)
    timescale = struct.unpack_from(">I", data, data.index(b"mvhd") + 16)[0]
    struct.pack_into(">I", data, at + 8, timescale)  # plays one second of the four
    media = looked_at(tmp_path, bytes(data))
    assert (media.frames, media.duration_s) == (10, pytest.approx(1.0, abs=0.11))


def test_a_quicktime_file_without_a_brand_is_accepted(tmp_path: Path) -> None:
    data = clip("mov", "libx264")
    size = int.from_bytes(data[:4])
    assert data[4:8] == b"ftyp"
    media = looked_at(tmp_path, struct.pack(">I4s", size, b"free") + data[8:])  # offsets do not change
    assert media.frames == 40


@pytest.mark.parametrize(
    ("played", "by_header", "cut"),
    [
        (Played(40, 4.0, 4.0, 4.0, 0), True, False),
        (Played(40, 4.0, 4.0, 4.9, 0), True, False),
        (Played(40, 4.0, 4.0, 5.1, 0), True, True),
        (Played(40, 4.0, 4.0, 5.1, 0), False, False),
        (Played(900, 90.0, 90.0, 99.0, 0), True, False),
        (Played(10, 1.0, 60.0, 60.0, 0), True, False),
        (Played(40, 4.0, 4.0, None, 0), True, False),
        (Played(0, 0.0, 0.0, None, 0), False, True),
        (Played(40, 4.0, 4.0, 4.0, 1), False, True),
    ],
)
def test_evidence_of_a_truncation_is_weighed(played: Played, by_header: bool, cut: bool) -> None:
    assert bool(cut_short(played, by_header=by_header)) == cut


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (b"RIFF\x10\0\0\0AVI LIST", 24),
        (b"RIFF\xff\xff\xff\xffAVI ", None),  # written to a pipe
        (b"RIFF", None),
        (b"\x1aE\xdf\xa3\x81x\x18S\x80g\x85", 16),
        (b"\x1aE\xdf\xa3\x81x\x18S\x80g\x01\0\0\0\0\0\0\x07", 25),
        (b"\x1aE\xdf\xa3\x81x\x18S\x80g\x01\xff\xff\xff\xff\xff\xff\xff", None),  # a live stream
        (b"\x1aE\xdf\xa3\x81x\x18S\x80g", None),
        (b"\x1aE\xdf\xa3", None),
        (b"\x1aE\xdf\xa3\0\0", None),
        (b"\0\0\0\x18ftypisom", None),
        (b"", None),
    ],
)
def test_the_length_in_a_header_is_read(head: bytes, size: int | None) -> None:
    assert declared_bytes(head) == size
