"""The weather: every call's outcome moves gate, cap and a job's own count of failures; and each change is told once."""

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any
from unittest.mock import Mock

import pytest

from batchrunner.clock import LoopClock
from batchrunner.engine.calls import CALLS, CallHealth
from batchrunner.engine.circuit_breaker import CallStatus
from batchrunner.engine.job_queue import Scheduler
from batchrunner.engine.ports import Policy
from batchrunner.errors import AccountFault, CallError, JobFault, LocalFault, NetworkFault, ServiceFault
from batchrunner.events import CallHealthChanged, CapChanged, Event
from batchrunner.job import TimelineEvent
from tests.conftest import NOW

DOWN = ServiceFault("unavailable", "down", status=503)
CUT = NetworkFault("cut", "broke off")
BROKE = AccountFault("out_of_credits", "no credits left")
SLOW = ServiceFault("rate_limited", "too many")
BAD = JobFault("bad_request", "no")
NO_CLIP = ServiceFault("bad_file", "no clip")


class Still(LoopClock):
    """A clock that stands where it is put."""

    at_s = 100.0

    def now(self) -> float:
        return NOW + self.at_s

    def monotonic(self) -> float:
        return self.at_s


class Longest:
    def uniform(self, _a: float, b: float) -> float:
        return b


class Night:
    """A weather with what it told and noted. cap: the user's."""

    def __init__(self, cap: int = 8, *, note_fails: bool = False) -> None:
        self.told: list[Event] = []
        self.noted: list[TimelineEvent] = []
        self.note_fails = note_fails
        self.clock = Still()
        self.scheduler = Scheduler(cap)
        parts = Mock(clock=self.clock, journal=self, rng=Longest(), announce=self.told.append)
        self.health = CallHealth(parts, self.scheduler)

    async def note(self, timeline_event: TimelineEvent) -> None:
        if self.note_fails:
            raise LocalFault("disk_full", "the disk is full")
        self.noted.append(timeline_event)

    def end(
        self, call: str, outcome: object = "reply", job: str = "a", breaker_generation: int | None = None
    ) -> object:
        """One call and how it ended: a reply, or the fault that it raised."""
        breaker_generation = self.health.breakers[call].enter() if breaker_generation is None else breaker_generation
        try:
            return run(self.health.call(call, job, breaker_generation, coming(outcome)))
        except CallError as error:
            return error

    def probe(self, outcome: object) -> None:
        run(self.health.probe(self.health.breakers["submit"].enter(), coming(outcome)))

    def words(self) -> dict[str, CallStatus]:
        return {call: breaker.word for call, breaker in self.health.breakers.items()}


async def coming(outcome: object) -> Any:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def run(coroutine: Coroutine[Any, Any, Any] | Awaitable[Any]) -> Any:
    async def main() -> Any:
        return await coroutine

    return asyncio.run(main())


def test_replies_and_faults_pass_through_as_they_are() -> None:
    night = Night()
    for call in CALLS:
        assert night.end(call, "reply") == "reply"
        for fault in (DOWN, CUT, SLOW, BAD, BROKE, LocalFault("disk_full", "full")):
            assert night.end(call, fault) is fault


def test_each_kind_of_call_has_a_gate_of_its_own() -> None:
    night = Night()
    night.end("submit", BROKE)
    assert night.words() == {"submit": CallStatus.PAUSED, "poll": CallStatus.FINE, "download": CallStatus.FINE}


def test_a_change_is_told_and_noted_and_a_longer_wait_is_told_only() -> None:
    night = Night()
    for _ in range(3):
        night.end("poll", DOWN)
    night.clock.at_s += 10
    night.end("poll", DOWN)
    night.end("poll", "reply")
    night.end("poll", "reply")
    told = [event for event in night.told if isinstance(event, CallHealthChanged)]
    assert [(event.call, event.status, event.reason, event.next_at) for event in told] == [
        ("poll", "down", "down", NOW + 105),
        ("poll", "down", "down", NOW + 120),
        ("poll", "fine", "", None),
    ]
    assert [(timeline_event.kind, timeline_event.call, timeline_event.status) for timeline_event in night.noted] == [
        ("call_health", "poll", "down"),
        ("call_health", "poll", "fine"),
    ]
    assert night.noted[0].message == "down"


def test_an_answer_that_is_a_jobs_own_fault_opens_a_closed_gate_and_that_is_told() -> None:
    night = Night()
    for job in "abc":
        night.end("submit", DOWN, job)
    night.clock.at_s += 1000.0
    night.probe("fine")
    assert night.end("submit", BAD, "d") is BAD
    assert night.words()["submit"] is CallStatus.FINE
    last = [event for event in night.told if isinstance(event, CallHealthChanged)][-1]
    assert (last.status, last.next_at) == ("fine", None)
    assert [timeline_event.status for timeline_event in night.noted] == ["down", "fine"]
    night.end("submit", BAD, "e")
    assert len(night.noted) == 2, "told once"


