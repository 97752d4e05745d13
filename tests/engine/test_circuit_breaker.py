"""The gate: trouble that is no job's fault is met by all calls of a kind as one, and by one call at a time."""

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


def closed(error: CallError, now: float = 0.0, *, careful: bool = False) -> CircuitBreaker:
    """A gate that `error` has closed, by as many as it takes."""
    breaker = make(careful=careful)
    for _ in range(9):
        if breaker.failed(breaker.enter(), error, now):
            return breaker
    raise AssertionError("it stays open")


@pytest.mark.parametrize(
    ("error", "streak", "word", "waits"),
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
def test_how_many_close_it_and_how_long_it_waits(
    error: CallError, streak: int, word: CallStatus, waits: list[float]
) -> None:
    breaker = make()
    for number in range(1, streak):
        assert breaker.failed(breaker.enter(), error, 50.0) is False, number
        assert (breaker.open, breaker.word, breaker.opens_at(50.0)) == (True, CallStatus.FINE, 50.0)
    now = 50.0
    assert breaker.failed(breaker.enter(), error, now) is True
    for wait in waits:
        assert (breaker.open, breaker.word, breaker.reason, breaker.since) == (False, word, error.message, 50.0)
        assert breaker.next_at == now + wait
        assert breaker.opens_at(now) == now + wait
        now += wait + 1
        assert breaker.opens_at(now) == now
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
def test_what_concerns_one_job_is_an_answer(error: CallError) -> None:
    breaker = make()
    for _ in range(20):
        assert breaker.failed(breaker.enter(), error, 0.0) is False
    assert breaker.open
    breaker.failed(breaker.enter(), DOWN, 0.0)
    breaker.failed(breaker.enter(), DOWN, 0.0)
    breaker.failed(breaker.enter(), error, 0.0)
    assert breaker.failed(breaker.enter(), DOWN, 0.0) is False, "it ended the streak"
    shut = closed(BROKE)
    shut.failed(shut.enter(), error, 40.0)
    assert (shut.open, shut.word, shut.since, shut.reason) == (True, CallStatus.FINE, None, "")


def test_an_answer_ends_a_streak() -> None:
    breaker = make()
    for _ in range(50):
        breaker.failed(breaker.enter(), DOWN, 0.0)
        breaker.failed(breaker.enter(), CUT, 0.0)
        assert breaker.passed(breaker.enter()) is False, "it was open"
    assert breaker.open


def test_a_streak_may_be_of_several_kinds_and_the_last_gives_the_word() -> None:
    breaker = make()
    breaker.failed(breaker.enter(), CUT, 0.0)
    breaker.failed(breaker.enter(), CUT, 0.0)
    assert breaker.failed(breaker.enter(), DOWN, 0.0) is True
    assert breaker.word is CallStatus.DOWN


def test_one_tries_at_a_time_and_an_answer_opens_it() -> None:
    breaker = closed(SLOW)
    breaker_generation = breaker.enter()
    assert breaker.opens_at(1e9) is None, "somebody is trying"
    assert breaker.passed(breaker_generation) is True
    assert breaker.opens_at(7.0) == 7.0
    assert breaker.enter() == breaker.enter(), "any number may go"
    assert breaker.failed(breaker.enter(), SLOW, 10.0) is True
    assert breaker.next_at == 12.0, "the waits start anew"


def test_what_was_under_way_when_it_closed_neither_lengthens_the_wait_nor_ends_it() -> None:
    breaker = make()
    tickets = [breaker.enter() for _ in range(8)]
    assert breaker.failed(tickets[0], SLOW, 0.0) is True
    for breaker_generation in tickets[1:4]:
        assert breaker.failed(breaker_generation, SLOW, 1.0) is False
    for breaker_generation in tickets[4:6]:
        assert breaker.passed(breaker_generation) is False
    breaker.left(tickets[6])
    breaker.probe_answered(tickets[7])
    assert (breaker.open, breaker.next_at, breaker.since) == (False, 2.0, 0.0)
    trying = breaker.enter()
    breaker.left(tickets[7])
    assert breaker.opens_at(1e9) is None, "a straggler does not let a second one try"
    assert breaker.passed(trying) is True


def test_who_leaves_without_a_verdict_makes_room_for_another_try_at_once() -> None:
    breaker = closed(BROKE)
    breaker.left(breaker.enter())
    assert breaker.opens_at(100.0) == 100.0
    assert breaker.failed(breaker.enter(), LocalFault("input_changed", "a.mp4"), 100.0) is False, "this machine's own"
    assert breaker.opens_at(100.0) == 100.0
    assert (breaker.word, breaker.next_at) == (CallStatus.PAUSED, 8.0)


def test_this_machines_trouble_is_no_streak() -> None:
    breaker = make()
    for _ in range(9):
        assert breaker.failed(breaker.enter(), LocalFault("disk_full", "full"), 0.0) is False
    assert breaker.open


@pytest.mark.parametrize(("asked", "floor"), [(None, 0.0), (0.0, 0.0), (40.0, 40.0), (900.0, 900.0), (3e7, 900.0)])
@pytest.mark.parametrize("kind", [ServiceFault, AccountFault, NetworkFault])
def test_retry_after_is_honoured_up_to_a_cap(kind: type[CallError], asked: float | None, floor: float) -> None:
    error = kind("rate_limited" if kind is ServiceFault else "kind", "words", retry_after_s=asked)
    breaker = CircuitBreaker(Shortest())
    while not breaker.failed(breaker.enter(), error, 5.0):
        pass
    assert breaker.next_at == 5.0 + floor


# A careful gate


def test_after_an_outage_a_look_goes_first_and_vouches_for_one_call() -> None:
    breaker = closed(DOWN, careful=True)
    assert (breaker.wants_probe, breaker.open) == (True, False)
    probe = breaker.enter()
    breaker.probe_answered(probe)
    breaker.left(probe)
    assert (breaker.wants_probe, breaker.open) == (False, False)
    assert breaker.opens_at(1.0) == breaker.next_at
    trying = breaker.enter()
    assert breaker.opens_at(1e9) is None
    assert breaker.failed(trying, DOWN, 20.0) is True
    assert breaker.wants_probe, "what it vouched for did not hold"
    breaker.probe_answered(breaker.enter())
    assert breaker.passed(breaker.enter()) is True
    assert breaker.open
    assert not breaker.wants_probe


def test_a_look_that_fails_lengthens_the_wait() -> None:
    breaker = closed(CUT, careful=True)
    assert breaker.failed(breaker.enter(), CUT, 10.0) is True
    assert breaker.next_at == 14.0
    assert breaker.wants_probe


@pytest.mark.parametrize("error", [SLOW, BROKE], ids=lambda error: error.kind)
def test_only_an_outage_wants_a_look(error: CallError) -> None:
    """A service that answers at all can say no: such a try cannot end in doubt."""
    assert not closed(error, careful=True).wants_probe
    assert not closed(DOWN).wants_probe, "nor does a gate that is not careful"


# Since when


def test_since_is_when_it_closed_whatever_the_outage_looks_like() -> None:
    breaker = closed(DOWN, 100.0)
    for now, error in ((200.0, CUT), (300.0, SLOW), (400.0, DOWN)):
        breaker.failed(breaker.enter(), error, now)
        assert breaker.since == 100.0


def test_the_accounts_trouble_counts_from_its_own_beginning() -> None:
    """An outage of an hour, and then: out of credits. The half hour for the account once was over before it began."""
    breaker = closed(DOWN, 0.0)
    breaker.failed(breaker.enter(), BROKE, 3600.0)
    assert (breaker.word, breaker.since) == (CallStatus.PAUSED, 3600.0)
    breaker.failed(breaker.enter(), DOWN, 4000.0)
    assert (breaker.word, breaker.since) == (CallStatus.DOWN, 0.0)
    breaker.failed(breaker.enter(), BROKE, 5000.0)
    assert breaker.since == 3600.0, "trouble that takes turns does not wait for ever"
    breaker.passed(breaker.enter())
    breaker.failed(breaker.enter(), BROKE, 9000.0)
    assert breaker.since == 9000.0


# Any story


ERRORS = [DOWN, CUT, BROKE, SLOW, JobFault("bad_request", "no"), LocalFault("disk_full", "full")]
LEFT = 9


def end(breaker: CircuitBreaker, breaker_generation: int, how: int, now: float, *, probe: bool) -> None:
    """A call ends: with an error of that number, without a verdict, or answered."""
    if how < len(ERRORS):
        was_at, was_open = breaker.next_at, breaker.open
        if breaker.failed(breaker_generation, ERRORS[how], now) and breaker.open:
            assert not was_open, "an answer that opens nothing is no news"
        elif not breaker.open and breaker.next_at != was_at:
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
def test_whatever_happens_one_tries_and_the_gate_never_locks(
    seed: int, careful: bool, story: list[tuple[int, int]]
) -> None:
    """Calls start when they may and end in any order and way; when all are answered, the gate is open."""
    breaker, now = CircuitBreaker(Random(seed), careful=careful), 0.0
    under_way: list[tuple[int, bool]] = []  # ticket, and whether it is a look

    for which, how in story:
        now += which % 7
        moment = breaker.opens_at(now)
        assert (breaker.since is None) == breaker.open == (breaker.word is CallStatus.FINE)
        assert breaker.open or sum(breaker_generation == breaker._round for breaker_generation, _ in under_way) <= 1, (
            "two try at once"
        )
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
        moment = breaker.opens_at(now)
        assert moment is not None, "nobody is under way, so somebody may try"
        assert now <= moment <= now + 600.0
        now, probe = moment, breaker.wants_probe
        end(breaker, breaker.enter(), 8, now, probe=probe)
    assert breaker.open


# Submissions that end in doubt

DOUBT = ServiceFault("server_error", "500", status=500, in_doubt=True)
LOST = NetworkFault("cut", "the reply was lost", in_doubt=True)
REUSED = ServiceFault("id_reused", "another job's id", in_doubt=True)


def shut_by_doubts(error: CallError = DOUBT) -> CircuitBreaker:
    breaker = make(careful=True)
    for _ in range(3):
        breaker.failed(breaker.enter(), error, 0.0)
    return breaker


@pytest.mark.parametrize("error", [DOUBT, LOST, REUSED], ids=lambda error: error.kind)
def test_after_three_doubts_in_a_row_one_submission_goes_every_half_hour(error: CallError) -> None:
    breaker = shut_by_doubts(error)
    assert "3 submissions in a row ended in doubt" in breaker.reason
    now = 0.0
    for _ in range(4):
        assert (breaker.open, breaker.opens_at(now)) == (False, now + 1800.0)
        now += 1800.0
        breaker.probe_answered(breaker.enter())
        assert breaker.failed(breaker.enter(), error, now) is True
    assert breaker.since == 0.0, "the patience with an outage counts from the first"


def test_a_look_that_fails_meanwhile_does_not_bring_the_next_submission_nearer() -> None:
    breaker = shut_by_doubts()
    breaker.failed(breaker.enter(), DOWN, 1800.0, probe=True)
    breaker.probe_answered(breaker.enter())
    breaker.failed(breaker.enter(), DOUBT, 1900.0)
    assert breaker.opens_at(1900.0) == 1900.0 + 1800.0


@pytest.mark.parametrize("answer", [None, SLOW, JobFault("bad_request", "no", status=400), BROKE], ids=str)
def test_an_answer_in_between_begins_the_count_anew(answer: CallError | None) -> None:
    breaker = make(careful=True)
    now = 0.0
    for _ in range(10):
        for _ in range(2):
            breaker.failed(breaker.enter(), DOUBT, now)
        breaker_generation = breaker.enter()
        breaker.failed(breaker_generation, answer, now) if answer else breaker.passed(breaker_generation)
        now = max(now, breaker.next_at)
        breaker.passed(breaker.enter())
        assert breaker.open


def test_an_answer_that_comes_after_the_three_doubts_opens_the_gate() -> None:
    """They were under way together: the service answers, so the others need not wait for half an hour."""
    breaker = make(careful=True)
    tickets = [breaker.enter() for _ in range(4)]
    for breaker_generation in tickets[:3]:
        breaker.failed(breaker_generation, DOUBT, 0.0)
    assert breaker.opens_at(1.0) == 1800.0
    assert breaker.passed(tickets[3]) is True
    assert breaker.opens_at(1.0) == 1.0


def test_as_many_submissions_are_risked_at_once_as_may_end_in_doubt() -> None:
    breaker = make(careful=True)
    rooms = [breaker.room]
    breaker.passed(breaker.enter())
    rooms.append(breaker.room)
    for _ in range(2):
        breaker.failed(breaker.enter(), DOUBT, 0.0)
        rooms.append(breaker.room)
    breaker.passed(breaker.enter())
    rooms.append(breaker.room)
    assert rooms == [3, None, 2, 1, None], "at first, nothing is known of the service"
    assert make().room is None, "polls and downloads end in no doubt"


def test_what_the_log_shows_settles_the_doubts() -> None:
    found, lacking = shut_by_doubts(), shut_by_doubts()
    assert found.settled(10.0, accepted=True) is True
    assert found.opens_at(10.0) == 10.0
    assert lacking.settled(10.0, accepted=False) is True
    assert (lacking.open, lacking.opens_at(10.0)) == (False, 40.0), "the service is in trouble all the same"
    assert make(careful=True).settled(0.0, accepted=True) is False


def test_a_log_that_can_be_read_lets_the_next_submission_go_sooner_each_time_less_so() -> None:
    breaker = shut_by_doubts()
    now = 0.0
    waits: list[float] = []
    for _ in range(6):
        assert breaker.searched(now + 5.0) is (len(waits) < 3)
        assert breaker.searched(now + 6.0) is False, "it is no news twice"
        waits.append((breaker.opens_at(now) or 0.0) - now)
        now = breaker.next_at
        breaker.probe_answered(breaker.enter())
        breaker.failed(breaker.enter(), DOUBT, now)
    assert waits == [30.0, 120.0, 480.0, 1800.0, 1800.0, 1800.0]


def test_a_log_that_is_read_late_lets_the_next_submission_go_at_once() -> None:
    breaker = shut_by_doubts()
    assert breaker.searched(600.0) is True
    assert (breaker.open, breaker.opens_at(600.0), breaker.room) == (False, 600.0, 1)


@pytest.mark.parametrize("answer", [None, JobFault("bad_request", "no", status=400)], ids=str)
def test_after_an_answer_the_waits_begin_anew(answer: CallError | None) -> None:
    breaker = shut_by_doubts()
    for _ in range(3):
        breaker.failed(breaker.enter(), DOUBT, 0.0)
    breaker.failed(breaker.enter(), answer, 0.0) if answer else breaker.passed(breaker.enter())
    for _ in range(3):
        breaker.failed(breaker.enter(), DOUBT, 100.0)
    assert breaker.searched(100.0) is True
    assert breaker.opens_at(100.0) == 130.0


def test_a_search_says_nothing_about_another_outage() -> None:
    breaker = make(careful=True)
    for _ in range(3):
        breaker.failed(breaker.enter(), DOWN, 0.0)
    before = breaker.next_at
    assert breaker.searched(0.0) is False
    assert breaker.next_at == before
