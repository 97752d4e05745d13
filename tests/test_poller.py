"""Due times: each generation has one, stale ones are dropped, polls of one burst spread out."""

from random import Random

import pytest

from batchrunner.poller import Poller


class Middle:
    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def make() -> Poller:
    return Poller(10.0, Middle())


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


def test_the_interval_comes_after_a_look() -> None:
    poller = make()
    poller.after_a_look("a", 100.0)
    assert poller.next_due == 110.0


def test_a_burst_spreads_by_a_tenth_either_way() -> None:
    poller = Poller(10.0, Random(1))
    for number in range(200):
        poller.after_a_look(f"g{number}", 0.0)
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
