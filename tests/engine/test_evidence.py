"""Evidence: what the service's log proves about a submission that it lacks, by the service's own times only."""

import pytest

from batchrunner.engine.evidence import SEARCHED, Evidence, Finished, is_disproved, plausible_s
from batchrunner.job import Attempt, TimelineEvent
from batchrunner.providers.base import Submissions

AT = 1_800_000_000.0
PLAUSIBLE_S = 1800.0
DAY_S = 86_400.0


def disproved(now_s: float, *later: tuple[float, float]) -> bool:
    """A submission accepted at time 0 at the latest, and later ones: when they were made, and when first listed."""
    others = [Finished(AT + created_s, AT + listed_s) for created_s, listed_s in later]
    return is_disproved(AT, AT + now_s, PLAUSIBLE_S, others)


def test_time_alone_proves_nothing() -> None:
    assert not disproved(1e7)


def test_a_later_finished_one_proves_it_after_the_longest_plausible_time_and_the_lag_of_the_log() -> None:
    assert not disproved(PLAUSIBLE_S, (10.0, 70.0))
    assert not disproved(PLAUSIBLE_S + 59.0, (10.0, 70.0))
    assert disproved(PLAUSIBLE_S + 60.0, (10.0, 70.0))


def test_the_slowest_row_gives_the_lag_of_the_log() -> None:
    assert not disproved(PLAUSIBLE_S + 500.0, (10.0, 70.0), (20.0, 7220.0))
    assert disproved(PLAUSIBLE_S + 7200.0, (10.0, 70.0), (20.0, 7220.0))


def test_an_unobserved_lag_counts_as_three_hours() -> None:
    """The next day's run finds rows that have been there for long, which does not mean that the log is slow."""
    assert not disproved(PLAUSIBLE_S + 3 * 3600 - 1, (10.0, 86_400.0))
    assert disproved(PLAUSIBLE_S + 3 * 3600, (10.0, 86_400.0))


def test_one_made_after_the_longest_plausible_time_proves_it_however_late_the_log_is() -> None:
    assert disproved(9_000.0, (PLAUSIBLE_S, 9_000.0), (10.0, 9_000.0))
    assert not disproved(9_000.0, (PLAUSIBLE_S - 1, 9_000.0), (10.0, 9_000.0))


@pytest.mark.parametrize(("seen", "expected"), [([], 1800.0), ([60.0], 1800.0), ([60.0, 400.0], 4000.0)])
def test_the_longest_plausible_time_follows_from_the_durations(seen: list[float], expected: float) -> None:
    assert plausible_s(seen, 1800.0) == expected


# Searches

LOST = Attempt(1, "lost", submitted_at=0.0)  # the wall clock of this machine is wrong
NEXT = Attempt(1, "next", submitted_at=5.0)


def listed(now: float | None, *, created: bool = True, reaches_back_s: float = 7 * DAY_S) -> Submissions:
    """Make a list without the submission, `now` seconds after it."""
    return Submissions(
        {},
        requests=frozenset({"next"}),
        finished=frozenset({"next"}),
        created={"next": AT + 30.0} if created else {},
        now=None if now is None else AT + now,
        reaches_back_s=reaches_back_s,
    )


def searches(*lists: Submissions, timeline: tuple[TimelineEvent, ...] = ()) -> bool:
    """Return whether the last of these lists disproves it; it was new at the first one."""
    evidence = Evidence(timeline)
    for listing in lists:
        evidence.searched("lost", 1.0, 10.0, listing)
        evidence.finished(listing)
    return evidence.disproves(LOST, [LOST, NEXT], lists[-1], PLAUSIBLE_S)


def test_the_clock_of_the_service_disproves_it() -> None:
    assert not searches(listed(1.0))
    assert not searches(listed(1.0), listed(PLAUSIBLE_S))
    assert searches(listed(1.0), listed(PLAUSIBLE_S + 100.0))


def test_without_usable_times_of_the_service_nothing_is_disproved() -> None:
    assert not searches(listed(None), listed(None))
    assert not searches(listed(1.0), listed(None))
    assert not searches(listed(1.0, created=False), listed(9 * 3600.0, created=False))


def test_the_time_counts_from_the_first_search_without_it() -> None:
    """Its submission time is known by this machine's clock only."""
    assert not searches(listed(9 * 3600.0))
    assert searches(listed(9 * 3600.0), listed(9 * 3600.0 + PLAUSIBLE_S + 3 * 3600.0 + 100.0))


def test_a_list_that_does_not_reach_back_to_it_disproves_nothing() -> None:
    assert not searches(listed(1.0), listed(DAY_S, reaches_back_s=3600.0))
    assert searches(listed(1.0), listed(DAY_S))


def test_a_later_run_counts_from_the_search_of_the_earlier_one() -> None:
    kept = Evidence().searched("lost", 1.0, 10.0, listed(1.0))
    assert kept is not None
    status, message = kept
    assert "does not list submission lost" in message
    event = TimelineEvent(0.0, SEARCHED, "lost", status, message)
    assert searches(listed(5 * 3600.0), timeline=(event,))
    assert not searches(listed(5 * 3600.0), timeline=(TimelineEvent(0.0, SEARCHED, "lost", "torn", ""),))


def test_a_search_is_stored_once() -> None:
    evidence = Evidence()
    assert evidence.searched("lost", 1.0, 10.0, listed(1.0)) is not None
    assert evidence.searched("lost", 1.0, 10.0, listed(20.0)) is None
