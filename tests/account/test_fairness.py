"""Which batch gets the next slot of the account."""

from batchrunner.account.fairness import Waiting, ahead_of


def test_the_batch_with_fewer_slots_goes_first() -> None:
    own, other = Waiting("a", 0, 3, 1.0), Waiting("b", 0, 2, 9.0)
    assert ahead_of(own, [other]) == ["b"]
    assert ahead_of(other, [own]) == []


def test_among_equal_batches_the_longer_wait_decides() -> None:
    own, other = Waiting("a", 0, 2, 5.0), Waiting("b", 0, 2, 4.0)
    assert ahead_of(own, [other]) == ["b"]


def test_priority_decides_before_all_else() -> None:
    own, other = Waiting("a", 0, 0, 1.0), Waiting("b", 1, 7, 9.0)
    assert ahead_of(own, [other]) == ["b"]


def test_of_two_batches_exactly_one_goes_first() -> None:
    own, other = Waiting("a", 0, 2, 4.0), Waiting("b", 0, 2, 4.0)
    assert len(ahead_of(own, [other])) + len(ahead_of(other, [own])) == 1
