"""Admission: in order, after its backoff, never above the cap; and a slot is never lost."""

from random import Random

import pytest

from batchrunner.scheduler import IDLE, Admit, Scheduler, WaitUntil


def admitted(scheduler: Scheduler, now: float = 0.0) -> list[str]:
    names = []
    while isinstance(step := scheduler.next(now), Admit):
        names.append(step.fingerprint)
    return names


def filled(cap: int, *names: str) -> Scheduler:
    scheduler = Scheduler(cap)
    for order, name in enumerate(names):
        scheduler.add(name, order)
    return scheduler


def test_nothing_waits() -> None:
    assert Scheduler(1).next(0.0) is IDLE


def test_admission_is_in_order_up_to_the_cap() -> None:
    scheduler = filled(2, "a", "b", "c")
    assert admitted(scheduler) == ["a", "b"]
    assert (scheduler.full, scheduler.waiting) == (True, 1)
    assert [name for name in "abc" if scheduler.holds(name)] == ["a", "b"]
    assert scheduler.next(1e9) is IDLE, "time alone frees no slot"
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
    assert scheduler.next(9.9) == WaitUntil(10.0)
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
    assert scheduler.next(0.0) == WaitUntil(10.0)


def test_with_every_slot_taken_a_backoff_is_no_reason_to_wake() -> None:
    scheduler = filled(1, "a")
    admitted(scheduler)
    scheduler.add("b", 1, not_before=5.0)
    assert scheduler.next(0.0) is IDLE


def test_what_is_found_in_flight_counts_even_above_the_cap() -> None:
    scheduler = filled(2, "new")
    for name in ("p", "q", "r"):
        scheduler.occupy(name)
    assert scheduler.next(0.0) is IDLE
    scheduler.release("p")
    assert scheduler.next(0.0) is IDLE
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


@pytest.mark.parametrize("seed", range(20))
def test_a_long_night_never_passes_the_cap_and_loses_nobody(seed: int) -> None:
    rng = Random(seed)
    cap = rng.randint(1, 6)
    names = [f"job{number}" for number in range(40)]
    scheduler = filled(cap, *names)
    in_flight: list[str] = []
    ended: list[str] = []
    now = 0.0
    while len(ended) < len(names):
        step = scheduler.next(now)
        if isinstance(step, Admit):
            assert step.fingerprint not in in_flight
            in_flight.append(step.fingerprint)
            assert len(in_flight) <= cap
            assert [name for name in names if scheduler.holds(name)] == sorted(in_flight, key=names.index)
            assert scheduler.full == (len(in_flight) == cap)
            continue
        if isinstance(step, WaitUntil):
            assert step.at > now
            now = step.at if not in_flight or rng.random() < 0.3 else now
        if in_flight:
            name = in_flight.pop(rng.randrange(len(in_flight)))
            scheduler.release(name)
            if rng.random() < 0.4:
                scheduler.add(name, names.index(name), now + rng.uniform(0.0, 50.0))
            else:
                ended.append(name)
    assert scheduler.waiting == 0
    assert not any(scheduler.holds(name) for name in names)
    assert sorted(ended) == sorted(names)


def test_asking_when_takes_no_slot() -> None:
    """Once the loop asked with `next`, a backoff ran out in between, and a slot was taken that nobody used."""
    scheduler = Scheduler(1)
    scheduler.add("a", 0, 5.0)
    assert scheduler.next_at(4.0) == 5.0
    scheduler.add("b", 1)
    assert scheduler.next_at(6.0) == 6.0
    assert isinstance(scheduler.next(6.0), Admit)
    assert scheduler.next_at(6.0) is None
