"""The steps: storing the id of an accepted submission on a disk that refuses is tried again, and ends."""

import asyncio
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

from batchrunner.clock import LoopClock
from batchrunner.engine.calls import CallHealth
from batchrunner.engine.in_doubt import InDoubtJobs
from batchrunner.engine.job_queue import Scheduler
from batchrunner.engine.ports import Dependencies, Policy
from batchrunner.engine.steps import (
    Download,
    Finish,
    HoldInDoubt,
    LeaveInFlight,
    Next,
    PollAgain,
    Settled,
    Steps,
    Submit,
)
from batchrunner.errors import AccountFault, CallError, JobFault, LocalFault, Problem, ServiceFault
from batchrunner.events import Event, Noticed
from batchrunner.job import Move, Record, State, TimelineEvent
from batchrunner.plan.admission import Admission
from batchrunner.plan.duration_estimate import Forecast
from batchrunner.plan.ledger import Budget, Ledger
from batchrunner.plan.prices import Prices
from batchrunner.plan.resume import RECHECKED, ROLLED_BACK
from batchrunner.providers.base import Accepted, Capabilities, GenerationStatus, Phase
from tests.conftest import NOW, make_record


class Slept(LoopClock):
    """A clock that a sleep moves on at once, while its wall time is set back further and further."""

    def __init__(self) -> None:
        super().__init__()
        self.at_s = 0.0

    def now(self) -> float:
        return NOW - 60 * self.at_s

    def monotonic(self) -> float:
        return self.at_s

    async def sleep(self, seconds: float) -> None:
        self.at_s += seconds


