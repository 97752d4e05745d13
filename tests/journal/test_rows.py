"""Rows: checksums that journals on disk have."""

from math import inf, nan
from typing import Any

import pytest

from batchrunner.job import Entry, Job, Media, State
from batchrunner.journal import rows
from batchrunner.journal.rows import checksum, job_from_json, job_to_json
from tests.conftest import make_job, make_record


@pytest.mark.parametrize(
    ("table", "values", "stored"),
    [
        ("attempts", ("sha256:ab", 1, "run.ab.1", 1700000000.25, None), 3096233583),
        ("files", ("clip é\udcff.mp4", "%s", 0, -0.0, nan), 1578731305),
        ("mark", (True, False, 2**53 + 1, 1e-300, inf), 421712846),
        ("standing", (State.FAILED, "failed"), 2477494158),
    ],
)
def test_a_checksum_is_the_one_that_existing_journals_have(table: str, values: tuple[Any, ...], stored: int) -> None:
    assert checksum(table, values) == stored


def test_values_that_sqlite_stores_as_one_value_have_one_checksum() -> None:
    assert checksum("files", (0, 1, None)) == checksum("files", (-0.0, True, nan))


def test_equal_values_of_several_rows_are_one_object() -> None:
    first, second = (job_from_json(name, job_to_json(make_job(video=url(name), seed=1, note=["a"]))) for name in "ab")
    assert first.params is second.params
    assert first.model is second.model
    assert first.inputs["image"] is second.inputs["image"]
    assert first.inputs["video"] == url("a")._replace(uri=None)
    assert second.inputs["video"] == url("b")._replace(uri=None)
    assert first.inputs["video"].kind is second.inputs["video"].kind
    records = [make_record(name, State.SUCCEEDED) for name in "ab"]
    one, other = (rows.attempt(rows.attempt_row("f", record.last))[1] for record in records)
    assert one.outcome is other.outcome
    by_name = {record.job.fingerprint: record for record in records}
    found = [rows.entry(rows.entry_row(Entry(0, "x", item.job, {"scene": "1"})), by_name) for item in records]
    assert found[0].tags is found[1].tags


@pytest.mark.parametrize("values", [(True, 1, 1.0), (1.0, 1, True), (0, False, 0.0), ("1", 1)])
def test_values_that_are_equal_and_not_the_same_stay_apart(values: tuple[Any, ...]) -> None:
    jobs = [job_from_json("f", job_to_json(make_job(seed=value))) for value in values]
    assert [repr(job.params["seed"]) for job in jobs] == [repr(value) for value in values]
    lengths = (5, 5.0, 5)
    videos = [Media("video", "a.mp4", sha256="0", duration_s=length) for length in lengths]
    stored: list[Job] = [job_from_json("f", job_to_json(make_job(video=video))) for video in videos]
    assert [repr(job.inputs["video"].duration_s) for job in stored] == ["5", "5.0", "5"]


def test_more_different_values_than_are_remembered_are_read_as_well() -> None:
    jobs = [job_from_json("f", job_to_json(make_job(seed=seed))) for seed in range(2 * rows.MOST_SHARED)]
    assert [job.params["seed"] for job in jobs] == list(range(2 * rows.MOST_SHARED))


def url(name: str) -> Media:
    return Media("video", f"https://example.com/{name}.mp4", uri=f"https://example.com/{name}.mp4")
