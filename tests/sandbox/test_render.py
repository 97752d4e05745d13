"""The sandbox's renderer: its clips are decoded and measured."""

import base64
import errno
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
from batchrunner.sandbox.clips.placeholder import render_tiny
from batchrunner.sandbox.clips.reader import measure
from batchrunner.sandbox.clips.render import RenderFailed, RenderRequest, output_size, render
from tests.conftest import ROOT, made_once

MEDIA = Path(str(resources.files("batchrunner.sandbox") / "media"))
FASTEST: dict[str, Any] = {"quality": "low", "write_mode": "fast"}


def decoded(path: Path) -> tuple[list[Any], Any, float]:
    """Return frames as RGB arrays, average rate, and length in seconds."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return frames, stream.average_rate, (container.duration or 0) / av.time_base


def clip(path: Path, width_px: int, height_px: int, rate: Fraction = Fraction(10), frames: int = 5) -> Path:
    """Make a short clip of seeded noise that drifts."""
    noise = np.random.default_rng(1).integers(0, 256, (height_px, width_px, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, 3 * number, 1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


# For tests of what has nothing to do with the character: the same clip without it, for a fraction of the work.
PLAIN: dict[str, Any] = {"composite": False}


def rendered(tmp_path: Path, video: Path = MEDIA / "standin.mp4", **options: Any) -> Path:
    return render(RenderRequest(video, MEDIA / "standin.jpg", tmp_path / "out.mp4", **(FASTEST | options)))


@pytest.fixture(scope="module")
def standin_result(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Any, float]:
    """The character in the whole reference of the demo, decoded."""
    folder = made_once(tmp_path_factory, "standin", lambda folder: rendered(folder, quality="high"))
    return decoded(folder / "out.mp4")


def test_the_result_has_the_length_and_rate_of_the_reference(standin_result: tuple[list[Any], Any, float]) -> None:
    frames, rate, length_s = standin_result
    assert (len(frames), rate) == (60, 25)
    assert length_s == pytest.approx(2.4)


@pytest.mark.parametrize("resolution", ["480p", "580p", "720p"])
def test_the_result_has_the_requested_size(tmp_path: Path, resolution: str) -> None:
    short_px = int(resolution[:-1])
    frames, _, _ = decoded(rendered(tmp_path, clip(tmp_path / "in.mp4", 90, 120), resolution=resolution))
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


def test_fast_start_unusual_sizes_and_rates_are_supported(tmp_path: Path) -> None:
    source = clip(tmp_path / "in.mp4", 166, 94, Fraction(24000, 1001), 7)
    path = rendered(tmp_path, source, **PLAIN)
    frames, rate, length_s = decoded(path)
    assert frames[0].shape == (480, 848, 3)
    assert (len(frames), rate) == (7, Fraction(24000, 1001))
    assert length_s == pytest.approx(7 * 1001 / 24000, abs=0.002)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_better_quality_gives_a_larger_file(tmp_path: Path) -> None:
    source = clip(tmp_path / "in.mp4", 240, 240)
    sizes = [
        rendered(tmp_path, source, quality=quality, **PLAIN).stat().st_size
        for quality in ("low", "medium", "high", "maximum")
    ]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 4
    balanced = rendered(tmp_path, source, quality="high", write_mode="balanced", **PLAIN).stat().st_size
    assert balanced != sizes[2]


def test_the_character_is_in_the_scene(tmp_path: Path) -> None:
    """The middle changes with the picture; the corners stay those of the scene."""
    source = filmed(tmp_path / "in.mp4", size=(480, 480))
    scene, _, _ = decoded(source)
    red, blue = (tmp_path / f"{name}.png" for name in ("red", "blue"))
    stripes = np.zeros((64, 64, 3), np.uint8)
    for path, channel in ((red, 0), (blue, 2)):
        picture = stripes.copy()
        picture[::2, :, channel] = 255
        Image.fromarray(picture).save(path)
    results = []
    for path in (red, blue):
        out = tmp_path / "out.mp4"
        render(RenderRequest(source, path, out, quality="maximum", write_mode="fast"))
        results.append(decoded(out)[0][3].astype(int))
    middle, corner = (slice(200, 280), slice(200, 280)), (slice(0, 80), slice(0, 80))
    assert results[0][middle][..., 0].mean() > results[1][middle][..., 0].mean() + 20
    for result in results:
        assert np.abs(result[corner] - scene[3].astype(int)[corner]).mean() < 6


def test_a_rotated_clip_is_set_upright(tmp_path: Path) -> None:
    """As phones write them: a matrix in the track's header (ISO 14496-12, tkhd) rotates the picture."""
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
    frames, _, _ = decoded(rendered(tmp_path, source))
    assert frames[0].shape == (800, 480, 3)
    assert frames[0][:80, :80].mean() > 200
    assert frames[0][-80:, -80:].mean() < 50


