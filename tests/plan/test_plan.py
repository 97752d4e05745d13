"""The plan: what `run` would do with the same manifest, journal and settings, and how a job changed."""

import gc
import json
from dataclasses import replace

import pytest

from batchrunner.errors import Problem
from batchrunner.job import Entry, Job, Media, Snapshot, State
from batchrunner.plan import plan, render
from batchrunner.plan.admission import Admission, TimeLeft
from batchrunner.plan.duration_estimate import Forecast
from batchrunner.plan.ledger import Budget, Ledger
from batchrunner.plan.plan import Plan, ResumeOptions
from batchrunner.plan.prices import Prices
from batchrunner.plan.projection import Projection, project
from batchrunner.plan.resume import take_up
from tests.conftest import NOW, make_entries, make_job, make_record, make_run, remote

PRICES = Prices({"480p": 1000.0}, 10.0)  # every clip is assumed to be ten seconds long


def snapshot_of(*records: tuple[str, State]) -> Snapshot:
    built = {record.job.fingerprint: record for record in (make_record(name, state) for name, state in records)}
    return Snapshot(make_run(), make_entries(*(name for name, _ in records)), built)


def projection_of(
    built: Plan,
    *,
    budget: Budget | None = None,
    left_s: float | None = None,
    prices: Prices = PRICES,
    concurrency: int = 2,
    took_s: float | None = None,
) -> Projection:
    seen = []
    if took_s is not None:
        done = [make_record(f"done{number}", State.SUCCEEDED) for number in range(3)]
        seen = [record.with_attempt(accepted_at=NOW, completed_at=NOW + took_s) for record in done]
    ledger = Ledger(budget or Budget(), built.records.values())
    order = list(dict.fromkeys(row.fingerprint for row in built.rows))
    left = None if left_s is None else TimeLeft(left_s)
    return project(order, built.records, Admission(prices, ledger, Forecast(seen)), concurrency, left)


# Rows


def test_before_the_first_run_every_job_is_new() -> None:
    built = plan.build(make_entries("a", "b"), None, PRICES)
    assert [(row.id, row.action, row.changed, row.same_as) for row in built.rows] == [
        ("a", "new", (), None),
        ("b", "new", (), None),
    ]


@pytest.mark.parametrize(
    "options", [ResumeOptions(), ResumeOptions(retry_failed=True), ResumeOptions(resubmit_in_doubt=True)]
)
@pytest.mark.parametrize("state", State)
def test_the_plan_matches_the_run(state: State, options: ResumeOptions) -> None:
    snapshot = snapshot_of(("a", state))
    built = plan.build(make_entries("a"), snapshot, PRICES, options)
    [row] = built.rows
    records, _ = take_up(
        snapshot.records,
        make_entries("a"),
        retry_failed=options.retry_failed,
        resubmit_in_doubt=options.resubmit_in_doubt,
    )
    submits = records[make_job("a").fingerprint].state is State.PENDING
    assert row.submits == submits
    assert (row.estimate is not None) == submits
    assert projection_of(built).submissions == int(submits)
    assert row.note
    assert (row.generation_id is not None) == (state in {State.IN_FLIGHT, State.SUCCEEDED})


def test_rows_are_in_manifest_order_and_removed_jobs_are_not_shown() -> None:
    snapshot = snapshot_of(("gone", State.SUCCEEDED), ("a", State.SUCCEEDED))
    built = plan.build(make_entries("z", "a"), snapshot, PRICES)
    assert [(row.id, row.action) for row in built.rows] == [("z", "new"), ("a", "done")]


def test_a_missing_result_is_downloaded_again_at_no_cost() -> None:
    options = ResumeOptions(gone=frozenset({make_job("a").fingerprint}))
    [row] = plan.build(make_entries("a"), snapshot_of(("a", State.SUCCEEDED)), PRICES, options).rows
    assert (row.action, row.submits) == ("fetch", False)
    [row] = plan.build(make_entries("a"), snapshot_of(("a", State.IN_FLIGHT)), PRICES, options).rows
    assert row.action == "in flight"


def test_a_failed_job_is_shown_with_its_kind() -> None:
    record = make_record("a", State.FAILED, error=Problem("content_refused", "it was refused"))
    snapshot = Snapshot(make_run(), make_entries("a"), {record.job.fingerprint: record})
    [row] = plan.build(make_entries("a"), snapshot, PRICES).rows
    assert (row.action, row.note) == ("failed", "content_refused; held; --retry-failed submits it again")


