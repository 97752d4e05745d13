"""The end of a run: max_runtime on the monotonic clock, the deadline on the current wall clock."""

import pytest

from batchrunner.engine.run_deadline import RunDeadline
from tests.conftest import NOW


@pytest.mark.parametrize(
    ("deadline_in_s", "max_runtime_s", "ends_in_s", "reason"),
    [
        (None, None, None, ""),
        (3600.0, None, 3600.0, "deadline"),
        (None, 60.0, 60.0, "runtime"),
        (3600.0, 60.0, 60.0, "runtime"),
        (30.0, 60.0, 30.0, "deadline"),
        (-5.0, None, -5.0, "deadline"),  # a date may be in the past
    ],
)
def test_the_nearest_end_counts(
    deadline_in_s: float | None, max_runtime_s: float | None, ends_in_s: float | None, reason: str
) -> None:
    deadline = None if deadline_in_s is None else NOW + deadline_in_s
    end = RunDeadline(100.0, deadline, max_runtime_s).end(100.0, NOW)
    assert (end is None) == (ends_in_s is None)
    if end is not None and ends_in_s is not None:
        assert end[0] == 100.0 + ends_in_s
        assert reason in end[1]


def test_setting_the_clock_moves_the_deadline_and_not_max_runtime() -> None:
    later, set_on_by_s = 160.0, 1000.0
    wall = NOW + 60.0 + set_on_by_s
    assert RunDeadline(100.0, deadline_at=NOW + 3600.0).end(later, wall) == (
        100.0 + 3600.0 - set_on_by_s,
        "the deadline is reached",
    )
    end = RunDeadline(100.0, max_runtime_s=3600.0).end(later, wall)
    assert end is not None
    assert end[0] == 3700.0
