"""An answered poll resets the history of a generation, and another generation starts without one."""

import pytest

from batchrunner.engine.poll_history import PollHistories, PollHistory
from batchrunner.errors import AccountFault, CallError, JobFault, NetworkFault, ServiceFault

MISSING = ServiceFault("unknown_generation", "404", status=404)
FOREIGN = ServiceFault("foreign_reply", "answered with another generation")


def test_the_first_failure_in_a_row_begins_the_time_without_a_usable_reply() -> None:
    history = PollHistory()
    history.failed(NetworkFault("cut", "broke off"), 10.0, own_failures=0)
    history.failed(MISSING, 20.0, own_failures=1)
    history.failed(MISSING, 30.0, own_failures=2)
    assert (history.failing_since, history.missing_since) == (10.0, 20.0)
    history.answered()
    assert (history.failing_since, history.missing_since) == (None, None)


@pytest.mark.parametrize("fault", [JobFault, AccountFault])
def test_refusals_count_only_if_they_are_the_generations_own(fault: type[CallError]) -> None:
    history = PollHistory()
    for own_failures in (1, 1, 2, 2):
        history.failed(fault("bad_request", "400"), 0.0, own_failures)
    assert history.refusals == 2


def test_a_reply_about_another_generation_restarts_the_confirmation() -> None:
    history = PollHistory()
    history.failed(FOREIGN, 0.0, own_failures=1)
    history.failed(FOREIGN, 1.0, own_failures=2)
    assert history.foreign_replies == 2
    assert not history.confirmation.may_pay()


def test_the_time_of_generating_counts_from_the_first_sight() -> None:
    history = PollHistory()
    assert [history.generating_s(now) for now in (50.0, 60.0, 95.0)] == [0.0, 10.0, 45.0]


def test_the_next_generation_of_a_job_has_no_history() -> None:
    histories = PollHistories()
    histories.of("a").without_link = 3
    assert histories.of("a").without_link == 3
    histories.forget("a")
    histories.forget("never polled")
    assert histories.of("a").without_link == 0
