"""The gate: trouble that is no job's fault is met by all calls of a kind as one, and by one call at a time."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.engine.circuit_breaker import Gate, Word
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


def make(*, careful: bool = False) -> Gate:
    return Gate(Longest(), careful=careful)


def closed(error: CallError, now: float = 0.0, *, careful: bool = False) -> Gate:
    """A gate that `error` has closed, by as many as it takes."""
    gate = make(careful=careful)
    for _ in range(9):
        if gate.failed(gate.enter(), error, now):
            return gate
    raise AssertionError("it stays open")


@pytest.mark.parametrize(
    ("error", "streak", "word", "waits"),
    [
        (SLOW, 1, Word.THROTTLED, [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 120.0, 120.0]),
        (BROKE, 1, Word.PAUSED, [8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 600.0, 600.0]),
        (AccountFault("unauthorized", "key"), 1, Word.PAUSED, [8.0]),
        (DOWN, 3, Word.DOWN, [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]),
        (ServiceFault("no_id", "what?"), 3, Word.DOWN, [5.0]),
        (CUT, 3, Word.UNREACHABLE, [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 120.0, 120.0]),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_how_many_close_it_and_how_long_it_waits(error: CallError, streak: int, word: Word, waits: list[float]) -> None:
    gate = make()
    for number in range(1, streak):
        assert gate.failed(gate.enter(), error, 50.0) is False, number
        assert (gate.open, gate.word, gate.opens_at(50.0)) == (True, Word.FINE, 50.0)
    now = 50.0
    assert gate.failed(gate.enter(), error, now) is True
    for wait in waits:
        assert (gate.open, gate.word, gate.reason, gate.since) == (False, word, error.message, 50.0)
        assert gate.next_at == now + wait
        assert gate.opens_at(now) == now + wait
        now += wait + 1
        assert gate.opens_at(now) == now
        assert gate.failed(gate.enter(), error, now) is True


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
    gate = make()
    for _ in range(20):
        assert gate.failed(gate.enter(), error, 0.0) is False
    assert gate.open
    gate.failed(gate.enter(), DOWN, 0.0)
    gate.failed(gate.enter(), DOWN, 0.0)
    gate.failed(gate.enter(), error, 0.0)
    assert gate.failed(gate.enter(), DOWN, 0.0) is False, "it ended the streak"
    shut = closed(BROKE)
    shut.failed(shut.enter(), error, 40.0)
    assert (shut.open, shut.word, shut.since, shut.reason) == (True, Word.FINE, None, "")


def test_an_answer_ends_a_streak() -> None:
    gate = make()
    for _ in range(50):
        gate.failed(gate.enter(), DOWN, 0.0)
        gate.failed(gate.enter(), CUT, 0.0)
        assert gate.passed(gate.enter()) is False, "it was open"
    assert gate.open


def test_a_streak_may_be_of_several_kinds_and_the_last_gives_the_word() -> None:
    gate = make()
    gate.failed(gate.enter(), CUT, 0.0)
    gate.failed(gate.enter(), CUT, 0.0)
    assert gate.failed(gate.enter(), DOWN, 0.0) is True
    assert gate.word is Word.DOWN


def test_one_tries_at_a_time_and_an_answer_opens_it() -> None:
    gate = closed(SLOW)
    ticket = gate.enter()
    assert gate.opens_at(1e9) is None, "somebody is trying"
    assert gate.passed(ticket) is True
    assert gate.opens_at(7.0) == 7.0
    assert gate.enter() == gate.enter(), "any number may go"
    assert gate.failed(gate.enter(), SLOW, 10.0) is True
    assert gate.next_at == 12.0, "the waits start anew"


def test_what_was_under_way_when_it_closed_neither_lengthens_the_wait_nor_ends_it() -> None:
    gate = make()
    tickets = [gate.enter() for _ in range(8)]
    assert gate.failed(tickets[0], SLOW, 0.0) is True
    for ticket in tickets[1:4]:
        assert gate.failed(ticket, SLOW, 1.0) is False
    for ticket in tickets[4:6]:
        assert gate.passed(ticket) is False
    gate.left(tickets[6])
    gate.looked(tickets[7])
    assert (gate.open, gate.next_at, gate.since) == (False, 2.0, 0.0)
    trying = gate.enter()
    gate.left(tickets[7])
    assert gate.opens_at(1e9) is None, "a straggler does not let a second one try"
    assert gate.passed(trying) is True


def test_who_leaves_without_a_verdict_makes_room_for_another_try_at_once() -> None:
    gate = closed(BROKE)
    gate.left(gate.enter())
    assert gate.opens_at(100.0) == 100.0
    assert gate.failed(gate.enter(), LocalFault("input_changed", "a.mp4"), 100.0) is False, "this machine's own"
    assert gate.opens_at(100.0) == 100.0
    assert (gate.word, gate.next_at) == (Word.PAUSED, 8.0)


def test_this_machines_trouble_is_no_streak() -> None:
    gate = make()
    for _ in range(9):
        assert gate.failed(gate.enter(), LocalFault("disk_full", "full"), 0.0) is False
    assert gate.open


@pytest.mark.parametrize(("asked", "floor"), [(None, 0.0), (0.0, 0.0), (40.0, 40.0), (900.0, 900.0), (3e7, 900.0)])
@pytest.mark.parametrize("kind", [ServiceFault, AccountFault, NetworkFault])
def test_retry_after_is_honoured_up_to_a_cap(kind: type[CallError], asked: float | None, floor: float) -> None:
    error = kind("rate_limited" if kind is ServiceFault else "kind", "words", retry_after_s=asked)
    gate = Gate(Shortest())
    while not gate.failed(gate.enter(), error, 5.0):
        pass
    assert gate.next_at == 5.0 + floor


# A careful gate


def test_after_an_outage_a_look_goes_first_and_vouches_for_one_call() -> None:
    gate = closed(DOWN, careful=True)
    assert (gate.wants_a_look, gate.open) == (True, False)
    look = gate.enter()
    gate.looked(look)
    gate.left(look)
    assert (gate.wants_a_look, gate.open) == (False, False)
    assert gate.opens_at(1.0) == gate.next_at
    trying = gate.enter()
    assert gate.opens_at(1e9) is None
    assert gate.failed(trying, DOWN, 20.0) is True
    assert gate.wants_a_look, "what it vouched for did not hold"
    gate.looked(gate.enter())
    assert gate.passed(gate.enter()) is True
    assert gate.open
    assert not gate.wants_a_look


def test_a_look_that_fails_lengthens_the_wait() -> None:
    gate = closed(CUT, careful=True)
    assert gate.failed(gate.enter(), CUT, 10.0) is True
    assert gate.next_at == 14.0
    assert gate.wants_a_look


@pytest.mark.parametrize("error", [SLOW, BROKE], ids=lambda error: error.kind)
def test_only_an_outage_wants_a_look(error: CallError) -> None:
    """A service that answers at all can say no: such a try cannot end in doubt."""
    assert not closed(error, careful=True).wants_a_look
    assert not closed(DOWN).wants_a_look, "nor does a gate that is not careful"


# Since when


def test_since_is_when_it_closed_whatever_the_outage_looks_like() -> None:
    gate = closed(DOWN, 100.0)
    for now, error in ((200.0, CUT), (300.0, SLOW), (400.0, DOWN)):
        gate.failed(gate.enter(), error, now)
        assert gate.since == 100.0


def test_the_accounts_trouble_counts_from_its_own_beginning() -> None:
    """An outage of an hour, and then: out of credits. The half hour for the account once was over before it began."""
    gate = closed(DOWN, 0.0)
    gate.failed(gate.enter(), BROKE, 3600.0)
    assert (gate.word, gate.since) == (Word.PAUSED, 3600.0)
    gate.failed(gate.enter(), DOWN, 4000.0)
    assert (gate.word, gate.since) == (Word.DOWN, 0.0)
    gate.failed(gate.enter(), BROKE, 5000.0)
    assert gate.since == 3600.0, "trouble that takes turns does not wait for ever"
    gate.passed(gate.enter())
    gate.failed(gate.enter(), BROKE, 9000.0)
    assert gate.since == 9000.0


# Any story


ERRORS = [DOWN, CUT, BROKE, SLOW, JobFault("bad_request", "no"), LocalFault("disk_full", "full")]
LEFT = 9


def end(gate: Gate, ticket: int, how: int, now: float, *, look: bool) -> None:
    """A call ends: with an error of that number, without a verdict, or answered."""
    if how < len(ERRORS):
        was_at, was_open = gate.next_at, gate.open
        if gate.failed(ticket, ERRORS[how], now) and gate.open:
            assert not was_open, "an answer that opens nothing is no news"
        elif not gate.open and gate.next_at != was_at:
            assert now <= gate.next_at <= now + 600.0
        else:
            assert gate.next_at == was_at
    elif how == LEFT:
        gate.left(ticket)
    elif look:
        gate.looked(ticket)
    else:
        gate.passed(ticket)


@settings(derandomize=True, max_examples=400, deadline=None)
@given(st.integers(0, 9), st.booleans(), st.lists(st.tuples(st.integers(0, 99), st.integers(0, 9)), max_size=80))
def test_whatever_happens_one_tries_and_the_gate_never_locks(
    seed: int, careful: bool, story: list[tuple[int, int]]
) -> None:
    """Calls start when they may and end in any order and way; when all are answered, the gate is open."""
    gate, now = Gate(Random(seed), careful=careful), 0.0
    under_way: list[tuple[int, bool]] = []  # ticket, and whether it is a look

    for which, how in story:
        now += which % 7
        moment = gate.opens_at(now)
        assert (gate.since is None) == gate.open == (gate.word is Word.FINE)
        assert gate.open or sum(ticket == gate._round for ticket, _ in under_way) <= 1, "two try at once"
        if which % 2 and moment is not None:
            now = moment
            look = gate.wants_a_look
            under_way.append((gate.enter(), look))
        elif under_way:
            ticket, look = under_way.pop(which % len(under_way))
            end(gate, ticket, how if how < 9 else LEFT, now, look=look)
    for ticket, look in under_way:
        end(gate, ticket, LEFT, now, look=look)
    for _ in range(2):
        moment = gate.opens_at(now)
        assert moment is not None, "nobody is under way, so somebody may try"
        assert now <= moment <= now + 600.0
        now, look = moment, gate.wants_a_look
        end(gate, gate.enter(), 8, now, look=look)
    assert gate.open


# Submissions that end in doubt

DOUBT = ServiceFault("server_error", "500", status=500, in_doubt=True)
LOST = NetworkFault("cut", "the reply was lost", in_doubt=True)
REUSED = ServiceFault("id_reused", "another job's id", in_doubt=True)


def shut_by_doubts(error: CallError = DOUBT) -> Gate:
    gate = make(careful=True)
    for _ in range(3):
        gate.failed(gate.enter(), error, 0.0)
    return gate


@pytest.mark.parametrize("error", [DOUBT, LOST, REUSED], ids=lambda error: error.kind)
def test_after_three_doubts_in_a_row_one_submission_goes_every_half_hour(error: CallError) -> None:
    gate = shut_by_doubts(error)
    assert "3 submissions in a row ended in doubt" in gate.reason
    now = 0.0
    for _ in range(4):
        assert (gate.open, gate.opens_at(now)) == (False, now + 1800.0)
        now += 1800.0
        gate.looked(gate.enter())
        assert gate.failed(gate.enter(), error, now) is True
    assert gate.since == 0.0, "the patience with an outage counts from the first"


def test_a_look_that_fails_meanwhile_does_not_bring_the_next_submission_nearer() -> None:
    gate = shut_by_doubts()
    gate.failed(gate.enter(), DOWN, 1800.0, look=True)
    gate.looked(gate.enter())
    gate.failed(gate.enter(), DOUBT, 1900.0)
    assert gate.opens_at(1900.0) == 1900.0 + 1800.0


@pytest.mark.parametrize("answer", [None, SLOW, JobFault("bad_request", "no", status=400), BROKE], ids=str)
def test_an_answer_in_between_begins_the_count_anew(answer: CallError | None) -> None:
    gate = make(careful=True)
    now = 0.0
    for _ in range(10):
        for _ in range(2):
            gate.failed(gate.enter(), DOUBT, now)
        ticket = gate.enter()
        gate.failed(ticket, answer, now) if answer else gate.passed(ticket)
        now = max(now, gate.next_at)
        gate.passed(gate.enter())
        assert gate.open


def test_an_answer_that_comes_after_the_three_doubts_opens_the_gate() -> None:
    """They were under way together: the service answers, so the others need not wait for half an hour."""
    gate = make(careful=True)
    tickets = [gate.enter() for _ in range(4)]
    for ticket in tickets[:3]:
        gate.failed(ticket, DOUBT, 0.0)
    assert gate.opens_at(1.0) == 1800.0
    assert gate.passed(tickets[3]) is True
    assert gate.opens_at(1.0) == 1.0


def test_as_many_submissions_are_risked_at_once_as_may_end_in_doubt() -> None:
    gate = make(careful=True)
    rooms = [gate.room]
    gate.passed(gate.enter())
    rooms.append(gate.room)
    for _ in range(2):
        gate.failed(gate.enter(), DOUBT, 0.0)
        rooms.append(gate.room)
    gate.passed(gate.enter())
    rooms.append(gate.room)
    assert rooms == [3, None, 2, 1, None], "at first, nothing is known of the service"
    assert make().room is None, "polls and downloads end in no doubt"


def test_what_the_log_shows_settles_the_doubts() -> None:
    found, lacking = shut_by_doubts(), shut_by_doubts()
    assert found.settled(10.0, accepted=True) is True
    assert found.opens_at(10.0) == 10.0
    assert lacking.settled(10.0, accepted=False) is True
    assert (lacking.open, lacking.opens_at(10.0)) == (False, 40.0), "the service is in trouble all the same"
    assert make(careful=True).settled(0.0, accepted=True) is False