def test_an_odd_length_is_halved(tmp_path: Path) -> None:
    source = filmed(tmp_path / "in.mp4", frames=7)
    assert len(decoded(rendered(tmp_path, source, odd_length=True))[0]) == 3


@pytest.mark.parametrize(
    ("input_kind", "content"),
    [("video", b""), ("video", b"no clip"), ("image", b""), ("image", b"no picture")],
)
def test_unusable_inputs_are_named(tmp_path: Path, input_kind: str, content: bytes) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(content)
    video, image = (bad, MEDIA / "standin.jpg") if input_kind == "video" else (MEDIA / "standin.mp4", bad)
    with pytest.raises(RenderFailed) as caught:
        render(RenderRequest(video, image, tmp_path / "out.mp4"))
    assert caught.value.input_kind == input_kind


def test_a_sound_file_is_not_a_clip(tmp_path: Path) -> None:
    sound = tmp_path / "sound.wav"
    sound.write_bytes(base64.b64decode("UklGRigAAABXQVZFZm10IBAAAAABAAEARKwAAIhYAQACABAAZGF0YQQAAAAAAAAA"))
    with pytest.raises(RenderFailed, match="no video stream"):
        rendered(tmp_path, sound)


def test_frames_are_counted_from_the_header(tmp_path: Path) -> None:
    assert measure(MEDIA / "standin.mp4") == (60, Fraction(12, 5))
    (tmp_path / "rubbish").write_bytes(b"rubbish")
    assert measure(tmp_path / "rubbish") is None


def test_the_result_has_its_mark_and_is_a_valid_clip(tmp_path: Path) -> None:
    mark = marks.mark("gen:model", "order", "request")
    path = rendered(tmp_path, clip(tmp_path / "in.mp4", 90, 120), mark=mark, **PLAIN)
    assert (marks.read(path.read_bytes()) or {})["generation_id"] == "gen:model"
    assert inspect(path, path.stat().st_size).width_px == 480


def filmed(
    path: Path, shape: str = "yuv420p", codec: str = "libx264", times: list[int] | None = None, **more: Any
) -> Path:
    """Re-encode the beginning of the demo's reference. times: of the frames, in ms; size: in pixels."""
    sound, (width_px, height_px) = more.get("sound"), more.get("size", (96, 96))
    unit_s = Fraction(1, 1000) if times else Fraction(1, 25)
    with av.open(str(MEDIA / "standin.mp4")) as source, av.open(str(path), "w") as target:
        stream: Any = target.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, shape
        stream.codec_context.time_base = unit_s
        voice: Any = target.add_stream(sound, rate=48000) if sound else None
        frames = [frame for frame, _ in zip(source.decode(video=0), range(more.get("frames", 6)), strict=False)]
        for number, at in enumerate(times or range(len(frames))):
            frame = frames[number % len(frames)].reformat(width_px, height_px, "rgb24")
            frame = av.VideoFrame.from_ndarray(frame.to_ndarray(), format="rgb24")
            frame.pts, frame.time_base = at, unit_s
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
        if voice:
            for number in range(12):
                tone = np.sin(np.arange(960) / 20 + number * 48).astype(np.float32)
                piece = av.AudioFrame.from_ndarray(np.tile(tone, (2, 1)), format="fltp", layout="stereo")
                piece.sample_rate, piece.pts = 48000, 960 * number
                target.mux(voice.encode(piece))
            target.mux(voice.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "sound", "kept"),
    [("a.mp4", "libx264", "aac", "aac"), ("a.mkv", "libx264", "libmp3lame", "aac"), ("a.ts", "libx264", "aac", "aac"),
     ("a.mov", "libx264", "pcm_s16le", "aac"), ("a.webm", "libvpx-vp9", "libopus", "aac")],
)  # fmt: skip
def test_the_sound_is_kept(tmp_path: Path, name: str, codec: str, sound: str, kept: str) -> None:
    with av.open(str(rendered(tmp_path, filmed(tmp_path / name, codec=codec, sound=sound), **PLAIN))) as container:
        stream = container.streams.audio[0]
        assert stream.codec_context.codec.canonical_name == kept
        heard = np.concatenate([frame.to_ndarray().reshape(-1) for frame in container.decode(stream)])
        assert float((stream.duration or 0) * (stream.time_base or 0)) == pytest.approx(0.24, abs=0.06)
    assert np.abs(heard.astype(float)).max() > 0.3


