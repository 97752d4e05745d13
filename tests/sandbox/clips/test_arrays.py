"""Operations on masks and pictures."""

import numpy as np
import pytest

from batchrunner.sandbox.clips.arrays import blur, components, fill, grow, largest, scale


def drawn(*rows: str) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    return np.array([[letter == "#" for letter in row] for row in rows])


def test_separate_components_are_distinguished() -> None:
    mask = drawn("##..#", "#..##", "..#..", "###.#")
    labels = components(mask)
    assert len(set(labels[mask])) == 4
    assert set(labels[~mask]) == {0}
    assert labels[1, 3] == labels[0, 4]
    assert labels[0, 0] != labels[3, 0]


def test_a_winding_component_is_one_component() -> None:
    mask = np.ones((41, 41), bool)
    mask[1::4, :-1] = mask[3::4, 1:] = False
    assert len(set(components(mask)[mask])) == 1


def test_the_largest_or_the_nearest_component_is_selected() -> None:
    mask = drawn("##..#", "#..##", "...##")
    assert largest(mask).sum() == 5
    assert largest(mask, drawn("##...", ".....", ".....")).sum() == 3
    assert not largest(mask, drawn("..#..", ".....", ".....")).any()
    assert not largest(~np.ones((3, 3), bool)).any()


def test_growing_and_blurring_have_the_given_radius() -> None:
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = True
    assert grow(mask, 2).sum() == 25
    assert blur(mask, 1)[3:6, 3:6] == pytest.approx(1 / 9)
    assert blur(np.full((5, 4, 3), 7.0), 3) == pytest.approx(7)


def test_a_hole_is_filled_from_its_surroundings() -> None:
    picture = np.zeros((64, 48, 3), np.float32)
    picture[:, :] = (np.arange(48) * 4)[None, :, None]
    known = np.ones((64, 48), np.float32)
    known[20:40, 15:30] = 0
    broken = picture.copy()
    broken[known == 0] = 255
    filled = fill(broken, known)
    assert np.abs(filled - picture).max() < 40
    assert filled[known == 1] == pytest.approx(picture[known == 1])


def test_scaling_down_averages_pixels() -> None:
    assert scale(np.tile([0.0, 1.0], (8, 8)), 4, 4) == pytest.approx(0.5, abs=0.2)
