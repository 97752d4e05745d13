"""The time of a generation by its work: a power that is learned, and that is 0 where the work explains nothing."""

import math
from random import Random
from typing import Any

import pytest

from batchrunner.job import Job
from batchrunner.plan.duration_trend import FLAT, WorkTrend, clip_seconds, trend_of, usual_of, work_of
from tests.conftest import make_job, remote

POWERS = [0.0, 0.5, 1.0, 1.5]


def clip(seconds: float | None, **params: Any) -> Job:
    return make_job(video=remote()._replace(duration_s=seconds), **params)


def sample(power: float, spread: float, count: int = 60, seed: int = 1) -> tuple[list[float], list[float | None]]:
    rng = Random(seed)
    works: list[float | None] = [rng.uniform(40, 400) for _ in range(count)]
    return [10 * (work or 1) ** power * math.exp(rng.gauss(0, spread)) for work in works], works


def test_the_work_is_the_clips_length_times_the_steps() -> None:
    assert work_of(clip(4.0, resolution="480p", num_inference_steps=20)) == 80.0
    assert work_of(clip(4.0, resolution="480p", num_inference_steps=40)) == 160.0
    assert work_of(clip(4.0, resolution="480p")) == 4.0


@pytest.mark.parametrize("seconds", [None, 0.0])
def test_a_clip_of_unknown_length_has_no_work(seconds: float | None) -> None:
    assert work_of(clip(seconds, num_inference_steps=20)) is None


def test_the_length_of_an_unknown_models_clip_is_that_of_its_video() -> None:
    job = clip(4.0)
    assert clip_seconds(Job(job.fingerprint, "another", job.inputs, job.params)) == 4.0
    assert clip_seconds(Job(job.fingerprint, "another", {"image": job.inputs["image"]}, job.params)) is None


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("spread", [0.05, 0.2])
def test_the_power_is_learned(power: float, spread: float) -> None:
    trend = trend_of(*sample(power, spread))
    assert trend.factor(400.0) / trend.factor(40.0) == pytest.approx(10**power, rel=0.25)


@pytest.mark.parametrize("power", POWERS)
def test_the_average_factor_of_known_works_is_one(power: float) -> None:
    times, works = sample(power, 0.1)
    trend = trend_of(times, works)
    assert sum(map(trend.factor, works)) / len(works) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("times", "works"),
    [([], []), ([60.0], [None]), ([60.0, 90.0], [None, None]), ([60.0, 90.0], [5.0, 5.0]), ([90.0, 30.0], [5.0, 50.0])],
)
def test_without_a_dependence_every_job_takes_equally_long(times: list[float], works: list[float | None]) -> None:
    assert trend_of(times, works) == FLAT or trend_of(times, works).factor(500.0) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(5))
def test_chance_gives_hardly_any_dependence(seed: int) -> None:
    trend = trend_of(*sample(0.0, 0.5, 200, seed))
    assert 0.7 < trend.factor(400.0) / trend.factor(40.0) < 1.5


def test_two_generations_do_not_prove_a_dependence() -> None:
    trend = trend_of([50.0, 100.0], [100.0, 110.0])
    assert trend.factor(220.0) / trend.factor(110.0) < 1.1


def test_the_guess_holds_until_times_contradict_it() -> None:
    few, many = trend_of([60.0], [100.0], 1.0), trend_of(*sample(0.0, 0.1), 1.0)
    assert few.factor(200.0) / few.factor(100.0) == pytest.approx(2.0)
    assert many.factor(200.0) / many.factor(100.0) == pytest.approx(1.0, abs=0.1)


def test_works_far_from_the_known_ones_count_as_the_nearest() -> None:
    trend = trend_of(*sample(1.0, 0.05))
    assert trend.factor(1e9) == trend.factor(1e7)
    assert trend.factor(1e-9) == trend.factor(1e-3)
    assert WorkTrend(1.0, 2.0, 1.0, 8.0).factor(None) == 1.0


def test_the_usual_time_is_the_median_without_the_works() -> None:
    trend, usual_s = usual_of([10.0, 20.0, 40.0], [1.0, 2.0, 4.0], 1.0)
    assert [usual_s * trend.factor(work) for work in (1.0, 2.0, 4.0)] == pytest.approx([10.0, 20.0, 40.0], rel=0.05)
