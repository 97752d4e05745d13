"""Operations on masks and pictures."""

import numpy as np
import pytest

from batchrunner.sandbox.clips.pictures import blur, fill, largest, paste, warp, widen


def drawn(*rows: str) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    return np.array([[letter == "#" for letter in row] for row in rows])


def test_the_largest_or_the_nearest_component_is_selected() -> None:
    mask = drawn("##..#", "#..##", "...##")
    assert largest(mask).sum() == 5
    assert largest(mask, drawn("##...", ".....", ".....")).sum() == 3
    assert not largest(mask, drawn("..#..", ".....", ".....")).any()
    assert not largest(~np.ones((3, 3), bool)).any()


def test_a_winding_component_is_one_component() -> None:
    mask = np.ones((41, 41), bool)
    mask[1::4, :-1] = mask[3::4, 1:] = False
    assert (largest(mask) == mask).all()


def test_widening_and_blurring_have_the_given_radius() -> None:
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = True
    assert widen(mask, 2).sum() == 25
    assert blur(mask, 1)[3:6, 3:6] == pytest.approx(1 / 9)
    assert blur(np.full((5, 4), 7.0), 3) == pytest.approx(7)


def test_a_warp_moves_and_scales() -> None:
    picture = np.zeros((10, 20, 3), np.uint8)
    picture[2:4, 4:8] = 200
    moved = warp(picture, (1, 0, -5, 0, 1, -3), (10, 20))  # 5 to the right, 3 down
    assert (moved[5:7, 9:13] == 200).all()
    assert moved.sum() == picture.sum()
    larger = warp(picture[..., 0], (0.5, 0, 0, 0, 0.5, 0), (20, 40))
    assert larger.shape == (20, 40)
    assert (larger[5:7, 9:15] == 200).all()
    assert larger[10:].max() == 0


def test_a_paste_covers_by_its_opacity() -> None:
    below, above = np.full((2, 3, 3), 100, np.uint8), np.full((2, 3, 3), 200, np.uint8)
    opacity = np.array([[0, 128, 255], [0, 0, 0]], np.uint8)
    assert paste(below, above, opacity)[..., 0].tolist() == [[100, 150, 200], [100, 100, 100]]


def test_a_hole_is_filled_from_the_pixels_around_it() -> None:
    picture = np.zeros((64, 48, 4), np.uint8)
    picture[..., :3] = (np.arange(48) * 4)[None, :, None]
    picture[..., 3] = 255
    broken = picture.copy()
    broken[20:40, 15:30] = (255, 0, 255, 0)
    filled = fill(broken).astype(int)
    assert np.abs(filled - picture[..., :3]).max() < 40
    assert (filled == picture[..., :3])[broken[..., 3] == 255].all()
