"""The closing block: outcome, money, what is left and the next command, on any width, with and without colour."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchrunner.errors import Problem
from batchrunner.formatting import ASCII_MARKS, UNICODE_MARKS, Marks
from batchrunner.job import Run, State
from batchrunner.report import writer
from batchrunner.report.closing import closing, status_text, summed_up
from batchrunner.report.failure_groups import causes
from tests.report.test_marks import clip
from tests.report.test_report import ALL, RUN, attempt, built, record, snapshot

LONG = "park-in-the-morning-with-long-shadows-and-mist-over-the-water-480p-astronaut"
FACE = Problem("face", "no face", "Use another image.")
STOPPED = replace(RUN, exit_status=130, stopped="SIGINT received", stop_kind="interrupted")


def report(*records: Any, run: Run = RUN, ids: tuple[str, ...] = ()) -> dict[str, Any]:
    shot = snapshot(*records, run=run)
    if ids:
        entries = tuple(replace(entry, id=name) for entry, name in zip(shot.entries, ids, strict=True))
        shot = replace(shot, entries=entries)
    return built(shot)


def text(found: dict[str, Any], **more: Any) -> str:
    shown = status_text(found, ["out/report.html"], **more)
    assert status_text(summed_up(found), ["out/report.html"], **more) == shown
    return shown


def test_the_block_has_outcome_money_rest_report_and_next_command_in_this_order() -> None:
    failed = record("b", State.FAILED, attempt(outcome="failed"), error=replace(FACE, fault="service"))
    run = replace(RUN, provider="aimlapi", exit_status=1, settings_json=json.dumps({"max_cost": 5.0}))
    lines = text(report(record("a", State.SUCCEEDED), failed, run=run)).splitlines()
    lines[1] = lines[1].partition(";")[0]
    assert lines == [
        "✗ heroes (aimlapi): 1 of 2 jobs succeeded in 12 s, 1 failed.",
        "money               $1.00 spent of $5.00 (max_cost), 1 generation, 1.2 MB",
        "✗ 1 failed          no face",
        "                    job-1",
        "                    -> Use another image.",
        "report              out/report.html",
        "try again           batchrunner run heroes.yaml --retry-failed",
        "                    Submits these jobs again, and pays for those that then succeed.",
    ]


def test_after_a_stop_the_numbers_of_the_causes_add_up() -> None:
    busy = record("x", State.PENDING, error=Problem("no_connection", "no route", "", "network"))
    waiting = [record(str(number), State.PENDING) for number in range(16)]
    flying = record("f", State.IN_FLIGHT, attempt(generation_id="g", outcome="accepted"))
    lines = text(report(*waiting, busy, flying, run=STOPPED)).splitlines()
    assert lines[0].endswith("0 of 18 jobs succeeded in 12 s, 1 in flight, 17 not submitted.")
    assert "· 16 not submitted  because the run stopped" in lines
    assert "· 1 not submitted   no route" in lines
    assert "» 1 in flight       because the run stopped" in lines


@pytest.mark.parametrize("prefix", ["", "5 submissions in a row ended in doubt: "])
def test_the_job_that_stopped_the_run_is_counted_with_those_that_it_left(prefix: str) -> None:
    cause = Problem("forbidden", "the key may not generate", "Ask the owner.", "account")
    waiting = [record(str(number), State.PENDING) for number in range(16)]
    run = replace(STOPPED, stopped=prefix + cause.message, stop_kind="forbidden")
    found = report(*waiting, record("x", State.PENDING, error=cause), run=run)
    lines = text(found).splitlines()
    assert [line for line in lines if line.startswith("·")] == ["· 17 not submitted  because the run stopped"]
    [group] = causes(found)
    assert (group.kind, group.jobs, len(group.messages)) == ("not_submitted", 17, 1)


@pytest.mark.parametrize("width", [40, 60, 80, 120, None])
def test_long_ids_are_short_and_stay_different(width: int | None) -> None:
    records = [record(str(number), State.FAILED, attempt(outcome="failed"), error=FACE) for number in range(3)]
    ids = (f"{LONG}-1", f"{LONG}-1.t2", f"{LONG}-2")
    shown = text(report(*records, ids=ids), width=width)
    assert LONG not in shown
    names = re.findall(r"\S*…\S*?(?=,|\n)", shown)
    assert len(set(names)) == 3
    assert names[1].endswith("-1.t2")


OUTPUT = "/srv/my clips/it's the long batch/output of every day"


@pytest.mark.parametrize("width", [40, 60, 80, 120, None])
@pytest.mark.parametrize("state", [State.PENDING, State.IN_DOUBT])
def test_a_command_is_never_broken_inside_an_argument_and_can_be_pasted(width: int | None, state: State) -> None:
    options = ["--fast", "--faults", "faults of a bad night.yaml", "--set", "release=v1 of it"]
    run = replace(RUN, settings_json=json.dumps({"output": OUTPUT, "options": options}))
    shown = text(report(record("a", state, *([attempt()] if state is State.IN_DOUBT else [])), run=run), width=width)
    typed = [command for command in re.findall(r"batchrunner (?:.*\\\n)*.*", shown) if "--output" in command]
    pasted = [shlex.split(command.replace("\\\n", "")) for command in typed]  # as a shell joins lines
    name, job = ("run", []) if state is State.PENDING else ("resolve", ["job-0"])
    start = ["batchrunner", name, "heroes.yaml", "--output", OUTPUT, "--provider", "sandbox", *options, *job]
    ends = [[]] if state is State.PENDING else [["--adopt", "GENERATION_ID"], ["--release"]]
    assert pasted == [[*start, *end] for end in ends]
    if width:
        for line in shown.splitlines():
            assert len(line) <= width or len(line.split()) <= 2 or "'" in line, line


@pytest.mark.parametrize("width", [40, 80])
def test_text_is_not_broken_inside_an_option_or_a_path(width: int) -> None:
    hint = "It is held, and each run searches the log for it. Check it yourself. --in-doubt evidence releases it."
    failed = record("b", State.FAILED, attempt(outcome="failed"), error=replace(FACE, hint=hint))
    shown = status_text(report(failed), ["out/a folder/report.html"], width)
    assert "--in-doubt evidence" in shown
    assert "out/a folder/report.html" in shown


@pytest.mark.parametrize("marks", [UNICODE_MARKS, ASCII_MARKS])
def test_each_state_has_its_own_mark(marks: Marks) -> None:
    lines = text(report(*ALL, run=replace(RUN, exit_status=1)), marks=marks).splitlines()
    labels = [re.fullmatch(r"(\S) \d+ (.*\S)", line[:20].strip()) for line in lines]
    pairs = {(found[2], found[1]) for found in labels if found}
    assert pairs == {
        ("failed", marks.failed),
        ("in doubt", marks.in_doubt),
        ("in flight", marks.in_flight),
        ("not submitted", marks.pending),
    }
    assert len({mark for _, mark in pairs}) == 4
    assert "\n".join(lines).isascii() is (marks is ASCII_MARKS)


def test_states_are_styled_and_read_the_same_without_style() -> None:
    found = report(*ALL, run=replace(RUN, exit_status=1))
    lines = closing(found)
    assert [style for _, style in lines[0]] == ["bad"]
    assert "\n".join("".join(text for text, _ in spans) for spans in lines) == status_text(found)


def test_marks_and_rejected_clips_are_counted_and_can_be_reviewed() -> None:
    clips = [clip(black_frames=20, digest="1"), clip(black_frames=9, frozen_frames=89, digest="2"), clip(digest="3")]
    records = [
        record(str(number), State.SUCCEEDED, result=replace(item, sha256=f"{number:064x}"))
        for number, item in enumerate(clips)
    ]
    lines = text(report(*records)).splitlines()
    assert "! 2 look wrong      2 black, 1 frozen" in lines
    assert "review              batchrunner review heroes.yaml --provider sandbox" in lines
    run = replace(RUN, settings_json=json.dumps({"quality": {"black": "reject"}}))
    lines = text(report(*records, run=run)).splitlines()
    assert "✗ 2 rejected        by a review or a check; no clip is deleted" in lines
    assert not any(line.startswith("review") for line in lines), "they are decided"


def test_a_batch_without_submissions_has_spent_nothing() -> None:
    assert "money               nothing spent\n" in text(report(record("a", State.PENDING), run=STOPPED))


@pytest.mark.parametrize(("keep_local", "where"), [(True, " and in the run directory"), (False, "")])
def test_the_place_of_the_clips_in_a_bucket_is_named(keep_local: bool, where: str) -> None:
    settings = json.dumps({"deliver": "s3://clips/results/", "keep_local": keep_local})
    run = replace(RUN, exit_status=0, settings_json=settings)
    lines = text(report(record("a", State.SUCCEEDED), run=run)).splitlines()
    assert f"bucket              1 clip in s3://clips/results/{where}" in lines


def test_a_report_that_was_written_is_summed_up(tmp_path: Path) -> None:
    measures: dict[str, dict[str, Any]] = {"odd": {"black_frames": 9}, "bad": {"frozen_frames": 90}, "fine": {}}
    clips = [
        record(name, State.SUCCEEDED, result=replace(clip(digest=name, **found), sha256=f"{number:064x}"))
        for number, (name, found) in enumerate(measures.items())
    ]
    shot = snapshot(*ALL, *clips, run=replace(RUN, settings_json=json.dumps({"quality": {"frozen": "reject"}})))
    paths, found = writer.write_and_sum_up(shot, tmp_path, "0.1.0")
    assert [path.name for path in paths] == ["report.json", "report.html", "results.csv"]
    right = summed_up(writer.build(shot, "0.1.0"))
    assert (found["causes"], found["clips"]) == (right["causes"], right["clips"])
    assert len(found["clips"]) == 2
    assert status_text(found) == status_text(built(shot))
