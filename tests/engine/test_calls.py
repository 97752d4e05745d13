"""Call health: each outcome updates breaker, cap and a job's own failures, and each change is announced once."""

import asyncio
from collections.abc import Coroutine
from typing import Any
from unittest.mock import Mock

import pytest

from batchrunner.clock import LoopClock
from batchrunner.engine.calls import CALLS, CallHealth
from batchrunner.engine.policy import Policy
from batchrunner.errors import AccountFault, CallError, JobFault, LocalFault, NetworkFault, ServiceFault
from batchrunner.events import CallHealthChanged, CapChanged, Event
from tests.conftest import NOW

DOWN = ServiceFault("unavailable", "down", status=503)
CUT = NetworkFault("cut", "broke off")
BROKE = AccountFault("out_of_credits", "no credits left")
SLOW = ServiceFault("rate_limited", "too many")
BAD = JobFault("bad_request", "no")
NO_CLIP = ServiceFault("bad_file", "no clip")


class Still(LoopClock):
    """A clock that changes only when a test sets it."""

    at_s = 100.0

    def now(self) -> float:
        return NOW + self.at_s

    def monotonic(self) -> float:
        return self.at_s


class Longest:
    def uniform(self, _a: float, b: float) -> float:
        return b


class Health:
    """A call health with the events that it announced. limit: the user's cap. in_flight: generations."""

    def __init__(self, limit: int = 8, *, in_flight: int = 0, **policy: Any) -> None:
        self.announced: list[Event] = []
        self.clock = Still()
        deps = Mock(clock=self.clock, rng=Longest(), announce=self.announced.append)
        bounds = Policy(concurrency=limit, poll_interval_s=15.0, **policy)
        self.calls = CallHealth(deps, bounds, lambda: in_flight)

    def end(
        self, call: str, outcome: object = "reply", job: str = "a", breaker_generation: int | None = None
    ) -> object:
        """Make one call that ends in a reply or in a fault."""
        breaker_generation = self.calls.enter(call) if breaker_generation is None else breaker_generation
        try:
            return run(self.calls.call(call, job, breaker_generation, coming(outcome)))
        except CallError as error:
            return error

    def probe(self, outcome: object) -> None:
        run(self.calls.probe(self.calls.enter("submit"), coming(outcome)))

    def changes(self) -> list[CallHealthChanged]:
        return [event for event in self.announced if isinstance(event, CallHealthChanged)]

    def statuses(self) -> dict[str, str]:
        """The last status of each kind of call, as announced."""
        return dict.fromkeys(CALLS, "fine") | {event.call: event.status for event in self.changes()}


async def coming(outcome: object) -> Any:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


def test_replies_and_faults_pass_through_as_they_are() -> None:
    health = Health()
    for call in CALLS:
        assert health.end(call, "reply") == "reply"
        for fault in (DOWN, CUT, SLOW, BAD, BROKE, LocalFault("disk_full", "full")):
            assert health.end(call, fault) is fault


def test_each_kind_of_call_has_its_own_breaker() -> None:
    health = Health()
    health.end("submit", BROKE)
    assert health.statuses() == {"submit": "paused", "poll": "fine", "download": "fine", "deliver": "fine"}


def test_a_change_and_a_longer_wait_are_announced() -> None:
    health = Health()
    for _ in range(3):
        health.end("poll", DOWN)
    health.clock.at_s += 10
    health.end("poll", DOWN)
    health.end("poll", "reply")
    health.end("poll", "reply")
    assert [(event.call, event.status, event.reason, event.next_at) for event in health.changes()] == [
        ("poll", "down", "down", NOW + 105),
        ("poll", "down", "down", NOW + 120),
        ("poll", "fine", "", None),
    ]


def test_an_answer_that_is_a_jobs_own_fault_closes_the_breaker_and_is_announced() -> None:
    health = Health()
    for job in "abc":
        health.end("submit", DOWN, job)
    health.clock.at_s += 1000.0
    health.probe("fine")
    assert health.end("submit", BAD, "d") is BAD
    assert health.statuses()["submit"] == "fine"
    last = health.changes()[-1]
    assert (last.status, last.next_at) == ("fine", None)
    before = len(health.announced)
    health.end("submit", BAD, "e")
    assert len(health.announced) == before, "announced once"