def test_a_line_that_the_disk_refuses_does_not_lose_the_reply() -> None:
    night = Night(note_fails=True)
    night.scheduler.cap.throttled(8)
    assert night.end("submit", SLOW) is SLOW
    assert night.end("submit", "an id that is paid for") == "an id that is paid for"


# The cap


def test_a_throttled_submission_halves_the_cap_once_and_each_accepted_one_lifts_it() -> None:
    night = Night(cap=8)
    for number in range(8):
        night.scheduler.occupy(f"j{number}")
    tickets = [night.health.breakers["submit"].enter() for _ in range(3)]
    for breaker_generation in tickets:
        night.end("submit", SLOW, breaker_generation=breaker_generation)
    assert night.scheduler.cap.working == 4, "three at once are one throttling"
    night.end("submit", SLOW)
    assert night.scheduler.cap.working == 2, "the one that tries is another"
    for _ in range(200):
        night.end("submit", "reply")
    assert night.scheduler.cap.working == 8
    changes = [(event.cap, event.limit) for event in night.told if isinstance(event, CapChanged)]
    assert changes == [(cap, 8) for cap in (4, 2, 3, 4, 5, 6, 7, 8)]
    assert [timeline_event.status for timeline_event in night.noted if timeline_event.kind == "cap"] == [
        str(cap) for cap, _ in changes
    ]


@pytest.mark.parametrize(
    ("call", "error"), [("poll", SLOW), ("download", SLOW), ("submit", DOWN), ("submit", BROKE), ("submit", BAD)]
)
def test_nothing_else_moves_the_cap(call: str, error: CallError) -> None:
    night = Night()
    for _ in range(5):
        night.end(call, error)
    if call != "submit":
        night.end(call, "reply")
    assert night.scheduler.cap.working == 8
    assert not [event for event in night.told if isinstance(event, CapChanged)]


# Failures of a job's own


def test_an_outage_uses_up_no_jobs_retries() -> None:
    night = Night()
    for _ in range(50):
        night.end("submit", DOWN, "a")
        night.end("submit", CUT, "b")
    assert night.health.failures("submit", "a") == night.health.failures("submit", "b") == 1


def test_failures_count_while_others_are_answered() -> None:
    night = Night()
    for count in range(1, 6):
        night.end("submit", DOWN, "a")
        assert night.health.failures("submit", "a") == count
        night.end("submit", "reply", "b")
    assert night.health.failures("submit", "b") == 0
    night.end("submit", "reply", "a")
    assert night.health.failures("submit", "a") == 0, "in a row"


def test_what_is_one_jobs_own_counts_even_if_it_is_alone() -> None:
    """A batch's last clip that is no clip: its download once was tried for ever."""
    night = Night()
    for count in range(1, 9):
        night.end("download", NO_CLIP)
        assert night.health.failures("download", "a") == count


def test_throttling_says_nothing_about_a_job() -> None:
    night = Night()
    for _ in range(9):
        night.end("submit", SLOW, "a")
        night.end("submit", "reply", "b")
    assert night.health.failures("submit", "a") == 0


def test_an_account_that_refuses_everybody_says_nothing_about_a_job_and_one_that_refuses_one_does() -> None:
    night = Night()
    for _ in range(9):
        night.end("submit", BROKE, "a")
        night.end("submit", BROKE, "b")
    assert night.health.failures("submit", "a") == 1
    night.end("submit", "reply", "b")
    night.end("submit", BROKE, "a")
    assert night.health.failures("submit", "a") == 2


def test_calls_are_counted_apart() -> None:
    night = Night()
    night.end("poll", DOWN, "a")
    night.end("download", "reply", "b")
    night.end("poll", DOWN, "a")
    assert night.health.failures("poll", "a") == 1, "an answered download says nothing about polls"
    assert night.health.failures("download", "a") == 0


# Whether it is the job or the account


REFUSED = AccountFault("forbidden", "403: flagged", status=403)


def test_a_job_that_is_refused_while_others_are_accepted_is_at_fault_itself() -> None:
    night = Night()
    night.scheduler.add("others", 1)
    for number in range(1, 4):
        night.end("submit", REFUSED, "a")
        assert night.health.is_at_fault("a", REFUSED) is (number == 3), number
        night.end("submit", "reply", "b")


