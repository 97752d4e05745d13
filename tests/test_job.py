"""The state machine: only moves of the table are legal, and a possibly paid job is never resubmitted by itself."""

import tracemalloc
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrunner.errors import Problem
from batchrunner.job import (
    OUTCOMES,
    TRANSITIONS,
    Entry,
    IllegalMove,
    JobNames,
    Move,
    Record,
    State,
    advance,
    count_states,
    take_name,
)
from tests.conftest import make_job, make_record

WHY = Problem("kind", "message", "hint")
PAIRS = [(state, move) for state in State for move in Move]


def moved(record: Record, move: Move) -> Record:
    intent: dict[str, Any] = {"request_id": f"r{len(record.attempts) + 1}", "submitted_at": 1.0}
    return advance(record, move, **(intent if move in {Move.BEGIN_SUBMIT, Move.REUSE} else {}))


@pytest.mark.parametrize(("state", "move"), PAIRS)
def test_every_pair_is_in_the_table_or_illegal(state: State, move: Move) -> None:
    record = make_record(state=state)
    if (state, move) in TRANSITIONS:
        assert moved(record, move).state is TRANSITIONS[state, move]
        assert record == make_record(state=state), "the old record must not change"
    else:
        with pytest.raises(IllegalMove, match=f"{record.job.key} is {state}: it cannot {move}"):
            moved(record, move)
        assert record == make_record(state=state)


def test_a_submission_needs_a_recorded_intent() -> None:
    assert {old for (old, move), _ in TRANSITIONS.items() if move is Move.BEGIN_SUBMIT} == {State.PENDING}
    assert {old for (old, _), new in TRANSITIONS.items() if new is State.SUBMITTING} == {State.PENDING}


def test_only_a_refusal_the_services_log_or_the_user_returns_a_job_to_pending() -> None:
    ways = {move for (_, move), new in TRANSITIONS.items() if new is State.PENDING}
    assert ways == {Move.REFUSE, Move.RELEASE, Move.CLEAR, Move.RETRY}
    assert [old for (old, move) in TRANSITIONS if move is Move.RETRY] == [State.FAILED]
    assert [old for (old, move) in TRANSITIONS if move is Move.RELEASE] == [State.IN_DOUBT]
    assert [old for (old, move) in TRANSITIONS if move is Move.CLEAR] == [State.IN_DOUBT]
    assert [old for (old, move) in TRANSITIONS if move is Move.REFUSE] == [State.SUBMITTING]


def test_a_lost_file_is_downloaded_again_never_generated_again() -> None:
    assert TRANSITIONS[State.SUCCEEDED, Move.FILE_MISSING] is State.IN_FLIGHT
    assert [move for (old, move) in TRANSITIONS if old is State.SUCCEEDED] == [Move.FILE_MISSING]


def test_every_state_can_be_reached_and_left() -> None:
    reached = {State.PENDING}
    for _ in State:
        reached |= {new for (old, _), new in TRANSITIONS.items() if old in reached}
    assert reached == set(State)
    assert {old for old, _ in TRANSITIONS} == set(State)
    assert {move for _, move in TRANSITIONS} == set(Move)


def test_an_intent_starts_a_numbered_attempt_and_keeps_earlier_ones() -> None:
    refused = moved(moved(make_record(), Move.BEGIN_SUBMIT), Move.REFUSE)
    again = advance(refused, Move.BEGIN_SUBMIT, request_id="second", submitted_at=7.0)
    assert [attempt.number for attempt in again.attempts] == [1, 2]
    assert again.attempts[0] == refused.attempts[0]
    assert again.last.request_id == "second"
    assert again.last.outcome is None
    assert again.last.generation_id is None


def test_an_error_stays_on_the_record_until_the_next_move() -> None:
    doubted = advance(moved(make_record(), Move.BEGIN_SUBMIT), Move.DOUBT, error=WHY)
    assert doubted.error == WHY
    assert doubted.last.error == WHY
    assert doubted.last.outcome == "in_doubt"
    adopted = advance(doubted, Move.ADOPT, generation_id="g", accepted_at=3.0)
    assert adopted.error is None
    assert adopted.last.error == WHY
    assert adopted.last.outcome == "accepted"
    assert adopted.generation_id == "g"


