"""Admission: in order, after its backoff, never above the cap; a slot is never lost; the cap and the pace hold."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.engine.job_queue import Cap, Pace, Scheduler


def admitted(scheduler: Scheduler, now: float = 0.0) -> list[str]:
    names = []
    while (name := scheduler.next(now)) is not None:
        names.append(name)
    return names


def filled(cap: int, *names: str) -> Scheduler:
    scheduler = Scheduler(cap)
    for order, name in enumerate(names):
        scheduler.add(name, order)
    return scheduler


def test_nothing_waits() -> None:
    scheduler = Scheduler(1)
    assert scheduler.next(0.0) is None
    assert scheduler.next_at(0.0) is None
    assert (scheduler.waiting, scheduler.in_flight, scheduler.full) == (0, 0, False)


def test_admission_is_in_order_up_to_the_cap() -> None:
    scheduler = filled(2, "a", "b", "c")
    assert admitted(scheduler) == ["a", "b"]
    assert (scheduler.full, scheduler.waiting, scheduler.in_flight) == (True, 1, 2)
    assert [name for name in "abc" if scheduler.holds(name)] == ["a", "b"]
    assert scheduler.next(1e9) is None, "time alone frees no slot"
    assert scheduler.next_at(1e9) is None
    scheduler.release("a")
    assert admitted(scheduler) == ["c"]


def test_order_is_the_manifests_not_that_of_adding() -> None:
    scheduler = Scheduler(9)
    for name, order in (("c", 2), ("a", 0), ("b", 1)):
        scheduler.add(name, order)
    assert admitted(scheduler) == ["a", "b", "c"]


def test_a_backoff_keeps_a_job_until_its_moment_and_others_pass_it() -> None:
    scheduler = filled(2, "b")
    scheduler.add("a", -1, not_before=10.0)
    assert admitted(scheduler) == ["b"]
    assert scheduler.next_at(9.9) == 10.0
    assert admitted(scheduler, 9.9) == []
    assert admitted(scheduler, 10.0) == ["a"]


def test_after_its_backoff_a_job_takes_its_old_place() -> None:
    scheduler = filled(1, "x")
    assert admitted(scheduler) == ["x"]
    scheduler.add("first", -1, not_before=5.0)
    scheduler.add("second", 7)
    scheduler.release("x")
    assert admitted(scheduler, 5.0) == ["first"]


def test_the_earliest_backoff_is_the_one_named() -> None:
    scheduler = Scheduler(1)
    scheduler.add("late", 0, not_before=20.0)
    scheduler.add("early", 1, not_before=10.0)
    assert scheduler.next_at(0.0) == 10.0


def test_with_every_slot_taken_a_backoff_is_no_reason_to_wake() -> None:
    scheduler = filled(1, "a")
    admitted(scheduler)
    scheduler.add("b", 1, not_before=5.0)
    assert scheduler.next_at(0.0) is None


def test_what_is_found_in_flight_counts_even_above_the_cap() -> None:
    scheduler = filled(2, "new")
    for name in ("p", "q", "r"):
        scheduler.occupy(name)
    assert admitted(scheduler) == []
    scheduler.release("p")
    assert admitted(scheduler) == []
    scheduler.release("q")
    assert admitted(scheduler) == ["new"]


@pytest.mark.parametrize("times", [1, 2, 5])
def test_occupying_and_releasing_twice_is_once(times: int) -> None:
    scheduler = filled(1, "new")
    for _ in range(times):
        scheduler.occupy("old")
    assert scheduler.holds("old")
    assert scheduler.full
    for _ in range(times):
        scheduler.release("old")
    scheduler.release("never seen")
    assert admitted(scheduler) == ["new"]


def test_a_lowered_cap_binds_admission_and_takes_no_slot_away() -> None:
    scheduler = filled(4, "a", "b", "c", "d", "e")
    assert len(admitted(scheduler)) == 4
    scheduler.cap.throttled(scheduler.in_flight)
    assert (scheduler.cap.working, scheduler.in_flight) == (2, 4)
    for name in "ab":
        scheduler.release(name)
        assert admitted(scheduler) == []
    scheduler.release("c")
    assert admitted(scheduler) == ["e"]


@pytest.mark.parametrize("seed", range(20))
def test_a_long_night_never_passes_the_cap_and_loses_nobody(seed: int) -> None:
    rng = Random(seed)
    names = [f"job{number}" for number in range(40)]
    scheduler = filled(rng.randint(1, 6), *names)
    in_flight: list[str] = []
    ended: list[str] = []
    now = 0.0
    while len(ended) < len(names):
        expected = scheduler.next_at(now)
        before = len(in_flight)
        if (name := scheduler.next(now)) is not None:
            assert expected is not None
            assert expected <= now
            assert name not in in_flight
            in_flight.append(name)
            assert before < scheduler.cap.working, "admitted above the working cap"
            assert [name for name in names if scheduler.holds(name)] == sorted(in_flight, key=names.index)
            scheduler.cap.accepted()
            continue
        assert expected is None or expected > now
        if expected is not None and (not in_flight or rng.random() < 0.3):
            now = expected
        elif in_flight:
            name = in_flight.pop(rng.randrange(len(in_flight)))
            scheduler.release(name)
            if rng.random() < 0.4:
                scheduler.cap.throttled(scheduler.in_flight + 1)
                scheduler.add(name, names.index(name), now + rng.uniform(0.0, 50.0))
            else:
                ended.append(name)
    assert scheduler.waiting == scheduler.in_flight == 0
    assert sorted(ended) == sorted(names)


def test_asking_when_takes_no_slot() -> None:
    """Once the loop asked with `next`, a backoff ran out in between, and a slot was taken that nobody used."""
    scheduler = Scheduler(1)
    scheduler.add("a", 0, 5.0)
    assert scheduler.next_at(4.0) == 5.0
    scheduler.add("b", 1)
    assert scheduler.next_at(6.0) == 6.0
    assert scheduler.next(6.0) == "a"
    assert scheduler.next_at(6.0) is None


# Jobs that go last, and slots of submissions in doubt


def test_a_job_that_is_set_back_goes_after_all_others_until_it_is_restored() -> None:
    scheduler = filled(1, "b", "c")
    scheduler.add_last("a", -1)
    assert scheduler.waiting == 3
    assert scheduler.next(0.0) == "b"
    scheduler.release("b")
    scheduler.restore()
    assert scheduler.next(0.0) == "a", "its place is the old one"
    scheduler.release("a")
    assert scheduler.next(0.0) == "c"


def test_jobs_that_are_set_back_take_turns() -> None:
    scheduler = Scheduler(1)
    for name in "abc":
        scheduler.add_last(name, 0)
    tried = []
    for _ in range(5):
        assert scheduler.next_at(1.0) == 1.0
        [name] = admitted(scheduler, 1.0)
        tried.append(name)
        scheduler.release(name)
        scheduler.add_last(name, 0)
    assert tried == ["a", "b", "c", "a", "b"]


@pytest.mark.parametrize(
    ("limit", "working", "in_doubt", "others", "full"),
    [
        (5, 5, 5, 0, True),  # the user's own cap: a doubt holds its slot
        (5, 5, 4, 0, False),
        (1, 1, 1, 0, True),
        (5, 1, 1, 0, False),  # lowered: the last slot is never a doubt's
        (5, 1, 4, 0, False),
        (5, 1, 5, 0, True),  # but never more than the user allows
        (5, 1, 1, 1, True),
        (5, 2, 1, 0, False),
        (5, 2, 3, 0, False),
        (5, 2, 3, 1, True),
        (5, 3, 1, 1, False),
        (5, 3, 1, 2, True),
    ],
)
def test_doubts_leave_one_slot_of_a_lowered_cap(
    limit: int, working: int, in_doubt: int, others: int, *, full: bool
) -> None:
    scheduler = Scheduler(limit)
    scheduler.cap._size = float(working)
    for number in range(in_doubt):
        scheduler.occupy(f"doubt-{number}", in_doubt=True)
    for number in range(others):
        scheduler.occupy(f"other-{number}")
    assert scheduler.full is full
    scheduler.add("new", 0)
    assert (scheduler.next(0.0) is None) is full


def test_a_doubt_that_is_adopted_holds_its_slot_like_any_other() -> None:
    scheduler = Scheduler(5)
    scheduler.cap._size = 1.0
    scheduler.occupy("a", in_doubt=True)
    assert not scheduler.full
    scheduler.occupy("a")
    assert scheduler.full


# The cap


@pytest.mark.parametrize(
    ("limit", "in_flight", "working"),
    [(8, 8, 4), (8, 5, 2), (8, 3, 1), (8, 1, 1), (8, 0, 1), (1, 1, 1), (2, 9, 1), (100, 64, 32)],
)
def test_throttling_halves_what_is_in_flight_or_allowed(limit: int, in_flight: int, working: int) -> None:
    cap = Cap(limit)
    cap.throttled(in_flight)
    assert cap.working == working


def test_the_cap_creeps_back_one_for_each_round_and_stops_at_the_limit() -> None:
    cap = Cap(8)
    cap.throttled(8)
    seen = []
    for _ in range(40):
        cap.accepted()
        seen.append(cap.working)
    assert seen == sorted(seen)
    assert [seen.index(size) for size in (5, 6, 7, 8)] == [4, 9, 16, 23], "about as many as are allowed, for one more"
    assert seen[-1] == 8


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.integers(1, 200), st.lists(st.none() | st.integers(0, 400), max_size=200))
def test_the_cap_stays_between_one_and_the_limit(limit: int, story: list[int | None]) -> None:
    """None: a submission was accepted. A number: one was throttled, with so many in flight."""
    cap = Cap(limit)
    for in_flight in story:
        before = cap.working
        if in_flight is None:
            cap.accepted()
            assert before <= cap.working <= before + 1
        else:
            cap.throttled(in_flight)
            assert cap.working <= max(1, (before + 1) / 2)
            assert cap.working <= max(1, in_flight / 2)
        assert 1 <= cap.working <= limit == cap.limit


# The pace


def test_without_a_rate_there_is_no_pace() -> None:
    pace = Pace(None)
    for _ in range(1000):
        assert pace.next_at(5.0) == 5.0
        pace.take(5.0)


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
