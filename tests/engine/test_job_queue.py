"""The queue admits jobs in order, after their backoff and never above the cap, and it loses no slot."""

from random import Random

import pytest

from batchrunner.engine import limits
from batchrunner.engine.job_queue import JobQueue
from batchrunner.plan.submission_order import ManifestOrder


class Queue:
    """A queue with its working cap. cap: the user's limit, until a test lowers it."""

    def __init__(self, limit: int) -> None:
        self.jobs = JobQueue(limit)
        self.cap = limit

    def admit(self, now: float = 0.0) -> str | None:
        return self.jobs.next(now, self.cap)

    def admit_at(self, now: float) -> float | None:
        return self.jobs.next_at(now, self.cap)

    @property
    def full(self) -> bool:
        return self.jobs.is_full(self.cap)


def admitted(queue: Queue, now: float = 0.0) -> list[str]:
    names = []
    while (name := queue.admit(now)) is not None:
        names.append(name)
    return names


def filled(limit: int, *names: str) -> Queue:
    queue = Queue(limit)
    for order, name in enumerate(names):
        queue.jobs.add(name, order)
    return queue


def test_an_empty_queue_admits_nothing() -> None:
    queue = Queue(1)
    assert queue.admit(0.0) is None
    assert queue.admit_at(0.0) is None
    assert (queue.jobs.waiting, queue.jobs.in_flight, queue.full) == (0, 0, False)


def test_admission_is_in_order_up_to_the_cap() -> None:
    queue = filled(2, "a", "b", "c")
    assert admitted(queue) == ["a", "b"]
    assert (queue.full, queue.jobs.waiting, queue.jobs.in_flight) == (True, 1, 2)
    assert [name for name in "abc" if queue.jobs.holds(name)] == ["a", "b"]
    assert queue.admit(1e9) is None, "time alone frees no slot"
    assert queue.admit_at(1e9) is None
    queue.jobs.release("a")
    assert admitted(queue) == ["c"]


def test_the_order_is_the_manifests_and_not_that_of_adding() -> None:
    queue = Queue(9)
    for name, order in (("c", 2), ("a", 0), ("b", 1)):
        queue.jobs.add(name, order)
    assert admitted(queue) == ["a", "b", "c"]


def test_a_backoff_delays_a_job_and_others_pass_it() -> None:
    queue = filled(2, "b")
    queue.jobs.add("a", -1, not_before=10.0)
    assert admitted(queue) == ["b"]
    assert queue.admit_at(9.9) == 10.0
    assert admitted(queue, 9.9) == []
    assert admitted(queue, 10.0) == ["a"]


def test_after_its_backoff_a_job_has_its_old_place() -> None:
    queue = filled(1, "x")
    assert admitted(queue) == ["x"]
    queue.jobs.add("first", -1, not_before=5.0)
    queue.jobs.add("second", 7)
    queue.jobs.release("x")
    assert admitted(queue, 5.0) == ["first"]


def test_the_earliest_backoff_is_reported() -> None:
    queue = Queue(1)
    queue.jobs.add("late", 0, not_before=20.0)
    queue.jobs.add("early", 1, not_before=10.0)
    assert queue.admit_at(0.0) == 10.0


def test_with_every_slot_taken_a_backoff_is_no_reason_to_wake() -> None:
    queue = filled(1, "a")
    admitted(queue)
    queue.jobs.add("b", 1, not_before=5.0)
    assert queue.admit_at(0.0) is None


def test_generations_found_in_flight_count_even_above_the_cap() -> None:
    queue = filled(2, "new")
    for name in ("p", "q", "r"):
        queue.jobs.occupy(name)
    assert admitted(queue) == []
    queue.jobs.release("p")
    assert admitted(queue) == []
    queue.jobs.release("q")
    assert admitted(queue) == ["new"]


@pytest.mark.parametrize("times", [1, 2, 5])
def test_occupying_and_releasing_twice_counts_once(times: int) -> None:
    queue = filled(1, "new")
    for _ in range(times):
        queue.jobs.occupy("old")
    assert queue.jobs.holds("old")
    assert queue.full
    for _ in range(times):
        queue.jobs.release("old")
    queue.jobs.release("never seen")
    assert admitted(queue) == ["new"]


def test_a_lowered_cap_limits_admission_and_takes_no_slot_away() -> None:
    queue = filled(4, "a", "b", "c", "d", "e")
    assert len(admitted(queue)) == 4
    queue.cap = 2
    for name in "ab":
        queue.jobs.release(name)
        assert admitted(queue) == []
    queue.jobs.release("c")
    assert admitted(queue) == ["e"]