def test_equal_jobs_are_paid_for_once() -> None:
    built = plan.build(make_entries("a", "copy=a", "copy2=a"), None, PRICES)
    assert [row.same_as for row in built.rows] == [None, "a", "a"]
    assert built.submissions == projection_of(built).submissions == 1
    assert projection_of(built).credits == 10_000
    assert text_of(built).count("the same job as a: paid for once") == 2


def test_the_submitted_and_the_changed_rows_are_found_by_position() -> None:
    before = changed_job("old", {"params": {"resolution": "480p"}})
    records = {before.fingerprint: make_record(state=State.SUCCEEDED, job=before)}
    snapshot = Snapshot(make_run(), (Entry(0, "old", before),), records)
    after = changed_job("new", {"params": {"resolution": "720p"}})
    entries = (*make_entries("a", "copy=a"), Entry(2, "old", after), Entry(3, "same", before))
    rows = plan.build(entries, snapshot, PRICES).rows
    assert [entry.id for entry in rows.submitted()] == ["a", "old"] == [row.id for row in rows if row.submits]
    assert [row.id for row in rows.changed()] == ["old"] == [row.id for row in rows if row.changed]


def changed_job(name: str, changes: dict[str, object]) -> Job:
    """A job with other inputs or, by the names of its attributes, other values."""
    job, fields = make_job(name), dict(changes)
    inputs = {key: fields.pop(key, media) for key, media in job.inputs.items()}
    return replace(job, inputs=inputs, **fields)  # type: ignore[arg-type]  # fields by name


def one_changed(old: dict[str, object], new: dict[str, object]) -> tuple[str, ...]:
    before, after = changed_job("old", old), changed_job("new", new)
    records = {before.fingerprint: make_record(state=State.SUCCEEDED, job=before)}
    snapshot = Snapshot(make_run(), (Entry(0, "a", before),), records)
    [row] = plan.build((Entry(0, "a", after),), snapshot, PRICES).rows
    assert row.action == "changed"
    assert row.submits
    return row.changed


