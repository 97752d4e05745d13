"""The plan: what `run` would do with the same manifest and journal, and which field made a job another one."""

import json
from dataclasses import replace

import pytest

from batchrunner import plan
from batchrunner.job import Entry, Media, Snapshot, State
from batchrunner.resume import take_up
from tests.conftest import make_entries, make_job, make_record, make_run, remote


def held(*records: tuple[str, State]) -> Snapshot:
    made = {record.job.fingerprint: record for record in (make_record(name, state) for name, state in records)}
    return Snapshot(make_run(), make_entries(*(name for name, _ in records)), made)


def test_before_the_first_run_everything_is_new() -> None:
    rows = plan.build(make_entries("a", "b"), None)
    assert [(row.id, row.action, row.changed, row.same_as) for row in rows] == [
        ("a", "new", (), None),
        ("b", "new", (), None),
    ]


@pytest.mark.parametrize("state", State)
def test_it_says_what_run_does(state: State) -> None:
    snapshot = held(("a", state))
    [row] = plan.build(make_entries("a"), snapshot)
    records, _ = take_up(snapshot.records, make_entries("a"), retry_failed=False, resubmit_in_doubt=False)
    submits = records[make_job("a").fingerprint].state is State.PENDING
    assert (row.action == "new") == submits
    assert plan.as_json([row])["submissions"] == int(submits)
    assert row.note
    assert (row.generation_id is not None) == (state in {State.IN_FLIGHT, State.SUCCEEDED})


def test_rows_stand_in_the_manifests_order_and_forgotten_jobs_are_not_shown() -> None:
    snapshot = held(("gone", State.SUCCEEDED), ("a", State.SUCCEEDED))
    rows = plan.build(make_entries("z", "a"), snapshot)
    assert [(row.id, row.action) for row in rows] == [("z", "new"), ("a", "done")]


def test_equal_jobs_are_paid_for_once() -> None:
    rows = plan.build(make_entries("a", "copy=a", "copy2=a"), None)
    assert [row.same_as for row in rows] == [None, "a", "a"]
    assert plan.as_json(rows)["submissions"] == 1
    assert "would make 1 submission." in plan.summary(rows)
    assert plan.as_text(rows).count("the same job as a: paid for once") == 2


def one_changed(old: dict[str, object], new: dict[str, object]) -> tuple[str, ...]:
    before = replace(make_job("old"), **old)  # type: ignore[arg-type]  # fields by name
    after = replace(make_job("new"), **new)  # type: ignore[arg-type]  # fields by name
    records = {before.fingerprint: make_record(state=State.SUCCEEDED, job=before)}
    snapshot = Snapshot(make_run(), (Entry(0, "a", before),), records)
    [row] = plan.build((Entry(0, "a", after),), snapshot)
    assert row.action == "new"
    return row.changed


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            {"params": {"resolution": "480p"}},
            {"params": {"resolution": "720p"}},
            ("resolution: 480p -> 720p",),
        ),
        (
            {"params": {}},
            {"params": {"enable_safety_checker": True}},
            ("enable_safety_checker: not set -> True",),
        ),
        ({"model": "m1"}, {"model": "m2"}, ("model: m1 -> m2",)),
        (
            {"image": remote("image", "https://e.com/a.png")},
            {"image": remote("image", "https://e.com/b.png")},
            ("image: https://e.com/a.png -> https://e.com/b.png",),
        ),
        (
            {"video": Media("video", "media/walk.mp4", sha256="a" * 64)},
            {"video": Media("video", "media/walk.mp4", sha256="b" * 64)},
            ("video: media/walk.mp4 (aaaaaaaaaaaa) -> media/walk.mp4 (bbbbbbbbbbbb)",),
        ),
    ],
)
def test_it_says_which_field_made_it_another_job(
    old: dict[str, object], new: dict[str, object], words: tuple[str, ...]
) -> None:
    assert one_changed(old, new) == words


def test_a_change_that_is_not_shown_is_told_all_the_same() -> None:
    """The journal keeps no query of a URL, since it may be a signature; it is part of the job's identity."""
    new = remote(url="https://example.com/walk.mp4?token=new-secret")
    [words] = one_changed({}, {"video": new})
    assert "URL" in words
    assert "new-secret" not in words


def test_a_renamed_job_is_done_and_not_changed() -> None:
    [row] = plan.build(make_entries("renamed=a"), held(("a", State.SUCCEEDED)))
    assert (row.action, row.changed) == ("done", ())


def test_text_and_json_hold_the_same() -> None:
    rows = plan.build(make_entries("a", "long-name"), held(("a", State.IN_DOUBT)))
    text, data = plan.as_text(rows), json.loads(json.dumps(plan.as_json(rows)))
    assert text.splitlines()[0].startswith("a          in doubt   held")
    assert text.endswith(plan.summary(rows))
    assert data["totals"] == {"in doubt": 1, "new": 1}
    assert [job["id"] for job in data["jobs"]] == ["a", "long-name"]


def test_an_empty_plan() -> None:
    assert plan.summary([]) == "0 jobs: none. A run would make 0 submissions."
    assert plan.as_text([]).strip() == plan.summary([])
