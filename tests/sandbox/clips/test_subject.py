"""The subject is found and followed in scenes with a known result."""

import numpy as np
import pytest

from batchrunner.sandbox.clips.arrays import Mask
from batchrunner.sandbox.clips.subject import covered, follow, still_background, track
from tests.sandbox.clips.scenes import SIDE, disc, texture, walk


def overlap(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_the_background_is_visible_when_the_subject_is_elsewhere() -> None:
    scene = walk()
    background = still_background(scene.pictures, covered(scene.scores))
    assert background is not None
    seen = (~covered(scene.scores)).sum(0) >= 3
    assert background[seen] == pytest.approx(scene.background[seen])


def test_a_moving_scene_has_no_still_background() -> None:
    scene = walk(drift=3)
    assert still_background(scene.pictures, covered(scene.scores)) is None


def test_a_still_object_is_not_the_subject_even_if_the_network_says_so() -> None:
    scene = walk(stone=True)
    background = still_background(scene.pictures, covered(scene.scores))
    masks = follow(scene.pictures, scene.scores, background)
    assert min(overlap(*pair) for pair in zip(masks, scene.masks, strict=True)) > 0.85
    without = follow(scene.pictures, scene.scores, None)
    assert without[0][78, 15]  # the purpose of the background


def test_a_hand_that_the_network_misses_belongs_to_the_subject() -> None:
    scene = walk()
    for number, x in enumerate(scene.centres):
        hand = disc(x, 48, 5)
        scene.pictures[number][hand] = (230, 20, 30)
        scene.masks[number] |= hand
    masks = follow(scene.pictures, scene.scores, still_background(scene.pictures, covered(scene.scores)))
    assert min(mask[48, int(x)] for mask, x in zip(masks, scene.centres, strict=True))


def test_the_larger_of_two_people_is_always_the_subject() -> None:
    scene = walk()
    scene.scores[:, 10:30, 90:120] = 1  # smaller
    masks = follow(scene.pictures, scene.scores, None)
    assert not masks[:, 10:30].any()
    assert min(overlap(*pair) for pair in zip(masks, scene.masks, strict=True)) > 0.95


def test_a_scene_without_a_person_has_no_subject() -> None:
    scores = np.zeros((4, SIDE, SIDE), np.float32)
    scores[:, 3:6, 3:6] = 1  # too small
    masks = follow(np.stack([texture(1)] * 4), scores, None)
    assert not masks.any()
    assert track(masks) is None


def test_the_track_follows_the_subject() -> None:
    masks = np.zeros((7, 100, 200), bool)
    for number in range(7):
        for row in range(20, 80):  # leans 20 pixels to the right over its height of 60
            start = 50 + 10 * number + round((80 - row) / 3)
            masks[number, row, start : start + 20] = True
    found = track(masks)
    assert found is not None
    x, y, height, lean, area, there = found.at(12, 4)
    assert x == pytest.approx((50 + 30 + 10) / 200, abs=0.01)
    assert (y, height) == pytest.approx((0.8, 0.6), abs=0.04)
    assert lean == pytest.approx(20 / 200, abs=0.01)
    assert (area, there) == pytest.approx((60 * 20 / 20000, 1))


def test_a_subject_that_disappears_briefly_is_kept_and_later_dropped() -> None:
    masks = np.zeros((20, 50, 50), bool)
    masks[[0, 1, 3, 4], 10:40, 20:30] = True
    found = track(masks)
    assert found is not None
    assert found.there[[2, 5, 7, 8, 19]].tolist() == [1, 1, 1, 0, 0]
