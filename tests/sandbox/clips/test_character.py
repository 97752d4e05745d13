"""The character is cut out of pictures with a known result."""

import numpy as np
import pytest

from batchrunner.sandbox.clips.arrays import blur
from batchrunner.sandbox.clips.character import cut_out, refine, unmix
from tests.sandbox.clips.scenes import disc


def portrait(side: int = 200) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    picture = np.full((side, side, 3), (20, 200, 30), np.uint8)
    picture[disc(100, 100, 60, side)] = (200, 40, 160)
    return picture


def test_only_the_character_is_left_in_its_own_colours() -> None:
    score = blur(disc(64, 64, 40, 128), 3)
    colours, alpha = cut_out(portrait(), score)
    assert colours.shape[:2] == alpha.shape
    assert alpha.shape == (pytest.approx(120, abs=8), pytest.approx(120, abs=8))
    assert alpha[50:70, 50:70].min() == 1
    assert (colours[alpha > 0.1][:, 1] < 120).mean() > 0.97  # no green rim


def test_the_larger_of_two_people_is_the_character() -> None:
    score = np.maximum(blur(disc(64, 64, 40, 128), 2), blur(disc(118, 10, 8, 128), 2))
    assert cut_out(portrait(), score)[1].shape == cut_out(portrait(), blur(disc(64, 64, 40, 128), 2))[1].shape


@pytest.mark.parametrize("score", [None, np.zeros((256, 256), np.float32)])
def test_a_picture_without_a_person_is_used_as_an_oval(score: None) -> None:
    picture = portrait()
    _, alpha = cut_out(picture, score)
    assert min(alpha.shape) > 180
    assert alpha[0, 0] == 0
    assert alpha[alpha.shape[0] // 2, alpha.shape[1] // 2] == 1


def test_a_character_at_the_pictures_edge_fades_out() -> None:
    picture = np.full((100, 100, 3), 90, np.uint8)
    score = np.zeros((256, 256), np.float32)
    score[80:, 60:200] = 1
    _, alpha = cut_out(picture, score)
    assert alpha[-1].max() < 0.2
    assert alpha[-12, 25] == 1


def test_refined_edges_follow_the_picture() -> None:
    picture = portrait()
    truth = disc(100, 100, 60, 200)
    rough = blur(disc(97, 102, 58, 200), 6)
    before, after = ((mask ^ truth).mean() for mask in ((rough > 0.5), (refine(picture, rough) > 0.5)))
    assert after < before


def test_transparent_pixels_do_not_show_the_old_background() -> None:
    picture = np.zeros((80, 80, 3), np.uint8)
    picture[:, :40] = (200, 0, 0)
    picture[:, 40:] = (0, 0, 200)
    alpha = np.tile(np.clip((41 - np.arange(80)) / 2, 0, 1), (80, 1)).astype(np.float32)
    assert unmix(picture, alpha)[40, 40].tolist() == pytest.approx([200, 0, 0], abs=3)
