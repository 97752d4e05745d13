"""Backoff: bounded, with jitter, at least a Retry-After; and none for errors that repetition cannot cure."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.engine import backoff
from batchrunner.engine.backoff import Backoff, wait_s
from batchrunner.errors import CallError, JobFault, NetworkFault, ServiceFault

DOWN = ServiceFault("unavailable", "down", status=503)


class Longest:
    def uniform(self, a: float, b: float) -> float:
        assert a == 0.0
        return b


class Shortest:
    def uniform(self, a: float, _b: float) -> float:
        return a


def test_the_bound_doubles_up_to_the_cap() -> None:
    waits = [wait_s(Backoff(base_s=2.0, cap_s=30.0), failures, DOWN, Longest()) for failures in range(1, 8)]
    assert waits == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_jitter_reaches_down_to_zero() -> None:
    assert wait_s(Backoff(), 9, DOWN, Shortest()) == 0.0


def test_retry_after_is_the_minimum_and_jitter_is_added() -> None:
    throttled = ServiceFault("rate_limited", "slow down", retry_after_s=40.0)
    assert wait_s(Backoff(base_s=2.0), 1, throttled, Shortest()) == 40.0
    assert wait_s(Backoff(base_s=2.0), 1, throttled, Longest()) == 42.0


def test_an_absurd_retry_after_is_limited() -> None:
    absurd = ServiceFault("rate_limited", "come back next year", retry_after_s=3e7)
    assert wait_s(Backoff(), 1, absurd, Shortest()) == 900.0


@pytest.mark.parametrize("failures", [1, 5, 1000])
def test_a_fault_of_the_job_is_never_retried(failures: int) -> None:
    assert wait_s(Backoff(), failures, JobFault("bad_request", "no"), Longest()) is None


def test_the_number_of_retries_is_limited_unless_it_is_none() -> None:
    assert wait_s(Backoff(tries=3), 2, DOWN, Shortest()) == 0.0
    assert wait_s(Backoff(tries=3), 3, DOWN, Shortest()) is None
    assert wait_s(Backoff(), 10_000_000, DOWN, Longest()) == Backoff().cap_s


def test_a_paid_generation_is_polled_to_its_end() -> None:
    assert backoff.POLLS.tries is None
    assert backoff.SUBMISSIONS.tries is not None
    assert backoff.DOWNLOADS.tries is not None


def test_a_failure_that_does_not_count_waits_no_longer_than_the_first() -> None:
    """Throttling is not a failure of the job: it may have none of its own."""
    throttled = ServiceFault("rate_limited", "slow down")
    assert wait_s(Backoff(base_s=2.0), 0, throttled, Longest()) == 1.0
    assert wait_s(Backoff(tries=1), 0, throttled, Longest()) is not None


@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    failures=st.integers(0, 10**9),
    asked=st.none() | st.floats(0, 1e12),
    seed=st.integers(0, 9),
    fault=st.sampled_from([ServiceFault, NetworkFault]),
)
def test_waits_are_finite_and_within_their_bounds(
    failures: int, asked: float | None, seed: int, fault: type[CallError]
) -> None:
    error = fault("kind", "words", retry_after_s=asked)
    wait = wait_s(backoff.POLLS, failures, error, Random(seed))
    assert wait is not None
    assert min(asked or 0.0, 900.0) <= wait <= 900.0 + backoff.POLLS.cap_s
