"""The poll step: which replies are believed, and what follows from failed polls."""

import pytest

from batchrunner.engine.outcomes import Download, Finish, HoldInDoubt, LeaveInFlight, PollAgain, Submit
from batchrunner.errors import AccountFault, CallError, JobFault, Problem, ServiceFault
from batchrunner.job import Record, State
from batchrunner.plan.resume import RECHECKED, ROLLED_BACK
from batchrunner.providers.base import GenerationStatus, Phase
from tests.conftest import NOW, make_record
from tests.engine.steps.stepping import Service, Stepping

MISSING = ServiceFault("unknown_generation", "404", status=404)


def test_a_generation_that_the_service_denies_is_believed_gone_after_the_grace() -> None:
    stepping = Stepping(make_record("a", State.IN_FLIGHT), Service(*[MISSING] * 99))
    for number in range(41):
        assert isinstance(stepping.take("poll"), PollAgain), number
    stepping.take("poll")
    record = stepping.record
    assert (record.state, record.error and record.error.kind) == (State.FAILED, "unknown_generation")


@pytest.mark.parametrize("status", [400, 406, 410, 422, 451])
def test_a_poll_that_is_refused_for_good_ends_the_job_with_the_message_of_the_service(status: int) -> None:
    """It used to be polled for ten minutes without a trace of the message. It is paid for, so later runs poll again."""
    refusal = JobFault("bad_request", f"the service answered {status}: no", status=status)
    stepping = Stepping(make_record("a", State.IN_FLIGHT), Service(*[refusal] * 3))
    steps = [stepping.take("poll") for _ in range(3)]
    assert [type(step) for step in steps] == [PollAgain, PollAgain, Finish]
    record = stepping.record
    assert record.state is State.FAILED
    assert record.error is not None
    assert record.error.kind in RECHECKED
    assert f"the service answered {status}: no" in record.error.message
    assert "gen:a/1" in record.error.message


def test_one_good_poll_between_refusals_starts_the_count_again() -> None:
    refusal = JobFault("bad_request", "400", status=400)
    replies: list[Phase | GenerationStatus | CallError] = [refusal, refusal, Phase.GENERATING] * 5
    stepping = Stepping(make_record("a", State.IN_FLIGHT), Service(*replies))
    assert all(isinstance(stepping.take("poll"), PollAgain) for _ in replies)


def test_polls_that_the_account_is_refused_fail_no_job() -> None:
    refusal = AccountFault("unauthorized", "401", status=401)
    stepping = Stepping(make_record("a", State.IN_FLIGHT), Service(*[refusal] * 50))
    assert all(isinstance(stepping.take("poll"), PollAgain) for _ in range(50))


def test_a_poll_that_is_refused_while_others_are_answered_ends_that_job_alone() -> None:
    refusal = AccountFault("forbidden", "403: not yours", status=403)
    stepping = Stepping(make_record("a", State.IN_FLIGHT), Service(*[refusal] * 3))
    for _ in range(2):
        assert isinstance(stepping.take("poll"), PollAgain)
        stepping.answer_another("poll")
    assert isinstance(stepping.take("poll"), Finish)
    record = stepping.record
    assert record.error is not None
    assert (record.error.kind, "403: not yours" in record.error.message) == ("poll_refused", True)