def test_half_a_clip_has_half_the_sound(tmp_path: Path) -> None:
    source = filmed(tmp_path / "a.mp4", sound="aac")
    with av.open(str(rendered(tmp_path, source, odd_length=True, **PLAIN))) as container:
        stream = container.streams.audio[0]
        assert float((stream.duration or 0) * (stream.time_base or 0)) == pytest.approx(0.12, abs=0.04)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_a_variable_frame_rate_is_kept(tmp_path: Path, name: str) -> None:
    times = [0, 40, 80, 500, 540, 1500]
    source = filmed(tmp_path / name, times=times)
    with av.open(str(rendered(tmp_path, source, **PLAIN))) as container:
        shown = [frame.time for frame in container.decode(video=0)]
        assert (container.duration or 0) / av.time_base == pytest.approx(1.54, abs=0.001)
    assert shown == pytest.approx([at_ms / 1000 for at_ms in times], abs=0.001)
    stub = tmp_path / "stub.mp4"
    stub.write_bytes(render_tiny(RenderRequest(source, MEDIA / "standin.jpg", stub)))
    assert measure(stub) == measure(tmp_path / "out.mp4") == measure(source)


@pytest.mark.parametrize(
    ("name", "codec", "shape", "size"),
    [("odd.mkv", "ffv1", "bgr0", (97, 131)), ("alpha.mov", "qtrle", "argb", (96, 96)),
     ("grey.mp4", "libx264", "gray", (96, 96)),
     ("ten.mp4", "libx264", "yuv420p10le", (96, 96)), ("small.mp4", "libx264", "yuv420p", (2, 2)),
     ("tall.mp4", "libx264", "yuv420p", (32, 96)), ("moving.avi", "mjpeg", "yuvj420p", (96, 96))],
)  # fmt: skip
def test_unusual_references_are_rendered(
    tmp_path: Path, name: str, codec: str, shape: str, size: tuple[int, int]
) -> None:
    source = filmed(tmp_path / name, shape, codec, size=size)
    path = rendered(tmp_path, source)
    assert {frame.shape[:2] for frame in decoded(path)[0]} == {output_size(*size, "480p")[::-1]}
    assert measure(path) == measure(source)


@pytest.mark.parametrize("frames", [1, 2])
def test_a_clip_of_one_frame_has_its_length(tmp_path: Path, frames: int) -> None:
    assert measure(rendered(tmp_path, filmed(tmp_path / "a.mp4", frames=frames))) == (frames, Fraction(frames, 25))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.ts", "a.avi"])
def test_frames_are_counted_in_every_container(tmp_path: Path, name: str) -> None:
    codec = {"a.webm": "libvpx-vp9", "a.avi": "mjpeg"}.get(name, "libx264")
    shape = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    assert (measure(filmed(tmp_path / name, shape, codec, frames=11)) or (0, 0))[0] == 11


def test_a_clip_with_a_hole_is_refused(tmp_path: Path) -> None:
    data = bytearray((MEDIA / "standin.mp4").read_bytes())
    data[30000:50000] = bytes(20000)
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(RenderFailed, match="Invalid data") as caught:
        rendered(tmp_path, tmp_path / "a.mp4", composite=False)
    assert "Errno" not in caught.value.message
    assert (caught.value.input_kind, caught.value.kind) == ("video", "unsupported_video_format")


