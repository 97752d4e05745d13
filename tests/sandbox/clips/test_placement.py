"""The character's position, its shadow, and the blend."""

import numpy as np
import pytest

from batchrunner.sandbox.clips.placement import Pose, blended, placed, shade, sunk, take, varied

RED = np.full((40, 20, 3), (255, 0, 0), np.uint8)
SOLID = np.ones((40, 20), np.float32)


def test_the_character_stands_on_its_foot_at_the_given_height() -> None:
    colours, alpha = placed(RED, SOLID, Pose(60, 90, 80, 0), 100, 120)
    rows, columns = np.nonzero(alpha > 0.5)
    assert (rows.min(), rows.max()) == (pytest.approx(10, abs=1), pytest.approx(89, abs=1))
    assert (columns.min(), columns.max()) == (pytest.approx(40, abs=1), pytest.approx(79, abs=1))
    assert colours[50, 60].tolist() == [255, 0, 0]


def test_the_character_leans_at_the_top_and_not_at_the_foot() -> None:
    _, alpha = placed(RED, SOLID, Pose(60, 90, 80, 30), 100, 120)
    centres = [float(np.flatnonzero(alpha[row] > 0.5).mean()) for row in (12, 50, 88)]
    assert centres == pytest.approx([60 + 29, 60 + 15, 60], abs=1.5)


@pytest.mark.parametrize("pose", [Pose(-500, 90, 80, 0), Pose(60, 900, 80, 0), Pose(5, 130, 200, 40)])
def test_a_place_outside_the_frame_is_clipped(pose: Pose) -> None:
    colours, alpha = placed(RED, SOLID, pose, 100, 120)
    assert (colours.shape, alpha.shape) == ((100, 120, 3), (100, 120))
    assert (alpha.max() > 0) == (pose.y == 130)


def test_the_shadow_is_darkest_at_the_foot_and_short() -> None:
    pose = Pose(60, 90, 60, 0)
    _, alpha = placed(RED, SOLID, pose, 120, 120)
    shadow = shade(alpha, pose)
    assert shadow[90, 60] > 0.4
    assert shadow[20:, :20].max() < 0.05
    assert shade(alpha, Pose(60, 130, 60, 0))[119].max() < 0.3


def test_bright_grass_covers_the_foot_only() -> None:
    scene = np.zeros((100, 100, 3), np.uint8)
    scene[:, ::10] = scene[:, 1::10] = 255
    result = sunk(np.ones((100, 100), np.float32), scene, 80, 20)
    assert (result[:60] == 1).all()
    assert result[79].max() < 0.3
    assert result[72, 30] < result[72, 35]
    assert (sunk(np.ones((100, 100), np.float32), scene, 110, 20) == 1).all()


def test_the_character_replaces_the_subject_and_nothing_else() -> None:
    frame, behind, colours = (np.full((30, 40, 3), value, np.uint8) for value in (10, 100, 200))
    nothing = np.zeros((30, 40), np.float32)
    erased, alpha, shadow = nothing.copy(), nothing.copy(), nothing.copy()
    erased[5:20, 5:20] = 1
    alpha[10:15, 10:30] = 1
    shadow[16:18, 10:12] = 0.5
    result = blended(frame, behind, erased, colours, alpha, shadow)
    assert [int(result[place][0]) for place in ((0, 0), (6, 6), (12, 12), (12, 25), (16, 10))] == [
        10,
        100,
        200,
        200,
        50,
    ]
    assert blended(frame, behind, nothing, colours, nothing, nothing) is frame


def test_takes_differ_in_grade_pose_and_timing_and_are_repeatable() -> None:
    takes = [take(f"order.{number}") for number in range(40)]
    assert take("order.7") == takes[7]
    for field in ("grade", "right", "lean", "size", "lag", "phase"):
        assert len({getattr(one, field) for one in takes}) == 40
    assert {one.lag >= 0 for one in takes} == {True}
    assert np.std([one.right for one in takes]) > 0.02


def test_a_varied_pose_breathes() -> None:
    one = take("a")
    heights = [varied(Pose(50, 90, 80, 0), one, seconds / 10).height for seconds in range(25)]
    assert 0.2 < max(heights) - min(heights) < 2
    assert varied(Pose(50, 90, 80, 0), one, 0).x == pytest.approx(50 + one.right * heights[0])
