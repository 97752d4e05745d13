"""The working cap halves when the service throttles and rises slowly again; the pace holds its rate."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.engine.limits import (
    NO_LIMIT,
    Pace,
    allowance_after_acceptance,
    allowance_after_throttling,
    working_cap,
)

# The cap


@pytest.mark.parametrize(
    ("limit", "in_flight", "working"),
    [(8, 8, 4), (8, 5, 2), (8, 3, 1), (8, 1, 1), (8, 0, 1), (1, 1, 1), (2, 9, 1), (100, 64, 32)],
)
def test_throttling_halves_what_is_in_flight_or_allowed(limit: int, in_flight: int, working: int) -> None:
    assert working_cap(limit, allowance_after_throttling(limit, NO_LIMIT, in_flight)) == working


def test_the_cap_rises_by_one_for_each_round_and_stops_at_the_limit() -> None:
    allowance, seen = allowance_after_throttling(8, NO_LIMIT, 8), []
    for _ in range(40):
        allowance = allowance_after_acceptance(allowance)
        seen.append(working_cap(8, allowance))
    assert seen == sorted(seen)
    assert [seen.index(size) for size in (5, 6, 7, 8)] == [4, 9, 16, 23], "as many acceptances as are allowed, per step"
    assert seen[-1] == 8


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.integers(1, 200), st.lists(st.none() | st.integers(0, 400), max_size=200))
def test_the_cap_stays_between_one_and_the_limit(limit: int, story: list[int | None]) -> None:
    """None: a submission was accepted. A number: one was throttled, with so many in flight."""
    allowance = NO_LIMIT
    for in_flight in story:
        before = working_cap(limit, allowance)
        if in_flight is None:
            allowance = allowance_after_acceptance(allowance)
            assert before <= working_cap(limit, allowance) <= before + 1
        else:
            allowance = allowance_after_throttling(limit, allowance, in_flight)
            assert working_cap(limit, allowance) <= max(1, (before + 1) / 2)
            assert working_cap(limit, allowance) <= max(1, in_flight / 2)
        assert 1 <= working_cap(limit, allowance) <= limit


# The pace


@pytest.mark.parametrize(("rate", "burst"), [(0.1, 1), (1.0, 1), (2.5, 2), (10.0, 10)])
def test_a_burst_is_a_second_s_worth_and_then_the_rate_holds(rate: float, burst: int) -> None:
    pace, now, moments = Pace(rate), 1000.0, []
    for _ in range(burst + 20):
        now = pace.next_at(now)
        pace.take(now)
        moments.append(now)
    assert moments[:burst] == [1000.0] * burst
    assert moments[-1] - 1000.0 == pytest.approx((burst + 20 - max(1.0, rate)) / rate, rel=1e-6)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.floats(0.01, 500.0), st.lists(st.floats(0.0, 30.0), min_size=1, max_size=120), st.floats(0.0, 1e7))
def test_never_more_calls_than_rate_times_time_and_a_burst(rate: float, gaps: list[float], start: float) -> None:
    pace, now, calls = Pace(rate), start, 0
    for gap in gaps:
        now += gap
        while pace.next_at(now) <= now and calls < 2000:
            pace.take(now)
            calls += 1
        assert calls <= rate * (now - start) + max(1.0, rate) + 1e-3
        due = pace.next_at(now)
        assert now <= due <= now + 1.0 / rate + 1e-6, "and what waits is never told to wait for more than one's turn"


def test_a_clock_that_stands_still_or_goes_back_makes_no_room() -> None:
    pace = Pace(2.0)
    pace.take(100.0)
    pace.take(100.0)
    assert pace.next_at(50.0) == 50.5
    assert pace.next_at(100.0) == 100.5
