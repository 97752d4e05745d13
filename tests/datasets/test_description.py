"""The description of a data set names the runs that rendered its clips, and no others."""

from typing import Any

import pytest

from batchrunner.datasets.description import describe, run_of

RUNS = [{"run_id": "first"}, {"run_id": "second"}]


@pytest.mark.parametrize(
    ("rendered_by", "named"),
    [
        ([{"run_id": "first"}, {"run_id": "first"}], ["first"]),
        ([{"run_id": "second"}, {"run_id": "first"}], ["first", "second"]),
        ([{"run_id": None}, {"run_id": "second"}], ["second"]),
        ([None, {"run_id": "first"}], ["first", "second"]),
    ],
)
def test_runs_without_a_clip_are_left_out(rendered_by: list[Any], named: list[str]) -> None:
    used = {run_of({"rendered_by": item}) for item in rendered_by}
    description = describe([{"name": "a", "runs": RUNS}], [used])
    assert [run["run_id"] for run in description.reports[0]["runs"]] == named


def test_a_report_that_does_not_say_who_rendered_a_clip_keeps_all_runs() -> None:
    assert describe([{"name": "a", "runs": RUNS}], [{run_of({})}]).reports[0]["runs"] == RUNS


def test_the_first_dataset_block_counts() -> None:
    heads: list[dict[str, Any]] = [{"name": "a", "dataset": None}, {"name": "b", "dataset": {"license": "mit"}}]
    description = describe(heads, [set(), set()])
    assert (description.name, description.details) == ("a", {"license": "mit"})