class Refusing:
    """A journal on a full disk that takes a record after so many refusals."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals

    async def save(self, record: Record, *, attempts: int = 1) -> None:
        self.refusals -= 1
        if self.refusals >= 0:
            raise LocalFault("disk_full", "the disk is full", "Make room.")

    async def note(self, timeline_event: TimelineEvent) -> None:
        """Nothing here depends on it."""


def stores(clock: Slept, refusals: int) -> tuple[Record, list[str]]:
    """The record after an acceptance was stored, and the notices meanwhile."""
    told: list[Event] = []
    ids = lambda fingerprint: (fingerprint,)  # noqa: E731 (one expression, used once)
    parts = Mock(clock=clock, journal=Refusing(refusals), announce=told.append, ids=ids, timeline=())
    record = make_record("a", State.SUBMITTING)
    policy = Policy(concurrency=1, poll_interval_s=10.0)
    steps = Steps(parts, policy, "run", {record.job.fingerprint: record}, Mock(), Mock())
    asyncio.run(steps._accepted(record.job.fingerprint, Move.ACCEPT, "gen:1", None))
    return steps.records[record.job.fingerprint], [event.message for event in told if isinstance(event, Noticed)]


def test_an_id_is_stored_as_soon_as_the_disk_takes_it() -> None:
    clock = Slept()
    record, told = stores(clock, refusals=3)
    assert clock.at_s == 1 + 2 + 4
    assert (record.state, record.generation_id) == (State.IN_FLIGHT, "gen:1")
    assert len(told) == 3
    assert all("gen:1 was accepted and is not recorded yet" in message for message in told)


def test_a_disk_that_never_takes_it_ends_the_trying_after_about_a_minute() -> None:
    clock = Slept()
    with pytest.raises(
        LocalFault, match="generation gen:1 was accepted and is not recorded yet: note it down"
    ) as caught:
        stores(clock, refusals=1000)
    assert caught.value.kind == "disk_full"
    assert 60 < clock.at_s < 65


# Looks

MISSING = ServiceFault("unknown_generation", "404", status=404)


class Ticking(Slept):
    """The same, its wall time in step."""

    def now(self) -> float:
        return NOW + self.at_s


class Service:
    """Answers each look with what comes next; submissions are accepted."""

    capabilities = Capabilities(find_submissions=True)

    def __init__(self, *replies: Phase | GenerationStatus | CallError) -> None:
        self.replies = list(replies)

    async def submit(self, *_: object) -> Accepted:
        return Accepted("gen:new", None)

    async def status(self, *_: object) -> GenerationStatus:
        reply = self.replies.pop(0)
        if isinstance(reply, CallError):
            raise reply
        if isinstance(reply, GenerationStatus):
            return reply
        return GenerationStatus(
            reply, reply.value, result_url="https://e.com/a.mp4" if reply is Phase.COMPLETED else None
        )


def stepping(
    record: Record, service: Service, journal: Any = None, **bounds: Any
) -> tuple[Steps, Ticking, Callable[..., Next]]:
    """Steps for one job, their clock, and a way to take one: ``take("poll", after_s)``."""
    clock = Ticking()
    parts = Dependencies(
        provider=Mock(submit=service.submit, status=service.status, capabilities=service.capabilities),
        journal=journal or Refusing(0),
        clips=Mock(),
        store=Mock(),
        clock=clock,
        rng=Mock(uniform=lambda _a, b: b),
        announce=lambda _: None,
        ids=lambda name: (name,),
    )
    admission = Admission(Prices({}), Ledger(Budget(), [record]), Forecast())
    policy = Policy(concurrency=1, poll_interval_s=15.0, **bounds)
    health = CallHealth(parts, Scheduler(1))
    steps = Steps(parts, policy, "run", {record.job.fingerprint: record}, health, admission)

    def take(step: str, after_s: float = 15.0) -> Next:
        clock.at_s += after_s
        following: Next = asyncio.run(getattr(steps, step)(record.job.fingerprint, health.breakers["submit"].enter()))
        return following

    return steps, clock, take


def test_a_generation_that_the_service_denies_is_believed_gone_after_the_grace() -> None:
    steps, _, take = stepping(make_record("a", State.IN_FLIGHT), Service(*[MISSING] * 99))
    for number in range(41):
        assert isinstance(take("poll"), PollAgain), number
    take("poll")
    [record] = steps.records.values()
    assert (record.state, record.error and record.error.kind) == (State.FAILED, "unknown_generation")


@pytest.mark.parametrize("status", [400, 406, 410, 422, 451])
def test_a_poll_that_is_refused_for_good_ends_the_job_with_the_words_of_the_service(status: int) -> None:
    """It once was polled for ten minutes, and its words stood nowhere. It is paid for: later runs ask again."""
    refusal = JobFault("bad_request", f"the service answered {status}: no", status=status)
    steps, _, take = stepping(make_record("a", State.IN_FLIGHT), Service(*[refusal] * 3))
    looks = [take("poll") for _ in range(3)]
    assert [type(look) for look in looks] == [PollAgain, PollAgain, Finish]
    [record] = steps.records.values()
    assert record.state is State.FAILED
    assert record.error is not None
    assert record.error.kind in RECHECKED
    assert f"the service answered {status}: no" in record.error.message
    assert "gen:a/1" in record.error.message


def test_one_good_poll_between_refusals_starts_the_count_again() -> None:
    refusal = JobFault("bad_request", "400", status=400)
    replies: list[Phase | GenerationStatus | CallError] = [refusal, refusal, Phase.GENERATING] * 5
    _, _, take = stepping(make_record("a", State.IN_FLIGHT), Service(*replies))
    assert all(isinstance(take("poll"), PollAgain) for _ in replies)


def test_polls_that_the_account_is_refused_fail_no_job() -> None:
    refusal = AccountFault("unauthorized", "401", status=401)
    _, _, take = stepping(make_record("a", State.IN_FLIGHT), Service(*[refusal] * 50))
    assert all(isinstance(take("poll"), PollAgain) for _ in range(50))


def test_a_poll_that_is_refused_while_others_are_answered_ends_that_job_alone() -> None:
    refusal = AccountFault("forbidden", "403: not yours", status=403)
    steps, _, take = stepping(make_record("a", State.IN_FLIGHT), Service(*[refusal] * 3))
    for _ in range(2):
        assert isinstance(take("poll"), PollAgain)
        steps._health._answered["poll"] += 1
    assert isinstance(take("poll"), Finish)
    [record] = steps.records.values()
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
    """It once was polled for ever, and the run never came to its end."""
    steps, clock, take = stepping(make_record("a", State.IN_FLIGHT), Service(*[error] * 9999))
    wait_s = 0.0
    while isinstance(following := take("poll", wait_s), PollAgain):
        assert following.wait_s is not None
        wait_s = following.wait_s
        steps._health._answered["poll"] += 1  # those of others are answered
        assert clock.at_s < 2 * 3600
    assert isinstance(following, LeaveInFlight)
    assert least_s < clock.at_s < most_s
    [record] = steps.records.values()
    assert record.state is State.IN_FLIGHT


# Terminal statuses that have to be confirmed

BROKEN = Problem("internal_server_error", "it broke", "", "service")
FAILED = GenerationStatus(Phase.FAILED, "error", error=BROKEN)
FAILED_UNNAMED = GenerationStatus(Phase.FAILED, "error", error=BROKEN, named=False)
DONE_UNNAMED = GenerationStatus(Phase.COMPLETED, "completed", result_url="https://e.com/a.mp4", named=False)


def followed(*replies: Phase | GenerationStatus | CallError) -> tuple[list[type], Record]:
    """What follows each poll, and the record in the end."""
    steps, _, take = stepping(make_record("a", State.IN_FLIGHT), Service(*replies))
    types = [type(take("poll")) for _ in replies]
    [record] = steps.records.values()
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


def test_a_failure_that_one_reply_names_and_others_do_not_never_pays() -> None:
    types, record = followed(FAILED, FAILED_UNNAMED, FAILED_UNNAMED)
    assert types == [PollAgain, PollAgain, Finish]
    assert record.state is State.FAILED


def test_the_polls_that_confirm_come_soon_but_not_at_once() -> None:
    steps, _, take = stepping(make_record("a", State.IN_FLIGHT), Service(FAILED_UNNAMED, FAILED_UNNAMED))
    waits = [following.wait_s for _ in range(2) if isinstance(following := take("poll"), PollAgain)]
    assert all(wait is not None and 0.5 <= wait < 15.0 for wait in waits)
    assert len(waits) == 2
    [record] = steps.records.values()
    assert record.state is State.IN_FLIGHT, "a process that starts now knows nothing of it, and asks again"


def test_one_good_look_ends_the_count() -> None:
    service = Service(*[MISSING] * 30, Phase.GENERATING, *[MISSING] * 30)
    _, _, take = stepping(make_record("a", State.IN_FLIGHT), service)
    assert all(isinstance(take("poll"), PollAgain) for _ in range(61))


@pytest.mark.parametrize(
    ("looks", "learned"),
    [
        ([(15.0, Phase.GENERATING), (15.0, Phase.COMPLETED)], 30.0),
        ([(15.0, Phase.COMPLETED)], 15.0),
        ([(15.0, Phase.GENERATING), (7200.0, Phase.COMPLETED)], None),  # an outage: it was done long before
        ([(7200.0, Phase.COMPLETED)], None),
        ([(7200.0, Phase.QUEUED), (15.0, Phase.COMPLETED)], 7215.0),
    ],
)
def test_only_what_was_watched_tells_how_long_it_takes(looks: list[tuple[float, Phase]], learned: float | None) -> None:
    steps, _, take = stepping(make_record("a"), Service(*(phase for _, phase in looks)))
    take("submit")
    for after_s, _ in looks:
        take("poll", after_s)
    [record] = steps.records.values()
    assert record.last.completed_at == NOW + 15.0 + sum(after_s for after_s, _ in looks)
    seen = [took for kind in steps.admission.forecast._seen.values() for took in kind]
    assert seen == ([] if learned is None else [learned])


def test_what_was_taken_up_and_is_complete_at_first_sight_teaches_nothing() -> None:
    record = make_record("a", State.IN_FLIGHT).with_attempt(accepted_at=NOW - 80_000.0)
    steps, _, take = stepping(record, Service(Phase.COMPLETED))
    take("poll")
    assert steps.admission.forecast._seen == {}


def test_a_generation_of_a_recovered_journal_that_failed_is_held_in_doubt_for_a_later_attempt() -> None:
    marked = make_record("a", State.IN_FLIGHT).with_attempt(error=ROLLED_BACK)
    steps, _, take = stepping(marked, Service(*[FAILED] * 2), generation_retries=5)
    take("poll")
    assert isinstance(take("poll"), HoldInDoubt)
    [record] = steps.records.values()
    assert record.state is State.IN_DOUBT
    assert [attempt.outcome for attempt in record.attempts] == ["failed", "in_doubt"]
    assert record.attempts[0].error == BROKEN


def test_a_failure_that_may_not_be_final_keeps_the_mark_of_a_recovery() -> None:
    marked = make_record("a", State.IN_FLIGHT).with_attempt(error=ROLLED_BACK)
    steps, _, take = stepping(marked, Service(*[MISSING] * 99))
    while not isinstance(take("poll"), Finish):
        pass
    [record] = steps.records.values()
    assert (record.state, record.error and record.error.kind) == (State.FAILED, "unknown_generation")
    assert record.last.error == ROLLED_BACK, "each run polls it again, and --retry-failed searches the log first"


class Unwitnessed(Refusing):
    """A journal that stores every record, and fails afterwards: first once, as its witness cannot be written."""

    def __init__(self, refusals: int = 1) -> None:
        super().__init__(refusals)
        self.stored: list[Record] = []

    async def save(self, record: Record, *, attempts: int = 1) -> None:
        self.stored.append(record)
        await super().save(record)


@pytest.mark.parametrize("refusals", [1, 2])
def test_an_intent_whose_witness_fails_is_taken_back_and_nothing_is_sent(refusals: int) -> None:
    """It is on the disk, so the next run would hold it in doubt. refusals: the taking back can fail too."""
    journal, service, sent = Unwitnessed(refusals), Service(), []

    async def submit(*arguments: object) -> Accepted:
        sent.append(arguments)
        return Accepted("gen:new", None)

    service.submit = submit  # type: ignore[method-assign]  # counts what is sent
    steps, _, take = stepping(make_record("a"), service, journal)
    with pytest.raises(LocalFault, match="the disk is full"):
        take("submit")
    assert not sent
    assert [record.state for record in journal.stored] == [State.SUBMITTING, State.PENDING]
    [record] = steps.records.values()
    assert record == journal.stored[-1]
    assert (record.last.outcome, record.last.generation_id) == ("refused", None)
    take("submit")
    assert len(sent) == 1, "the next try is another attempt"
    assert [attempt.number for attempt in steps.records[record.job.fingerprint].attempts] == [1, 2]


def test_an_input_that_the_system_cannot_read_stops_the_batch_and_fails_no_job() -> None:
    record = make_record("a")
    service = Service()

    async def refused(*_: object) -> Accepted:
        raise LocalFault("too_little", "a.mp4 could not be read: too little room for open files", "Let it have more.")

    service.submit = refused  # type: ignore[method-assign]
    steps, _, take = stepping(record, service)
    with pytest.raises(LocalFault, match="could not be read"):
        take("submit")
    assert steps.records[record.job.fingerprint].state is State.PENDING


@pytest.mark.parametrize(("in_doubt", "freed"), [("hold", []), ("resubmit", [make_record("a").job.fingerprint])])
def test_a_provider_without_a_search_is_never_searched(in_doubt: str, freed: list[str]) -> None:
    """A submission in doubt stays there, unless the user asks for it again."""
    service = Service()
    service.capabilities = Capabilities()
    record = make_record("a", State.IN_DOUBT)
    steps, _, _ = stepping(record, service, in_doubt=in_doubt)
    jobs = InDoubtJobs(15.0, 600.0, 10.0)
    jobs.found(record.job.fingerprint, 0.0, 0.0)
    assert asyncio.run(steps.reconcile(jobs)) == Settled(freed=freed)
    assert steps.records[record.job.fingerprint].state is (State.PENDING if freed else State.IN_DOUBT)
    assert not steps.log_offered


def test_the_time_of_a_generation_does_not_count_against_the_next_one() -> None:
    """The first one fails after most of `job_timeout`; the second has the whole of it."""
    service = Service(Phase.GENERATING, FAILED, FAILED, Phase.GENERATING, Phase.GENERATING)
    _, _, take = stepping(make_record("a"), service, job_timeout_s=3600.0)
    take("submit")
    take("poll")
    take("poll", 3500.0)
    assert isinstance(take("poll"), Submit)
    take("submit")
    assert take("poll", 300.0) == PollAgain()
    assert isinstance(take("poll", 3601.0), LeaveInFlight)
