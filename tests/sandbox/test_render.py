"""The sandbox's renderer: what it makes is decoded and measured."""

import base64
import struct
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from batchrunner.media.decoder import inspect
from batchrunner.sandbox.clips import marks
from batchrunner.sandbox.clips.reader import output_size
from batchrunner.sandbox.clips.render import RenderFailed, RenderRequest, count_frames, render

MEDIA = Path(str(resources.files("batchrunner.sandbox") / "media"))
FASTEST = {"quality": "low", "write_mode": "fast"}


def decoded(path: Path) -> tuple[list[Any], Any, float]:
    """Frames as RGB arrays, average rate, length in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return frames, stream.average_rate, (container.duration or 0) / av.time_base


def clip(path: Path, width_px: int, height_px: int, rate: Fraction = Fraction(10), frames: int = 5) -> Path:
    """A short clip of seeded noise that drifts."""
    noise = np.random.default_rng(1).integers(0, 256, (height_px, width_px, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, 3 * number, 1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def made(tmp_path: Path, video: Path = MEDIA / "standin.mp4", **options: Any) -> Path:
    return render(RenderRequest(video, MEDIA / "standin.jpg", tmp_path / "out.mp4", **(FASTEST | options)))


def test_the_result_is_as_long_and_as_fast_as_the_reference(tmp_path: Path) -> None:
    frames, rate, length_s = decoded(made(tmp_path))
    assert (len(frames), rate) == (60, 25)
    assert length_s == pytest.approx(2.4)


@pytest.mark.parametrize("resolution", ["480p", "580p", "720p"])
def test_the_result_has_the_size_asked_for(tmp_path: Path, resolution: str) -> None:
    short_px = int(resolution[:-1])
    frames, _, _ = decoded(made(tmp_path, clip(tmp_path / "in.mp4", 90, 120), resolution=resolution))
    assert {frame.shape for frame in frames} == {(2 * round(short_px * 4 / 3 / 2), short_px, 3)}
    assert len(frames) == 5


@pytest.mark.parametrize(
    ("size", "resolution", "expected"),
    [
        ((1920, 1080), "480p", (854, 480)),
        ((1080, 1920), "480p", (480, 854)),
        ((1920, 1080), "720p", (1280, 720)),
        ((480, 480), "580p", (580, 580)),
    ],
)
def test_the_short_side_is_the_resolution(size: tuple[int, int], resolution: str, expected: tuple[int, int]) -> None:
    assert output_size(*size, resolution) == expected


def test_fast_start_odd_sizes_and_odd_rates(tmp_path: Path) -> None:
    source = clip(tmp_path / "in.mp4", 166, 94, Fraction(24000, 1001), 7)
    path = made(tmp_path, source)
    frames, rate, length_s = decoded(path)
    assert frames[0].shape == (480, 848, 3)
    assert (len(frames), rate) == (7, Fraction(24000, 1001))
    assert length_s == pytest.approx(7 * 1001 / 24000, abs=0.002)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_better_quality_is_a_bigger_file_and_a_small_one_is_smaller(tmp_path: Path) -> None:
    source = clip(tmp_path / "in.mp4", 240, 240)
    sizes = [
        made(tmp_path, source, quality=quality, write_mode="fast").stat().st_size
        for quality in ("low", "medium", "high", "maximum")
    ]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 4
    balanced = made(tmp_path, source, quality="high", write_mode="balanced").stat().st_size
    assert balanced != sizes[2]


def test_the_character_stands_in_the_scene(tmp_path: Path) -> None:
    """The middle changes with the picture, the corners stay the scene's."""
    scene, _, _ = decoded(MEDIA / "standin.mp4")
    red, blue = (tmp_path / f"{name}.png" for name in ("red", "blue"))
    stripes = np.zeros((64, 64, 3), np.uint8)
    for path, channel in ((red, 0), (blue, 2)):
        picture = stripes.copy()
        picture[::2, :, channel] = 255
        Image.fromarray(picture).save(path)
    results = []
    for path in (red, blue):
        out = tmp_path / "out.mp4"
        render(RenderRequest(MEDIA / "standin.mp4", path, out, quality="maximum", write_mode="fast"))
        results.append(decoded(out)[0][30].astype(int))
    middle, corner = (slice(200, 280), slice(200, 280)), (slice(0, 80), slice(0, 80))
    assert results[0][middle][..., 0].mean() > results[1][middle][..., 0].mean() + 20
    for result in results:
        assert np.abs(result[corner] - scene[30].astype(int)[corner]).mean() < 6


def test_a_clip_that_lies_on_its_side_is_set_upright(tmp_path: Path) -> None:
    """As phones write them: the coded left edge is the top, by a matrix in the track's header (ISO 14496-12, tkhd)."""
    source = tmp_path / "in.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        picture = np.zeros((96, 160, 3), np.uint8)
        picture[:, :40] = 255
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    data = source.read_bytes()
    upright, turned = (struct.pack(">5i", *matrix) for matrix in ((65536, 0, 0, 0, 65536), (0, 65536, 0, -65536, 0)))
    at = data.index(upright, data.index(b"tkhd"))
    source.write_bytes(data[:at] + turned + data[at + len(turned) :])
    frames, _, _ = decoded(made(tmp_path, source))
    assert frames[0].shape == (800, 480, 3)
    assert frames[0][:80, :80].mean() > 200
    assert frames[0][-80:, -80:].mean() < 50


def test_an_odd_length_is_half(tmp_path: Path) -> None:
    assert len(decoded(made(tmp_path, odd_length=True))[0]) == 30


@pytest.mark.parametrize(
    ("field", "content"),
    [("video_url", b""), ("video_url", b"no clip"), ("image_url", b""), ("image_url", b"no picture")],
)
def test_inputs_that_cannot_be_used_are_named(tmp_path: Path, field: str, content: bytes) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(content)
    video, image = (bad, MEDIA / "standin.jpg") if field == "video_url" else (MEDIA / "standin.mp4", bad)
    with pytest.raises(RenderFailed) as caught:
        render(RenderRequest(video, image, tmp_path / "out.mp4"))
    assert caught.value.field == field


def test_a_sound_is_no_clip(tmp_path: Path) -> None:
    sound = tmp_path / "sound.wav"
    sound.write_bytes(base64.b64decode("UklGRigAAABXQVZFZm10IBAAAAABAAEARKwAAIhYAQACABAAZGF0YQQAAAAAAAAA"))
    with pytest.raises(RenderFailed, match="no video stream"):
        made(tmp_path, sound)


def test_frames_are_counted_from_the_header(tmp_path: Path) -> None:
    assert count_frames(MEDIA / "standin.mp4") == 60
    (tmp_path / "rubbish").write_bytes(b"rubbish")
    assert count_frames(tmp_path / "rubbish") is None


def test_the_result_bears_its_mark_and_is_a_whole_clip(tmp_path: Path) -> None:
    mark = marks.mark("gen:model", "order", "request")
    path = made(tmp_path, clip(tmp_path / "in.mp4", 90, 120), mark=mark)
    assert (marks.read(path.read_bytes()) or {})["generation_id"] == "gen:model"
    assert inspect(path, path.stat().st_size).width_px == 480
