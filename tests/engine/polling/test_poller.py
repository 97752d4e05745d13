"""Due times of generations: one each, without stale ones, spread out; and learning from polls."""

from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest

from batchrunner.engine.polling.duration_model import KEPT, DurationKey, Durations
from batchrunner.engine.polling.poll_schedule import SHORTEST
from batchrunner.engine.polling.poller import EARLY_PROBES, Poller
from batchrunner.job import Attempt, Record, State
from tests.conftest import make_job


class Middle:
    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def make() -> Poller:
    return Poller(10.0, Middle(), {})


def test_an_empty_poller_has_nothing_due() -> None:
    poller = make()
    assert len(poller) == 0
    assert poller.next_due is None
    assert poller.pop(1e9) is None


def test_due_generations_come_earliest_first_and_once() -> None:
    poller = make()
    for name, due in (("b", 2.0), ("a", 1.0), ("c", 3.0)):
        poller.at(name, due)
    assert poller.next_due == 1.0
    assert poller.pop(0.9) is None
    assert [poller.pop(2.0), poller.pop(2.0), poller.pop(2.0)] == ["a", "b", None]
    assert len(poller) == 1
    assert poller.next_due == 3.0


@pytest.mark.parametrize(("first", "second"), [(5.0, 9.0), (9.0, 5.0), (5.0, 5.0)])
def test_a_new_due_time_replaces_the_old_one(first: float, second: float) -> None:
    poller = make()
    poller.at("a", first)
    poller.at("a", second)
    assert len(poller) == 1
    assert poller.next_due == second
    assert poller.pop(second - 0.1) is None
    assert poller.pop(second) == "a"
    assert poller.pop(1e9) is None
    assert poller.next_due is None


def in_flight(name: str, resolution: str = "480p") -> Record:
    job = replace(make_job(resolution=resolution), fingerprint=name)
    return Record(job, State.IN_FLIGHT, (Attempt(1, name, 0.0, accepted_at=0.0),))


def test_the_next_poll_is_one_interval_later() -> None:
    poller = make()
    poller.after_poll(in_flight("a"), 100.0)
    assert poller.next_due == 110.0


def test_a_burst_spreads_by_a_tenth_in_both_directions() -> None:
    poller = Poller(10.0, Random(1), {})
    for number in range(200):
        poller.after_poll(in_flight(f"g{number}"), 0.0)
    moments = []
    while (due := poller.next_due) is not None:
        moments.append(due)
        poller.pop(due)
    assert len(moments) == 200
    assert moments == sorted(moments)
    assert 9.0 <= moments[0] < 9.2
    assert 10.8 < moments[-1] <= 11.0


@pytest.mark.parametrize("seed", range(10))
def test_the_poller_agrees_with_a_plain_dictionary(seed: int) -> None:
    rng, poller, model, now = Random(seed), make(), dict[str, float](), 0.0
    for _ in range(400):
        if rng.random() < 0.5:
            name, due = f"g{rng.randrange(12)}", now + rng.randrange(20)
            poller.at(name, due)
            model[name] = due
        else:
            now += rng.randrange(4)
            popped = poller.pop(now)
            earliest = min(model.values(), default=1e9)
            if popped is None:
                assert earliest > now
            else:
                assert model.pop(popped) == earliest <= now
        assert poller.next_due == min(model.values(), default=None)
        assert len(poller) == len(model)


def test_clearing_removes_all_and_returns_their_jobs() -> None:
    poller = make()
    for name, due in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        poller.at(name, due)
    assert poller.clear() == ["a", "b"]
    assert (len(poller), poller.next_due, poller.pop(1e9), poller.clear()) == (0, None, None, [])


def test_after_clearing_an_old_due_time_does_not_return() -> None:
    poller = make()
    poller.at("a", 1.0)
    poller.clear()
    poller.at("a", 5.0)
    assert poller.next_due == 5.0
    assert poller.pop(4.0) is None
    poller.clear()
    poller.at("a", 5.0)  # twice in the heap, polled once
    assert [poller.pop(9.0), poller.pop(9.0)] == ["a", None]


