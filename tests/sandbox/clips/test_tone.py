"""Colours in Lab, and the transfer of tone."""

import numpy as np
import pytest

from batchrunner.sandbox.clips.tone import Grade, to_lab, to_rgb, toned

SOLID = np.ones((40, 40), np.float32)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((119, 119, 119), (50.03, 0, 0)),
    ],
)
def test_lab_matches_the_cie_definition(rgb: tuple[int, ...], lab: tuple[float, ...]) -> None:
    assert to_lab(np.array(rgb, np.uint8)) == pytest.approx(np.array(lab), abs=0.1)


def test_lab_converts_back_to_rgb() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (50, 50, 3)).astype(np.uint8)
    assert np.abs(to_rgb(to_lab(picture)).astype(int) - picture).max() <= 1


def face() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(120, 200, (40, 40, 3)).astype(np.uint8)


@pytest.mark.parametrize("light", [(30, 30, 40), (240, 240, 220)])
def test_the_character_moves_part_of_the_way_to_the_scenes_tone(light: tuple[int, int, int]) -> None:
    scene = np.array([light] * 9, np.uint8)
    before, wanted = to_lab(face())[..., 0].mean(), to_lab(scene)[:, 0].mean()
    after = to_lab(toned(face(), SOLID, scene, Grade()))[..., 0].mean()
    assert min(before, wanted) < after < max(before, wanted)
    assert abs(after - before) > 5


def test_transparent_pixels_do_not_count() -> None:
    picture, alpha = face(), SOLID.copy()
    picture[:20], alpha[:20] = 0, 0
    scene = face().reshape(-1, 3)
    changed = toned(picture, alpha, scene, Grade())
    assert np.abs(changed[20:].astype(int) - picture[20:]).mean() < 6


def test_a_grade_changes_what_it_names() -> None:
    scene = face().reshape(-1, 3)
    plain = to_lab(toned(face(), SOLID, scene, Grade())).mean((0, 1))
    graded = to_lab(toned(face(), SOLID, scene, Grade(lightness=5, red=3, yellow=-4))).mean((0, 1))
    assert graded - plain == pytest.approx([5, 3, -4], abs=0.5)
