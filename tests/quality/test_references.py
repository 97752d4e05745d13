"""References are measured once, and a failure makes them unknown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batchrunner.job import Media
from batchrunner.quality.references import References
from tests.conftest import make_job


class Run:
    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome
        self.asked: list[str] = []

    def __call__(self, task: str, items: Sequence[Mapping[str, Any]]) -> list[Any]:
        assert task == "reference"
        self.asked += [item["path"] for item in items]
        return [self.outcome for _ in items]


def job(name: str, video: Media) -> Any:
    return make_job(name, video=video)


LOCAL = Media("video", "walk.mp4", Path("/media/walk.mp4"))


def test_a_reference_is_measured_once() -> None:
    run, jobs = Run({"frames": 1}), [job("a", LOCAL), job("b", LOCAL)]
    references = References(jobs, run)
    for item in jobs:
        assert references.fields_of(item.key) == {"quality": True, "reference": {"frames": 1}}
    assert run.asked == ["/media/walk.mp4"]


def test_a_reference_that_does_not_decode_is_unknown_and_not_tried_again() -> None:
    run, item = Run(ValueError("it does not decode")), job("a", LOCAL)
    references = References([item], run)
    assert references.fields_of(item.key) == {"quality": True, "reference": None}
    assert references.fields_of(item.key) == {"quality": True, "reference": None}
    assert len(run.asked) == 1


def test_a_remote_reference_and_an_unknown_job_are_not_compared() -> None:
    run, item = Run({}), job("a", Media("video", "https://example.com/a.mp4", uri="https://example.com/a.mp4"))
    references = References([item], run)
    assert references.fields_of(item.key) == {"quality": True, "reference": None}
    assert references.fields_of("0123456789abcdef") == {"quality": True, "reference": None}
    assert run.asked == []
