"""The failure policy: what follows from each error, and whose fault a refusal is."""

from dataclasses import replace

import pytest

from batchrunner.engine.backoff import DOWNLOADS, POLLS, Backoff
from batchrunner.engine.outcomes import (
    FOREIGN_POLLS,
    REFUSED_POLLS,
    AfterRefusal,
    LeaveInFlight,
    after_failed_poll,
    after_last_download,
    after_refusal,
    download_backoff,
    is_own_fault,
    may_generate_again,
    refused_for_good,
)
from batchrunner.engine.policy import Policy
from batchrunner.engine.poll_history import PollHistory
from batchrunner.errors import AccountFault, CallError, JobFault, LocalFault, NetworkFault, Problem, ServiceFault
from batchrunner.job import Record, State
from tests.conftest import make_record

POLICY = Policy(concurrency=1, poll_interval_s=15.0, not_found_grace_s=600.0, job_timeout_s=3600.0)


@pytest.mark.parametrize(
    ("error", "own_fault", "action"),
    [
        (AccountFault("forbidden", "403"), False, AfterRefusal.LAST),
        (AccountFault("forbidden", "403"), True, AfterRefusal.GIVE_UP),
        (LocalFault("input_changed", "changed"), False, AfterRefusal.GIVE_UP),
        (LocalFault("disk_full", "full"), False, AfterRefusal.STOP_BATCH),
        (ServiceFault("server_error", "500"), False, AfterRefusal.BACK_OFF),
        (NetworkFault("cut", "broke off"), False, AfterRefusal.BACK_OFF),
        (JobFault("bad_request", "400"), False, AfterRefusal.BACK_OFF),
    ],
)
def test_each_refusal_has_one_consequence(error: CallError, action: AfterRefusal, *, own_fault: bool) -> None:
    assert after_refusal(error, own_fault=own_fault) is action


@pytest.mark.parametrize(
    ("kind", "refusals", "other_jobs", "own_fault"),
    [
        ("forbidden", 3, 5, True),
        ("out_of_credits", 3, 5, True),
        ("forbidden", 2, 1, False),
        ("forbidden", 2, 0, True),
        ("wrong_address", 2, 0, True),
        ("out_of_credits", 2, 0, False),
        ("unauthorized", 2, 0, False),
        ("forbidden", 1, 0, False),
    ],
)
def test_a_job_is_at_fault_if_others_are_accepted_between_its_refusals(
    kind: str, refusals: int, other_jobs: int, *, own_fault: bool
) -> None:
    assert is_own_fault(AccountFault(kind, "no"), refusals, other_jobs) is own_fault


def test_a_job_that_is_given_up_says_why() -> None:
    assert "while other jobs were accepted" in refused_for_good(AccountFault("forbidden", "403")).message
    assert "12 times while other jobs" in refused_for_good(ServiceFault("server_error", "500")).message
    assert refused_for_good(JobFault("bad_request", "400", "Correct it.")).hint == "Correct it."


def decided(
    error: CallError, history: PollHistory, now: float = 0.0, own_failures: int = 1
) -> Backoff | Problem | LeaveInFlight:
    return after_failed_poll(error, history, now, POLICY, "gen:a/1", own_failures)


def test_a_generation_that_the_service_denies_fails_after_the_grace() -> None:
    missing, history = ServiceFault("unknown_generation", "404"), PollHistory(missing_since=100.0)
    assert decided(missing, history, 700.0) is POLLS
    problem = decided(missing, history, 700.1)
    assert isinstance(problem, Problem)
    assert problem.message == "404, for 600 s now (generation gen:a/1)"


@pytest.mark.parametrize("fault", [JobFault, AccountFault])
def test_refused_polls_of_one_generation_fail_it(fault: type[CallError]) -> None:
    error = fault("bad_request", "400")
    assert decided(error, PollHistory(refusals=REFUSED_POLLS - 1)) is POLLS
    problem = decided(error, PollHistory(refusals=REFUSED_POLLS))
    assert isinstance(problem, Problem)
    assert (problem.kind, problem.fault) == ("poll_refused", "service")


def test_a_generation_without_a_usable_reply_is_left_for_the_next_run_after_the_timeout() -> None:
    error, history = ServiceFault("server_error", "500"), PollHistory(failing_since=0.0)
    assert decided(error, history, 3600.1, own_failures=REFUSED_POLLS) is POLLS, "an outage is nobody's own failure"
    assert decided(error, history, 3600.0, own_failures=9) is POLLS
    assert isinstance(decided(error, history, 3600.1, own_failures=9), LeaveInFlight)


def test_replies_about_another_generation_are_ignored_until_there_are_too_many() -> None:
    error = ServiceFault("foreign_reply", "answered with generation x")
    assert decided(error, PollHistory(foreign_replies=FOREIGN_POLLS - 1)) == Backoff(15.0, 15.0)
    assert isinstance(decided(error, PollHistory(foreign_replies=FOREIGN_POLLS)), LeaveInFlight)


def failed_record(failures: int) -> Record:
    record = make_record("a", State.FAILED, attempts=failures)
    return replace(record, attempts=tuple(attempt._replace(outcome="failed") for attempt in record.attempts))


@pytest.mark.parametrize(
    ("failures", "fault", "again"),
    [(1, "service", True), (2, "service", False), (1, "job", False), (1, "account", False)],
)
def test_only_the_services_own_failure_is_generated_again_and_only_so_often(
    failures: int, fault: str, *, again: bool
) -> None:
    policy = POLICY._replace(generation_retries=1)
    assert may_generate_again(failed_record(failures), Problem("broke", "it broke", "", fault), policy) is again


def test_a_failure_without_a_reason_is_not_generated_again() -> None:
    assert not may_generate_again(failed_record(1), None, POLICY)
    in_doubt = replace(failed_record(1), state=State.IN_DOUBT)
    assert not may_generate_again(in_doubt, Problem("broke", "it broke", "", "service"), POLICY)


def test_downloads_are_repeated_unless_the_same_bytes_fail_again() -> None:
    assert download_backoff(NetworkFault("cut", "broke off")) is DOWNLOADS
    assert download_backoff(ServiceFault("check_limit", "too long")) is None
    assert isinstance(after_last_download(ServiceFault("bad_file", "no clip")), Problem)
    assert isinstance(after_last_download(NetworkFault("cut", "broke off")), LeaveInFlight)
