"""Initial states: no job that may have been paid for is submitted again by default, and no record is lost."""

from dataclasses import replace
from typing import Any

import pytest

from batchrunner.errors import Problem
from batchrunner.job import Move, Record, State, advance
from batchrunner.plan.resume import (
    LATER_LOST,
    LATER_LOST_HINT,
    LOST,
    ROLLED_BACK,
    held_before_retry,
    held_in_doubt,
    lost_request_id,
    may_have_later,
    may_lack_attempts,
    take_up,
)
from tests.conftest import NOW, make_entries, make_job, make_record, remote

PLAIN: dict[str, Any] = {"retry_failed": False, "resubmit_in_doubt": False}
AFTER_RESUME = {
    State.PENDING: State.PENDING,
    State.SUBMITTING: State.IN_DOUBT,
    State.IN_FLIGHT: State.IN_FLIGHT,
    State.IN_DOUBT: State.IN_DOUBT,
    State.SUCCEEDED: State.SUCCEEDED,
    State.FAILED: State.FAILED,
}


def taken_up(record: Record | None, **flags: bool) -> tuple[Record, list[Record]]:
    known = {record.job.fingerprint: record} if record else {}
    records, changed = take_up(known, make_entries("a"), **{**PLAIN, **flags})
    return records[make_job("a").fingerprint], changed


def test_a_fresh_run_is_the_resume_of_an_empty_journal() -> None:
    record, changed = taken_up(None)
    assert record == Record(make_job("a"))
    assert changed == [record]


@pytest.mark.parametrize("state", State)
def test_no_job_is_submitted_again_by_default(state: State) -> None:
    record, changed = taken_up(make_record("a", state))
    assert record.state is AFTER_RESUME[state]
    assert [item.state for item in changed] == ([AFTER_RESUME[state]] if AFTER_RESUME[state] is not state else [])


def test_an_unfinished_submission_is_in_doubt_with_a_reason() -> None:
    record, _ = taken_up(make_record("a", State.SUBMITTING))
    assert record.error == LOST
    assert record.last.outcome == "in_doubt"
    assert record.last.request_id, "evidence is looked up by it"


@pytest.mark.parametrize("state", State)
def test_resubmit_applies_only_to_jobs_in_doubt(state: State) -> None:
    record, _ = taken_up(make_record("a", state), resubmit_in_doubt=True)
    freed = {State.IN_DOUBT, State.SUBMITTING}
    assert record.state is (State.PENDING if state in freed else AFTER_RESUME[state])


@pytest.mark.parametrize("state", State)
def test_retry_applies_only_to_failed_jobs(state: State) -> None:
    record, _ = taken_up(make_record("a", state), retry_failed=True)
    assert record.state is (State.PENDING if state is State.FAILED else AFTER_RESUME[state])


@pytest.mark.parametrize("state", State)
def test_a_job_without_an_entry_is_kept_and_no_flag_resubmits_it(state: State) -> None:
    gone = make_record("gone", state)
    flags: dict[str, Any] = {"retry_failed": True, "resubmit_in_doubt": True}
    records, changed = take_up({gone.job.fingerprint: gone}, make_entries("a"), **flags)
    assert records[gone.job.fingerprint].state is AFTER_RESUME[state]
    assert make_job("a").fingerprint in {record.job.fingerprint for record in changed}


def test_position_and_id_do_not_identify_a_job() -> None:
    done = make_record("a", State.SUCCEEDED)
    entries = make_entries("new", "renamed=a", "twice=a")
    records, changed = take_up({done.job.fingerprint: done}, entries, **PLAIN)
    assert records[done.job.fingerprint].state is State.SUCCEEDED
    assert [record.job.key for record in changed] == [make_job("new").key]
    assert len(records) == 2, "equal jobs share one record"


def test_inputs_are_taken_from_the_manifest() -> None:
    stored = make_record("a", State.PENDING, job=make_job("a", video=remote(url="https://example.com/stripped.mp4")))
    record, changed = taken_up(stored)
    assert record.job == make_job("a")
    assert changed == [], "nothing to store: its state did not change"


def test_arguments_are_not_modified() -> None:
    known = {make_job("a").fingerprint: make_record("a", State.SUBMITTING)}
    before = dict(known)
    take_up(known, make_entries("a", "b"), **PLAIN)
    assert known == before


