"""Doubts: searched for soon, then ever less often, in time for each slot, and once more at the end."""

from batchrunner.doubts import Doubts


def make() -> Doubts:
    return Doubts(15.0, 600.0)


def searched(doubts: Doubts, now: float, *adopted: str) -> list[str]:
    assert doubts.start_review(now, at_the_end=False)
    return doubts.reviewed(adopted, now)


def test_without_doubts_there_is_nothing_to_search_for() -> None:
    doubts = make()
    assert list(doubts) == []
    assert doubts.review_at is None
    assert not doubts.start_review(1e9, at_the_end=False)
    assert not doubts.start_review(1e9, at_the_end=True)


def test_the_first_search_comes_soon_and_the_later_ones_at_growing_waits() -> None:
    doubts, moments = make(), []
    doubts.add("a", 1e9, 0.0)
    assert not doubts.start_review(14.9, at_the_end=False)
    for _ in range(9):
        assert doubts.review_at is not None
        moments.append(doubts.review_at)
        assert searched(doubts, doubts.review_at) == []
    waits = [b - a for a, b in zip([0.0, *moments], moments, strict=False)]
    assert waits == [15.0, 15.0, 30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0]


def test_a_doubt_at_the_loops_beginning_is_searched_for_too() -> None:
    """Zero is a moment like any other."""
    doubts = make()
    doubts.found("old", 0.0, 0.0)
    doubts.add("new", 1800.0, 0.0)
    assert doubts.review_at == 0.0
    assert searched(doubts, 0.0) == ["old"]


def test_one_of_an_earlier_run_is_searched_for_at_once() -> None:
    doubts = make()
    doubts.found("old", 700.0, 100.0)
    assert doubts.review_at == 100.0


def test_only_one_search_at_a_time() -> None:
    doubts = make()
    doubts.add("a", 1800.0, 0.0)
    assert doubts.start_review(15.0, at_the_end=False)
    assert not doubts.start_review(1e9, at_the_end=False), "none is due while one is under way"


def test_doubts_that_keep_coming_do_not_put_a_search_off() -> None:
    """Once each new doubt set the moment anew: in a bad night no search was ever made, and no slot came free."""
    doubts = make()
    for second in range(0, 60, 5):
        doubts.add(f"d{second}", 1800.0 + second, float(second))
    assert doubts.review_at == 15.0
    searched(doubts, 15.0)
    assert doubts.review_at == 30.0
    doubts.add("late", 1900.0, 29.0)
    assert doubts.review_at == 30.0


def test_a_new_doubt_brings_the_next_search_nearer() -> None:
    doubts = make()
    doubts.add("a", 1e9, 0.0)
    for _ in range(6):
        assert doubts.review_at is not None
        searched(doubts, now := doubts.review_at)
    assert doubts.review_at == now + 480.0
    doubts.add("b", 1e9, now + 1.0)
    assert doubts.review_at == now + 16.0


def test_what_is_found_is_a_doubt_no_more() -> None:
    doubts = make()
    for name in "abc":
        doubts.add(name, 1e9, 0.0)
    searched(doubts, 15.0, "a", "c")
    assert list(doubts) == ["b"]
    searched(doubts, 30.0, "b")
    assert list(doubts) == []
    assert doubts.review_at is None


def test_a_slot_is_held_until_its_time_and_not_until_some_later_search() -> None:
    """The user was told: 30 minutes at most."""
    doubts = make()
    freed: list[tuple[str, float]] = []
    doubts.add("a", 1800.0, 0.0)
    doubts.add("b", 1810.0, 10.0)
    for _ in range(20):
        assert doubts.review_at is not None
        now = doubts.review_at
        for name in searched(doubts, now):
            if name not in dict(freed):
                freed.append((name, now))
    assert freed == [("a", 1800.0), ("b", 1810.0)]
    assert sorted(doubts) == ["a", "b"], "it is still searched for"


def test_one_more_search_when_nothing_else_is_left_to_do() -> None:
    doubts = make()
    doubts.submitted()
    doubts.add("a", 1800.0, 0.0)
    assert doubts.start_review(1.0, at_the_end=True)
    doubts.reviewed([], 1.0)
    assert not doubts.start_review(2.0, at_the_end=True), "once"
    doubts.submitted()
    doubts.add("b", 1800.0, 3.0)
    assert doubts.start_review(3.0, at_the_end=True)
