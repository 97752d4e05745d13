"""The character: cut-out, tone, take, place, shadow; and the background, on pictures with a known result."""

import av
import numpy as np
import pytest
from PIL import Image

from batchrunner.sandbox.clips import replacement
from batchrunner.sandbox.clips.pictures import Bytes, Floats, blur
from batchrunner.sandbox.clips.replacement import (
    Replacement,
    Take,
    adapt_tone,
    background,
    between_keys,
    cut_out,
    draw_take,
    place,
    shadow,
    stand,
    to_lab,
    to_rgb,
)
from batchrunner.sandbox.clips.scene import understand
from tests.sandbox.clips.scenes import SIDE, disc, walk

RED = np.full((40, 20, 4), (255, 0, 0, 255), np.uint8)
PLAIN = Take((0, 0, 0), 1, 0, 0, 1, 0)


def portrait(side: int = 200) -> Image.Image:
    picture = np.full((side, side, 3), (20, 200, 30), np.uint8)
    picture[disc(100, 100, 60, side)] = (200, 40, 160)
    return Image.fromarray(picture)


def network_says(monkeypatch: pytest.MonkeyPatch, score: Floats) -> None:
    monkeypatch.setattr(replacement, "person", lambda picture: score)


def test_only_the_character_is_left_in_its_own_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    network_says(monkeypatch, blur(disc(128, 128, 77, 256), 3))
    character = cut_out(portrait(), (200, 200))
    assert character.shape[:2] == (pytest.approx(120, abs=8), pytest.approx(120, abs=8))
    assert character[50:70, 50:70, 3].min() == 255
    assert (character[character[..., 3] > 25][:, 1] < 120).mean() > 0.97  # no green rim


def test_the_larger_of_two_people_is_the_character(monkeypatch: pytest.MonkeyPatch) -> None:
    one = blur(disc(128, 128, 77, 256), 2)
    network_says(monkeypatch, one)
    alone = cut_out(portrait(), (200, 200))
    network_says(monkeypatch, np.maximum(one, blur(disc(236, 20, 16, 256), 2)))
    assert cut_out(portrait(), (200, 200)).shape == alone.shape


def test_a_picture_without_a_person_is_used_whole() -> None:
    character = cut_out(Image.new("RGB", (64, 64), "gray"), (100, 150))
    assert (character[:90, 20:130, 3] == 255).all()
    assert character[-1, :, 3].max() < 100  # fades out at the edges
    assert character[:, 0, 3].max() < 100


def test_a_transparent_picture_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    network_says(monkeypatch, np.ones((256, 256), np.float32))
    picture = Image.new("RGBA", (100, 100))
    picture.paste("red", (30, 20, 70, 80))
    character = cut_out(picture, (100, 100))
    assert character.shape == (pytest.approx(60, abs=2), pytest.approx(40, abs=2), 4)


def test_the_picture_is_cropped_to_the_middle_of_the_clips_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    network_says(monkeypatch, np.zeros((256, 256), np.float32))
    stripes = np.zeros((90, 160, 3), np.uint8)
    stripes[:, 60:100] = 255
    assert cut_out(Image.fromarray(stripes), (90, 30))[45, 5:-5, :3].min() > 250


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (54.3, 80.8, 69.9)),  # CIE Lab of sRGB, white point D50, as in ICC profiles
        ((119, 119, 119), (50, 0, 0)),
    ],
)
def test_lab_values_match_the_standard(rgb: tuple[int, ...], lab: tuple[float, ...]) -> None:
    lightness, a, b = to_lab(np.array([[rgb]], np.uint8))[0, 0]
    assert (lightness / 2.55, a - 128, b - 128) == pytest.approx(lab, abs=1)


def test_conversion_to_lab_and_back_changes_little() -> None:
    picture = np.random.default_rng(0).integers(60, 196, (50, 50, 3)).astype(np.uint8)
    difference = np.abs(to_rgb(to_lab(picture)).astype(int) - picture)
    assert difference.mean() < 1
    assert difference.max() <= 10


def face() -> Bytes:
    colours = np.random.default_rng(0).integers(120, 200, (40, 40, 3))
    return np.dstack([colours, np.full((40, 40), 255)]).astype(np.uint8)


@pytest.mark.parametrize("light", [(30, 30, 40), (240, 240, 220)])
def test_the_character_goes_part_of_the_way_to_the_scene(light: tuple[int, int, int]) -> None:
    scene = np.full((3, 3, 3), light, np.uint8)
    before, wanted = to_lab(face()[..., :3])[..., 0].mean(), to_lab(scene)[..., 0].mean()
    after = to_lab(adapt_tone(face(), scene, PLAIN)[..., :3])[..., 0].mean()
    assert min(before, wanted) < after < max(before, wanted)
    assert abs(after - before) > 12


