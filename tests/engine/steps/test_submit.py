"""The submit step: nothing is sent before its intent is stored, and each refusal has one consequence."""

from dataclasses import replace

import pytest

from batchrunner.engine.outcomes import Finish, HoldInDoubt, PollAgain, Submit
from batchrunner.errors import AccountFault, CallError, JobFault, LocalFault, NetworkFault, ServiceFault
from batchrunner.events import Noticed
from batchrunner.job import State
from tests.conftest import make_record
from tests.engine.steps.stepping import PRICE, RefusingJournal, Service, Stepping


def test_the_intent_is_stored_before_the_call_and_the_id_after_it() -> None:
    journal, service = RefusingJournal(), Service()
    stepping = Stepping(make_record("a"), service, journal=journal)
    assert stepping.take("submit") == PollAgain()
    assert [record.state for record in journal.attempted] == [State.SUBMITTING, State.IN_FLIGHT]
    assert service.submitted == [stepping.record.last.request_id]
    assert stepping.record.generation_id == "gen:new"


def test_the_intent_has_the_price_that_the_admission_reserved() -> None:
    journal = RefusingJournal()
    Stepping(make_record("a"), Service(), journal=journal).take("submit")
    assert [record.last.estimate for record in journal.attempted] == [PRICE, PRICE]


def test_a_notice_about_a_submission_is_announced_after_its_id_is_stored() -> None:
    service = Service()
    service.notice = "inputs are read again for each submission"
    stepping = Stepping(make_record("a"), service)
    stepping.take("submit")
    [notice] = [event for event in stepping.announced if isinstance(event, Noticed)]
    assert notice.message == service.notice
    assert stepping.announced.index(notice) == len(stepping.announced) - 1


@pytest.mark.parametrize("refusals", [1, 2])
def test_an_intent_whose_witness_fails_is_taken_back_and_nothing_is_sent(refusals: int) -> None:
    """It is on the disk, so the next run would hold it in doubt. refusals: taking it back can fail too."""
    journal, service = RefusingJournal(refusals), Service()
    stepping = Stepping(make_record("a"), service, journal=journal)
    with pytest.raises(LocalFault, match="the disk is full"):
        stepping.take("submit")
    assert not service.submitted
    assert [record.state for record in journal.attempted] == [State.SUBMITTING, State.PENDING]
    record = stepping.record
    assert record == journal.attempted[-1]
    assert (record.last.outcome, record.last.generation_id) == ("refused", None)
    stepping.take("submit")
    assert len(service.submitted) == 1, "the next try is another attempt"
    assert [attempt.number for attempt in stepping.record.attempts] == [1, 2]


def test_an_input_that_the_system_cannot_read_stops_the_batch_and_fails_no_job() -> None:
    service = Service()
    service.submissions = [LocalFault("too_little", "a.mp4 could not be read: too many open files", "Raise the limit.")]
    stepping = Stepping(make_record("a"), service)
    with pytest.raises(LocalFault, match="could not be read"):
        stepping.take("submit")
    assert stepping.record.state is State.PENDING


def test_an_input_that_changed_fails_its_job_alone() -> None:
    service = Service()
    service.submissions = [LocalFault("input_changed", "a.mp4 changed")]
    stepping = Stepping(make_record("a"), service)
    assert stepping.take("submit") == Finish()
    assert stepping.record.state is State.FAILED


def test_a_submission_that_may_have_been_accepted_is_held_in_doubt() -> None:
    service = Service()
    service.submissions = [NetworkFault("cut", "broke off", in_doubt=True)]
    stepping = Stepping(make_record("a"), service)
    assert stepping.take("submit") == HoldInDoubt()
    assert stepping.record.state is State.IN_DOUBT
    assert len(service.submitted) == 1


def test_a_request_that_the_service_rejects_fails_its_job() -> None:
    service = Service()
    service.submissions = [JobFault("bad_request", "400: no such resolution")]
    stepping = Stepping(make_record("a"), service)
    assert stepping.take("submit") == Finish()
    assert stepping.record.error is not None
    assert stepping.record.error.message == "400: no such resolution"


def test_a_refusal_by_a_busy_service_is_repeated_after_a_wait() -> None:
    service = Service()
    service.submissions = [ServiceFault("server_error", "500", status=500)]
    stepping = Stepping(make_record("a"), service)
    assert stepping.take("submit") == Submit(2.0)
    assert stepping.record.state is State.PENDING


REFUSED = AccountFault("forbidden", "403: flagged", status=403)


def refused_by_the_account(*, waiting: int) -> list[object]:
    """What follows three refusals of one job. waiting: other jobs that wait, and that the account never refused."""
    service = Service()
    service.submissions = [REFUSED] * 3
    stepping = Stepping(make_record("a"), service)
    for number in range(waiting):
        stepping.queue.add(f"other-{number}", number)
    following: list[object] = []
    while len(following) < 3 and Finish() not in following:
        following.append(stepping.take("submit"))
        stepping.answer_another("submit")
    return following


def test_a_job_that_the_account_refuses_waits_behind_the_others_until_it_is_at_fault_itself() -> None:
    assert refused_by_the_account(waiting=1) == [Submit(last=True), Submit(last=True), Finish()]


def test_without_another_job_that_could_be_accepted_one_refusal_less_is_enough() -> None:
    assert refused_by_the_account(waiting=0) == [Submit(last=True), Finish()]


def test_a_waiting_job_that_was_refused_as_often_shows_nothing() -> None:
    service = Service()
    service.submissions = [REFUSED] * 2
    stepping = Stepping(make_record("a"), service)
    assert stepping.take("submit") == Submit(last=True)
    stepping.answer_another("submit")
    stepping.queue.add_last(stepping.fingerprint, 0)  # stands for another job that was refused as often
    assert stepping.take("submit") == Finish()


class Uploads:
    """Inputs whose preparation fails with `errors`, one after the other, and then succeeds."""

    def __init__(self, *errors: CallError) -> None:
        self.errors = list(errors)

    async def prepare(self, *_: object) -> None:
        if self.errors:
            raise self.errors.pop(0)


def test_inputs_are_prepared_before_the_intent_so_that_a_kill_leaves_nothing_in_doubt() -> None:
    journal, service = RefusingJournal(), Service()
    stepping = Stepping(make_record("a"), service, journal=journal, inputs=Uploads(NetworkFault("cut", "broke off")))
    assert stepping.take("submit") == Submit(60.0)
    assert (stepping.record.state, stepping.record.attempts, journal.attempted) == (State.PENDING, (), [])
    assert stepping.take("submit") == PollAgain()
    assert len(service.submitted) == 1


def test_a_bucket_that_refuses_stops_the_batch_before_anything_is_sent() -> None:
    service = Service()
    refusal = LocalFault("bucket_refused", "the bucket s3://clips refuses this access (403)", "Allow it.")
    stepping = Stepping(make_record("a"), service, inputs=Uploads(refusal))
    with pytest.raises(LocalFault, match="refuses this access"):
        stepping.take("submit")
    assert (stepping.record.state, service.submitted) == (State.PENDING, [])


def test_a_run_that_is_stopped_while_inputs_are_prepared_submits_nothing() -> None:
    service = Service()
    stepping = Stepping(make_record("a"), service)
    stepping.context = replace(stepping.context, is_stopped=lambda: True)
    assert stepping.take("submit") == Submit()
    assert (stepping.record.state, service.submitted) == (State.PENDING, [])
