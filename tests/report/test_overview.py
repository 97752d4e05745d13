"""The first screen of the page: one headline, four tiles, bars, and one action for each problem, failures first."""

import json
from dataclasses import replace
from html import unescape

import pytest

from batchrunner.errors import Problem
from batchrunner.job import Run, State
from batchrunner.plan.endings import ENDINGS
from batchrunner.report import overview
from batchrunner.report.build import build
from batchrunner.report.failure_groups import causes
from batchrunner.report.gallery import cards, in_order
from batchrunner.report.labels import label, stem
from tests.report.test_report import ALL, RUN, attempt, page_of, record, snapshot

BUDGET = replace(RUN, settings_json=json.dumps({"max_credits": 4e6}))


@pytest.mark.parametrize(
    ("jobs", "run", "line"),
    [
        (ALL[:1], RUN, "1 of 1 job done · $1.00 spent · complete"),
        (ALL[:1], BUDGET, "1 of 1 job done · $1.00 of $2.00 spent · complete"),
        (ALL[:2], RUN, "1 of 2 jobs done · $1.00 spent · 1 needs attention"),
        (ALL, RUN, "1 of 6 jobs done · $1.00 spent · 3 need attention"),
        (ALL[4:5], RUN, "0 of 1 job done · $0.00 spent · ended with 1 not submitted"),
        (ALL[:2], replace(RUN, stopped="x"), "1 of 2 jobs done · $1.00 spent · stopped early, 1 needs attention"),
        (ALL[:1], replace(RUN, finished_at=None), "1 of 1 job done · $1.00 spent · not finished"),
    ],
)
def test_the_headline_says_what_is_done_the_money_and_the_state(jobs: tuple, run: Run, line: str) -> None:  # type: ignore[type-arg]  # records
    assert overview.headline(build(snapshot(*jobs, run=run), "0.1.0")) == line


def test_there_are_four_tiles_and_a_bar_of_the_budget() -> None:
    report = build(snapshot(*ALL, run=BUDGET), "0.1.0")
    tiles = overview.tiles(report)
    assert [(tile.label, tile.value) for tile in tiles] == [
        ("done", "1"), ("problems", "3"), ("left", "2"), ("spent", "$1.00"),
    ]  # fmt: skip
    jobs, budget = overview.bars(report)
    assert jobs.text == "1 done, 1 failed, 2 in doubt, 1 in flight, 1 not submitted"
    assert sum(piece.w for piece in jobs.segments) == pytest.approx(1000)
    assert [(piece.kind, piece.w) for piece in budget.segments] == [("spent", 500), ("rest", 500)]
    assert len(overview.bars(build(snapshot(*ALL), "0.1.0"))) == 1, "no budget, no bar"


def test_a_budget_that_is_exceeded_shows_the_excess() -> None:
    over = replace(RUN, settings_json=json.dumps({"max_credits": 1e6, "max_generations": 10}))
    report = build(snapshot(ALL[0], run=over), "0.1.0")
    _, budget, generations = overview.bars(report)
    assert [(piece.kind, piece.w, piece.text) for piece in budget.segments] == [
        ("spent", 500, "$1.00 spent"), ("over", 500, "$0.50 above the limit"),
    ]  # fmt: skip
    assert generations.text == "1 generation, 9 left"
    assert overview.tiles(report)[3].kind == "failed"


@pytest.mark.parametrize("kind", sorted(ENDINGS))
def test_failures_come_first_and_each_has_one_action(kind: str) -> None:
    timed_out = Problem("timed_out", "it broke", fault="service")
    broken = record("b", State.FAILED, attempt(outcome="failed"), error=timed_out)
    status = int(ENDINGS[kind].status)
    run = replace(RUN, exit_status=status, stopped="it ended early", stop_kind=kind)
    report = build(snapshot(*ALL[:5], broken, run=run), "0.1.0")
    actions = overview.actions(causes(report))
    states = [action.causes[0].state for action in actions]
    assert states == sorted(states, key=["failed", "in_doubt", "in_flight", "pending"].index)
    assert all(action.command or action.text for action in actions)
    settled = [cause for action in actions for cause in action.causes]
    assert sorted(settled, key=repr) == sorted(causes(report), key=repr), "each problem has exactly one"
    page = unescape(page_of(report))
    assert page.count('<article class="cause ') == len(actions)
    assert overview.advice(report) == ENDINGS[kind].advice
    assert ENDINGS[kind].advice in page


def test_jobs_in_flight_and_pending_jobs_share_their_command() -> None:
    actions = overview.actions(causes(build(snapshot(ALL[3], ALL[4]), "0.1.0")))
    (action,) = actions
    assert [cause.state for cause in action.causes] == ["in_flight", "pending"]
    assert action.command == "batchrunner run heroes.yaml --provider sandbox"
    assert "Downloads" in action.text
    assert "Submits" in action.text


# Labels


def test_a_typed_id_stays_and_a_derived_one_becomes_the_inputs() -> None:
    model = "alibaba/wan2.2-14b-animate-replace"
    stems = [stem("clips/Été 1.mp4"), stem("https://example.com/a%20b.png")]
    request = {"model": model, "resolution": "720p", "shift": 3.0, "num_inference_steps": 20}
    pair = "Été 1 \N{MULTIPLICATION SIGN} a b"
    assert label({"job": "Élodie danse", "request": request}, stems) == ("Élodie danse", pair)
    for derived in ("walk-hero-720p-0123456789", "walk-hero-480p-shift3-abcdefabcd-2"):
        assert label({"job": derived, "request": request}, stems) == (pair, "shift 3.0")
    assert label({"job": "walk-hero-0123456789", "request": {"model": "?"}}, []) == ("walk-hero-0123456789", "")


def test_the_name_of_an_input_is_short() -> None:
    assert [stem(text) for text in ("a/b.c.mp4", "data:image/png;base64,AA", "https://x/", "x" * 99)] == [
        "b.c", "", "", "x" * 79 + "…",
    ]  # fmt: skip


def test_takes_of_a_job_are_next_to_each_other() -> None:
    jobs = [dict(job) for job in build(snapshot(*[record(name, State.SUCCEEDED) for name in "abc"]), "0.1.0")["jobs"]]
    for job, (base, take) in zip(jobs, (("x", 2), ("y", 1), ("x", 1)), strict=True):
        job |= {"job": base, "take": take}
    found = cards(in_order(jobs))
    assert [(card["group"], card["take"]) for card in found] == [("x", "take 1"), ("x", "take 2"), ("y", "")]


def test_a_rehearsal_is_labelled_and_a_real_run_is_not() -> None:
    assert "stand-in" in page_of(build(snapshot(*ALL), "0.1.0")).partition("<body>")[2]
    assert (
        "stand-in"
        not in page_of(build(snapshot(*ALL, run=replace(RUN, provider="aimlapi")), "0.1.0")).partition("<body>")[2]
    )