# A recovered journal

LATER = Problem(LATER_LOST, "", LATER_LOST_HINT)
NO_FACE = Problem("face_detection_error", "no face")
UNKNOWN = Problem("unknown_generation", "404", fault="service")


def failed_with(problem: Problem) -> Record:
    return advance(make_record("a", State.IN_FLIGHT), Move.FAIL, error=problem)


def recovered(record: Record) -> Record:
    return held_in_doubt({record.job.fingerprint: record}, make_entries("a"), "new", NOW, lambda _: 5.0)[
        record.job.fingerprint
    ]


RECOVERED = {
    State.PENDING: State.IN_DOUBT,
    State.SUBMITTING: State.IN_DOUBT,
    State.IN_FLIGHT: State.IN_FLIGHT,
    State.IN_DOUBT: State.IN_DOUBT,
    State.SUCCEEDED: State.SUCCEEDED,
    State.FAILED: State.IN_DOUBT,
}


@pytest.mark.parametrize("state", State)
def test_a_recovery_submits_nothing_and_marks_all_that_may_lack_attempts(state: State) -> None:
    before = failed_with(NO_FACE) if state is State.FAILED else make_record("a", state)
    record = recovered(before)
    assert record.state is RECOVERED[state]
    assert may_lack_attempts(record.last.error) is (state is not State.SUCCEEDED)
    assert recovered(record) == record, "a second recovery changes nothing"


def test_a_failed_job_is_in_doubt_after_a_recovery_as_its_retry_may_be_lost() -> None:
    record = recovered(failed_with(NO_FACE))
    assert record.error is not None
    assert (record.error.kind, record.error.hint) == (LATER_LOST, LATER_LOST_HINT)
    assert "face_detection_error: no face" in record.error.message
    assert [attempt.outcome for attempt in record.attempts] == ["failed", "in_doubt"]
    assert (record.last.request_id, record.last.estimate) == (f"new.{record.job.key}.2", 5.0)


def test_a_failure_that_may_not_be_final_is_polled_again_after_a_recovery() -> None:
    record = recovered(failed_with(UNKNOWN))
    assert (record.state, record.last.error) == (State.IN_FLIGHT, ROLLED_BACK)


@pytest.mark.parametrize("problem", [ROLLED_BACK, LATER], ids=lambda problem: problem.kind)
def test_the_hint_of_a_lost_attempt_offers_only_what_can_work(problem: Problem) -> None:
    """The log cannot disprove a submission of which neither the id nor the time is known."""
    assert "--in-doubt resubmit" in problem.hint
    assert "evidence" not in problem.hint


def test_only_a_failed_job_with_the_mark_may_have_a_later_attempt() -> None:
    marked = failed_with(UNKNOWN).with_attempt(error=ROLLED_BACK)
    assert may_have_later(marked)
    assert not may_have_later(failed_with(UNKNOWN))
    assert not may_have_later(recovered(failed_with(UNKNOWN))), "it is polled again first"
    assert lost_request_id(marked) not in {attempt.request_id for attempt in marked.attempts}
    waiting = recovered(failed_with(NO_FACE))
    assert lost_request_id(waiting) == waiting.last.request_id


def test_a_failed_job_without_an_entry_is_kept_by_a_recovery() -> None:
    gone = failed_with(NO_FACE)
    records = held_in_doubt({gone.job.fingerprint: gone}, make_entries("b"), "new", NOW, lambda _: None)
    assert records[gone.job.fingerprint] == gone


@pytest.mark.parametrize(("mark", "state"), [(ROLLED_BACK, State.IN_DOUBT), (UNKNOWN, State.FAILED)])
def test_a_retry_of_a_job_with_the_mark_is_searched_for_first(mark: Problem, state: State) -> None:
    failed = replace(failed_with(UNKNOWN), error=UNKNOWN).with_attempt(error=mark)
    known = held_before_retry({failed.job.fingerprint: failed}, "new", NOW, lambda _: None)
    record = known[failed.job.fingerprint]
    assert record.state is state
    taken, _ = taken_up(record, retry_failed=True)
    assert taken.state is (State.IN_DOUBT if state is State.IN_DOUBT else State.PENDING)