# Learning from polls


class World:
    """Generations that take `took_s` after `queued_s` in the queue, one after the other."""

    def __init__(self, known: dict[DurationKey, Durations] | None = None) -> None:
        self.durations = known if known is not None else {}
        self.poller = Poller(10.0, Random(1), self.durations)
        self.now = 0.0

    def live(self, took_s: float, queued_s: float = 0.0, resolution: str = "480p") -> list[float]:
        """Return the times of polls in s after the acceptance; the last one finds it complete."""
        record, began, polls = in_flight("a", resolution), self.now, list[float]()
        self.poller.after_poll(record, began, first=True)
        while True:
            due = self.poller.next_due
            assert due is not None
            self.now = due
            self.poller.pop(due)
            polls.append(due - began)
            if polls[-1] >= queued_s + took_s:
                self.poller.observe(record.with_attempt(completed_at=due), due)
                return polls
            if polls[-1] >= queued_s:
                record = record.with_attempt(generating_at=due)
            self.poller.after_poll(record, due)


def key(resolution: str = "480p", *, queued: bool = False) -> DurationKey:
    job = make_job(resolution=resolution)
    return (job.model, resolution), queued


def begun(poller: Poller, count: int, now: float = 0.0) -> list[float]:
    """Accept this many now; return their due times, in order."""
    for number in range(count):
        poller.after_poll(in_flight(f"g{number}"), now, first=True)
    return [poller._due[f"g{number}"] for number in range(count)]


def test_the_first_generations_of_an_unknown_kind_are_polled_early_at_different_ages() -> None:
    poller = make()
    dues = begun(poller, EARLY_PROBES + 20)
    assert dues[:EARLY_PROBES] == sorted(dues[:EARLY_PROBES])
    assert SHORTEST * 10 < dues[0] < 2
    assert all(after > 1.2 * before for before, after in pairwise(dues[:EARLY_PROBES]))
    assert dues[EARLY_PROBES - 1 :] == [10.0] * 21
    poller.pop(2.0)
    poller.after_poll(in_flight("g0"), 2.0)
    assert poller._due["g0"] == 12.0, "and then once an interval"


def test_the_first_completion_reschedules_all_others() -> None:
    poller = make()
    begun(poller, 500)
    poller.at("g3", 99.0)  # by another component, as after a failed poll
    done = poller.pop(2.0)
    assert done == "g0"
    poller.observe(in_flight("g0").with_attempt(completed_at=1.3), 1.3)
    dues = [poller._due[f"g{number}"] for number in range(1, 500)]
    assert dues.pop(2) == 99.0
    assert all(1.3 <= due <= 5 for due in dues), "instead of ten"
    assert len(poller) == 499


def test_a_completed_generation_does_not_count_as_running() -> None:
    """It may have been complete for a long time."""
    poller = make()
    begun(poller, 50)
    poller.pop(2.0)
    poller.observe(in_flight("g0").with_attempt(completed_at=9.0), 9.0)
    assert poller._plans[key()].schedule._late_s < 15


def test_due_times_are_rarely_recomputed() -> None:
    """Each time, a thousand in flight cost a thousand new due times."""
    poller, due = Poller(10.0, Random(1), {}), list[int]()
    begun(poller, 1000)
    for number in range(600):
        poller._due.pop(f"g{number}")
        before = len(poller._heap)
        poller.observe(in_flight(f"g{number}").with_attempt(completed_at=9.0), 9.0)
        if len(poller._heap) > before:
            due.append(number + 1)
    assert due == [1, 2, 4, 8, 16, 32, 64, 128, 256]


