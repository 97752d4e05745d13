"""The circuit breaker: an outage pauses all calls of a kind, and one call at a time probes."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.engine.circuit_breaker import CallStatus, CircuitBreaker
from batchrunner.errors import AccountFault, CallError, JobFault, LocalFault, NetworkFault, ServiceFault

DOWN = ServiceFault("unavailable", "down for maintenance", status=503)
CUT = NetworkFault("no_connection", "no route")
BROKE = AccountFault("out_of_credits", "no credits left", status=403)
SLOW = ServiceFault("rate_limited", "too many", status=429)


class Longest:
    def uniform(self, _a: float, b: float) -> float:
        return b


class Shortest:
    def uniform(self, a: float, _b: float) -> float:
        return a


def make(*, careful: bool = False) -> CircuitBreaker:
    return CircuitBreaker(Longest(), careful=careful)


def opened(error: CallError, now: float = 0.0, *, careful: bool = False) -> CircuitBreaker:
    """Make a breaker that `error` has opened, by as many as that needs."""
    breaker = make(careful=careful)
    for _ in range(9):
        if breaker.failed(breaker.enter(), error, now):
            return breaker
    raise AssertionError("the breaker stays closed")


@pytest.mark.parametrize(
    ("error", "streak", "status", "waits"),
    [
        (SLOW, 1, CallStatus.THROTTLED, [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 120.0, 120.0]),
        (BROKE, 1, CallStatus.PAUSED, [8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 600.0, 600.0]),
        (AccountFault("unauthorized", "key"), 1, CallStatus.PAUSED, [8.0]),
        (DOWN, 3, CallStatus.DOWN, [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]),
        (ServiceFault("no_id", "what?"), 3, CallStatus.DOWN, [5.0]),
        (CUT, 3, CallStatus.UNREACHABLE, [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 120.0, 120.0]),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_the_number_of_errors_that_opens_it_and_its_waits(
    error: CallError, streak: int, status: CallStatus, waits: list[float]
) -> None:
    breaker = make()
    for number in range(1, streak):
        assert breaker.failed(breaker.enter(), error, 50.0) is False, number
        assert (breaker.is_closed, breaker.status, breaker.next_call_at(50.0)) == (True, CallStatus.FINE, 50.0)
    now = 50.0
    assert breaker.failed(breaker.enter(), error, now) is True
    for wait in waits:
        assert (breaker.is_closed, breaker.status, breaker.reason, breaker.since) == (
            False,
            status,
            error.message,
            50.0,
        )
        assert breaker.next_at == now + wait
        assert breaker.next_call_at(now) == now + wait
        now += wait + 1
        assert breaker.next_call_at(now) == now
        assert breaker.failed(breaker.enter(), error, now) is True


@pytest.mark.parametrize(
    "error",
    [
        JobFault("bad_request", "no"),
        ServiceFault("unknown_generation", "404"),
        ServiceFault("link_expired", "403"),
        ServiceFault("link_refused", "leads to file:"),
        NetworkFault("link_certificate", "not trusted"),
        NetworkFault("link_proxy", "403"),
        ServiceFault("bad_file", "no clip"),
        ServiceFault("check_limit", "over 60 s"),
        ServiceFault("bad_range", "416"),
    ],
    ids=lambda error: error.kind,
)
def test_an_error_of_one_job_counts_as_an_answer(error: CallError) -> None:
    breaker = make()
    for _ in range(20):
        assert breaker.failed(breaker.enter(), error, 0.0) is False
    assert breaker.is_closed
    breaker.failed(breaker.enter(), DOWN, 0.0)
    breaker.failed(breaker.enter(), DOWN, 0.0)
    breaker.failed(breaker.enter(), error, 0.0)
    assert breaker.failed(breaker.enter(), DOWN, 0.0) is False, "it ended the streak"
    breaker = opened(BROKE)
    breaker.failed(breaker.enter(), error, 40.0)
    assert (breaker.is_closed, breaker.status, breaker.since, breaker.reason) == (True, CallStatus.FINE, None, "")


def test_an_answer_ends_a_streak() -> None:
    breaker = make()
    for _ in range(50):
        breaker.failed(breaker.enter(), DOWN, 0.0)
        breaker.failed(breaker.enter(), CUT, 0.0)
        assert breaker.passed(breaker.enter()) is False, "it was open"
    assert breaker.is_closed


def test_the_last_error_of_a_mixed_streak_gives_the_status() -> None:
    breaker = make()
    breaker.failed(breaker.enter(), CUT, 0.0)
    breaker.failed(breaker.enter(), CUT, 0.0)
    assert breaker.failed(breaker.enter(), DOWN, 0.0) is True
    assert breaker.status is CallStatus.DOWN


def test_one_call_probes_at_a_time_and_an_answer_closes_the_breaker() -> None:
    breaker = opened(SLOW)
    breaker_generation = breaker.enter()
    assert breaker.next_call_at(1e9) is None, "one call is already probing"
    assert breaker.passed(breaker_generation) is True
    assert breaker.next_call_at(7.0) == 7.0
    assert breaker.enter() == breaker.enter(), "any number may start"
    assert breaker.failed(breaker.enter(), SLOW, 10.0) is True
    assert breaker.next_at == 12.0, "the waits start again"


def test_a_call_from_before_the_opening_neither_lengthens_nor_ends_the_wait() -> None:
    breaker = make()
    tickets = [breaker.enter() for _ in range(8)]
    assert breaker.failed(tickets[0], SLOW, 0.0) is True
    for breaker_generation in tickets[1:4]:
        assert breaker.failed(breaker_generation, SLOW, 1.0) is False
    for breaker_generation in tickets[4:6]:
        assert breaker.passed(breaker_generation) is False
    breaker.left(tickets[6])
    breaker.probe_answered(tickets[7])
    assert (breaker.is_closed, breaker.next_at, breaker.since) == (False, 2.0, 0.0)
    trying = breaker.enter()
    breaker.left(tickets[7])
    assert breaker.next_call_at(1e9) is None, "an earlier call does not allow a second probe"
    assert breaker.passed(trying) is True


def test_a_probe_without_an_outcome_allows_another_one_at_once() -> None:
    breaker = opened(BROKE)
    breaker.left(breaker.enter())
    assert breaker.next_call_at(100.0) == 100.0
    assert breaker.failed(breaker.enter(), LocalFault("input_changed", "a.mp4"), 100.0) is False, "this machine's own"
    assert breaker.next_call_at(100.0) == 100.0
    assert (breaker.status, breaker.next_at) == (CallStatus.PAUSED, 8.0)


def test_local_faults_do_not_open_the_breaker() -> None:
    breaker = make()
    for _ in range(9):
        assert breaker.failed(breaker.enter(), LocalFault("disk_full", "full"), 0.0) is False
    assert breaker.is_closed


@pytest.mark.parametrize(("asked", "floor"), [(None, 0.0), (0.0, 0.0), (40.0, 40.0), (900.0, 900.0), (3e7, 900.0)])
@pytest.mark.parametrize("kind", [ServiceFault, AccountFault, NetworkFault])
def test_retry_after_is_honoured_up_to_a_cap(kind: type[CallError], asked: float | None, floor: float) -> None:
    error = kind("rate_limited" if kind is ServiceFault else "kind", "words", retry_after_s=asked)
    breaker = CircuitBreaker(Shortest())
    while not breaker.failed(breaker.enter(), error, 5.0):
        pass
    assert breaker.next_at == 5.0 + floor


# Breakers with a free probe


def test_after_an_outage_a_free_probe_allows_one_call() -> None:
    breaker = opened(DOWN, careful=True)
    assert (breaker.wants_probe, breaker.is_closed) == (True, False)
    probe = breaker.enter()
    breaker.probe_answered(probe)
    breaker.left(probe)
    assert (breaker.wants_probe, breaker.is_closed) == (False, False)
    assert breaker.next_call_at(1.0) == breaker.next_at
    trying = breaker.enter()
    assert breaker.next_call_at(1e9) is None
    assert breaker.failed(trying, DOWN, 20.0) is True
    assert breaker.wants_probe, "the outage was not over"
    breaker.probe_answered(breaker.enter())
    assert breaker.passed(breaker.enter()) is True
    assert breaker.is_closed
    assert not breaker.wants_probe


def test_a_failed_probe_lengthens_the_wait() -> None:
    breaker = opened(CUT, careful=True)
    assert breaker.failed(breaker.enter(), CUT, 10.0) is True
    assert breaker.next_at == 14.0
    assert breaker.wants_probe


@pytest.mark.parametrize("error", [SLOW, BROKE], ids=lambda error: error.kind)
def test_only_an_outage_needs_a_probe(error: CallError) -> None:
    """A service that answers can refuse, so a submission as probe cannot end in doubt."""
    assert not opened(error, careful=True).wants_probe
    assert not opened(DOWN).wants_probe, "a breaker without a free probe needs none"


# Start of an outage


def test_an_outage_starts_when_the_breaker_opens_whatever_its_errors() -> None:
    breaker = opened(DOWN, 100.0)
    for now, error in ((200.0, CUT), (300.0, SLOW), (400.0, DOWN)):
        breaker.failed(breaker.enter(), error, now)
        assert breaker.since == 100.0


def test_an_account_failure_has_its_own_start() -> None:
    """An outage of an hour, and then: out of credits.

    Earlier, the half hour for the account was over before it began.
    """
    breaker = opened(DOWN, 0.0)
    breaker.failed(breaker.enter(), BROKE, 3600.0)
    assert (breaker.status, breaker.since) == (CallStatus.PAUSED, 3600.0)
    breaker.failed(breaker.enter(), DOWN, 4000.0)
    assert (breaker.status, breaker.since) == (CallStatus.DOWN, 0.0)
    breaker.failed(breaker.enter(), BROKE, 5000.0)
    assert breaker.since == 3600.0, "alternating failures do not wait for ever"
    breaker.passed(breaker.enter())
    breaker.failed(breaker.enter(), BROKE, 9000.0)
    assert breaker.since == 9000.0


# Any sequence


ERRORS = [DOWN, CUT, BROKE, SLOW, JobFault("bad_request", "no"), LocalFault("disk_full", "full")]
LEFT = 9


def end(breaker: CircuitBreaker, breaker_generation: int, how: int, now: float, *, probe: bool) -> None:
    """End a call: with the error of that number, without an outcome, or answered."""
    if how < len(ERRORS):
        was_at, was_open = breaker.next_at, breaker.is_closed
        if breaker.failed(breaker_generation, ERRORS[how], now) and breaker.is_closed:
            assert not was_open, "an answer that closes nothing is not announced"
        elif not breaker.is_closed and breaker.next_at != was_at:
            assert now <= breaker.next_at <= now + 600.0
        else:
            assert breaker.next_at == was_at
    elif how == LEFT:
        breaker.left(breaker_generation)
    elif probe:
        breaker.probe_answered(breaker_generation)
    else:
        breaker.passed(breaker_generation)


@settings(derandomize=True, max_examples=400, deadline=None)
@given(st.integers(0, 9), st.booleans(), st.lists(st.tuples(st.integers(0, 99), st.integers(0, 9)), max_size=80))
def test_in_any_sequence_one_call_probes_and_the_breaker_never_locks(
    seed: int, careful: bool, story: list[tuple[int, int]]
) -> None:
    """Calls start when they may and end in any order and way; when all are answered, the breaker is closed."""
    breaker, now = CircuitBreaker(Random(seed), careful=careful), 0.0
    under_way: list[tuple[int, bool]] = []  # breaker generation, and whether it is a probe

    for which, how in story:
        now += which % 7
        moment = breaker.next_call_at(now)
        assert (breaker.since is None) == breaker.is_closed == (breaker.status is CallStatus.FINE)
        assert (
            breaker.is_closed or sum(breaker_generation == breaker._round for breaker_generation, _ in under_way) <= 1
        ), "two calls probe at once"
        if which % 2 and moment is not None:
            now = moment
            probe = breaker.wants_probe
            under_way.append((breaker.enter(), probe))
        elif under_way:
            breaker_generation, probe = under_way.pop(which % len(under_way))
            end(breaker, breaker_generation, how if how < 9 else LEFT, now, probe=probe)
    for breaker_generation, probe in under_way:
        end(breaker, breaker_generation, LEFT, now, probe=probe)
    for _ in range(2):
        moment = breaker.next_call_at(now)
        assert moment is not None, "no call is active, so one may start"
        assert now <= moment <= now + 600.0
        now, probe = moment, breaker.wants_probe
        end(breaker, breaker.enter(), 8, now, probe=probe)
    assert breaker.is_closed


# Submissions in doubt

DOUBT = ServiceFault("server_error", "500", status=500, in_doubt=True)
LOST = NetworkFault("cut", "the reply was lost", in_doubt=True)
REUSED = ServiceFault("id_reused", "another job's id", in_doubt=True)


def open_after_unclear_replies(error: CallError = DOUBT) -> CircuitBreaker:
    breaker = make(careful=True)
    for _ in range(3):
        breaker.failed(breaker.enter(), error, 0.0)
    return breaker


@pytest.mark.parametrize("error", [DOUBT, LOST, REUSED], ids=lambda error: error.kind)
def test_after_three_unclear_replies_one_submission_goes_every_half_hour(error: CallError) -> None:
    breaker = open_after_unclear_replies(error)
    assert "3 submissions in a row ended in doubt" in breaker.reason
    now = 0.0
    for _ in range(4):
        assert (breaker.is_closed, breaker.next_call_at(now)) == (False, now + 1800.0)
        now += 1800.0
        breaker.probe_answered(breaker.enter())
        assert breaker.failed(breaker.enter(), error, now) is True
    assert breaker.since == 0.0, "outage_wait counts from the first"


def test_a_failed_probe_does_not_bring_the_next_submission_forward() -> None:
    breaker = open_after_unclear_replies()
    breaker.failed(breaker.enter(), DOWN, 1800.0, probe=True)
    breaker.probe_answered(breaker.enter())
    breaker.failed(breaker.enter(), DOUBT, 1900.0)
    assert breaker.next_call_at(1900.0) == 1900.0 + 1800.0


@pytest.mark.parametrize("answer", [None, SLOW, JobFault("bad_request", "no", status=400), BROKE], ids=str)
def test_an_answer_in_between_restarts_the_count(answer: CallError | None) -> None:
    breaker = make(careful=True)
    now = 0.0
    for _ in range(10):
        for _ in range(2):
            breaker.failed(breaker.enter(), DOUBT, now)
        breaker_generation = breaker.enter()
        breaker.failed(breaker_generation, answer, now) if answer else breaker.passed(breaker_generation)
        now = max(now, breaker.next_at)
        breaker.passed(breaker.enter())
        assert breaker.is_closed


def test_a_late_answer_after_three_unclear_replies_closes_the_breaker() -> None:
    """They were active together: the service answers, so the others need not wait for half an hour."""
    breaker = make(careful=True)
    tickets = [breaker.enter() for _ in range(4)]
    for breaker_generation in tickets[:3]:
        breaker.failed(breaker_generation, DOUBT, 0.0)
    assert breaker.next_call_at(1.0) == 1800.0
    assert breaker.passed(tickets[3]) is True
    assert breaker.next_call_at(1.0) == 1.0


def test_the_number_of_submissions_that_may_end_in_doubt_is_limited() -> None:
    breaker = make(careful=True)
    limits = [breaker.most_active]
    breaker.passed(breaker.enter())
    limits.append(breaker.most_active)
    for _ in range(2):
        breaker.failed(breaker.enter(), DOUBT, 0.0)
        limits.append(breaker.most_active)
    breaker.passed(breaker.enter())
    limits.append(breaker.most_active)
    assert limits == [3, None, 2, 1, None], "at first, nothing is known of the service"
    assert make().most_active is None, "polls and downloads cannot be in doubt"


def test_the_log_settles_unclear_replies() -> None:
    found, lacking = open_after_unclear_replies(), open_after_unclear_replies()
    assert found.settled(10.0, accepted=True) is True
    assert found.next_call_at(10.0) == 10.0
    assert lacking.settled(10.0, accepted=False) is True
    assert (lacking.is_closed, lacking.next_call_at(10.0)) == (False, 40.0), "the service is still failing"
    assert make(careful=True).settled(0.0, accepted=True) is False


def test_a_readable_log_shortens_the_wait_by_less_each_time() -> None:
    breaker = open_after_unclear_replies()
    now = 0.0
    waits: list[float] = []
    for _ in range(6):
        assert breaker.searched(now + 5.0) is (len(waits) < 3)
        assert breaker.searched(now + 6.0) is False, "it is not announced twice"
        waits.append((breaker.next_call_at(now) or 0.0) - now)
        now = breaker.next_at
        breaker.probe_answered(breaker.enter())
        breaker.failed(breaker.enter(), DOUBT, now)
    assert waits == [30.0, 120.0, 480.0, 1800.0, 1800.0, 1800.0]


def test_a_log_that_is_read_late_allows_the_next_submission_at_once() -> None:
    breaker = open_after_unclear_replies()
    assert breaker.searched(600.0) is True
    assert (breaker.is_closed, breaker.next_call_at(600.0), breaker.most_active) == (False, 600.0, 1)


@pytest.mark.parametrize("answer", [None, JobFault("bad_request", "no", status=400)], ids=str)
def test_after_an_answer_the_waits_start_again(answer: CallError | None) -> None:
    breaker = open_after_unclear_replies()
    for _ in range(3):
        breaker.failed(breaker.enter(), DOUBT, 0.0)
    breaker.failed(breaker.enter(), answer, 0.0) if answer else breaker.passed(breaker.enter())
    for _ in range(3):
        breaker.failed(breaker.enter(), DOUBT, 100.0)
    assert breaker.searched(100.0) is True
    assert breaker.next_call_at(100.0) == 130.0


def test_a_search_does_not_affect_another_outage() -> None:
    breaker = make(careful=True)
    for _ in range(3):
        breaker.failed(breaker.enter(), DOWN, 0.0)
    before = breaker.next_at
    assert breaker.searched(0.0) is False
    assert breaker.next_at == before