@pytest.mark.parametrize(
    ("error", "least_s", "most_s"),
    [
        (ServiceFault("foreign_reply", "answered with generation x"), 300.0, 1000.0),
        (ServiceFault("server_error", "500", status=500), 3600.0, 4000.0),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_a_generation_whose_polls_never_get_a_usable_reply_is_left_for_the_next_run(
    error: CallError, least_s: float, most_s: float
) -> None:
    """It used to be polled for ever, and the run never ended."""
    stepping = Stepping(make_record("a", State.IN_FLIGHT), Service(*[error] * 9999))
    wait_s = 0.0
    while isinstance(following := stepping.take("poll", wait_s), PollAgain):
        assert following.wait_s is not None
        wait_s = following.wait_s
        stepping.answer_another("poll")  # other jobs' polls are answered
        assert stepping.clock.at_s < 2 * 3600
    assert isinstance(following, LeaveInFlight)
    assert least_s < stepping.clock.at_s < most_s
    record = stepping.record
    assert record.state is State.IN_FLIGHT


# Terminal statuses that have to be confirmed

BROKEN = Problem("internal_server_error", "it broke", "", "service")
FAILED = GenerationStatus(Phase.FAILED, "error", error=BROKEN)
FAILED_UNNAMED = GenerationStatus(Phase.FAILED, "error", error=BROKEN, named=False)
DONE_UNNAMED = GenerationStatus(Phase.COMPLETED, "completed", result_url="https://e.com/a.mp4", named=False)


def followed(*replies: Phase | GenerationStatus | CallError) -> tuple[list[type], Record]:
    """What follows each poll, and the record in the end."""
    stepping = Stepping(make_record("a", State.IN_FLIGHT), Service(*replies))
    types = [type(stepping.take("poll")) for _ in replies]
    record = stepping.record
    return types, record


def test_a_failure_is_seen_twice_before_another_generation_is_paid_for() -> None:
    types, record = followed(FAILED, FAILED)
    assert types == [PollAgain, Submit]
    assert record.state is State.PENDING


def test_a_failure_that_the_next_poll_denies_pays_for_nothing() -> None:
    types, record = followed(FAILED, Phase.GENERATING, FAILED, Phase.COMPLETED)
    assert types == [PollAgain, PollAgain, PollAgain, Download]
    assert record.state is State.IN_FLIGHT


def test_a_failure_without_an_id_is_believed_at_the_third_poll_and_never_pays() -> None:
    types, record = followed(FAILED_UNNAMED, FAILED_UNNAMED, FAILED_UNNAMED)
    assert types == [PollAgain, PollAgain, Finish]
    assert record.state is State.FAILED
    assert record.error is not None
    assert "it broke" in record.error.message
    assert "--retry-failed" in record.error.hint
    assert record.error.kind in RECHECKED, "asking again costs nothing"


@pytest.mark.parametrize("between", [Phase.GENERATING, ServiceFault("foreign_reply", "another"), DONE_UNNAMED], ids=str)
def test_another_answer_starts_the_count_again(between: Phase | GenerationStatus | CallError) -> None:
    types, record = followed(FAILED_UNNAMED, FAILED_UNNAMED, between, FAILED_UNNAMED, FAILED_UNNAMED)
    assert set(types) == {PollAgain}
    assert record.state is State.IN_FLIGHT


def test_a_clip_without_an_id_is_fetched_after_the_third_poll_and_a_named_one_at_once() -> None:
    assert followed(DONE_UNNAMED, DONE_UNNAMED, DONE_UNNAMED)[0] == [PollAgain, PollAgain, Download]
    assert followed(Phase.COMPLETED)[0] == [Download]


def test_a_completion_without_a_link_frees_the_slot_only_when_it_is_seen_twice() -> None:
    linkless = GenerationStatus(Phase.COMPLETED, "completed", result_url=None)
    stepping = Stepping(make_record("a", State.IN_FLIGHT), Service(linkless, Phase.GENERATING, linkless, linkless))
    for _ in range(3):
        step = stepping.take("poll")
        assert isinstance(step, PollAgain)
        assert not step.over
        assert stepping.record.last.completed_at is None
    assert stepping.take("poll") == PollAgain(over=True)
    assert stepping.record.last.completed_at is not None


def test_a_failure_that_one_reply_names_and_others_do_not_never_pays() -> None:
    types, record = followed(FAILED, FAILED_UNNAMED, FAILED_UNNAMED)
    assert types == [PollAgain, PollAgain, Finish]
    assert record.state is State.FAILED


def test_the_polls_that_confirm_come_soon_but_not_at_once() -> None:
    stepping = Stepping(make_record("a", State.IN_FLIGHT), Service(FAILED_UNNAMED, FAILED_UNNAMED))
    waits = [following.wait_s for _ in range(2) if isinstance(following := stepping.take("poll"), PollAgain)]
    assert all(wait is not None and 0.5 <= wait < 15.0 for wait in waits)
    assert len(waits) == 2
    record = stepping.record
    assert record.state is State.IN_FLIGHT, "a process that starts now knows nothing of it, and asks again"


def test_one_answered_poll_resets_the_count() -> None:
    service = Service(*[MISSING] * 30, Phase.GENERATING, *[MISSING] * 30)
    stepping = Stepping(make_record("a", State.IN_FLIGHT), service)
    assert all(isinstance(stepping.take("poll"), PollAgain) for _ in range(61))


@pytest.mark.parametrize(
    ("polls", "learned"),
    [
        ([(15.0, Phase.GENERATING), (15.0, Phase.COMPLETED)], 30.0),
        ([(15.0, Phase.COMPLETED)], 15.0),
        ([(15.0, Phase.GENERATING), (7200.0, Phase.COMPLETED)], None),  # an outage: it was complete long before
        ([(7200.0, Phase.COMPLETED)], None),
        ([(7200.0, Phase.QUEUED), (15.0, Phase.COMPLETED)], 7215.0),
    ],
)
def test_only_generations_that_were_polled_regularly_are_learned_from(
    polls: list[tuple[float, Phase]], learned: float | None
) -> None:
    stepping = Stepping(make_record("a"), Service(*(phase for _, phase in polls)))
    stepping.take("submit")
    for after_s, _ in polls:
        stepping.take("poll", after_s)
    record = stepping.record
    assert record.last.completed_at == NOW + 15.0 + sum(after_s for after_s, _ in polls)
    seen = [took_s for kind in stepping.forecast.seen.values() for took_s in kind]
    assert seen == ([] if learned is None else [learned])


def test_a_generation_of_an_earlier_run_is_not_learned_from() -> None:
    record = make_record("a", State.IN_FLIGHT).with_attempt(accepted_at=NOW - 80_000.0)
    stepping = Stepping(record, Service(Phase.COMPLETED))
    stepping.take("poll")
    assert stepping.forecast.seen == {}


def test_a_generation_of_a_recovered_journal_that_failed_is_held_in_doubt_for_a_later_attempt() -> None:
    marked = make_record("a", State.IN_FLIGHT).with_attempt(error=ROLLED_BACK)
    stepping = Stepping(marked, Service(*[FAILED] * 2), generation_retries=5)
    stepping.take("poll")
    assert isinstance(stepping.take("poll"), HoldInDoubt)
    record = stepping.record
    assert record.state is State.IN_DOUBT
    assert [attempt.outcome for attempt in record.attempts] == ["failed", "in_doubt"]
    assert record.attempts[0].error == BROKEN


def test_a_failure_that_may_not_be_final_keeps_the_mark_of_a_recovery() -> None:
    marked = make_record("a", State.IN_FLIGHT).with_attempt(error=ROLLED_BACK)
    stepping = Stepping(marked, Service(*[MISSING] * 99))
    while not isinstance(stepping.take("poll"), Finish):
        pass
    record = stepping.record
    assert (record.state, record.error and record.error.kind) == (State.FAILED, "unknown_generation")
    assert record.last.error == ROLLED_BACK, "each run polls it again, and --retry-failed searches the log first"


def test_the_time_of_a_generation_does_not_count_against_the_next_one() -> None:
    """The first one fails after most of `job_timeout`; the second has the whole of it."""
    service = Service(Phase.GENERATING, FAILED, FAILED, Phase.GENERATING, Phase.GENERATING)
    stepping = Stepping(make_record("a"), service, job_timeout_s=3600.0)
    stepping.take("submit")
    stepping.take("poll")
    stepping.take("poll", 3500.0)
    assert isinstance(stepping.take("poll"), Submit)
    stepping.take("submit")
    assert stepping.take("poll", 300.0) == PollAgain()
    assert isinstance(stepping.take("poll", 3601.0), LeaveInFlight)
