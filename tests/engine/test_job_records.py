"""A record is stored before it changes and is announced; the id of an accepted generation is stored with patience."""

import asyncio
from dataclasses import replace
from unittest.mock import AsyncMock, Mock

import pytest

from batchrunner.account.base import Granted
from batchrunner.engine.job_records import JobRecords
from batchrunner.engine.steps import submit
from batchrunner.errors import LocalFault
from batchrunner.events import JobMoved, Noticed
from batchrunner.job import IllegalMove, Move, State
from batchrunner.plan.ledger import Budget, Ledger
from tests.conftest import make_record
from tests.engine.steps.stepping import RefusingJournal, Service, Stepping, VirtualClock


def accept(stepping: Stepping) -> None:
    """Store the id of an accepted submission."""
    records = stepping.context.records
    asyncio.run(records.accept(stepping.fingerprint, Move.ACCEPT, "gen:1", None, retry_for_s=60.0))


def submitting(refusals: int) -> Stepping:
    """A job that is being submitted, on a disk that refuses so often, while its wall clock runs backwards."""
    record = make_record("a", State.SUBMITTING)
    return Stepping(record, journal=RefusingJournal(refusals), clock=VirtualClock(drift=-60.0))


def test_an_id_is_stored_as_soon_as_the_disk_takes_it() -> None:
    stepping = submitting(refusals=3)
    accept(stepping)
    assert stepping.clock.at_s == 1 + 2 + 4
    assert (stepping.record.state, stepping.record.generation_id) == (State.IN_FLIGHT, "gen:1")
    notices = [event.message for event in stepping.announced if isinstance(event, Noticed)]
    assert len(notices) == 3
    assert all("gen:1 was accepted and is not recorded yet" in message for message in notices)


def test_storing_an_id_is_given_up_after_about_a_minute() -> None:
    stepping = submitting(refusals=1000)
    with pytest.raises(
        LocalFault, match="generation gen:1 was accepted and is not recorded yet: note it down"
    ) as caught:
        accept(stepping)
    assert caught.value.kind == "disk_full"
    assert 60 < stepping.clock.at_s < 65


def test_a_move_that_the_disk_refuses_changes_and_announces_nothing() -> None:
    stepping = submitting(refusals=1)
    before = stepping.record
    with pytest.raises(LocalFault):
        asyncio.run(stepping.context.records.move(stepping.fingerprint, Move.REFUSE))
    assert stepping.record is before
    assert stepping.announced == []
    assert not stepping.context.records.matches_journal, "the journal may have stored it"


def test_settled_charges_that_the_disk_refuses_change_nothing() -> None:
    stepping = submitting(refusals=1)
    before = stepping.record
    with pytest.raises(LocalFault):
        asyncio.run(stepping.context.records.settle([before]))
    assert stepping.record is before
    assert not stepping.context.records.matches_journal, "the journal may have stored them"


def test_a_move_is_stored_and_announced() -> None:
    journal = RefusingJournal()
    stepping = Stepping(make_record("a", State.SUBMITTING), journal=journal)
    asyncio.run(stepping.context.records.move(stepping.fingerprint, Move.REFUSE))
    assert journal.attempted == [stepping.record]
    [event] = stepping.announced
    assert isinstance(event, JobMoved)
    assert (event.move, event.record, event.ids) == (Move.REFUSE, stepping.record, (stepping.fingerprint,))


def test_an_illegal_move_stores_and_changes_nothing() -> None:
    journal = RefusingJournal()
    stepping = Stepping(make_record("a", State.SUCCEEDED), journal=journal)
    with pytest.raises(IllegalMove):
        asyncio.run(stepping.context.records.move(stepping.fingerprint, Move.ACCEPT))
    assert journal.attempted == []
    assert stepping.record.state is State.SUCCEEDED


def test_the_view_shows_every_change_and_cannot_be_changed() -> None:
    stepping = Stepping(make_record("a", State.IN_FLIGHT))
    view = stepping.context.records.view
    changed = stepping.record.with_attempt(polls=7)
    stepping.context.records.update(changed)
    assert view[stepping.fingerprint] is changed
    with pytest.raises(TypeError):
        view[stepping.fingerprint] = changed  # type: ignore[index]  # this is what must not work


def test_only_generations_in_flight_are_flushed() -> None:
    journal = RefusingJournal()
    states = {name: make_record(name, state) for name, state in (("a", State.IN_FLIGHT), ("b", State.SUCCEEDED))}
    by_name = {record.job.fingerprint: record for record in states.values()}
    deps = Stepping(make_record("c"), journal=journal).context.deps
    asyncio.run(JobRecords(by_name, deps, Ledger(Budget())).flush())
    assert journal.attempted == [states["a"]]


def test_a_notice_that_concerns_all_jobs_is_announced_once() -> None:
    stepping = Stepping(make_record("a", State.IN_FLIGHT))
    for _ in range(2):
        stepping.context.records.notice("a", "an unknown status", once=True)
        stepping.context.records.notice("a", "a warning")
    messages = [event.message for event in stepping.announced if isinstance(event, Noticed)]
    assert messages == ["an unknown status", "a warning", "a warning"]


@pytest.mark.parametrize(("kind", "is_released"), [("lease_lost", False), ("disk_full", True)])
def test_a_submission_is_not_sent_where_another_run_may_have_taken_over(kind: str, is_released: bool) -> None:
    """The lease is asked after the intent is stored, because the host may have been suspended meanwhile."""
    journal, service = RefusingJournal(), Service()
    stepping = Stepping(make_record("a"), service, journal=journal)
    account = Mock(claim=AsyncMock(return_value=Granted()))

    def confirm() -> None:
        assert [record.state for record in journal.attempted] == [State.SUBMITTING]
        raise LocalFault(kind, "another run has it")

    context = replace(stepping.context, deps=replace(stepping.context.deps, account=account, confirm=confirm))
    records = JobRecords({stepping.fingerprint: make_record("a")}, context.deps, Ledger(Budget()))
    with pytest.raises(LocalFault, match="another run has it"):
        asyncio.run(submit.submit(replace(context, records=records), stepping.fingerprint, None, 0))
    assert service.submitted == []
    assert records[stepping.fingerprint].state is State.PENDING
    moves = [call.args[0].state for call in account.moved.call_args_list]
    assert moves == [State.SUBMITTING, *([State.PENDING] if is_released else [])], "the other run has the claim now"


def test_an_id_is_not_stored_again_and_again_where_another_run_has_the_batch() -> None:
    stepping = submitting(refusals=1000)
    journal = stepping.context.deps.journal
    journal.save = AsyncMock(side_effect=LocalFault("lease_lost", "another run has it"))  # type: ignore[method-assign]  # a test's own
    with pytest.raises(LocalFault, match="gen:1 was accepted and is not recorded yet") as caught:
        accept(stepping)
    assert caught.value.kind == "lease_lost"
    assert stepping.clock.at_s == 0
