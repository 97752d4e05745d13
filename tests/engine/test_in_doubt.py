"""Jobs in doubt: they are searched for at once, then at growing intervals, and once more at the end.

Their slots are kept for as long as that is useful. And the meaning of a search that does not find one.
"""

import pytest

from batchrunner.engine.in_doubt import InDoubtJobs, longest_s


def make(settle_s: float = 10.0) -> InDoubtJobs:
    return InDoubtJobs(15.0, 600.0, settle_s)


def searched(in_doubt: InDoubtJobs, now: float, *settled: str) -> None:
    assert in_doubt.start_reconcile(now, at_the_end=False)
    in_doubt.reconciled(settled, now)


def test_without_jobs_in_doubt_no_search_is_due() -> None:
    in_doubt = make()
    assert list(in_doubt) == []
    assert in_doubt.reconcile_at is None
    assert not in_doubt.unsearched
    assert not in_doubt.start_reconcile(1e9, at_the_end=False)
    assert not in_doubt.start_reconcile(1e9, at_the_end=True)


def test_the_first_search_is_due_at_once_and_later_ones_at_growing_waits() -> None:
    in_doubt, moments = make(), []
    in_doubt.add("a", 0.0, 0.0)
    for _ in range(10):
        assert in_doubt.reconcile_at is not None
        moments.append(in_doubt.reconcile_at)
        searched(in_doubt, in_doubt.reconcile_at)
    waits = [b - a for a, b in zip([0.0, *moments], moments, strict=False)]
    assert waits == [0.0, 15.0, 15.0 * 2, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0, 600.0]


def test_a_job_in_doubt_at_the_start_of_the_loop_is_searched_for() -> None:
    """Zero is a valid time."""
    in_doubt = make()
    in_doubt.found("old", -50.0, 0.0)
    in_doubt.add("new", 0.0, 0.0)
    assert in_doubt.reconcile_at == 0.0
    searched(in_doubt, 0.0)


def test_a_job_in_doubt_of_an_earlier_run_is_searched_for_at_once() -> None:
    in_doubt = make()
    in_doubt.found("old", 20.0, 100.0)
    assert in_doubt.reconcile_at == 100.0
    assert in_doubt.is_earlier("old")
    in_doubt.add("new", 100.0, 100.0)
    assert not in_doubt.is_earlier("new")


def test_one_search_runs_at_a_time_and_a_new_job_in_doubt_waits_for_it() -> None:
    in_doubt = make()
    in_doubt.add("a", 0.0, 0.0)
    assert in_doubt.start_reconcile(0.0, at_the_end=False)
    assert not in_doubt.start_reconcile(1e9, at_the_end=False), "none is due while one is active"
    in_doubt.add("b", 1.0, 1.0)
    in_doubt.reconciled([], 2.0)
    assert in_doubt.reconcile_at == 1.0


def test_a_new_job_in_doubt_brings_the_next_search_forward() -> None:
    in_doubt = make()
    in_doubt.add("a", 0.0, 0.0)
    for _ in range(7):
        assert in_doubt.reconcile_at is not None
        searched(in_doubt, now := in_doubt.reconcile_at)
    assert in_doubt.reconcile_at == now + 600.0
    in_doubt.add("b", now + 1.0, now + 1.0)
    searched(in_doubt, now + 1.0)
    assert in_doubt.reconcile_at == now + 16.0


def test_a_settled_job_is_no_longer_in_doubt() -> None:
    in_doubt = make()
    for name in "abc":
        in_doubt.add(name, 0.0, 0.0)
    searched(in_doubt, 0.0, "a", "c")
    assert list(in_doubt) == ["b"]
    searched(in_doubt, 15.0, "b")
    assert list(in_doubt) == []
    assert in_doubt.reconcile_at is None


def test_one_more_search_is_due_when_no_other_work_is_left() -> None:
    in_doubt = make()
    in_doubt.submitted()
    in_doubt.add("a", 0.0, 0.0)
    searched(in_doubt, 0.0)
    assert in_doubt.start_reconcile(1.0, at_the_end=True)
    in_doubt.reconciled([], 1.0)
    assert not in_doubt.start_reconcile(2.0, at_the_end=True), "once"
    in_doubt.submitted()
    assert in_doubt.start_reconcile(3.0, at_the_end=True)


