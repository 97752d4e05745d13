"""The service's transactions are joined with attempts by the generation's id."""

from dataclasses import replace

import pytest

from batchrunner.job import REUSED, Record, State
from batchrunner.plan.ledger import Spend, spend_of
from batchrunner.plan.settlement import REACH_S, list_since, settled, settled_from, total_of, unsettled
from batchrunner.providers.base import Charge
from tests.conftest import NOW, make_record


def delivered(name: str = "a", **more: object) -> Record:
    record = make_record(name, State.SUCCEEDED)
    attempt = {"credits": 100.0, "estimate": 90.0, "outcome": "succeeded", "completed_at": NOW + 9} | more
    return record.with_attempt(generation_id=name, **attempt)


def test_a_settled_charge_replaces_the_quote_in_the_spend() -> None:
    assert spend_of(delivered()) == Spend(spent=100.0, generations=1, quoted=100.0, unsettled=1)
    [record] = settled([delivered()], [Charge("a", 120.0, NOW + 10), Charge("other", 9.0, NOW)])
    assert spend_of(record) == Spend(spent=120.0, generations=1, settled=120.0)
    assert settled([record], [Charge("a", 120.0, NOW + 10)]) == [], "the same list changes nothing"


def test_a_later_refund_is_subtracted_once() -> None:
    [record] = settled([delivered()], [Charge("a", 120.0, NOW + 10)])
    refund = Charge("a", -120.0, NOW + 50)
    [record] = settled([record], [refund])
    assert record.last.settled == 0.0
    assert settled([record], [refund, Charge("a", 120.0, NOW + 10)]) == []


@pytest.mark.parametrize(
    ("known", "charges", "total"),
    [
        (None, [Charge("a", 5.0, NOW), Charge("a", -2.0, NOW + 1)], (3.0, NOW + 1)),
        (None, [Charge("a", -2.0, NOW + 1)], None),  # the charge is on a page that was not read
        ((5.0, NOW), [Charge("a", -2.0, NOW + 1), Charge("a", 5.0, NOW)], (3.0, NOW + 1)),
        ((5.0, NOW), [Charge("a", 5.0, NOW)], (5.0, NOW)),
    ],
)
def test_the_total_adds_only_newer_transactions(
    known: tuple[float, float] | None, charges: list[Charge], total: tuple[float, float] | None
) -> None:
    assert total_of(known, charges) == total


def test_what_waits_for_its_charge() -> None:
    waiting = delivered()
    others = [
        delivered(settled=5.0),
        delivered(request_id=f"{REUSED}x.1"),
        delivered(submitted_at=NOW - REACH_S - 9),
        replace(delivered(outcome="accepted", completed_at=None), state=State.IN_FLIGHT),
        delivered(outcome="failed", completed_at=None),
    ]
    assert unsettled([waiting, *others], NOW) == [waiting.last]
    assert list_since([waiting.last]) < waiting.last.submitted_at


def test_a_reused_generation_is_settled_in_the_batch_that_paid_for_it() -> None:
    assert settled([delivered(request_id=f"{REUSED}x.1")], [Charge("a", 5.0, NOW)]) == []


def test_what_the_account_knows_counts_if_it_is_newer() -> None:
    [record] = settled_from([delivered()], {"a": (120.0, NOW + 10), "b": (1.0, NOW)})
    assert (record.last.settled, record.last.settled_at) == (120.0, NOW + 10)
    assert settled_from([record], {"a": (7.0, NOW + 9)}) == []


def test_a_failed_generation_that_is_charged_all_the_same_counts() -> None:
    failed = delivered(outcome="failed", completed_at=None)
    assert spend_of(failed).worst == 0
    [record] = settled([failed], [Charge("a", 50.0, NOW)])
    assert spend_of(record).spent == 50.0
