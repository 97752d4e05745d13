"""Admission in its order: a slot, space on the disk, time and money. A job that does not go gives its slot back."""

import pytest

from batchrunner.engine.admitter import MOST_SKIPPED, Admitter
from batchrunner.engine.job_queue import JobQueue
from batchrunner.job import Record
from batchrunner.plan.admission import Admission
from batchrunner.plan.duration_estimate import Forecast
from batchrunner.plan.endings import StopReason
from batchrunner.plan.ledger import Budget, Ledger
from batchrunner.plan.prices import Prices
from tests.conftest import make_record


class Admitting:
    """An admitter of jobs that wait, by their names. lack: what the disk lacks."""

    def __init__(self, *names: str, budget: Budget | None = None, lack: str = "", limit: int = 9) -> None:
        self.records: dict[str, Record] = {name: make_record(name) for name in names}
        by_fingerprint = {record.job.fingerprint: record for record in self.records.values()}
        self.queue = JobQueue(limit)
        self.ledger = Ledger(budget or Budget())
        self.lack = lack
        self.asked: list[int] = []
        admission = Admission(Prices({}), self.ledger, Forecast())
        self.admitter = Admitter(self.queue, by_fingerprint, admission, self._lacks_space)
        self.admitter.begin({fingerprint: place for place, fingerprint in enumerate(by_fingerprint)})
        for place, fingerprint in enumerate(by_fingerprint):
            self.queue.add(fingerprint, place)

    def _lacks_space(self, clips: int) -> StopReason:
        self.asked.append(clips)
        return StopReason("disk_full", self.lack)

    def next(self, undelivered: int = 0) -> str | None:
        self.admitter.begin_round()
        admitted = self.admitter.next(0.0, 9, None, undelivered)
        names = {record.job.fingerprint: name for name, record in self.records.items()}
        return None if admitted is None else names[admitted.fingerprint]


def test_jobs_are_admitted_in_order_while_there_are_slots() -> None:
    admitting = Admitting("a", "b", "c", limit=2)
    assert [admitting.next() for _ in range(3)] == ["a", "b", None]
    assert admitting.admitter.held_back == ""


def test_the_disk_needs_space_for_clips_in_flight_undelivered_ones_and_this_one() -> None:
    admitting = Admitting("a", "b")
    admitting.next()
    admitting.next(undelivered=2)
    assert admitting.asked == [1, 2 + 2]


def test_a_job_that_waits_gives_its_slot_back_and_keeps_its_place() -> None:
    admitting = Admitting("a", "b", lack="the disk is small")
    assert admitting.next() is None
    assert (admitting.admitter.held_back, admitting.queue.in_flight, admitting.queue.waiting) == (
        "the disk is small",
        0,
        2,
    )
    admitting.lack = ""
    assert admitting.next() == "a"
    assert admitting.admitter.held_back == ""


def test_a_job_over_the_budget_waits_until_a_reservation_is_released() -> None:
    admitting = Admitting("a", "b", budget=Budget(generations=1))
    assert admitting.next() == "a"
    assert admitting.next() is None
    assert "max_generations" in admitting.admitter.held_back
    admitting.admitter.release(admitting.records["a"].job.fingerprint)
    assert admitting.next() == "b"


def test_skipped_jobs_are_counted_by_reason() -> None:
    admitting = Admitting("a", "b", budget=Budget(credits=10.0))
    assert admitting.next() is None
    assert (admitting.queue.waiting, admitting.queue.in_flight) == (0, 0)
    assert admitting.admitter.skip_reason().startswith("2 jobs not submitted: its price is unknown")


def test_a_round_skips_a_limited_number_of_jobs_and_the_next_round_goes_on() -> None:
    admitting = Admitting(*map(str, range(MOST_SKIPPED + 2)), budget=Budget(credits=10.0))
    assert admitting.next() is None
    assert (len(admitting.asked), admitting.queue.waiting) == (MOST_SKIPPED, 2)
    assert admitting.next() is None
    assert (len(admitting.asked), admitting.queue.waiting) == (MOST_SKIPPED + 2, 0)


@pytest.mark.parametrize("last", [False, True])
def test_a_job_that_is_queued_again_gives_its_slot_back(*, last: bool) -> None:
    admitting = Admitting("a", "b")
    assert admitting.next() == "a"
    fingerprint = admitting.records["a"].job.fingerprint
    if last:
        admitting.admitter.requeue_last(fingerprint)
    else:
        admitting.admitter.requeue(fingerprint)
    assert [admitting.next(), admitting.next()] == (["b", "a"] if last else ["a", "b"])