# The cap


def test_a_throttled_submission_halves_the_cap_once_and_accepted_ones_raise_it() -> None:
    health = Health(8, in_flight=8)
    for breaker_generation in [health.calls.enter("submit") for _ in range(3)]:
        health.end("submit", SLOW, breaker_generation=breaker_generation)
    assert health.calls.cap == 4, "three at once are one throttling"
    health.end("submit", SLOW)
    assert health.calls.cap == 2, "the one that tries is another"
    for _ in range(200):
        health.end("submit", "reply")
    assert health.calls.cap == 8
    changes = [(event.cap, event.limit) for event in health.announced if isinstance(event, CapChanged)]
    assert changes == [(cap, 8) for cap in (4, 2, 3, 4, 5, 6, 7, 8)]


@pytest.mark.parametrize(
    ("call", "error"), [("poll", SLOW), ("download", SLOW), ("submit", DOWN), ("submit", BROKE), ("submit", BAD)]
)
def test_nothing_else_moves_the_cap(call: str, error: CallError) -> None:
    health = Health()
    for _ in range(5):
        health.end(call, error)
    if call != "submit":
        health.end(call, "reply")
    assert health.calls.cap == 8
    assert not [event for event in health.announced if isinstance(event, CapChanged)]


# Failures of a job's own


def test_an_outage_uses_up_no_retries_of_a_job() -> None:
    health = Health()
    for _ in range(50):
        health.end("submit", DOWN, "a")
        health.end("submit", CUT, "b")
    assert health.calls.failures("submit", "a") == health.calls.failures("submit", "b") == 1


def test_failures_count_while_others_are_answered() -> None:
    health = Health()
    for count in range(1, 6):
        health.end("submit", DOWN, "a")
        assert health.calls.failures("submit", "a") == count
        health.end("submit", "reply", "b")
    assert health.calls.failures("submit", "b") == 0
    health.end("submit", "reply", "a")
    assert health.calls.failures("submit", "a") == 0, "in a row"


def test_a_failure_of_one_job_alone_counts_without_other_jobs() -> None:
    """The download of a batch's last clip, which is no clip, used to be repeated for ever."""
    health = Health()
    for count in range(1, 9):
        health.end("download", NO_CLIP)
        assert health.calls.failures("download", "a") == count


def test_throttling_says_nothing_about_a_job() -> None:
    health = Health()
    for _ in range(9):
        health.end("submit", SLOW, "a")
        health.end("submit", "reply", "b")
    assert health.calls.failures("submit", "a") == 0


def test_an_account_that_refuses_everybody_says_nothing_about_a_job_and_one_that_refuses_one_does() -> None:
    health = Health()
    for _ in range(9):
        health.end("submit", BROKE, "a")
        health.end("submit", BROKE, "b")
    assert health.calls.failures("submit", "a") == 1
    health.end("submit", "reply", "b")
    health.end("submit", BROKE, "a")
    assert health.calls.failures("submit", "a") == 2


def test_calls_are_counted_apart() -> None:
    health = Health()
    health.end("poll", DOWN, "a")
    health.end("download", "reply", "b")
    health.end("poll", DOWN, "a")
    assert health.calls.failures("poll", "a") == 1, "an answered download says nothing about polls"
    assert health.calls.failures("download", "a") == 0


# The probe before a submission


def closed(error: CallError) -> Health:
    health = Health()
    while health.calls.is_closed("submit"):
        health.end("submit", error)
    health.announced.clear()
    return health


def test_a_probe_that_is_answered_allows_one_submission() -> None:
    health = closed(CUT)
    assert health.calls.wants_probe()
    health.probe(None)
    assert not health.calls.wants_probe()
    assert not health.calls.is_closed("submit")
    assert health.announced == []
    assert health.end("submit", "reply") == "reply"
    assert health.calls.is_closed("submit")


