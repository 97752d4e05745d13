"""The order of submissions before a run starts: the setting and the budgets of the account decide."""

from typing import Any
from unittest.mock import Mock

import pytest

from batchrunner.account.limits import AccountBudgets, Limits
from batchrunner.app.submission_order import priorities_for
from batchrunner.job import Entry, State
from batchrunner.plan.prices import Prices
from batchrunner.plan.submission_order import NOT_ALL
from tests.conftest import make_record

PRICES = Prices({"480p": 10.0}, assume_length_s=10.0)  # 100 credits a job
RECORDS = {name: make_record(name, State.SUCCEEDED if name == "d" else State.PENDING) for name in "abcd"}


@pytest.mark.parametrize(
    ("order", "limits", "elsewhere", "expected", "notices"),
    [
        ("longest", Limits(), "", {"a": 3}, []),
        ("manifest", Limits(), "", None, []),
        ("longest", Limits(credits_per_day=350.0), "", {"a": 3}, []),
        ("longest", Limits(credits_per_day=349.0), "", None, [NOT_ALL.format("max_cost_per_day")]),
        ("longest", Limits(credits_per_day=349.0), "b", {"a": 3}, []),
        ("longest", Limits(credits_per_month=200.0), "", None, [NOT_ALL.format("max_cost_per_month")]),
    ],
)
def test_the_longest_go_first_unless_the_setting_or_a_budget_of_the_account_forbids_it(
    order: str, limits: Limits, elsewhere: str, expected: dict[str, int] | None, notices: list[str]
) -> None:
    entries = tuple(
        Entry(place, name, record.job, priority=3 if name == "a" else 0)
        for place, (name, record) in enumerate(RECORDS.items())
    )
    setup: Any = Mock(settings=Mock(order=order), chosen=entries)
    records: Any = {record.job.fingerprint: record for record in RECORDS.values()}
    budgets = AccountBudgets(limits, spent_today=50.0)
    others = {RECORDS[name].job.fingerprint for name in elsewhere}
    found, notice = priorities_for(setup, PRICES, budgets, records, others)
    assert found == (expected and {RECORDS[name].job.fingerprint: level for name, level in expected.items()})
    assert [text for text in (notice,) if text] == notices
