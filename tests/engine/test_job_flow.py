"""After each step a job is where it belongs: it waits for a submission, a poll, a download or a search, or is done."""

import asyncio

import pytest

from batchrunner.engine.job_flow import JobFlow
from batchrunner.engine.outcomes import Download, Finish, HoldInDoubt, LeaveInFlight, PollAgain, Submit
from batchrunner.engine.steps.reconcile import Settled
from batchrunner.events import Noticed
from batchrunner.job import State
from batchrunner.plan.admission import Admission
from batchrunner.plan.ledger import Budget, Ledger
from batchrunner.plan.prices import Prices
from tests.conftest import make_record
from tests.engine.steps.stepping import URL, Stepping


class Flow:
    """The flow of one job that a run has begun with."""

    def __init__(self, state: State) -> None:
        self.stepping = Stepping(make_record("a", state))
        self.name = self.stepping.fingerprint
        self.queue = self.stepping.queue
        admission = Admission(Prices({}), Ledger(Budget()), self.stepping.forecast)
        self.flow = JobFlow(self.stepping.context, admission)
        asyncio.run(self.flow.begin([self.name]))


def test_every_job_begins_where_its_record_says() -> None:
    pending, in_flight, in_doubt, done = map(Flow, (State.PENDING, State.IN_FLIGHT, State.IN_DOUBT, State.SUCCEEDED))
    assert (pending.queue.waiting, pending.queue.in_flight) == (1, 0)
    assert in_flight.queue.holds(in_flight.name)
    assert in_flight.flow.poller.pop(0.0) == in_flight.name
    assert in_doubt.queue.holds(in_doubt.name)
    assert list(in_doubt.flow.in_doubt) == [in_doubt.name]
    assert (done.queue.waiting, done.queue.in_flight, done.flow.follows_any) == (0, 0, False)


def test_a_poll_comes_after_its_wait() -> None:
    flow = Flow(State.IN_FLIGHT)
    flow.flow.poller.pop(0.0)
    flow.flow.apply(flow.name, PollAgain(30.0))
    assert flow.flow.poller.pop(29.0) is None
    assert flow.flow.poller.pop(30.0) == flow.name
    assert flow.queue.holds(flow.name)


@pytest.mark.parametrize("next_step", [PollAgain(5.0, over=True), Download(URL), Finish()], ids=str)
def test_a_generation_that_has_ended_gives_its_slot_back(next_step: PollAgain | Download | Finish) -> None:
    flow = Flow(State.IN_FLIGHT)
    flow.flow.apply(flow.name, next_step)
    assert not flow.queue.holds(flow.name)
    assert flow.flow.follows_any is not isinstance(next_step, Finish)
    assert list(flow.flow.downloads) == ([flow.name] if isinstance(next_step, Download) else [])


def test_a_submission_in_doubt_keeps_its_slot_and_is_searched_for() -> None:
    flow = Flow(State.IN_FLIGHT)
    flow.flow.apply(flow.name, HoldInDoubt())
    assert flow.queue.holds(flow.name)
    assert list(flow.flow.in_doubt) == [flow.name]
    assert not flow.flow.follows_any
    flow.stepping.clock.at_s = flow.stepping.context.policy.doubt_s
    flow.flow.release_slots(flow.stepping.clock.at_s)
    assert not flow.queue.holds(flow.name), "but not for ever"


@pytest.mark.parametrize("last", [False, True])
def test_a_job_that_is_submitted_again_waits_without_a_slot(*, last: bool) -> None:
    flow = Flow(State.PENDING)
    assert flow.queue.next(0.0, 1) == flow.name
    flow.flow.apply(flow.name, Submit(7.0, last=last))
    assert (flow.queue.in_flight, flow.queue.waiting) == (0, 1)
    assert flow.queue.next_at(0.0, 1) == (0.0 if last else 7.0)


def test_a_job_that_is_left_in_flight_keeps_its_slot_and_says_why() -> None:
    flow = Flow(State.IN_FLIGHT)
    flow.flow.apply(flow.name, LeaveInFlight("no usable reply"))
    assert flow.queue.holds(flow.name), "the service may still work on it"
    assert not flow.flow.follows_any
    assert [event.message for event in flow.stepping.announced if isinstance(event, Noticed)] == ["no usable reply"]


def test_a_job_that_was_never_sent_gives_its_slot_back() -> None:
    flow = Flow(State.PENDING)
    assert flow.queue.next(0.0, 1) == flow.name
    flow.flow.apply(flow.name, LeaveInFlight("the disk is full"))
    assert flow.queue.in_flight == 0


@pytest.mark.parametrize("call", ["poll", "download"])
def test_calls_that_are_given_up_leave_their_jobs_to_the_next_run(call: str) -> None:
    flow = Flow(State.IN_FLIGHT)
    if call == "download":
        flow.flow.poller.pop(0.0)
        flow.flow.apply(flow.name, Download(URL))
    flow.stepping.context.calls.give_up(call)
    flow.flow.leave(call)
    assert not flow.flow.follows_any
    flow.flow.apply(flow.name, PollAgain(0.0) if call == "poll" else Download(URL))
    assert not flow.flow.follows_any, "nor is it taken up again"


def test_submissions_that_a_search_settles_go_on() -> None:
    found, lacking = Flow(State.IN_DOUBT), Flow(State.IN_DOUBT)
    found.flow.settle(Settled(adopted=[found.name]))
    assert found.flow.poller.pop(0.0) == found.name
    assert found.queue.holds(found.name)
    lacking.flow.settle(Settled(disproved=[lacking.name]))
    assert (lacking.queue.in_flight, lacking.queue.waiting) == (0, 1)
