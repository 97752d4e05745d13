"""Durations: an estimate from intervals approaches the true distribution, forgets old values, and stays finite."""

import math
from random import Random

import pytest

from batchrunner.engine.polling.duration_model import EDGES_S, KEPT, STEPS, Durations, Fit, expected_in, step_of


def quantile(fit: Fit, share: float) -> float:
    step = next(step for step in range(STEPS) if fit.survival[step + 1] <= 1 - share)
    return EDGES_S[step + 1]


def seen_at(rng: Random, took_s: float, every_s: float) -> tuple[float, float]:
    """Return the intervals that polls at a fixed interval observe."""
    by_s = every_s * rng.random()
    while by_s < took_s:
        by_s += every_s
    return max(0.0, by_s - every_s), by_s


def lognormal(seed: int, median_s: float, spread: float, every_s: float) -> Durations:
    rng = Random(seed)
    return Durations(seen_at(rng, median_s * math.exp(rng.gauss(0, spread)), every_s) for _ in range(KEPT))


@pytest.mark.parametrize("median_s", [3.0, 20.0, 55.0, 300.0])
@pytest.mark.parametrize("spread", [0.25, 0.5, 1.0])
def test_the_estimate_finds_the_median_and_the_tails(median_s: float, spread: float) -> None:
    fit = lognormal(1, median_s, spread, median_s / 4).fit()
    assert fit.median_s == pytest.approx(median_s, rel=0.12 + spread / 5)
    assert quantile(fit, 0.1) == pytest.approx(median_s * math.exp(-1.28 * spread), rel=0.4 + spread / 4)
    assert quantile(fit, 0.9) == pytest.approx(median_s * math.exp(1.28 * spread), rel=0.4 + spread / 4)
    assert fit.mean_s == pytest.approx(median_s * math.exp(spread**2 / 2), rel=0.3)


def test_the_estimate_finds_two_modes() -> None:
    rng = Random(1)
    took = [(30 if rng.random() < 0.6 else 120) * math.exp(rng.gauss(0, 0.1)) for _ in range(KEPT)]
    fit = Durations(seen_at(rng, value, 10.0) for value in took).fit()
    valley, second = fit.hazard[step_of(65)], fit.hazard[step_of(120)]
    assert fit.hazard[step_of(30)] > 3 * valley
    assert second > 3 * valley


def test_running_generations_count() -> None:
    """The first six of forty are the quick ones, which the running others reveal."""
    seen = Durations([(8.0, 10.0)] * 6)
    assert seen.fit().longer_than(11.0) < 0.1
    assert seen.fit([10.0] * 34).longer_than(11.0) > 0.5


def test_in_the_long_run_running_ones_do_not_outweigh_completed_ones() -> None:
    seen = lognormal(1, 55, 0.25, 10.0)
    alone = seen.fit().median_s
    assert seen.fit([55 * number / 1000 for number in range(1000)]).median_s == pytest.approx(alone, rel=0.2)


def test_only_the_latest_durations_are_kept() -> None:
    seen = Durations([(500.0, 510.0)] * 1000 + [(50.0, 55.0)] * KEPT)
    assert len(seen.spans) == KEPT
    assert seen.fit().median_s == pytest.approx(52, rel=0.1)


@pytest.mark.parametrize("after_s", [20.0, 500.0])
def test_a_sudden_change_is_learned_from_a_few_durations(after_s: float) -> None:
    seen = lognormal(1, 100, 0.25, 10.0)
    for _ in range(12):
        seen.fit()
        seen.learn(0.95 * after_s, 1.05 * after_s)
    assert seen.fit().median_s == pytest.approx(after_s, rel=0.3)


def test_one_outlier_changes_little() -> None:
    seen = lognormal(1, 100, 0.25, 10.0)
    before = seen.fit().median_s
    seen.learn(4000.0, 4010.0)
    assert seen.fit().median_s == pytest.approx(before, rel=0.1)


@pytest.mark.parametrize(
    "span", [(-1.0, 5.0), (5.0, 4.0), (0.0, math.inf), (math.nan, 5.0), (0.0, math.nan), (math.inf, math.inf)]
)
def test_invalid_durations_are_not_learned(span: tuple[float, float]) -> None:
    assert not Durations([span]).spans


@pytest.mark.parametrize(
    "spans",
    [[(0.0, 0.0)], [(0.0, 1e-300)], [(0.0, 1e9)], [(1e9, 2e9)], [(55.0, 55.0)] * 200, [(0.0, 1e-9), (9e8, 1e9)] * 9],
    ids=str,
)
@pytest.mark.parametrize("running", [[], [0.0], [1e12], [0.0, 3.0, 1e6] * 5], ids=len)
def test_any_input_gives_finite_estimates(spans: list[tuple[float, float]], running: list[float]) -> None:
    fit = Durations(spans).fit(running)
    assert all(math.isfinite(value) and value > 0 for value in [*fit.hazard, fit.median_s, fit.mean_s])
    assert all(0 <= after <= before <= 1 for before, after in zip(fit.survival, fit.survival[1:], strict=False))


def test_every_duration_has_its_step() -> None:
    assert [step_of(value) for value in (-1.0, 0.0, 1e-9, EDGES_S[1], 1e12)] == [0, 0, 0, 0, STEPS - 1]
    for step in range(STEPS):
        assert EDGES_S[step] < EDGES_S[step + 1]
        assert step_of(EDGES_S[step + 1]) == step


# The work of the jobs


def by_work(power: float, count: int = 120, spread: float = 0.1) -> Durations:
    rng, seen = Random(3), Durations()
    for _ in range(count):
        work = rng.uniform(50, 300)
        seen.learn(*seen_at(rng, work**power * math.exp(rng.gauss(0, spread)), 2.0), work)
    return seen


def test_a_long_clip_is_expected_to_take_longer_where_clips_do() -> None:
    assert by_work(1.0).expected_s(300.0) == pytest.approx(300, rel=0.1)
    assert by_work(1.0).expected_s(60.0) == pytest.approx(60, rel=0.1)
    assert by_work(0.0, spread=0.01).expected_s(300.0) == pytest.approx(
        by_work(0.0, spread=0.01).expected_s(60.0), rel=0.1
    )


def test_the_distribution_is_as_narrow_as_for_clips_of_one_length() -> None:
    fit = by_work(1.0).fit()
    assert fit.longer_than(1.5 * fit.median_s) < 0.05
    assert fit.longer_than(0.6 * fit.median_s) > 0.95


def test_a_running_generation_counts_by_its_own_work() -> None:
    seen = by_work(1.0)
    alone = seen.fit().median_s
    assert seen.fit([290.0] * 20, [300.0] * 20).median_s == pytest.approx(alone, rel=0.15)
    assert seen.fit([290.0] * 20, [60.0] * 20).longer_than(1.5 * alone) > 0.1


def test_short_clips_after_long_ones_do_not_look_like_a_change_of_the_service() -> None:
    seen = by_work(1.0)
    seen.fit()
    for _ in range(10):
        seen.learn(39.0, 41.0, 40.0)
    assert len(seen.spans) == len(seen.works) == 130


def test_expected_times_come_from_the_more_numerous_durations_of_a_kind() -> None:
    kind = ("model", "480p")
    durations = {(kind, False): Durations([(10.0, 20.0)]), (kind, True): Durations([(50.0, 60.0)] * 3)}
    expected = expected_in(durations)
    assert expected(kind, None) == 55.0
    assert expected(("model", "720p"), None) is None
    assert expected_in(durations, 3)(kind, None) == 55.0
    assert expected_in(durations, 4)(kind, None) is None
