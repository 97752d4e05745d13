"""The files for other programs: other parsers read them, and they match docs/outputs.md.

``REWRITE_DOCS=1`` writes the tables of docs/outputs.md.
"""

import csv
import io
import os
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from batchrunner.job import REUSED, State
from batchrunner.report import build
from batchrunner.report.formats import CSV, FAMILIES, JUNIT, METRICS, columns, metrics_text, pieces
from tests.conftest import ROOT
from tests.report.test_report import ALL, HOSTILE, NOW, RUN, attempt, built, hostile, record, snapshot

PAGE = ROOT / "docs" / "outputs.md"
SAMPLE = re.compile(r'([a-z_]+)\{((?:[a-z_]+="(?:[^"\\]|\\["\\n])*",?)+)\} (\S+)')


def results_csv(report: dict[str, Any]) -> str:
    return "".join(pieces(CSV, report))


def junit_xml(report: dict[str, Any]) -> str:
    return "".join(pieces(JUNIT, report))


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_each_entry_has_a_row_with_every_column() -> None:
    report = built(snapshot(*ALL))
    text = results_csv(report)
    cells = rows(text)
    assert text.endswith("\r\n")
    assert [row["id"] for row in cells] == [job["id"] for job in report["jobs"]]
    own = ["tags.n", "parameters.resolution", "inputs.image.sha256", "inputs.video.sha256"]
    assert list(cells[0]) == [*(column.name for column in columns()), *own]
    assert [cells[0][name] for name in own] == ["0", "480p", "", "ef" * 32]
    assert (
        cells[0] | {"state": "succeeded", "file": "job-0.mp4", "polls": "4", "tags": "n=0", "error_kind": ""}
        == cells[0]
    )
    assert (cells[1]["error_kind"], cells[1]["error_fault"], cells[1]["error_message"]) == ("face", "job", "no face")
    assert cells[4]["submitted_at"] == ""


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "\uff1d1+1",
        " \uff0b1",
        "\uff0d1",
        "\uff20SUM(A1)",
        "  =cmd|'/C calc'!A0",
    ],
)
def test_no_cell_is_a_formula(text: str) -> None:
    report = built(snapshot(ALL[0]))
    report["jobs"][0]["tags"] = {}
    report["jobs"][0]["request"]["video"] = text
    cell = rows(results_csv(report))[0]["video"]
    assert cell.startswith("'")
    assert cell.isprintable()


def test_separators_within_tags_are_quoted() -> None:
    report = built(snapshot(ALL[0]))
    report["jobs"][0]["tags"] = {"who": "a; role=b", "k=x": 'say "hi"', "plain": "hero walk", "": " "}
    cell = rows(results_csv(report))[0]["tags"]
    assert cell == 'who="a; role=b"; "k=x"="say \\"hi\\""; plain=hero walk; ""=" "'


def with_tags(*tags: dict[str, str], **params: Any) -> dict[str, Any]:
    """Return the report on a job for each of `tags`, with additional parameters for the last one."""
    jobs = [record(str(number), State.SUCCEEDED) for number in range(len(tags))]
    jobs[-1] = replace(jobs[-1], job=replace(jobs[-1].job, params={"resolution": "720p", **params}))
    shot = snapshot(*jobs)
    entries = tuple(replace(entry, tags=own) for entry, own in zip(shot.entries, tags, strict=True))
    return built(replace(shot, entries=entries))


def test_every_tag_and_parameter_of_any_job_has_a_column() -> None:
    cells = rows(results_csv(with_tags({"b": "=1+1"}, {"a.x": "2", "id": "-"}, shift=5, checker=True, weights=[1, 2])))
    tags = [name for name in cells[0] if name.startswith("tags.")]
    assert tags == ["tags.a.x", "tags.b", "tags.id"]
    assert [[row[name] for name in tags] for row in cells] == [["", "'=1+1", ""], ["2", "", "'-"]]
    names = ("resolution", "shift", "checker", "weights")
    assert [{name: row[f"parameters.{name}"] for name in names} for row in cells] == [
        {"resolution": "480p", "shift": "", "checker": "", "weights": ""},
        {"resolution": "720p", "shift": "5", "checker": "true", "weights": "[1, 2]"},
    ]
    assert {row["id"] for row in cells} == {"job-0", "job-1"}


