"""Real MP4 files through the decode check: planted faults are found exactly, renders of the sandbox have no mark."""

import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from batchrunner.media.decoder_pool import Here
from batchrunner.quality import collector
from batchrunner.quality.marks import marks_of
from batchrunner.sandbox.clips.render import RenderRequest, render
from tests.conftest import MEDIA
from tests.quality.clips import scene, silence, tone, with_other_subject, write

SIZE_PX: dict[str, Any] = {"width_px": 320, "height_px": 180}


def measured(path: Path, reference: Path | None = None) -> dict[str, Any]:
    """Return the reply of the task ``clip``."""
    signature = None if reference is None else Here().run_all("reference", [{"path": str(reference)}])[0]
    item = {"path": str(path), "size_bytes": path.stat().st_size, "quality": True, "reference": signature}
    [found] = Here().run_all("clip", [item])
    assert isinstance(found, dict), found
    return found


def kinds(path: Path, reference: Path | None = None) -> list[str]:
    return [mark.kind for mark in marks_of(measured(path, reference)["quality"], {})]


@pytest.fixture(scope="module")
def source() -> Any:
    return scene(11, 120, **SIZE_PX)


@pytest.fixture(scope="module")
def reference(source: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("reference") / "reference.mp4", source, tone)


def test_a_clean_clip_has_no_mark(source: Any, reference: Path, tmp_path: Path) -> None:
    assert kinds(write(tmp_path / "a.mp4", with_other_subject(source, 1), tone, crf=28), reference) == []


def test_twenty_black_frames_are_found(source: Any, reference: Path, tmp_path: Path) -> None:
    result = with_other_subject(source, 1)
    result[50:70] = 3
    path = write(tmp_path / "a.mp4", result, tone)
    assert kinds(path, reference) == ["black"]
    assert measured(path, reference)["quality"]["black_frames"] == 20


@pytest.mark.parametrize("crf", [18, 23, 30, 36])
def test_eighty_nine_frozen_frames_are_found(source: Any, reference: Path, tmp_path: Path, crf: int) -> None:
    result = with_other_subject(source, 1)
    result[11:100] = result[10]
    path = write(tmp_path / "a.mp4", result, tone, crf)
    assert kinds(path, reference) == ["frozen"]
    assert measured(path, reference)["quality"]["frozen_frames"] == 89


@pytest.mark.parametrize("crf", [18, 30])
def test_an_echo_is_found(source: Any, reference: Path, tmp_path: Path, crf: int) -> None:
    assert kinds(write(tmp_path / "a.mp4", source, tone, crf), reference) == ["echo"]
    assert kinds(reference, reference) == ["echo"]


def test_lost_and_silent_sound_is_found(source: Any, reference: Path, tmp_path: Path) -> None:
    result = with_other_subject(source, 1)
    assert kinds(write(tmp_path / "a.mp4", result), reference) == ["audio"]
    assert kinds(write(tmp_path / "b.mp4", result, silence), reference) == ["audio"]
    assert kinds(write(tmp_path / "c.mp4", result, tone), reference) == []


@pytest.mark.parametrize(("image", "variation"), [("hopper.jpg", "b")])
def test_a_render_of_the_sandbox_has_no_mark_and_a_transcoded_reference_is_an_echo(
    tmp_path: Path, image: str, variation: str
) -> None:
    fast = {"quality": "low", "write_mode": "fast"}
    half = RenderRequest(MEDIA / "bunny.mp4", MEDIA / image, tmp_path / "half.mp4", composite=False, odd_length=True)
    video = render(half)
    request = RenderRequest(video, MEDIA / image, tmp_path / "a.mp4", variation=variation, **fast)  # type: ignore[arg-type]  # both are text
    assert kinds(render(request), video) == []
    copy = RenderRequest(video, MEDIA / image, tmp_path / "b.mp4", composite=False, **fast)  # type: ignore[arg-type]  # both are text
    assert kinds(render(copy), video) == ["echo"]


def test_measuring_changes_nothing_in_the_check(reference: Path) -> None:
    item = {"path": str(reference), "size_bytes": reference.stat().st_size}
    [plain] = Here().run_all("clip", [item])
    assert "quality" not in plain
    assert {**plain, "quality": None} == {**measured(reference), "quality": None}


def test_a_clip_is_checked_where_measures_cannot_be_loaded(reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "batchrunner.quality.collector", None)
    monkeypatch.delattr("batchrunner.quality.collector")
    [found] = Here().run_all(
        "clip", [{"path": str(reference), "size_bytes": reference.stat().st_size, "quality": True}]
    )
    assert found["width_px"] == SIZE_PX["width_px"]
    assert "quality" not in found


def test_a_clip_with_hidden_frames_is_measured_once(reference: Path) -> None:
    taken = collector.Collector()
    for _ in range(2):  # as the check does for a file with an edit list
        take = taken.begin()
        with av.open(str(reference)) as container:
            for frame in container.decode(video=0):
                take(frame)
    clip = taken.clip(4.8)
    assert clip is not None
    assert clip.frames == len(clip.pictures) == 120


def test_a_frame_that_cannot_be_measured_makes_the_measures_unknown() -> None:
    taken = collector.Collector()
    taken.begin()(av.VideoFrame(0, 0, "yuv420p"))
    assert taken.clip(1.0) is None
    assert collector.numbers(taken, 1.0, None) is None


@pytest.mark.parametrize("content", [b"", b"no video", b"\0\0\0\x18ftypmp42" + bytes(40)])
def test_a_reference_that_does_not_decode_is_an_error_value(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    [outcome] = Here().run_all("reference", [{"path": str(path)}])
    assert isinstance(outcome, ValueError)


@pytest.mark.parametrize(("kind", "expected"), [("s16", 0.5), ("u8", 0.5), ("flt", 0.5), ("s32", 0.5)])
def test_the_peak_is_a_share_of_full_scale(kind: str, expected: float) -> None:
    values = {"s16": (np.int16, 1 << 14), "u8": (np.uint8, 192), "flt": (np.float32, 0.5), "s32": (np.int32, 1 << 30)}
    dtype, value = values[kind]
    frame = av.AudioFrame.from_ndarray(np.full((1, 100), value, dtype), format=kind, layout="mono")
    taken = collector.Collector()
    taken.begin()(frame)
    taken.take(av.VideoFrame.from_ndarray(np.zeros((36, 64), np.uint8), format="gray"))
    clip = taken.clip(1.0)
    assert clip is not None
    assert clip.audio_peak == pytest.approx(expected)
