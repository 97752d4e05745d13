"""The camera's motion between two pictures."""

import numpy as np
import pytest

from batchrunner.sandbox.clips.camera import moved, shifted
from tests.sandbox.clips.scenes import disc, texture

WIDE = texture(3, 200).mean(-1)
EVEN = np.ones((128, 128), np.float32)


@pytest.mark.parametrize(("right", "down"), [(0, 0), (5, 3), (-11, 7), (5.5, -3.25), (0.3, 0.2)])
def test_a_translation_is_found_to_a_tenth_of_a_pixel(right: float, down: float) -> None:
    before = WIDE[30:158, 30:158]
    after = shifted(WIDE, right, down)[0][30:158, 30:158]
    assert moved(before, after, EVEN) == pytest.approx((right, down), abs=0.1)


def test_a_moving_object_does_not_count_as_camera_motion() -> None:
    before, after = WIDE[30:158, 30:158].copy(), WIDE[27:155, 28:156].copy()
    before[disc(50, 60, 20)] = after[disc(80, 60, 20)] = 255
    weight = 1.0 - (disc(50, 60, 26) | disc(80, 60, 26))
    assert moved(before, after, weight) == pytest.approx((2, 3), abs=0.1)


def test_another_scene_is_not_a_translation() -> None:
    assert moved(WIDE[:128, :128], texture(9).mean(-1), EVEN) is None


def test_shifting_returns_where_the_picture_has_content() -> None:
    field, inside = shifted(np.ones((6, 8), np.float32), 2, -1)
    assert inside.sum() == 5 * 6
    assert (field == inside).all()