def test_transparent_pixels_do_not_count() -> None:
    picture = face()
    picture[:20] = 0
    changed = adapt_tone(picture, face()[..., :3], PLAIN)
    assert np.abs(changed[20:].astype(int) - picture[20:]).mean() < 6


def test_a_take_changes_the_tone() -> None:
    scene = face()[..., :3]
    plain = to_lab(adapt_tone(face(), scene, PLAIN)[..., :3]).mean((0, 1))
    graded = to_lab(adapt_tone(face(), scene, PLAIN._replace(tone=(12, 3, -4)))[..., :3]).mean((0, 1))
    assert graded - plain == pytest.approx([12, 3, -4], abs=1)


def test_the_character_stands_on_its_foot_at_the_given_height() -> None:
    drawn = place(RED, (60, 90), 80, 0, (100, 120))
    rows, columns = np.nonzero(drawn[..., 3] > 127)
    assert (rows.min(), rows.max()) == (pytest.approx(10, abs=1), pytest.approx(89, abs=1))
    assert (columns.min(), columns.max()) == (pytest.approx(40, abs=1), pytest.approx(79, abs=1))
    assert drawn[50, 60].tolist() == [255, 0, 0, 255]


def test_the_character_leans_at_the_top_and_not_at_the_foot() -> None:
    opacity = place(RED, (60, 90), 80, 30, (100, 120))[..., 3]
    centres = [float(np.flatnonzero(opacity[row] > 127).mean()) for row in (12, 50, 88)]
    assert centres == pytest.approx([60 + 29, 60 + 15, 60], abs=1.5)


@pytest.mark.parametrize(("foot", "visible"), [((-500, 90), False), ((60, 900), False), ((5, 130), True)])
def test_a_place_outside_the_frame_is_clipped(foot: tuple[float, float], visible: bool) -> None:
    drawn = place(RED, foot, 80, 10, (100, 120))
    assert drawn.shape == (100, 120, 4)
    assert drawn[..., 3].any() == visible


def test_the_shadow_is_darkest_at_the_foot_and_short() -> None:
    dark = shadow((60, 90), 40, (120, 120))
    assert dark[90, 60] == dark.max() > 100
    assert dark[:80].max() == 0
    assert dark[:, :20].max() == 0


def test_bright_grass_covers_the_foot_only() -> None:
    scene = np.zeros((100, 100, 3), np.uint8)
    scene[:, ::10] = scene[:, 1::10] = 255
    opaque = np.full((100, 100), 255, np.uint8)
    result = stand(opaque, scene, 80, 20)
    assert (result[:60] == 255).all()
    assert result[79].max() < 80
    assert result[72, 30] < result[72, 35]


def test_takes_differ_in_grade_pose_and_timing_and_are_repeatable() -> None:
    takes = [draw_take(f"order.{number}") for number in range(40)]
    assert draw_take("order.7") == takes[7]
    for values in zip(*takes, strict=True):
        assert len(set(values)) == 40
    assert min(one.lag for one in takes) >= 0
    assert np.std([one.right for one in takes]) > 0.02


@pytest.mark.parametrize("drift", [0, 2])
def test_the_plate_shows_the_uncovered_background(drift: float) -> None:
    scene = walk(drift=drift, seed=4)
    known = understand(scene.pictures, scene.scores)
    margin = np.ceil(np.abs(known.offsets).max(0) * SIDE).astype(int)
    plate = background(known, dict(enumerate(scene.pictures)), margin)
    assert plate.shape == (SIDE + 2 * margin[1], SIDE + 2 * margin[0], 3)
    middle = plate[margin[1] :, margin[0] :][:SIDE, :SIDE]  # as the camera saw it at the middle key frame
    expected = np.roll(scene.background, round(drift * 6), 1)
    inner = slice(8, -8), slice(30, -30)
    assert np.abs(middle[inner].astype(int) - expected[inner]).mean() < 8
    assert middle[70, 40, 0] < 225  # the disc was there, and is red


def test_values_between_key_frames_are_interpolated() -> None:
    values = np.array([[0, 10], [4, 30]], np.float32)
    assert between_keys(values, np.array([0, 1, 2, 9]), 4).tolist() == [[0, 10], [1, 15], [2, 20], [4, 30]]


@pytest.mark.parametrize(("count", "steps", "keys"), [(40, 10, 5), (40, 40, 20), (40, 1000, 40), (1000, 80, 143)])
def test_more_steps_are_more_key_frames_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch, count: int, steps: int, keys: int
) -> None:
    calls: list[Bytes] = []

    def person(picture: Bytes) -> Floats:
        calls.append(picture)
        return np.zeros((256, 256), np.float32)

    monkeypatch.setattr(replacement, "person", person)
    frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), format="rgb24")
    Replacement([frame] * count, count, (32, 32), portrait(), "", steps)
    assert len(calls) == keys + 1  # and the picture