def test_a_probe_that_fails_is_not_raised_and_lengthens_the_wait() -> None:
    health = closed(CUT)
    health.probe(CUT)
    assert [event.next_at for event in health.changes()] == [NOW + 104]
    assert health.calls.wants_probe()
    health.probe(BROKE)
    assert health.statuses()["submit"] == "paused"


@pytest.mark.parametrize("ending", [RuntimeError("a defect"), asyncio.CancelledError(), LocalFault("disk_full", "x")])
def test_a_probe_without_an_outcome_does_not_lock_the_breaker(ending: BaseException) -> None:
    health = closed(DOWN)

    async def reply() -> None:
        raise ending

    async def main() -> None:
        await asyncio.gather(health.calls.probe(health.calls.enter("submit"), reply()), return_exceptions=True)

    run(main())
    assert health.calls.next_call_at("submit", 1e9, 0) == 1e9


# May a call be made?


def test_as_many_calls_of_a_kind_run_at_once_as_the_policy_allows() -> None:
    health = Health(polls=2)
    assert [health.calls.next_call_at("poll", 7.0, running) for running in (0, 1, 2)] == [7.0, 7.0, None]


def test_before_the_first_answer_only_a_few_submissions_are_risked() -> None:
    health = Health(submissions=8)
    assert [health.calls.next_call_at("submit", 7.0, running) for running in (2, 3)] == [7.0, None]
    health.end("submit", "reply")
    assert [health.calls.next_call_at("submit", 7.0, running) for running in (7, 8)] == [7.0, None]


def test_an_open_breaker_allows_one_call_after_its_wait() -> None:
    health = closed(DOWN)
    health.probe(None)
    assert health.calls.next_call_at("submit", 100.0, 0) == 105.0
    breaker_generation = health.calls.enter("submit")
    assert health.calls.next_call_at("submit", 200.0, 0) is None
    health.calls.leave("submit", breaker_generation)
    assert health.calls.next_call_at("submit", 200.0, 0) == 200.0


# Patience


def test_how_long_an_open_breaker_is_waited_for() -> None:
    health = Health(account_wait_s=1800.0, outage_wait_s=7200.0)
    assert health.calls.patience_ends() == {}
    health.end("submit", BROKE)
    for _ in range(3):
        health.end("poll", DOWN)
    assert health.calls.patience_ends() == {}, "there is another try before the end"
    health.clock.at_s = 1899.0
    health.end("submit", BROKE)
    assert health.calls.patience_ends() == {"submit": 100.0 + 1800.0}
    health.clock.at_s = 7299.0
    health.end("poll", DOWN)
    assert health.calls.patience_ends() == {"submit": 100.0 + 1800.0, "poll": 100.0 + 7200.0}
    health.end("poll", BROKE)
    health.clock.at_s += 1799.0
    health.end("poll", BROKE)
    assert health.calls.patience_ends()["poll"] == 7299.0 + 1800.0, "from when the account refused"
    reason = health.calls.give_up("submit")
    assert reason == "no credits left; waited 2 h 29 min"
    assert health.calls.has_given_up("submit")
    assert set(health.calls.patience_ends()) == {"poll"}


@pytest.mark.parametrize("kind", ["certificate", "proxy_refused"])
def test_a_fault_that_settings_have_to_correct_is_tried_once_more_and_not_waited_for(kind: str) -> None:
    health = Health()
    health.end("submit", NetworkFault(kind, "not trusted"))
    assert health.calls.is_closed("submit")
    assert health.calls.patience_ends() == {}
    health.end("submit", NetworkFault(kind, "not trusted"))
    assert health.calls.patience_ends() == {"submit": 100.0}
    assert health.calls.is_lasting("submit")
    assert not health.calls.is_lasting("poll")
    assert health.calls.give_up("submit") == "not trusted"


def test_a_probe_that_meets_such_a_fault_ends_the_wait_too() -> None:
    health = Health()
    for _ in range(3):
        health.end("submit", CUT)
    assert health.calls.patience_ends() == {}
    health.probe(NetworkFault("certificate", "not trusted"))
    assert health.calls.patience_ends() == {"submit": 100.0}
