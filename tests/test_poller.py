"""Due times: each generation has one, stale ones are dropped, looks of one burst spread out; and what looks teach."""

from dataclasses import replace
from random import Random

import pytest

from batchrunner.durations import Course, Durations
from batchrunner.job import Attempt, Record, State
from batchrunner.poller import ENOUGH, Poller
from tests.conftest import make_job


class Middle:
    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def make() -> Poller:
    return Poller(10.0, Middle(), {})


def test_empty() -> None:
    poller = make()
    assert len(poller) == 0
    assert poller.next_due is None
    assert poller.pop(1e9) is None


def test_due_ones_come_earliest_first_and_only_once() -> None:
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


def test_the_interval_comes_after_a_look() -> None:
    poller = make()
    poller.after_a_look(in_flight("a"), 100.0)
    assert poller.next_due == 110.0


def test_a_burst_spreads_by_a_tenth_either_way() -> None:
    poller = Poller(10.0, Random(1), {})
    for number in range(200):
        poller.after_a_look(in_flight(f"g{number}"), 0.0)
    moments = []
    while (due := poller.next_due) is not None:
        moments.append(due)
        poller.pop(due)
    assert len(moments) == 200
    assert moments == sorted(moments)
    assert 9.0 <= moments[0] < 9.2
    assert 10.8 < moments[-1] <= 11.0


@pytest.mark.parametrize("seed", range(10))
def test_it_agrees_with_a_plain_dictionary(seed: int) -> None:
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


def test_clearing_forgets_all_and_says_whose_they_were() -> None:
    poller = make()
    for name, due in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        poller.at(name, due)
    assert poller.clear() == ["a", "b"]
    assert (len(poller), poller.next_due, poller.pop(1e9), poller.clear()) == (0, None, None, [])


def test_after_clearing_an_old_due_time_does_not_come_back() -> None:
    poller = make()
    poller.at("a", 1.0)
    poller.clear()
    poller.at("a", 5.0)
    assert poller.next_due == 5.0
    assert poller.pop(4.0) is None
    poller.clear()
    poller.at("a", 5.0)  # twice in the heap, once to be looked at
    assert [poller.pop(9.0), poller.pop(9.0)] == ["a", None]


# What looks teach


class World:
    """Generations that take `took_s` after `queued_s` in the queue, one after the other."""

    def __init__(self, known: dict[Course, Durations] | None = None) -> None:
        self.durations = known if known is not None else {}
        self.poller = Poller(10.0, Random(1), self.durations)
        self.now = 0.0

    def live(self, took_s: float, queued_s: float = 0.0, resolution: str = "480p") -> list[float]:
        """Looks, s after the acceptance; the last one sees it complete."""
        record, began, looks = in_flight("a", resolution), self.now, list[float]()
        self.poller.after_a_look(record, began, first=True)
        while True:
            due = self.poller.next_due
            assert due is not None
            self.now = due
            self.poller.pop(due)
            looks.append(due - began)
            if looks[-1] >= queued_s + took_s:
                self.poller.heed(record.with_attempt(completed_at=due), due)
                return looks
            if looks[-1] >= queued_s:
                record = record.with_attempt(generating_at=due)
            self.poller.after_a_look(record, due)


def course(resolution: str = "480p", *, queued: bool = False) -> Course:
    job = make_job(resolution=resolution)
    return (job.model, resolution), queued


def test_until_a_handful_is_known_the_interval_is_kept() -> None:
    world = World()
    for _ in range(ENOUGH):
        looks = world.live(55.0)
        assert len(looks) == 6
        assert all(9.0 <= after - before <= 11.0 for before, after in zip([0.0, *looks], looks, strict=False))


def test_then_it_looks_when_completion_is_likely() -> None:
    world = World()
    for _ in range(30):
        looks = world.live(55.0)
    unseen = [world.live(55.0)[-1] - 55.0 for _ in range(30)]
    assert sum(unseen) / 30 < 3.0, "5 with the interval"
    assert len(looks) <= 7


def test_each_kind_has_its_own() -> None:
    world = World()
    for _ in range(20):
        world.live(20.0)
        world.live(200.0, resolution="720p")
    assert set(world.durations) == {course(), course("720p")}
    assert sum(world.live(20.0)[-1] for _ in range(10)) / 10 < 24


def test_what_was_queued_counts_from_the_end_of_the_queue() -> None:
    world, rng = World(), Random(2)
    for _ in range(40):
        world.live(55.0, rng.uniform(30, 600))
    spans = world.durations[course(queued=True)].spans
    assert len(spans) == 40
    assert all(after_s - 11 <= 55 <= by_s + 11 for after_s, by_s in spans)
    looks = world.live(55.0, 200.0)
    waits = [after - before for before, after in zip([0.0, *looks], looks, strict=False) if after < 200]
    assert all(9.0 <= wait <= 11.0 for wait in waits), "in the queue, the interval"


def test_what_is_known_beforehand_is_used_at_once_and_added_to() -> None:
    known = {course(): Durations([(50.0, 56.0)] * 30)}
    world = World(known)
    assert world.live(55.0)[0] > 15
    assert len(known[course()].spans) == 31


@pytest.mark.parametrize("state", [State.FAILED, State.PENDING, State.SUCCEEDED])
def test_only_what_is_seen_complete_is_learned_from(state: State) -> None:
    world = World()
    world.poller.after_a_look(in_flight("a"), 0.0, first=True)
    world.poller.heed(replace(in_flight("a"), state=state), 50.0)
    world.poller.heed(in_flight("a").with_attempt(completed_at=60.0), 60.0)
    assert not world.durations


def test_what_an_earlier_run_had_begun_is_not_learned_from() -> None:
    world = World()
    world.poller.at("a", 0.0)
    world.poller.after_a_look(in_flight("a"), 0.0)
    world.poller.heed(in_flight("a").with_attempt(completed_at=60.0), 60.0)
    assert not world.durations


def test_it_counts_once_however_often_its_link_is_fetched() -> None:
    world = World()
    done = in_flight("a").with_attempt(completed_at=60.0)
    world.poller.after_a_look(in_flight("a"), 0.0, first=True)
    for now in (60.0, 80.0, 100.0):
        world.poller.heed(done, now)
        world.poller.after_a_look(done, now)
    assert list(world.durations[course()].spans) == [(0.0, 60.0)]