def test_due_times_within_a_second_are_not_recomputed() -> None:
    """A service that answers at once has bursts of equal durations, which look like changes."""
    poller, schedules = Poller(0.1, Random(1), {}), set[int]()
    begun(poller, 1000)
    running = in_flight("g999").with_attempt(generating_at=0.0)
    for number in range(600):
        now = 0.001 * number
        poller._due.pop(f"g{number}")
        before = len(poller._heap)
        poller.observe(in_flight(f"g{number}").with_attempt(completed_at=now), now)
        assert len(poller._heap) == before
        poller.after_poll(running, now)
        schedules.add(poller._plans[key()].known)
    assert schedules == {1}
    poller.after_poll(running, 1.1)
    assert poller._plans[key()].known == KEPT, "a second later, all that was learned counts"


def test_a_change_recomputes_the_due_times() -> None:
    known = {key(): Durations([(50.0, 56.0)] * 100)}
    poller = Poller(10.0, Middle(), known)
    before = begun(poller, 40)
    for number in range(5):
        poller._due.pop(f"g{number}")
        poller.observe(in_flight(f"g{number}").with_attempt(completed_at=5.0), 5.0)
    assert len(known[key()].spans) == 5
    assert min(before) > 15
    assert max(poller._due.values()) < 10


def test_later_generations_are_polled_when_completion_is_likely() -> None:
    world = World()
    for _ in range(30):
        polls = world.live(55.0)
    unseen = [world.live(55.0)[-1] - 55.0 for _ in range(30)]
    assert sum(unseen) / 30 < 3.0, "5 with the interval"
    assert len(polls) <= 7


def test_each_kind_has_its_own_durations() -> None:
    world = World()
    for _ in range(20):
        world.live(20.0)
        world.live(200.0, resolution="720p")
    assert set(world.durations) == {key(), key("720p")}
    assert sum(world.live(20.0)[-1] for _ in range(10)) / 10 < 24


def test_a_queued_generation_counts_from_the_end_of_its_queue_time() -> None:
    world, rng = World(), Random(2)
    for _ in range(40):
        world.live(55.0, rng.uniform(30, 600))
    spans = world.durations[key(queued=True)].spans
    assert len(spans) == 40
    assert all(after_s - 11 <= 55 <= by_s + 11 for after_s, by_s in spans)
    polls = world.live(55.0, 200.0)
    waits = [after - before for before, after in zip([0.0, *polls], polls, strict=False) if after < 200]
    assert all(9.0 <= wait <= 11.0 for wait in waits), "in the queue, the interval"


def test_earlier_durations_are_used_at_once_and_extended() -> None:
    known = {key(): Durations([(50.0, 56.0)] * 30)}
    world = World(known)
    assert world.live(55.0)[0] > 13, "instead of ten at most"
    assert len(known[key()].spans) == 31


@pytest.mark.parametrize("state", [State.FAILED, State.PENDING, State.SUCCEEDED])
def test_only_observed_completions_are_learned(state: State) -> None:
    world = World()
    world.poller.after_poll(in_flight("a"), 0.0, first=True)
    world.poller.observe(replace(in_flight("a"), state=state), 50.0)
    world.poller.observe(in_flight("a").with_attempt(completed_at=60.0), 60.0)
    assert not world.durations


def test_generations_of_an_earlier_run_are_not_learned() -> None:
    world = World()
    world.poller.at("a", 0.0)
    world.poller.after_poll(in_flight("a"), 0.0)
    world.poller.observe(in_flight("a").with_attempt(completed_at=60.0), 60.0)
    assert not world.durations


def test_a_generation_counts_once_even_if_its_link_is_requested_again() -> None:
    world = World()
    done = in_flight("a").with_attempt(completed_at=60.0)
    world.poller.after_poll(in_flight("a"), 0.0, first=True)
    for now in (60.0, 80.0, 100.0):
        world.poller.observe(done, now)
        world.poller.after_poll(done, now)
    assert list(world.durations[key()].spans) == [(0.0, 60.0)]
