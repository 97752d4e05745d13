"""The scene: the camera's path, the erased area, and the background plate, on scenes with a known result."""

import numpy as np
import pytest

from batchrunner.sandbox.clips.scene import KeyFrames, Plate, Scene, understand
from tests.sandbox.clips.scenes import SIDE, Walk, as_bytes, texture, walk


def understood(scene: Walk, every: int = 4) -> Scene:
    return understand(KeyFrames(every, list(scene.pictures), list(scene.scores)))


@pytest.mark.parametrize("drift", [0, 2])
def test_the_plate_shows_the_uncovered_background(drift: float) -> None:
    scene = walk(drift=drift, seed=4)
    known = understood(scene)
    assert known.still
    plate = Plate(SIDE, SIDE)
    for number in sorted(known.plates()):
        plate.add(as_bytes(scene.pictures[number // 4]), known, number)
    finished = plate.finished()
    middle = round(drift * 5.5)  # the plate is at the camera's mean position
    expected = np.roll(as_bytes(scene.background), middle, 1)
    inner = slice(8, -8), slice(30, -30)
    assert np.abs(finished[inner].astype(int) - expected[inner]).mean() < 8
    assert finished[70, 40, 0] < 225  # the disc was there, and is red


@pytest.mark.parametrize("drift", [0, 2])
def test_the_whole_subject_is_erased_and_little_more(drift: float) -> None:
    scene = walk(drift=drift, seed=4)
    known = understood(scene)
    for key in range(len(scene.masks)):
        erased = known.erased(4 * key, SIDE, SIDE)
        assert erased[scene.masks[key]].min() > 0.95
        assert (erased > 0.5).mean() < 4.5 * scene.masks[key].mean()


def test_the_track_includes_the_cameras_motion() -> None:
    scene = walk(drift=2, seed=4)
    known = understood(scene)
    assert known.subject is not None
    found = known.subject.x[2:-2] * SIDE
    assert found == pytest.approx(scene.centres[2:-2], abs=2.5)


def test_two_scenes_have_no_common_plate() -> None:
    scene = walk()
    scene.pictures[6:] = texture(8)
    known = understood(scene)
    assert not known.still
    assert known.plates() == set()
    assert not known.offsets.any()


def test_a_clip_without_a_subject_is_accepted() -> None:
    scene = walk()
    scene.scores[:] = 0
    known = understood(scene)
    assert known.subject is None
    assert not known.masks.any()


def test_one_key_frame_is_enough() -> None:
    scene = walk(frames=1)
    known = understood(scene)
    assert known.subject is not None
    assert known.erased(0, 60, 80).shape == (60, 80)


def test_key_frames_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clip twice as long has half as many a second."""
    monkeypatch.setattr("batchrunner.sandbox.clips.scene.MOST_KEYS", 4)
    monkeypatch.setattr(
        "batchrunner.sandbox.clips.segmentation.person", lambda picture: picture[..., 0] / np.float32(255)
    )
    keys = KeyFrames(2)
    taken = []
    for number in range(40):
        if keys.wants(number):
            keys.add(np.full((256, 256, 3), number, np.uint8))
            taken.append(number)
    assert taken == [0, 2, 4, 6, 8, 12, 16, 24, 32]
    assert [picture[0, 0, 0] for picture in keys.pictures] == [0, 16, 32]
    assert keys.every == 16