def test_giving_up_keeps_the_outcome_of_the_attempt() -> None:
    refused = advance(moved(make_record(), Move.BEGIN_SUBMIT), Move.REFUSE, error=WHY, ended_at=9.0)
    failed = advance(refused, Move.GIVE_UP, error=WHY)
    assert failed.last.outcome == "refused"
    assert failed.last.ended_at == 9.0
    assert failed.error == WHY


def test_giving_up_before_an_attempt_adds_no_attempt() -> None:
    failed = advance(make_record(), Move.GIVE_UP, error=WHY)
    assert failed.attempts == ()
    assert failed.generation_id is None


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(Move), max_size=30))
def test_random_walks_keep_attempts_consistent(moves: list[Move]) -> None:
    record = make_record()
    for move in moves:
        if (record.state, move) not in TRANSITIONS:
            continue
        before = record
        record = moved(record, move)
        assert [attempt.number for attempt in record.attempts] == list(range(1, len(record.attempts) + 1))
        assert record.attempts[: len(before.attempts) - 1] == before.attempts[:-1], "only the latest attempt changes"
        if OUTCOMES.get(move) and record.attempts:
            assert record.last.outcome == OUTCOMES[move]


def test_records_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        make_record().state = State.FAILED  # type: ignore[misc]  # the test asserts that this fails


def test_counts_include_every_state() -> None:
    counts = count_states([make_record(state=State.FAILED), make_record("b", State.FAILED)])
    assert set(counts) == set(State)
    assert counts[State.FAILED] == 2
    assert sum(counts.values()) == 2


def test_keys_file_names_and_state_values_are_stable() -> None:
    job = make_job("a")
    assert job.fingerprint == f"sha256:{job.key}{'0' * 48}"
    assert len(job.key) == 16
    assert Entry(0, "hero-walk", job).file == "hero-walk.mp4"
    assert {state.value for state in State} - {"submitting"} == {
        "pending", "in_flight", "in_doubt", "succeeded", "failed",
    }  # fmt: skip


def test_a_take_is_named_after_the_first_one() -> None:
    entries = [Entry(0, take_name("walk.t2", take), replace(make_job(), take=take)) for take in (1, 2, 12)]
    assert [entry.id for entry in entries] == ["walk.t2", "walk.t2.t2", "walk.t2.t12"]
    assert [(entry.base, entry.take) for entry in entries] == [("walk.t2", 1), ("walk.t2", 2), ("walk.t2", 12)]


def test_a_job_has_the_ids_and_files_of_all_of_its_entries_in_order() -> None:
    one, two, other = make_job("1"), make_job("2"), make_job("3")
    entries = [Entry(0, "a", one), Entry(1, "b", two, output_name="shots/b"), Entry(2, "c", one, output_name="c2")]
    names = JobNames(entries)
    assert dict(names) == {one.fingerprint: ("a", "c"), two.fingerprint: ("b",)}
    assert [names.ids(job.fingerprint) for job in (one, two, other)] == [("a", "c"), ("b",), ()]
    assert [names.files(job.fingerprint) for job in (one, two, other)] == [["a.mp4", "c2.mp4"], ["shots/b.mp4"], []]
    assert (one.fingerprint in names, other.fingerprint in names, len(names), len(JobNames())) == (True, False, 2, 0)


def test_names_of_jobs_take_little_memory_beside_the_entries() -> None:
    """A tuple of ids and a list of file names for each job took 250 bytes."""
    entries = [Entry(number, f"job-{number}", make_job(f"{number:05}")) for number in range(2000)]
    tracemalloc.start()
    try:
        names = JobNames(entries)
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(names) == 2000
    assert kept_bytes / 2000 < 60