@pytest.mark.parametrize("seed", range(20))
def test_a_long_run_never_exceeds_the_cap_and_loses_no_job(seed: int) -> None:
    rng = Random(seed)
    names = [f"job{number}" for number in range(40)]
    queue = filled(rng.randint(1, 6), *names)
    limit, allowance = queue.cap, limits.NO_LIMIT
    in_flight: list[str] = []
    ended: list[str] = []
    now = 0.0
    while len(ended) < len(names):
        expected = queue.admit_at(now)
        before = len(in_flight)
        if (name := queue.admit(now)) is not None:
            assert expected is not None
            assert expected <= now
            assert name not in in_flight
            in_flight.append(name)
            assert before < queue.cap, "admitted above the working cap"
            assert [name for name in names if queue.jobs.holds(name)] == sorted(in_flight, key=names.index)
            allowance = limits.allowance_after_acceptance(allowance)
            queue.cap = limits.working_cap(limit, allowance)
            continue
        assert expected is None or expected > now
        if expected is not None and (not in_flight or rng.random() < 0.3):
            now = expected
        elif in_flight:
            name = in_flight.pop(rng.randrange(len(in_flight)))
            queue.jobs.release(name)
            if rng.random() < 0.4:
                allowance = limits.allowance_after_throttling(limit, allowance, queue.jobs.in_flight + 1)
                queue.cap = limits.working_cap(limit, allowance)
                queue.jobs.add(name, names.index(name), now + rng.uniform(0.0, 50.0))
            else:
                ended.append(name)
    assert queue.jobs.waiting == queue.jobs.in_flight == 0
    assert sorted(ended) == sorted(names)


def test_asking_for_the_next_time_takes_no_slot() -> None:
    """The loop once asked with `next`: a backoff ended in between, and a slot was taken that no job used."""
    queue = Queue(1)
    queue.jobs.add("a", 0, 5.0)
    assert queue.admit_at(4.0) == 5.0
    queue.jobs.add("b", 1)
    assert queue.admit_at(6.0) == 6.0
    assert queue.admit(6.0) == "a"
    assert queue.admit_at(6.0) is None


def test_the_upcoming_job_is_the_next_one_and_stays() -> None:
    queue = filled(1, "b")
    assert queue.jobs.upcoming(0.0) == "b"
    queue.jobs.add("a", -1, 5.0)
    queue.jobs.add_last("c", 0)
    assert [queue.jobs.upcoming(4.0), queue.jobs.upcoming(5.0)] == ["b", "a"]
    assert queue.jobs.waiting == 3
    assert admitted(queue, 5.0) == ["a"]
    queue.jobs.release("a")
    assert admitted(queue, 5.0) == ["b"]
    assert queue.jobs.upcoming(5.0) == "c"
    assert Queue(1).jobs.upcoming(0.0) is None


def test_another_order_takes_over_all_jobs_that_are_ready() -> None:
    queue = Queue(9)
    queue.jobs.add_all([(2, "c"), (0, "a")])
    queue.jobs.add("b", 1)
    queue.jobs.reorder(ManifestOrder())
    assert queue.jobs.waiting == 3
    assert admitted(queue) == ["a", "b", "c"]


# Jobs that go last, and slots of jobs in doubt


def test_a_deferred_job_goes_after_all_others_until_it_is_restored() -> None:
    queue = filled(1, "b", "c")
    queue.jobs.add_last("a", -1)
    assert queue.jobs.waiting == 3
    assert queue.admit(0.0) == "b"
    queue.jobs.release("b")
    queue.jobs.restore()
    assert queue.admit(0.0) == "a", "its place is the old one"
    queue.jobs.release("a")
    assert queue.admit(0.0) == "c"


def test_deferred_jobs_take_turns() -> None:
    queue = Queue(1)
    for name in "abc":
        queue.jobs.add_last(name, 0)
    admissions = []
    for _ in range(5):
        assert queue.admit_at(1.0) == 1.0
        [name] = admitted(queue, 1.0)
        admissions.append(name)
        queue.jobs.release(name)
        queue.jobs.add_last(name, 0)
    assert admissions == ["a", "b", "c", "a", "b"]


@pytest.mark.parametrize(
    ("limit", "working", "in_doubt", "others", "full"),
    [
        (5, 5, 5, 0, True),  # the user's own cap: a job in doubt keeps its slot
        (5, 5, 4, 0, False),
        (1, 1, 1, 0, True),
        (5, 1, 1, 0, False),  # lowered: the last slot is never one in doubt
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
def test_jobs_in_doubt_leave_one_slot_of_a_lowered_cap(
    limit: int, working: int, in_doubt: int, others: int, *, full: bool
) -> None:
    queue = Queue(limit)
    queue.cap = working
    for number in range(in_doubt):
        queue.jobs.occupy(f"doubt-{number}", in_doubt=True)
    for number in range(others):
        queue.jobs.occupy(f"other-{number}")
    assert queue.full is full
    queue.jobs.add("new", 0)
    assert (queue.admit(0.0) is None) is full


def test_an_adopted_job_in_doubt_keeps_its_slot_like_any_other() -> None:
    queue = Queue(5)
    queue.cap = 1
    queue.jobs.occupy("a", in_doubt=True)
    assert not queue.full
    queue.jobs.occupy("a")
    assert queue.full