def test_a_clip_that_ends_early_is_refused(tmp_path: Path) -> None:
    data = (ROOT / "manifests" / "media" / "bunny.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(RenderFailed, match="it ends after") as caught:
        rendered(tmp_path, tmp_path / "a.mp4", composite=False)
    assert (caught.value.input_kind, caught.value.kind) == ("video", "unsupported_video_format")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_not_a_fault_of_the_clip(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").symlink_to("/dev/full")
    request = RenderRequest(MEDIA / "standin.mp4", MEDIA / "standin.jpg", tmp_path / "out.mp4", composite=False)
    with pytest.raises(OSError, match="the sandbox has no space for the clip") as caught:
        render(request)
    assert caught.value.errno == errno.ENOSPC


def test_a_truncated_stream_ends_there(tmp_path: Path) -> None:
    stream = filmed(tmp_path / "a.ts", frames=30, size=(320, 320))
    stream.write_bytes(stream.read_bytes()[:12000])
    count = len(decoded(rendered(tmp_path, stream, composite=False))[0])
    assert 1 <= count < 30
    assert count == (measure(stream) or (0, 0))[0]


def test_a_clip_too_long_for_the_encoder_is_refused(tmp_path: Path) -> None:
    for make in (render, render_tiny):
        with pytest.raises(RenderFailed, match="at most 16384"):
            make(RenderRequest(clip(tmp_path / "in.mp4", 1000, 16), MEDIA / "standin.jpg", tmp_path / "out.mp4"))


@pytest.fixture(scope="module")
def with_the_portrait(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The first frame with the character of an ordinary picture: its pixels' brightness."""
    folder = tmp_path_factory.mktemp("portrait")
    return brightness(folder, MEDIA / "standin.jpg")


def brightness(folder: Path, picture: Path) -> Any:
    """Render a short clip with the character of `picture`, and return the brightness of its first frame."""
    source = filmed(folder / "in.mp4", frames=2)
    out = render(RenderRequest(source, picture, folder / "out.mp4", **FASTEST))
    return decoded(out)[0][0].astype(int).mean(-1)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "CMYK", "1", "I;16", "F", "RGBA", "rotated", "tiny", "clear"])
def test_unusual_pictures_are_used(tmp_path: Path, mode: str, with_the_portrait: Any) -> None:
    with Image.open(MEDIA / "standin.jpg") as opened:
        portrait = opened.copy()
    path, options = tmp_path / "a.png", dict[str, Any]()
    if mode == "I;16":
        image = Image.fromarray(np.asarray(portrait.convert("L")).astype(np.uint16) * 257)
    elif mode == "rotated":
        image, path, options["exif"] = portrait.rotate(90, expand=True), tmp_path / "a.jpg", Image.Exif()
        options["exif"][0x112] = 6
    elif mode in {"tiny", "clear"}:
        image = Image.new("RGBA", (1, 1), (0, 0, 0, 0 if mode == "clear" else 255))
    else:
        image, path = portrait.convert(mode), tmp_path / ("a.tiff" if mode in {"CMYK", "F"} else "a.png")
    image.save(path, **options)
    result = brightness(tmp_path, path)
    if mode not in {"tiny", "clear", "1", "P"}:
        assert np.abs(result - with_the_portrait).mean() < 6  # the same character, possibly without colours


def test_a_picture_with_transparency_needs_no_network(tmp_path: Path) -> None:
    picture = np.zeros((96, 96, 4), np.uint8)
    picture[20:, 30:60] = (250, 0, 250, 255)
    Image.fromarray(picture).save(tmp_path / "a.png")
    source = filmed(tmp_path / "in.mp4", frames=2)
    out = render(RenderRequest(source, tmp_path / "a.png", tmp_path / "out.mp4", **FASTEST))
    frame = decoded(out)[0][0].astype(int)
    magenta = (frame[..., 0] > 150) & (frame[..., 2] > 150) & (frame[..., 1] < 90)
    assert 0.03 < magenta.mean() < 0.4


def test_takes_differ_visibly_and_equal_takes_do_not(tmp_path: Path) -> None:
    source = filmed(tmp_path / "in.mp4", frames=5)
    pictures = [np.array(decoded(rendered(tmp_path, source, variation=key))[0], int) for key in ("a", "b", "a")]
    assert np.abs(pictures[0] - pictures[1]).mean() > 3
    assert np.abs(pictures[0] - pictures[2]).max() == 0


def test_the_subject_is_removed_and_the_scene_stays(standin_result: tuple[list[Any], Any, float]) -> None:
    frames, result = decoded(MEDIA / "standin.mp4")[0], standin_result[0]
    raised_hand = slice(20, 60), slice(345, 385)  # of frame 45, in a place that the character does not cover
    difference = np.abs(frames[45].astype(int) - result[45])
    assert difference[raised_hand].mean() > 15
    assert difference[:, :40].mean() < 8


def test_transcoding_leaves_the_scene_unchanged(tmp_path: Path) -> None:
    source, path = decoded(MEDIA / "standin.mp4")[0], rendered(tmp_path, composite=False, quality="maximum")
    pairs = zip(decoded(path)[0], source, strict=True)
    assert np.mean([np.abs(np.subtract(ours, theirs, dtype=np.int16)).mean() for ours, theirs in pairs]) < 4


def test_a_long_placeholder_is_cheap_and_as_long_as_its_reference(tmp_path: Path) -> None:
    source = filmed(tmp_path / "in.mkv", times=[40 * number for number in range(700)], size=(16, 16))
    stub = tmp_path / "stub.mp4"
    stub.write_bytes(render_tiny(RenderRequest(source, MEDIA / "standin.jpg", stub)))
    assert measure(stub) == (700, Fraction(28))
    assert len(decoded(stub)[0]) == 700


def test_colours_of_hd_clips_are_kept(tmp_path: Path) -> None:
    """BT.709 values that are read or written as BT.601 become greener."""
    source = tmp_path / "in.mp4"
    with av.open(str(source), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 96, "yuv420p"
        stream.options = {"x264-params": "colorprim=bt709:transfer=bt709:colormatrix=bt709"}
        frame = av.VideoFrame(96, 96, "yuv420p")
        for plane, value in zip(frame.planes, (150, 90, 180), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(rendered(tmp_path, source, composite=False, quality="maximum"))) as container:
        result = next(container.decode(video=0))
    assert (result.colorspace, result.color_primaries, result.color_trc) == (1, 1, 1)
    assert [bytes(plane)[0] for plane in result.planes] == pytest.approx([150, 90, 180], abs=2)