@pytest.mark.parametrize(
    "text", ["a", "a b", "a,b", 'a"b', " a", "a ", "", "é", "-", "a\nb", "=1", "7", ",", "a;b", "-5.5"]
)
def test_every_cell_is_read_back(text: str) -> None:
    report = with_tags({"x": text, "y": "plain"})
    report["jobs"][0]["priority"] = -5 if text == "7" else 5
    (row,) = csv.reader(io.StringIO(results_csv(report).partition("\r\n")[2], newline=""))
    (named,) = rows(results_csv(report))
    shown = {"-": "'-", "=1": "'=1", "-5.5": "'-5.5", "a\nb": "a\\nb"}.get(text, text)
    assert (named["tags.x"], named["tags.y"], named["priority"]) == (shown, "plain", "-5" if text == "7" else "5")
    assert len(row) == len(named)
    writer = io.StringIO()
    csv.writer(writer).writerow(row)
    assert results_csv(report).endswith(writer.getvalue())


def test_columns_have_different_names_and_no_control_characters() -> None:
    report = with_tags({"a\n": "1", "a\\n": "2", "=cmd": "3", "a\\n~2": "4", "A": "5"})
    header = results_csv(report).partition("\r\n")[0]
    cells = rows(results_csv(report))
    assert header.isprintable()
    assert len(set(cells[0])) == len(next(csv.reader([header])))
    assert sorted(value for name, value in cells[0].items() if name.startswith("tags.")) == ["1", "2", "3", "4", "5"]


def test_columns_of_tags_are_limited_to_the_most_frequent_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "MOST_TAGS", 2)
    report = with_tags({"once": "1", "z": "2"}, {"z": "3", "twice": "4"}, {"twice": "5"})
    assert report["columns"]["tags"] == ["twice", "z"]
    assert report["columns"]["tags_left_out"] == 1
    cells = rows(results_csv(report))
    assert [name for name in cells[0] if name.startswith("tags.")] == ["tags.twice", "tags.z"]
    assert "once=1" in cells[0]["tags"]


def test_a_clip_names_the_run_and_the_service_that_rendered_it() -> None:
    first = replace(RUN, run_id="run-0", started_at=NOW - 100, service="api.example.com")
    run = replace(RUN, service="api2.example.com")
    early = attempt(generation_id="g0", outcome="succeeded")
    other = attempt(generation_id="g2", outcome="succeeded")._replace(request_id=f"{REUSED}x")
    shot = snapshot(
        record("a", State.SUCCEEDED, early._replace(submitted_at=NOW - 50)),
        record("x", State.SUCCEEDED),
        record("c", State.SUCCEEDED, other._replace(submitted_at=NOW - 500)),
        ALL[1],
        run=run,
    )
    cells = rows(results_csv(built(replace(shot, runs=(first, run)))))
    assert [(row["service"], row["run_id"]) for row in cells] == [
        ("api.example.com", "run-0"), ("api2.example.com", "run-1"), ("api2.example.com", ""), ("", ""),
    ]  # fmt: skip
    assert {row["model"] for row in cells} == {"wan"}
    assert rows(results_csv(built(snapshot(ALL[0]))))[0]["service"] == "sandbox"


def test_numbers_stay_numbers() -> None:
    report = built(snapshot(ALL[0]))
    report["jobs"][0]["priority"] = -5
    assert rows(results_csv(report))[0]["priority"] == "-5"


