"""How many waiting jobs each limit of money pays for, and which limit is the smallest."""

import pytest

from batchrunner.plan.money_limits import BALANCE, MoneyLimit, affordable, allowances, smallest


@pytest.mark.parametrize(
    ("amount", "costs", "jobs"),
    [
        (30.0, (10.0, 10.0, 10.0, 10.0), 3),
        (29.99, (10.0, 10.0, 10.0), 2),
        (10.0, (None, 10.0, None), 1),
        (5.0, (10.0, 1.0), 0),
        (-3.0, (1.0,), 0),
        (0.3, (0.1, 0.2), 2),
    ],
)
def test_an_amount_pays_for_jobs_in_order(amount: float, costs: tuple[float | None, ...], jobs: int) -> None:
    assert affordable(amount, costs) == jobs


def test_the_smallest_limit_pays_for_the_fewest_jobs() -> None:
    day = MoneyLimit("max_cost_per_day", 100.0, spent=60.0, reserved=15.0, period="today")
    month = MoneyLimit("max_cost_per_month", 100.0, spent=60.0, reserved=12.0, period="this month")
    limits = [MoneyLimit(BALANCE, 90.0), month, day]
    found = allowances(limits, [10.0] * 20)
    assert [(item.limit.name, item.limit.left, item.jobs) for item in found] == [
        (BALANCE, 90.0, 9),
        ("max_cost_per_month", 28.0, 2),
        ("max_cost_per_day", 25.0, 2),
    ]
    least = smallest(found)
    assert least is not None
    assert least.limit is day, "it leaves less"
    assert smallest(()) is None