@pytest.mark.parametrize(
    ("old", "new", "lines"),
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
def test_the_plan_names_the_changed_fields(
    old: dict[str, object], new: dict[str, object], lines: tuple[str, ...]
) -> None:
    assert one_changed(old, new) == lines


def test_a_change_in_a_secret_is_reported_without_its_value() -> None:
    """The journal stores no query of a URL, as it may be a signature, but the query is part of the job's identity."""
    new = remote(url="https://example.com/walk.mp4?token=new-secret")
    [lines] = one_changed({}, {"video": new})
    assert "URL" in lines
    assert "new-secret" not in lines


def test_a_renamed_job_is_done_and_not_changed() -> None:
    [row] = plan.build(make_entries("renamed=a"), snapshot_of(("a", State.SUCCEEDED)), PRICES).rows
    assert (row.action, row.changed) == ("done", ())


# The projection


def test_the_sum_names_its_sources() -> None:
    entries = (Entry(0, "a", make_job("a")), Entry(1, "b", make_job("b", resolution="720p")))
    built = plan.build(entries, None, Prices({"480p": 1000.0}))
    projection = projection_of(built, prices=Prices({"480p": 1000.0}))
    assert (projection.submissions, projection.unpriced, projection.credits) == (2, 2, 0.0), (
        "a clip behind a URL has no known length"
    )
    text = render.as_text(built, projection, NOW)
    assert "2 jobs without a price: the length of the reference clip is unknown (set assume_length)" in text
    projection = projection_of(built)
    assert projection.credits == 10 * 1000 + 10 * 208_000
    assert sum(projection.bases.values()) == 2
    assert any("from the manifest" in basis for basis in projection.bases)
    assert any("inferred" in basis for basis in projection.bases)


def test_a_budget_reports_the_jobs_that_it_excludes() -> None:
    built = plan.build(make_entries("a", "b", "c"), None, PRICES)
    projection = projection_of(built, budget=Budget(credits=25_000))
    assert projection.submissions == 2
    reason = "max_credits (25,000 credits, $0.0125) is reached: the remaining $0.0025 is not enough for the next job"
    assert projection.obstacles == (f"1 job would not be submitted: {reason}",)
    assert list(projection.left_out) == [built.rows[2].fingerprint]
    text = render.as_text(built, projection, NOW)
    assert text.count("not in this run: max_credits") == 1
    assert projection_of(built, budget=Budget(generations=1)).submissions == 1


def test_jobs_in_flight_count_against_the_budget() -> None:
    snapshot = snapshot_of(("a", State.IN_FLIGHT))
    records = {key: record.with_attempt(estimate=10_000.0) for key, record in snapshot.records.items()}
    built = plan.build(make_entries("a", "b"), replace(snapshot, records=records), PRICES)
    projection = projection_of(built, budget=Budget(credits=15_000))
    assert (projection.submissions, projection.spend.reserved) == (0, 10_000)


def test_the_finish_time_assumes_full_concurrency_and_needs_history() -> None:
    built = plan.build(make_entries("a", "b", "c"), None, PRICES)
    assert projection_of(built).finish_in_s is None
    assert projection_of(built, took_s=60.0).finish_in_s == 120.0
    assert projection_of(built, took_s=60.0, concurrency=3).finish_in_s == 60.0


def test_a_deadline_excludes_jobs_that_would_not_finish() -> None:
    built = plan.build(make_entries("a", "b", "c"), None, PRICES)
    projection = projection_of(built, took_s=60.0, left_s=100.0)
    assert projection.submissions == 2
    assert "would not finish in time" in projection.obstacles[0]
    assert projection_of(built, left_s=100.0).submissions == 3, "their durations are unknown"


# As text and JSON


def text_of(built: Plan, *, every: bool = False) -> str:
    return render.as_text(built, projection_of(built), NOW, every=every)


def test_text_and_json_have_the_same_content() -> None:
    built = plan.build(make_entries("a", "long-name"), snapshot_of(("a", State.IN_DOUBT)), PRICES)
    text, data = text_of(built), json.loads(json.dumps(render.as_json(built, projection_of(built))))
    assert text.splitlines()[1].startswith("a          in doubt")
    assert text.splitlines()[2].split()[:3] == ["long-name", "new", "$0.0050"]
    assert "A run would make 1 submission, for about $0.0050 (10,000 credits)" in text
    assert data["totals"] == {"in doubt": 1, "new": 1}
    assert data["submissions"] == 1
    assert data["money"]["expected_credits"] == 10_000
    assert data["money"]["expected_usd"] == 0.005
    assert [(job["id"], job["credits"]) for job in data["jobs"]] == [("a", None), ("long-name", 10_000)]


def test_a_long_plan_is_summarized_by_default() -> None:
    built = plan.build(make_entries(*(f"job-{number}" for number in range(300))), None, PRICES)
    assert len(text_of(built).splitlines()) < 10
    assert "--all lists all 300" in text_of(built)
    assert len(text_of(built, every=True).splitlines()) > 300


def test_an_empty_plan_is_rendered() -> None:
    assert text_of(plan.build((), None, PRICES)).strip() == "0 jobs: none.\nA run would make 0 submissions."


@pytest.mark.parametrize("order", ["", "the longest jobs are submitted first"])
def test_the_order_of_submissions_is_named_where_it_matters(order: str) -> None:
    built = plan.build(make_entries("a", "b"), None, PRICES)
    projection = replace(projection_of(built), order=order)
    text = render.as_text(built, projection, NOW)
    assert ("The longest jobs are submitted first." in text.splitlines()) == bool(order)
    assert render.as_json(built, projection)["order"] == (order or None)


def alive(kind: type) -> int:
    """Return how many objects of a class exist."""
    return sum(type(item) is kind for item in gc.get_objects())


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_long_plan_is_written_row_by_row(form: str) -> None:
    built = plan.build(make_entries(*(f"job-{number}" for number in range(300))), None, PRICES)
    projection = projection_of(built)
    lines = render.lines_of(built, projection, NOW, every=True)
    pieces = render.json_pieces(built, projection) if form == "json" else lines
    most, text = 0, ""
    for number, piece in enumerate(pieces):
        text += piece + ("" if form == "json" else "\n")
        most = max(most, alive(plan.Row) if number % 50 == 0 else 0)
    assert most <= 3
    whole = json.dumps(render.as_json(built, projection), indent=1) if form == "json" else text_of(built, every=True)
    assert text.removesuffix("\n") == whole
    assert text.count("job-299") == (2 if form == "json" else 1)  # id and job


def test_similar_jobs_share_a_record_and_others_do_not() -> None:
    short, long = (remote()._replace(duration_s=seconds) for seconds in (2.0, 3.0))
    entries = tuple(
        Entry(place, name, make_job(name, clip))
        for place, (name, clip) in enumerate([("a", short), ("b", short), ("c", long)])
    )
    built = plan.build(entries, None, PRICES)
    a, b, c = (built.records[entry.job.fingerprint] for entry in entries)
    assert a is b
    assert a is not c
    assert [row.duration_s for row in built.rows] == [2.0, 2.0, 3.0]


def test_an_empty_plan_is_a_document_too() -> None:
    built = plan.build((), None, PRICES)
    text = "".join(render.json_pieces(built, projection_of(built)))
    assert json.loads(text)["jobs"] == []
    assert text == json.dumps(render.as_json(built, projection_of(built)), indent=1)