def test_later_attempts_of_failed_jobs_are_searched_for_until_the_log_was_read() -> None:
    in_doubt = make()
    in_doubt.search_for_later(5.0)
    assert in_doubt.start_reconcile(5.0, at_the_end=False)
    in_doubt.reconciled([], 5.0, searched=False)
    assert in_doubt.reconcile_at == 20.0, "the search failed"
    assert in_doubt.start_reconcile(6.0, at_the_end=True), "and once more when no other work is left"
    in_doubt.search_for_later(6.5)
    in_doubt.reconciled(["of a failed job"], 7.0)
    assert in_doubt.reconcile_at == 6.5, "another job failed during the search"
    assert in_doubt.start_reconcile(7.0, at_the_end=False)
    in_doubt.reconciled([], 7.0)
    assert not in_doubt.reconcile_at
    assert not in_doubt.start_reconcile(1e9, at_the_end=True)
    assert in_doubt.is_earlier("of a failed job")


def test_a_search_counts_only_after_the_service_had_time_to_list_the_submission() -> None:
    in_doubt = make(settle_s=10.0)
    in_doubt.add("a", 100.0, 100.0)
    assert [in_doubt.is_settled("a", at) for at in (100.0, 109.9, 110.0)] == [False, False, True]
    searched(in_doubt, 100.0)
    assert in_doubt.unsearched
    searched(in_doubt, 115.0)
    assert not in_doubt.unsearched


# Slots


def test_a_slot_is_kept_for_its_time_which_is_computed_again_each_time() -> None:
    in_doubt = make()
    in_doubt.add("a", 0.0, 0.0)
    in_doubt.add("b", 10.0, 10.0)
    assert in_doubt.over(100.0, lambda _: 1800.0) == []
    assert in_doubt.next_over(lambda _: 1800.0) == 1800.0
    assert in_doubt.next_over(lambda _: 200.0) == 200.0, "more durations are known now"
    assert in_doubt.over(205.0, lambda _: 200.0) == ["a"]
    assert in_doubt.next_over(lambda _: 200.0) == 210.0
    assert in_doubt.over(300.0, lambda _: 200.0) == ["b"], "each is named once"
    assert in_doubt.next_over(lambda _: 200.0) is None
    assert sorted(in_doubt) == ["a", "b"], "they are still searched for"


def test_a_job_in_doubt_of_an_earlier_run_keeps_its_slot_like_a_new_one() -> None:
    """Its age is known by the wall clock only, which may have been set."""
    in_doubt = make()
    in_doubt.found("old", -90_000.0, 100.0)
    assert in_doubt.is_settled("old", 100.0)
    assert in_doubt.next_over(lambda _: 600.0) == 700.0
    assert in_doubt.over(699.0, lambda _: 600.0) == []
    assert in_doubt.over(700.0, lambda _: 600.0) == ["old"]


HALF_AN_HOUR = 1800.0


@pytest.mark.parametrize(
    ("seen", "running", "expected"),
    [
        ([], [], HALF_AN_HOUR),
        ([], [5.0], HALF_AN_HOUR),
        ([60.0], [], 600.0),
        ([60.0, 20.0], [], 600.0),
        ([60.0], [700.0], 700.0),  # a running generation shows that it may take longer
        ([600.0], [], HALF_AN_HOUR),
        ([60.0] * 9, [], 600.0),
        ([60.0] * 10, [], 60.0),
        ([float(value) for value in range(1, 101)], [], 95.0),
        ([float(value) for value in range(1, 101)], [500.0], 96.0),
        # generations that have just started show nothing
        ([float(value) for value in range(1, 101)], [0.5] * 100, 95.0),
        ([0.2], [], 45.0),  # durations are only as precise as the polls
        ([0.2] * 20, [], 45.0),
        ([60.0] * 20, [500.0] * 5, 500.0),  # a queue has built up
        ([6000.0] * 20, [], HALF_AN_HOUR),
    ],
)
def test_the_longest_plausible_duration_of_a_generation(
    seen: list[float], running: list[float], expected: float
) -> None:
    assert longest_s(seen, running, 45.0, HALF_AN_HOUR) == expected


def test_the_more_durations_are_known_the_shorter_a_slot_is_kept() -> None:
    limits = [longest_s([60.0] * number, [], 45.0, HALF_AN_HOUR) for number in range(15)]
    assert limits == sorted(limits, reverse=True)
    assert limits[0] == HALF_AN_HOUR
    assert limits[-1] == 60.0
