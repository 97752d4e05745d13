"""The camera's path, the background, the subject's masks and poses, on scenes with a known result."""

import numpy as np
import pytest

from batchrunner.sandbox.clips.pictures import Bytes, Floats, Mask
from batchrunner.sandbox.clips.scene import (
    Scene,
    camera_path,
    camera_step,
    find_poses,
    follow,
    still_background,
    understand,
)
from tests.sandbox.clips.scenes import SIDE, Walk, disc, texture, walk

WIDE = texture(3, 200).mean(-1)
ALL = np.ones((SIDE, SIDE), bool)


def understood(scene: Walk) -> Scene:
    return understand(scene.pictures, scene.scores)


def overlap(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


def shifted(right: float, down: float) -> Floats:
    """A window on the wide texture, after the scene has moved."""
    rows, columns = np.arange(SIDE) + 30 - down, np.arange(SIDE) + 30 - right
    (y, x), (below, beside) = (rows.astype(int), columns.astype(int)), (rows % 1, columns % 1)
    corners = [WIDE[np.ix_(y + i, x + j)] for i, j in ((0, 0), (0, 1), (1, 0), (1, 1))]
    upper, lower = (a + (b - a) * beside for a, b in (corners[:2], corners[2:]))
    return np.asarray(upper + (lower - upper) * below[:, None])


@pytest.mark.parametrize(("right", "down"), [(0, 0), (5, 3), (-11, 7), (5.5, -3.25), (0.3, 0.2)])
def test_a_translation_is_measured_to_an_eighth_of_a_pixel(right: float, down: float) -> None:
    assert camera_step(shifted(0, 0), shifted(right, down), ALL) == pytest.approx((right, down), abs=0.125)


def test_a_moving_object_does_not_count_as_camera_motion() -> None:
    before, after = shifted(0, 0), shifted(2, 3)
    before[disc(50, 60, 20)] = after[disc(80, 60, 20)] = 255
    fixed = ~(disc(50, 60, 26) | disc(80, 60, 26))
    assert camera_step(before, after, fixed) == pytest.approx((2, 3), abs=0.1)


def test_the_cameras_path_follows_the_scene() -> None:
    scene = walk(drift=2)
    path = camera_path(scene.pictures, scene.masks)
    assert path[:, 0] == pytest.approx(2.0 * (np.arange(12) - 6), abs=0.15)
    assert path[:, 1] == pytest.approx(0, abs=0.15)


def layers(scene: Walk) -> Bytes:
    return np.concatenate([scene.pictures, np.where(scene.masks, 0, 255)[..., None]], -1).astype(np.uint8)


def test_the_background_is_visible_while_the_subject_is_elsewhere() -> None:
    scene = walk()
    background = still_background(layers(scene))
    assert background is not None
    assert (background[..., 3] == 255).all()
    assert (background[..., :3] == scene.background).mean() > 0.99


def test_hidden_pixels_stay_unknown() -> None:
    scene = walk(frames=1)
    background = still_background(layers(scene))
    assert background is not None
    assert ((background[..., 3] == 0) == scene.masks[0]).all()


def test_a_moving_scene_has_no_still_background() -> None:
    assert still_background(layers(walk(drift=3))) is None


def behind(scene: Walk) -> Bytes:
    background = still_background(layers(scene))
    assert background is not None
    return np.stack([background] * len(scene.pictures))


def test_a_still_object_is_not_the_subject_even_if_the_network_reports_it() -> None:
    scene = walk(stone=True)
    masks = follow(scene.pictures, scene.scores > 0.8, behind(scene))
    assert min(overlap(*pair) for pair in zip(masks, scene.masks, strict=True)) > 0.85
    assert follow(scene.pictures, scene.scores > 0.8, None)[0][78, 15]  # the background makes the difference


def test_a_hand_that_the_network_misses_belongs_to_the_subject() -> None:
    scene = walk()
    for number, x in enumerate(scene.centres):
        hand = disc(x, 48, 5)
        scene.pictures[number][hand] = (230, 20, 30)
        scene.masks[number] |= hand
    masks = follow(scene.pictures, scene.scores > 0.8, behind(scene))
    assert min(mask[48, int(x)] for mask, x in zip(masks, scene.centres, strict=True))


def test_the_larger_of_two_people_is_followed_all_the_time() -> None:
    scene = walk()
    found = scene.scores > 0.8
    found[:, 10:30, 90:120] = True  # smaller
    masks = follow(scene.pictures, found, None)
    assert not masks[:, 10:30].any()
    assert min(overlap(*pair) for pair in zip(masks, scene.masks, strict=True)) > 0.95


def test_a_tiny_subject_is_a_mistake_of_the_network() -> None:
    found = np.zeros((4, SIDE, SIDE), bool)
    found[:, 3:6, 3:6] = True
    assert not follow(np.stack([texture(1)] * 4), found, None).any()


def test_a_pose_is_foot_height_lean_and_area() -> None:
    masks = np.zeros((7, 100, 200), bool)
    for number in range(7):
        for row in range(20, 80):  # leans 20 pixels to the right over its height of 60
            start = 50 + 10 * number + round((80 - row) / 3)
            masks[number, row, start : start + 20] = True
    x, y, height, lean, area, present = find_poses(masks)[3]
    assert x == pytest.approx((50 + 30 + 10) / 200, abs=0.01)
    assert (y, height) == pytest.approx((0.8, 0.6), abs=0.04)
    assert lean == pytest.approx(20 / 200, abs=0.01)
    assert (area, present) == pytest.approx((60 * 20 / 20000, 1))


def test_a_subject_that_is_missed_briefly_is_present_and_later_absent() -> None:
    masks = np.zeros((20, 50, 50), bool)
    masks[[0, 1, 3, 4], 10:40, 20:30] = True
    assert find_poses(masks)[[2, 5, 7, 8, 19], 5].tolist() == [1, 1, 1, 0, 0]


@pytest.mark.parametrize("drift", [0, 2])
def test_all_of_the_subject_is_erased_and_not_much_more(drift: float) -> None:
    scene = walk(drift=drift, seed=4)
    known = understood(scene)
    assert known.still
    for erased, mask in zip(known.erased, scene.masks, strict=True):
        assert erased[mask].min() > 240
        assert (erased > 127).mean() < 4.5 * mask.mean()


def test_poses_are_positions_in_the_frame_even_if_the_camera_moves() -> None:
    scene = walk(drift=2, seed=4)
    assert understood(scene).poses[2:-2, 0] * SIDE == pytest.approx(scene.centres[2:-2], abs=2.5)


def test_two_scenes_have_no_common_background() -> None:
    scene = walk()
    scene.pictures[6:] = texture(8)
    assert not understood(scene).still


def test_without_a_subject_the_character_stands_low_in_the_middle() -> None:
    scene = walk()
    scene.scores[:] = 0
    known = understood(scene)
    assert not known.erased.any()
    assert known.poses[:, [0, 1, 5]] == pytest.approx(np.array([[0.5, 1, 1]] * 12))


def test_one_key_frame_is_enough() -> None:
    known = understood(walk(frames=1))
    assert known.poses.shape == (1, 6)
    assert known.erased.max() == 255