def test_the_account_is_at_fault_while_nobody_is_accepted() -> None:
    night = Night()
    for job in "abcabcabc":
        night.end("submit", REFUSED, job)
        assert not night.health.is_at_fault(job, REFUSED)


@pytest.mark.parametrize(
    ("kind", "at_fault"), [("forbidden", True), ("wrong_address", True), ("out_of_credits", False)]
)
def test_where_no_other_job_is_left_to_ask_with_two_refusals_are_enough(kind: str, *, at_fault: bool) -> None:
    error = AccountFault(kind, "no")
    night = Night()
    for outcome, job in ((error, "a"), (error, "z"), ("reply", "b"), (error, "z")):
        night.end("submit", outcome, job)
    night.scheduler.add_last("z", 9)
    night.end("submit", error, "a")
    assert night.health.is_at_fault("a", error) is at_fault, "z was refused as often"
    night.scheduler.add("c", 2)
    assert not night.health.is_at_fault("a", error), "c can be asked with"


# The look before a try


def closed(error: CallError) -> Night:
    night = Night()
    while night.health.breakers["submit"].open:
        night.end("submit", error)
    night.told.clear()
    return night


def test_a_look_that_is_answered_lets_one_submission_try() -> None:
    night = closed(CUT)
    breaker = night.health.breakers["submit"]
    assert (breaker.wants_probe, breaker.open) == (True, False)
    night.probe(None)
    assert (breaker.wants_probe, breaker.open) == (False, False)
    assert night.told == []
    assert night.end("submit", "reply") == "reply"
    assert breaker.open


def test_a_look_that_fails_is_swallowed_and_lengthens_the_wait() -> None:
    night = closed(CUT)
    breaker = night.health.breakers["submit"]
    night.probe(CUT)
    assert [event.next_at for event in night.told if isinstance(event, CallHealthChanged)] == [NOW + 104]
    assert breaker.wants_probe
    night.probe(BROKE)
    assert breaker.word is CallStatus.PAUSED
    assert night.noted[-1].status == "paused"


@pytest.mark.parametrize("ending", [RuntimeError("a defect"), asyncio.CancelledError(), LocalFault("disk_full", "x")])
def test_a_look_that_ends_without_a_verdict_does_not_lock_the_gate(ending: BaseException) -> None:
    night = closed(DOWN)
    breaker = night.health.breakers["submit"]

    async def made() -> None:
        raise ending

    async def main() -> None:
        await asyncio.gather(night.health.probe(breaker.enter(), made()), return_exceptions=True)

    run(main())
    assert breaker.opens_at(1e9) == 1e9


# Patience


def test_how_long_a_closed_gate_is_waited_for() -> None:
    policy = Policy(concurrency=1, poll_interval_s=15.0, account_wait_s=1800.0, outage_wait_s=7200.0)
    night = Night()
    breakers = night.health.breakers
    assert night.health.patience(policy) == {}
    night.end("submit", BROKE)
    for _ in range(3):
        night.end("poll", DOWN)
    assert night.health.patience(policy) == {}, "there is another try before it is over"
    breakers["submit"].next_at = breakers["poll"].next_at = 1e9
    assert night.health.patience(policy) == {"submit": 100.0 + 1800.0, "poll": 100.0 + 7200.0}
    night.clock.at_s = 5000.0
    night.end("poll", BROKE)
    breakers["poll"].next_at = 1e9
    assert night.health.patience(policy)["poll"] == 5000.0 + 1800.0, "from when the account refused"
    night.health.given_up.add("submit")
    assert set(night.health.patience(policy)) == {"poll"}


@pytest.mark.parametrize("kind", ["certificate", "proxy_refused"])
def test_what_settings_have_to_correct_is_tried_once_more_and_not_waited_for(kind: str) -> None:
    policy = Policy(concurrency=1, poll_interval_s=15.0)
    night = Night()
    night.end("submit", NetworkFault(kind, "not trusted"))
    assert night.health.breakers["submit"].open
    assert night.health.patience(policy) == {}
    night.end("submit", NetworkFault(kind, "not trusted"))
    assert night.health.patience(policy) == {"submit": 100.0}
    assert night.health.is_lasting("submit")
    assert not night.health.is_lasting("poll")


def test_a_look_that_meets_such_a_fault_ends_the_wait_too() -> None:
    policy = Policy(concurrency=1, poll_interval_s=15.0)
    night = Night()
    for _ in range(3):
        night.end("submit", CUT)
    assert night.health.patience(policy) == {}
    night.probe(NetworkFault("certificate", "not trusted"))
    assert night.health.patience(policy) == {"submit": 100.0}