def test_junit_distinguishes_failures_jobs_in_doubt_and_unfinished_jobs() -> None:
    report = built(snapshot(*ALL))
    root = ET.fromstring(junit_xml(report))
    suite = root[0]
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "6", "failures": "1", "errors": "2", "skipped": "2",
    }  # fmt: skip
    assert suite.get("time") == "12.000"
    assert suite.get("timestamp") == "2026-11-22T21:55:00.123"
    cases = {case.get("name"): [child.tag for child in case] for case in suite}
    assert cases == {
        "job-0": ["system-out"], "job-1": ["failure"], "job-2": ["error"], "job-3": ["skipped"], "job-4": ["skipped"],
        "job-5": ["error"],
    }  # fmt: skip
    failure = suite[1][0]
    assert (failure.get("type"), failure.get("message"), failure.text) == ("face", "no face", "Another.")


def test_metrics_can_be_parsed_and_add_up() -> None:
    text = metrics_text(built(snapshot(*ALL)))
    assert text.endswith("\n")
    samples = {}
    for line in text.splitlines():
        if line.startswith("# TYPE"):
            assert line.endswith(" gauge")
        elif not line.startswith("# HELP"):
            name, labels, value = SAMPLE.fullmatch(line).groups()  # type: ignore[union-attr]  # it fails the test if None
            assert 'batch="heroes"' in labels
            samples[name, labels.removeprefix('batch="heroes"').lstrip(",")] = float(value)
    assert samples["batchrunner_jobs", 'state="succeeded"'] == 1
    assert sum(value for (name, _), value in samples.items() if name == "batchrunner_jobs") == 6
    assert samples["batchrunner_run_exit_status", ""] == 0
    assert samples["batchrunner_run_started_timestamp_seconds", ""] == NOW
    assert ("batchrunner_credits", 'kind="budget"') not in samples, "none is set"


def test_durations_are_given_by_quantile() -> None:
    timed = [
        record(str(n), ALL[0].state, attempt(generation_id="g", outcome="succeeded")._replace(request_id=f"r{n}",
               accepted_at=NOW, completed_at=NOW + n))
        for n in range(1, 101)
    ]  # fmt: skip
    text = metrics_text(built(snapshot(*timed)))
    found = re.findall(r'generation_seconds\{batch="heroes",quantile="([\d.]+)"\} (\S+)', text)
    assert found == [("0.5", "51"), ("0.9", "91"), ("0.99", "100")]


def test_an_active_run_has_no_end() -> None:
    text = metrics_text(built(snapshot(ALL[4], run=replace(RUN, finished_at=None, exit_status=None))))
    assert "finished" not in text
    assert "exit_status" not in text
    ET.fromstring(junit_xml(built(snapshot(ALL[4], run=replace(RUN, finished_at=None, exit_status=None)))))


def test_hostile_text_breaks_no_format() -> None:
    report = built(hostile())
    assert rows(results_csv(report))[0]["error_message"].startswith("<script>")
    assert len(rows(results_csv(report))) == 2
    case = ET.fromstring(junit_xml(report))[0][0]
    assert "\\x1b[2J" in (case.get("name") or "")
    lines = metrics_text(report).splitlines()
    assert all(line.startswith("#") or SAMPLE.fullmatch(line) for line in lines)
    assert HOSTILE not in "".join(lines)


def table(head: str, names: list[tuple[str, str]]) -> str:
    return f"| {head} | meaning |\n|---|---|\n" + "".join(f"| `{name}` | {meaning} |\n" for name, meaning in names)


@pytest.mark.parametrize(("head", "names"), [
    ("column", [(column.name, column.meaning) for column in columns()]),
    ("columns", [(family.name.format("<name>"), family.meaning) for family in FAMILIES]),
    ("metric", [(metric.name, metric.meaning) for metric in METRICS]),
])  # fmt: skip
def test_the_page_names_every_column_and_metric(head: str, names: list[tuple[str, str]]) -> None:
    page = PAGE.read_text("utf-8")
    if os.environ.get("REWRITE_DOCS"):
        page = re.sub(rf"\| {head} \|.*\n(?:\|.*\n)+", lambda _: table(head, names), page)
        PAGE.write_text(page, "utf-8")
    assert table(head, names) in page
