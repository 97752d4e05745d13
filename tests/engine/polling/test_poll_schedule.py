"""The poll schedule: within budget and bounds, dense where completion is likely, better than a fixed interval."""

import math
from random import Random

import pytest

from batchrunner.engine.polling.duration_model import KEPT, Durations, Fit
from batchrunner.engine.polling.poll_schedule import FEWEST, LONGEST, SHORTEST, PollSchedule


def fit(median_s: float, spread: float, running: tuple[float, ...] = ()) -> Fit:
    rng = Random(1)
    took = [median_s * math.exp(rng.gauss(0, spread)) for _ in range(KEPT)]
    return Durations((0.97 * value, value) for value in took).fit(running)


def outcome(schedule: PollSchedule, median_s: float, spread: float) -> tuple[float, float]:
    """Return polls a generation, and seconds from completion to its poll, on average."""
    rng, polls, unseen_s = Random(2), 0, 0.0
    for _ in range(2000):
        took_s, at_s = median_s * math.exp(rng.gauss(0, spread)), 0.0
        while at_s < took_s:
            at_s += schedule.wait_s(at_s, rng.uniform(0.9, 1.1))
            polls += 1
        unseen_s += at_s - took_s
    return polls / 2000, unseen_s / 2000


@pytest.mark.parametrize("interval_s", [10.0, 15.0])
@pytest.mark.parametrize(
    ("median_s", "spread", "gain"), [(20, 0.25, 1.6), (55, 0.25, 1.8), (55, 0.5, 1.2), (55, 1.0, 1.0), (300, 0.25, 1.8)]
)
def test_with_as_many_polls_as_a_fixed_interval_clips_are_seen_earlier(
    median_s: float, spread: float, gain: float, interval_s: float
) -> None:
    polls, unseen_s = outcome(PollSchedule(fit(median_s, spread), interval_s), median_s, spread)
    mean_s = median_s * math.exp(spread**2 / 2)
    assert polls <= 1.08 * (mean_s / interval_s + 0.5)
    assert unseen_s <= 1.05 * interval_s / 2 / gain


def test_short_generations_are_seen_soon_for_half_a_poll_more() -> None:
    polls, unseen_s = outcome(PollSchedule(fit(3, 0.25), 15.0), 3, 0.25)
    assert 1.0 <= polls <= FEWEST + 0.05
    assert unseen_s < 1.5, "instead of twelve"


@pytest.mark.parametrize("median_s", [0.01, 3, 55, 300, 7200, 1e6])
@pytest.mark.parametrize("interval_s", [0.2, 15.0, 3600.0])
def test_every_wait_is_within_bounds(median_s: float, interval_s: float) -> None:
    schedule = PollSchedule(fit(median_s, 0.5, (1e5,)), interval_s)
    for elapsed_s in (-5.0, 0.0, 1e-9, 1.0, median_s, 10 * median_s, 1e7, 1e12):
        for factor in (0.9, 1.1):
            assert SHORTEST * interval_s <= schedule.wait_s(elapsed_s, factor) <= LONGEST * interval_s


def test_polls_are_dense_where_completion_is_likely() -> None:
    schedule = PollSchedule(fit(100, 0.2), 10.0)
    assert schedule.wait_s(1.0) > 0.9 * LONGEST * 10, "far too early"
    assert schedule.wait_s(100.0) < 10 / 1.5


def test_an_unlikely_duration_is_still_polled() -> None:
    schedule = PollSchedule(fit(55, 0.05), 15.0)
    at_s, gaps = 0.0, []
    while at_s < 3600:
        gaps.append(schedule.wait_s(at_s))
        at_s += gaps[-1]
    assert max(gaps) <= 3 * 15


@pytest.mark.parametrize("interval_s", [0.001, 0.02, 1.0, 15.0, 3600.0])
@pytest.mark.parametrize(("median_s", "spread"), [(0.002, 0.1), (3, 0.25), (300, 1.0), (40_000, 0.5)])
def test_a_schedule_is_computed_in_bounded_work(
    median_s: float, spread: float, interval_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interval far from the durations, in either direction, once gave a schedule without an end."""
    asked = 0
    wait_s = PollSchedule.wait_s

    def counted(self: PollSchedule, elapsed_s: float, factor: float = 1.0) -> float:
        nonlocal asked
        asked += 1
        return wait_s(self, elapsed_s, factor)

    monkeypatch.setattr(PollSchedule, "wait_s", counted)
    schedule = PollSchedule(fit(median_s, spread), interval_s)
    assert asked < 30_000
    assert SHORTEST * interval_s <= schedule.wait_s(median_s) <= LONGEST * interval_s


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
def test_a_job_of_any_work_has_as_many_polls_as_the_interval_would_make(factor: float) -> None:
    rng, seen = Random(1), Durations()
    for _ in range(KEPT):
        work = rng.choice([30.0, 100.0, 300.0])
        took_s = 0.6 * work * math.exp(rng.gauss(0, 0.2))
        seen.learn(0.97 * took_s, took_s, work)
    schedule = PollSchedule(seen.fit(), 10.0)
    polls, unseen_s, least_s = 0, 0.0, 0.0
    for _ in range(1000):
        took_s, at_s = 60 * factor * math.exp(rng.gauss(0, 0.2)), 0.0
        while at_s < took_s:
            wait_s = schedule.wait_s(at_s, rng.uniform(0.9, 1.1), 100.0 * factor)
            assert SHORTEST * 10.0 <= wait_s <= LONGEST * 10.0
            at_s += wait_s
            polls += 1
        unseen_s += at_s - took_s
        least_s += took_s
    assert polls / 1000 <= 1.15 * max(FEWEST, least_s / 1000 / 10.0 + 0.5)
    assert unseen_s / 1000 < 4.5
