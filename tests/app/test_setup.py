"""What follows from a manifest and its settings without a connection: the order in which a plan submits its jobs."""

from pathlib import Path

import pytest

from batchrunner.app.setup import load, plan_batch, priorities_of
from batchrunner.job import Entry
from batchrunner.plan.submission_order import LONGEST_FIRST, NOT_ALL, UNTIL_KNOWN
from tests.conftest import make_job

MANIFEST = """\
version: 1
concurrency: 1
assume_length: 5s
jobs:
  - {id: a, video: "https://example.com/v.mp4", image: "https://example.com/i.png", num_inference_steps: 10}
  - {id: b, video: "https://example.com/v.mp4", image: "https://example.com/i.png", resolution: 720p}
"""


@pytest.mark.parametrize(
    ("flags", "note"),
    [
        ({}, LONGEST_FIRST),
        ({"order": "manifest"}, ""),
        ({"concurrency": "2"}, ""),
        ({"max_generations": "2"}, LONGEST_FIRST),
        ({"max_generations": "1"}, NOT_ALL.format("max_generations")),
        ({"max_cost": "0.01USD"}, NOT_ALL.format("max_cost")),
        ({"max_runtime": "8h"}, UNTIL_KNOWN),
    ],
)
def test_a_plan_names_the_order_of_submissions(tmp_path: Path, flags: dict[str, str], note: str) -> None:
    (tmp_path / "batch.yaml").write_text(MANIFEST)
    setup = load(
        tmp_path / "batch.yaml", {"output": str(tmp_path / "out"), **flags}, {"BATCHRUNNER_STATE": str(tmp_path)}
    )
    assert plan_batch(setup)[1].order == note


def test_the_highest_priority_of_equal_entries_counts() -> None:
    low, high, other = make_job("a"), make_job("a"), make_job("b")
    entries = tuple(
        Entry(place, f"e{place}", job, priority=priority)
        for place, (job, priority) in enumerate([(low, -3), (high, 2), (other, 0)])
    )
    assert priorities_of(entries) == {low.fingerprint: 2}
    assert priorities_of((entries[0], Entry(3, "e3", low))) == {}
