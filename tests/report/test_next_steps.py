"""Each row of the table of endings: console, report, status and webhook offer the same steps; none stops at once."""

from dataclasses import replace
from pathlib import Path

import pytest

from batchrunner.account.base import HELD_BY_BATCH, HELD_IN_DOUBT
from batchrunner.app import webhook
from batchrunner.errors import Problem
from batchrunner.job import Attempt, Record, State
from batchrunner.plan.endings import ENDINGS, Next
from batchrunner.report import writer
from batchrunner.report.build import build
from batchrunner.report.failure_groups import command
from batchrunner.report.text import next_steps
from tests.report.test_report import RUN, attempt, page_of, record, snapshot

WAITING = record("w", State.PENDING)
FLYING = record("f", State.IN_FLIGHT, attempt(generation_id="g", outcome="accepted"))
DONE = record("d", State.SUCCEEDED)
BROKEN = record("b", State.FAILED, attempt(outcome="failed"), error=Problem("timed_out", "it broke", fault="service"))
REFUSED = record("r", State.FAILED, attempt(outcome="failed"), error=Problem("face", "no face", "Another picture."))
UNCLEAR = record("u", State.IN_DOUBT, attempt(outcome="in_doubt"), error=Problem("cut", "no answer"))
CONTINUE, RETRY = "batchrunner run heroes.yaml --provider sandbox", "--retry-failed"


def commands(kind: str, *records: Record) -> list[str]:
    """The commands that a run offers, after a check that every output shows the same steps."""
    ending = ENDINGS.get(kind)
    status = int(ending.status) if ending else 1
    stopped = "it ended early" if kind else ""
    shot = snapshot(*records, run=replace(RUN, exit_status=status, stopped=stopped, stop_kind=kind))
    report = build(shot, "0.1.0")
    steps = next_steps(report)
    page, text = page_of(report), " ".join(writer.status_text(report).split())
    posted = webhook.body(report, Path("output/heroes"))["text"]
    for step in steps:
        shown = step.command or step.text
        for line in step.choices or (shown, step.text):
            assert line in text
        assert shown.replace("--", "").split()[0] in page
        if status:
            assert " ".join(shown.split()) in " ".join(posted.split())
    assert report["stop_kind"] == (kind or None)
    return [step.command for step in steps if step.command]


@pytest.mark.parametrize("kind", sorted(ENDINGS))
def test_a_stop_offers_to_continue_only_if_that_makes_progress(kind: str) -> None:
    offered = commands(kind, DONE, WAITING, BROKEN)
    continues = ENDINGS[kind].next is Next.CONTINUES
    assert offered == ([CONTINUE, f"{CONTINUE} {RETRY}"] if continues else [])


@pytest.mark.parametrize("kind", sorted(ENDINGS))
def test_jobs_in_flight_are_fetched_unless_a_person_has_to_act(kind: str) -> None:
    assert commands(kind, DONE, FLYING) == ([] if ENDINGS[kind].next is Next.STOPS else [CONTINUE])


@pytest.mark.parametrize("kind", sorted(ENDINGS))
def test_the_advice_comes_first(kind: str) -> None:
    run = replace(RUN, exit_status=int(ENDINGS[kind].status), stopped="it ended early", stop_kind=kind)
    steps = next_steps(build(snapshot(WAITING, run=run), "0.1.0"))
    if ENDINGS[kind].advice:
        assert (steps[0].label, steps[0].text) == ("first", ENDINGS[kind].advice)
    else:
        assert steps[0].command


def test_a_finished_run_offers_what_can_succeed() -> None:
    assert commands("", DONE) == []
    assert commands("", DONE, BROKEN) == [f"{CONTINUE} {RETRY}"]
    assert commands("", DONE, REFUSED) == [], "the same request fails again"
    assert commands("", DONE, UNCLEAR) == [], "a person settles it"


def test_a_job_in_doubt_names_the_command_that_settles_it() -> None:
    (step,) = next_steps(build(snapshot(UNCLEAR), "0.1.0"))
    assert step.label == "resolve"
    assert "batchrunner resolve heroes.yaml --provider sandbox job-0 --adopt GENERATION_ID" in step.text


def test_a_job_that_another_batch_has_in_flight_offers_no_command() -> None:
    waiting = replace(WAITING, error=Problem(HELD_BY_BATCH, "the batch hero has it", "Run again later.", fault="local"))
    assert commands("", DONE, waiting) == []
    (step,) = next_steps(build(snapshot(waiting), "0.1.0"))
    assert "Wait until the batch that has these jobs has ended" in step.text


def test_a_job_that_another_batch_has_in_doubt_names_the_command_that_settles_it() -> None:
    waiting = replace(WAITING, error=Problem(HELD_IN_DOUBT, "the batch hero may have paid for it", "", fault="local"))
    (step,) = next_steps(build(snapshot(waiting), "0.1.0"))
    assert "batchrunner resolve heroes.yaml --provider sandbox job-0 --adopt GENERATION_ID" in step.text


def test_a_killed_run_offers_to_continue() -> None:
    killed = replace(RUN, finished_at=None, exit_status=None)
    steps = next_steps(build(snapshot(WAITING, FLYING, run=killed), "0.1.0"))
    assert [step.command for step in steps] == [CONTINUE]


def test_an_attempt_that_is_billed_anyway_is_asked_for_again_at_no_charge() -> None:
    withheld = replace(BROKEN, error=Problem("no_link", "there is no link", fault="service"))
    assert isinstance(withheld.last, Attempt)
    assert commands("", withheld) == [CONTINUE]


def test_neither_an_id_nor_a_path_can_be_read_as_an_option() -> None:
    shot = snapshot(UNCLEAR, run=replace(RUN, manifest_path="-night.yaml"))
    shot = replace(shot, entries=tuple(replace(entry, id="-a") for entry in shot.entries))
    (step,) = next_steps(build(shot, "0.1.0"))
    start = "batchrunner resolve ./-night.yaml --provider sandbox"
    assert step.choices == (f"{start} --adopt GENERATION_ID -- -a", f"{start} --release -- -a")
    assert all(command in step.text for command in step.choices)


def test_jobs_that_only_left_out_are_not_selected_and_the_next_command_keeps_the_choice() -> None:
    run = replace(RUN, exit_status=3, stopped="", settings_json='{"only": ["job-[01]"]}')
    report = build(snapshot(WAITING, FLYING, record("z", State.PENDING), run=run), "0.1.0")
    assert [job["error"]["kind"] for job in report["jobs"]] == ["not_submitted", "not_finished", "not_selected"]
    chosen, whole = next_steps(report)
    assert chosen.command == f"{CONTINUE} --only 'job-[01]'"
    assert "clips that are in flight" in chosen.text
    assert "Submits the jobs that are left" in chosen.text
    assert (whole.command, whole.text) == (CONTINUE, "Submits the jobs that --only left out, too.")


def test_a_command_names_everything_that_it_does() -> None:
    run = replace(RUN, exit_status=130, stopped="SIGINT received", stop_kind="")
    (step,) = next_steps(build(snapshot(FLYING, WAITING, run=run), "0.1.0"))
    assert step.command == CONTINUE
    assert "Downloads the clips that are in flight" in step.text
    assert "Submits the jobs that are left" in step.text


def test_only_runs_are_advised_with_locked() -> None:
    report = {"settings": {"options": ["--locked", "--fast"]}, "provider": "sandbox", "manifest": {"path": "m.yaml"}}
    assert command(report) == "batchrunner run m.yaml --provider sandbox --locked --fast"
    assert command(report, name="review") == "batchrunner review m.yaml --provider sandbox --fast"
