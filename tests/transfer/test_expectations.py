"""Warnings about whole clips that are not what their job asked for, by the data of their model."""

from dataclasses import replace
from typing import Any

import pytest

from batchrunner.job import Job, Media, Result
from batchrunner.providers import registry
from batchrunner.transfer.expectations import expectation_warnings
from tests.conftest import make_job
from tests.providers.dummy import SPEC, offered

RESULT = Result(1000, "0" * 64, 854, 480, 10.0)
WALK = Media("video", "walk.mp4", duration_s=10.0)


def job(**changes: Any) -> Job:
    return replace(make_job(video=WALK), params={"resolution": "480p"}, **changes)


def still(motion: Media | None, **params: Any) -> Job:
    picture = Media("image", "still.png")
    inputs = {"still": picture} if motion is None else {"still": picture, "motion": motion}
    return replace(make_job(), model=SPEC.name, inputs=inputs, params=SPEC.complete(params))


def test_a_clip_as_asked_for_gives_no_warning() -> None:
    assert expectation_warnings(job(), RESULT) == ()


@pytest.mark.parametrize(
    ("size_px", "warns"),
    [((854, 480), False), ((480, 854), False), ((848, 496), False), ((850, 464), False), ((1280, 720), True)],
)
def test_the_short_side_may_differ_by_one_step_of_the_model(size_px: tuple[int, int], warns: bool) -> None:
    width_px, height_px = size_px
    expected = (f"asked for 480p, got {width_px}x{height_px}",) if warns else ()
    assert expectation_warnings(job(), replace(RESULT, width_px=width_px, height_px=height_px)) == expected


@pytest.mark.parametrize(
    ("duration_s", "warns"), [(10.0, False), (8.0, False), (12.5, False), (7.9, True), (20.0, True)]
)
def test_the_length_follows_the_input_that_the_model_names(duration_s: float, warns: bool) -> None:
    expected = (f"lasts {duration_s:.2f} s, the reference clip 10.00 s",) if warns else ()
    assert expectation_warnings(job(), replace(RESULT, duration_s=duration_s)) == expected


def test_what_is_unknown_gives_no_warning() -> None:
    assert expectation_warnings(job(), replace(RESULT, width_px=None, duration_s=None)) == ()
    assert expectation_warnings(replace(make_job(), params={}), replace(RESULT, width_px=9, height_px=9)) == ()
    assert expectation_warnings(job(model="a model that is gone"), replace(RESULT, width_px=9)) == ()


def test_each_model_has_expectations_of_its_own() -> None:
    with offered():
        result = replace(RESULT, width_px=1920, height_px=1080)
        assert expectation_warnings(still(None), result) == ()
        assert expectation_warnings(still(WALK._replace(duration_s=40.0)), result) == (
            "lasts 10.00 s, the motion clip 40.00 s",
        )
        assert expectation_warnings(still(None, resolution="480p"), result) == ("asked for 480p, got 1920x1080",)
    assert registry.models().get(SPEC.name) is None
