"""The plan: what `run` would do with the same manifest, journal and settings, and why a job became another one."""

import json
from dataclasses import replace

import pytest

from batchrunner.job import Entry, Media, Snapshot, State
from batchrunner.plan import plan, render
from batchrunner.plan.admission import Admission
from batchrunner.plan.duration_estimate import Forecast
from batchrunner.plan.ledger import Budget, Ledger
from batchrunner.plan.plan import Plan, ResumeOptions
from batchrunner.plan.prices import Prices
from batchrunner.plan.projection import Projection, project
from batchrunner.plan.resume import take_up
from tests.conftest import NOW, make_entries, make_job, make_record, make_run, remote

PRICES = Prices({"480p": 1000.0}, 10.0)  # every clip is taken for ten seconds long


def held(*records: tuple[str, State]) -> Snapshot:
    made = {record.job.fingerprint: record for record in (make_record(name, state) for name, state in records)}
    return Snapshot(make_run(), make_entries(*(name for name, _ in records)), made)


def outlook_of(
    made: Plan,
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
        seen = [each.with_attempt(accepted_at=NOW, completed_at=NOW + took_s) for each in done]
    ledger = Ledger(budget or Budget(), made.records.values())
    order = list(dict.fromkeys(row.fingerprint for row in made.rows))
    return project(order, made.records, Admission(prices, ledger, Forecast(seen)), concurrency, left_s)


# Rows


def test_before_the_first_run_everything_is_new() -> None:
    made = plan.build(make_entries("a", "b"), None, PRICES)
    assert [(row.id, row.action, row.changed, row.same_as) for row in made.rows] == [
        ("a", "new", (), None),
        ("b", "new", (), None),
    ]


@pytest.mark.parametrize(
    "options", [ResumeOptions(), ResumeOptions(retry_failed=True), ResumeOptions(resubmit_in_doubt=True)]
)
@pytest.mark.parametrize("state", State)
def test_it_says_what_run_does(state: State, options: ResumeOptions) -> None:
    snapshot = held(("a", state))
    made = plan.build(make_entries("a"), snapshot, PRICES, options)
    [row] = made.rows
    records, _ = take_up(
        snapshot.records,
        make_entries("a"),
        retry_failed=options.retry_failed,
        resubmit_in_doubt=options.resubmit_in_doubt,
    )
    submits = records[make_job("a").fingerprint].state is State.PENDING
    assert row.submits == submits
    assert (row.estimate is not None) == submits
    assert outlook_of(made).submissions == int(submits)
    assert row.note
    assert (row.generation_id is not None) == (state in {State.IN_FLIGHT, State.SUCCEEDED})


def test_rows_stand_in_the_manifests_order_and_forgotten_jobs_are_not_shown() -> None:
    snapshot = held(("gone", State.SUCCEEDED), ("a", State.SUCCEEDED))
    made = plan.build(make_entries("z", "a"), snapshot, PRICES)
    assert [(row.id, row.action) for row in made.rows] == [("z", "new"), ("a", "done")]


def test_a_result_whose_file_is_gone_is_fetched_and_not_paid_for_again() -> None:
    options = ResumeOptions(gone=frozenset({make_job("a").fingerprint}))
    [row] = plan.build(make_entries("a"), held(("a", State.SUCCEEDED)), PRICES, options).rows
    assert (row.action, row.submits) == ("fetch", False)
    [row] = plan.build(make_entries("a"), held(("a", State.IN_FLIGHT)), PRICES, options).rows
    assert row.action == "in flight"


def test_equal_jobs_are_paid_for_once() -> None:
    made = plan.build(make_entries("a", "copy=a", "copy2=a"), None, PRICES)
    assert [row.same_as for row in made.rows] == [None, "a", "a"]
    assert made.submissions == outlook_of(made).submissions == 1
    assert outlook_of(made).credits == 10_000
    assert text_of(made).count("the same job as a: paid for once") == 2


def one_changed(old: dict[str, object], new: dict[str, object]) -> tuple[str, ...]:
    before = replace(make_job("old"), **old)  # type: ignore[arg-type]  # fields by name
    after = replace(make_job("new"), **new)  # type: ignore[arg-type]  # fields by name
    records = {before.fingerprint: make_record(state=State.SUCCEEDED, job=before)}
    snapshot = Snapshot(make_run(), (Entry(0, "a", before),), records)
    [row] = plan.build((Entry(0, "a", after),), snapshot, PRICES).rows
    assert row.action == "changed"
    assert row.submits
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
    [row] = plan.build(make_entries("renamed=a"), held(("a", State.SUCCEEDED)), PRICES).rows
    assert (row.action, row.changed) == ("done", ())


# The outlook


def test_the_sum_and_how_it_is_known() -> None:
    entries = (Entry(0, "a", make_job("a")), Entry(1, "b", make_job("b", resolution="720p")))
    made = plan.build(entries, None, Prices({"480p": 1000.0}))
    look = outlook_of(made, prices=Prices({"480p": 1000.0}))
    assert (look.submissions, look.unpriced, look.credits) == (2, 2, 0.0), "a clip behind a URL has no known length"
    look = outlook_of(made)
    assert look.credits == 10 * 1000 + 10 * 208_000
    assert sum(look.bases.values()) == 2
    assert any("from the manifest" in basis for basis in look.bases)
    assert any("inferred" in basis for basis in look.bases)


def test_a_budget_says_what_it_leaves_out() -> None:
    made = plan.build(make_entries("a", "b", "c"), None, PRICES)
    look = outlook_of(made, budget=Budget(credits=25_000))
    assert look.submissions == 2
    assert look.obstacles == (
        "1 job would not be submitted: the budget of 25,000 credits is reached: the 5,000 left are not enough",
    )
    assert look.left_out == {
        made.rows[2].fingerprint: "the budget of 25,000 credits is reached: the 5,000 left are not enough"
    }
    text = render.as_text(made, look, NOW)
    assert text.count("not in this run: the budget") == 1
    assert outlook_of(made, budget=Budget(generations=1)).submissions == 1


def test_what_is_in_flight_counts_against_the_budget() -> None:
    snapshot = held(("a", State.IN_FLIGHT))
    records = {key: record.with_attempt(estimate=10_000.0) for key, record in snapshot.records.items()}
    made = plan.build(make_entries("a", "b"), replace(snapshot, records=records), PRICES)
    look = outlook_of(made, budget=Budget(credits=15_000))
    assert (look.submissions, look.spend.reserved) == (0, 10_000)


def test_the_finish_time_is_that_of_a_full_cap_and_unknown_without_history() -> None:
    made = plan.build(make_entries("a", "b", "c"), None, PRICES)
    assert outlook_of(made).finish_in_s is None
    assert outlook_of(made, took_s=60.0).finish_in_s == 120.0
    assert outlook_of(made, took_s=60.0, concurrency=3).finish_in_s == 60.0


def test_a_deadline_leaves_out_what_would_not_finish() -> None:
    made = plan.build(make_entries("a", "b", "c"), None, PRICES)
    look = outlook_of(made, took_s=60.0, left_s=100.0)
    assert look.submissions == 2
    assert "would not finish in time" in look.obstacles[0]
    assert outlook_of(made, left_s=100.0).submissions == 3, "nothing is known about how long they take"


# As text and JSON


def text_of(made: Plan, *, every: bool = False) -> str:
    return render.as_text(made, outlook_of(made), NOW, every=every)


def test_text_and_json_hold_the_same() -> None:
    made = plan.build(make_entries("a", "long-name"), held(("a", State.IN_DOUBT)), PRICES)
    text, data = text_of(made), json.loads(json.dumps(render.as_json(made, outlook_of(made))))
    assert text.splitlines()[1].startswith("a          in doubt")
    assert text.splitlines()[2].split()[:3] == ["long-name", "new", "10,000"]
    assert "A run would make 1 submission, for about 10,000 credits ($0.01)" in text
    assert data["totals"] == {"in doubt": 1, "new": 1}
    assert data["submissions"] == 1
    assert data["money"]["expected_credits"] == 10_000
    assert [(job["id"], job["credits"]) for job in data["jobs"]] == [("a", None), ("long-name", 10_000)]


def test_a_long_plan_is_summed_up_unless_asked() -> None:
    made = plan.build(make_entries(*(f"job-{number}" for number in range(300))), None, PRICES)
    assert len(text_of(made).splitlines()) < 10
    assert "--all lists all 300" in text_of(made)
    assert len(text_of(made, every=True).splitlines()) > 300


def test_an_empty_plan() -> None:
    assert text_of(Plan(())).strip() == "0 jobs: none.\nA run would make 0 submissions."
