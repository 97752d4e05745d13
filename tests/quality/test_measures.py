"""Planted faults are found exactly, in arrays. Clean scenes have none."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from batchrunner.quality.marks import marks_of
from batchrunner.quality.measures import Clip, numbers_of, reference_of, signature_from, signature_of
from tests.quality.clips import FPS, Pictures, clip, scene, with_other_subject


def kinds(result: Clip, reference: Clip | None = None) -> list[str]:
    numbers = numbers_of(result, None if reference is None else reference_of(reference))
    return [mark.kind for mark in marks_of(numbers, {})]


@pytest.mark.parametrize("seed", range(60))
def test_a_clean_clip_has_no_mark(seed: int) -> None:
    source = scene(seed, 75)
    result = with_other_subject(source, seed)
    assert kinds(clip(result), clip(source)) == []
    assert kinds(clip(result)) == []


def planted(change: Callable[[Pictures], object], seed: int = 3) -> tuple[Clip, Clip]:
    source = scene(seed)
    result = with_other_subject(source, seed)
    change(result)
    return clip(result), clip(source)


def black(pictures: Pictures) -> None:
    pictures[40:60] = 2


def freeze(pictures: Pictures) -> None:
    pictures[31:120] = pictures[30]


def flatten(pictures: Pictures) -> None:
    pictures[100:] = 128


def flash(pictures: Pictures) -> None:
    pictures[20:60:4] = np.clip(pictures[20:60:4].astype(int) + 40, 0, 255)


def cut(pictures: Pictures) -> None:
    pictures[80:] = 255 - np.flip(pictures[80:], 2)


def hover(pictures: Pictures) -> None:
    pictures[10:] = pictures[10]
    noise = np.random.default_rng(1).integers(0, 2, (len(pictures) - 10, 7, 60), np.uint8)
    pictures[10:, :7, :60] += noise  # one grey level: no frame is an exact repeat of one before


@pytest.mark.parametrize(
    ("change", "kind", "measure", "count", "at_s"),
    [
        (black, "black", "black_frames", 20, 40 / FPS),
        (freeze, "frozen", "frozen_frames", 89, 31 / FPS),
        (flatten, "flat", "flat_frames", 50, None),
        (flash, "flicker", "flicker_frames", 10, None),
        (cut, "jump", "jumps", 1, 80 / FPS),
        (hover, "low_motion", "still_frames", 139, None),
    ],
)
def test_a_planted_fault_is_found_exactly(
    change: Callable[[Pictures], object], kind: str, measure: str, count: int, at_s: float | None
) -> None:
    result, reference = planted(change)
    numbers = numbers_of(result, reference_of(reference))
    assert numbers[measure] == count
    assert kinds(result, reference) == [kind]
    if at_s is not None:
        assert numbers[f"{measure.split('_', maxsplit=1)[0].removesuffix('s')}_at_s"] == at_s


def test_a_frozen_picture_may_alternate_with_a_nearly_equal_one() -> None:
    """Encoders do that for as long as nothing moves."""
    result, reference = planted(freeze)
    result.pictures[31:120:2, :4, :40] += 1
    assert numbers_of(result, reference_of(reference))["frozen_frames"] == 89
    assert kinds(result, reference) == ["frozen"]


@pytest.mark.parametrize("change", [black, freeze, flatten, flash, cut, hover])
def test_what_the_reference_shows_too_is_not_counted(change: Callable[[Pictures], object]) -> None:
    source = scene(3)
    result = with_other_subject(source, 3)
    change(source)
    change(result)
    assert kinds(clip(result), clip(source)) == []


def test_a_still_reference_does_not_excuse_a_fault_elsewhere() -> None:
    source = scene(4)
    result = with_other_subject(source, 4)
    source[100:140] = source[100]
    result[20:50] = result[20]
    assert numbers_of(clip(result), reference_of(clip(source)))["frozen_frames"] == 29


@pytest.mark.parametrize("seed", range(8))
def test_the_reference_returned_unchanged_is_an_echo(seed: int) -> None:
    source = scene(seed)
    noise = np.random.default_rng(seed).normal(0, 2, source.shape)
    encoded_again = np.clip(source + noise, 0, 255).astype(np.uint8)
    assert kinds(clip(encoded_again), clip(source)) == ["echo"]


def test_another_frame_rate_is_found() -> None:
    source = scene(5)
    result = with_other_subject(source, 5)[::2]
    numbers = numbers_of(Clip(result, len(result), len(source) / FPS, None), reference_of(clip(source)))
    assert [mark.kind for mark in marks_of(numbers, {})] == ["frame_rate"]


def test_a_small_subject_that_was_replaced_is_no_echo() -> None:
    source = scene(6)
    result = source.copy()
    result[:, 16:20, 30:34] = 250  # 16 of 2,304 cells
    assert "echo" not in kinds(clip(result), clip(source))


@pytest.mark.parametrize(("own", "expected"), [(None, ["audio"]), (0.0, ["audio"]), (0.2, [])])
def test_lost_sound_is_found(own: float | None, expected: list[str]) -> None:
    source = scene(7, 50)
    result = with_other_subject(source, 7)
    assert kinds(clip(result, own), clip(source, 0.5)) == expected
    assert kinds(clip(result, own), clip(source, None)) == []


def test_half_a_clip_is_found() -> None:
    source = scene(8)
    assert kinds(clip(with_other_subject(source, 8)[:75]), clip(source)) == ["length"]


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_the_shortest_clips_are_measured(frames: int) -> None:
    source = scene(9, frames)
    numbers = numbers_of(clip(source), reference_of(clip(source)))
    assert numbers["measured_frames"] == frames
    assert kinds(clip(with_other_subject(source, 9)), clip(source)) == []


def test_measures_are_json_and_a_reference_survives_it() -> None:
    result, source = planted(freeze)
    sent = json.loads(json.dumps(signature_of(reference_of(source))))
    numbers = numbers_of(result, signature_from(sent))
    assert json.loads(json.dumps(numbers)) == numbers_of(result, reference_of(source))


def test_the_digest_finds_the_same_pictures_only() -> None:
    first, second = scene(1), scene(2)
    assert numbers_of(clip(first))["digest"] == numbers_of(clip(first.copy()))["digest"]
    assert numbers_of(clip(first))["digest"] != numbers_of(clip(second))["digest"]
    assert numbers_of(clip(np.full_like(first, 128)))["digest"] is None
