"""The report for other programs: results.csv, JUnit XML, a Prometheus text file. Pure: dict in, text out.

Rule: COLUMNS and METRICS are the only places that say what is in them; docs/outputs.md is made from these tables. Text
from outside is made printable; in the CSV what a spreadsheet would take for a formula is quoted with an apostrophe.
"""

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

from batchrunner.report.charts import attempts, seconds_of
from batchrunner.text import printable

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_QUANTILES = (0.5, 0.9, 0.99)

Row = dict[str, Any]


class Column(NamedTuple):
    """A column of results.csv. of: its value for a job of the report; None is an empty cell."""

    name: str
    meaning: str
    of: Callable[[Row], object]


class Metric(NamedTuple):
    """A metric, always a gauge. of: its samples for a report, as labels and value; a value of None is left out."""

    name: str
    meaning: str
    of: Callable[[Row], Iterable[tuple[Mapping[str, str], float | None]]]


def _key(*path: str) -> Callable[[Row], object]:
    """The value at `path` in a job; None where the way there ends."""

    def of(job: Row) -> object:
        value: Any = job
        for name in path:
            value = None if value is None else value.get(name)
        return value

    return of


def _last(name: str) -> Callable[[Row], object]:
    """A value of the latest attempt."""
    return lambda job: job["attempts"][-1][name] if job["attempts"] else None


COLUMNS: tuple[Column, ...] = (
    Column("id", "the entry's id", _key("id")),
    Column("state", "`succeeded`, `failed`, `in_doubt`, `in_flight` or `pending`", _key("state")),
    Column("file", "the clip, relative to the run directory", _key("file")),
    Column("resolution", "as asked for", _key("request", "resolution")),
    Column("video", "the reference clip, as the manifest names it", _key("request", "video")),
    Column("image", "the character image, as the manifest names it", _key("request", "image")),
    Column("tags", "`key=value`, separated by `; `", lambda job: "; ".join(f"{k}={v}" for k, v in job["tags"].items())),
    Column("priority", "what is higher is submitted first", _key("priority")),
    Column("fingerprint", "what the job is made of, hashed", _key("fingerprint")),
    Column("generation_id", "the service's id of the latest generation", _key("generation_id")),
    Column("request_id", "what was sent as X-Client-Request-Id with the latest submission", _last("request_id")),
    Column("attempts", "submissions made", lambda job: len(job["attempts"])),
    Column("polls", "looks at its generations", lambda job: sum(each["polls"] for each in job["attempts"])),
    Column("credits", "what the service said it charges for the latest generation", _last("credits")),
    Column("estimate_credits", "what one generation is expected to cost", _key("estimate", "credits")),
    Column("submitted_at", "when the latest submission was made, RFC 3339 in UTC", _last("submitted_at")),
    Column("completed_at", "when it was first seen complete", _last("completed_at")),
    Column("ended_at", "when the clip stood under its name, or the job failed", _last("ended_at")),
    Column("queue_s", "seconds from acceptance to generating", _key("times", "queue_s")),
    Column("generating_s", "seconds from generating to complete", _key("times", "generating_s")),
    Column("generation_s", "both together", _key("times", "generation_s")),
    Column("expected_s", "what both together take for its kind as a rule", _key("times", "expected_s")),
    Column("download_s", "seconds from complete to delivered", _key("times", "download_s")),
    Column("total_s", "seconds from the first submission to delivered", _key("times", "total_s")),
    Column("bytes", "size of the clip", _key("bytes")),
    Column("sha256", "of the clip, in hex", _key("sha256")),
    Column("width_px", "of the clip", _key("width_px")),
    Column("height_px", "of the clip", _key("height_px")),
    Column("duration_s", "of the clip, in seconds", _key("duration_s")),
    Column("warnings", "what is odd in the clip, separated by `; `", lambda job: "; ".join(job["warnings"])),
    Column("error_kind", "why it did not succeed: a stable word", _key("error", "kind")),
    Column("error_fault", "`job`, `account`, `service`, `network` or `local`", _key("error", "fault")),
    Column("error_message", "the same for people", _key("error", "message")),
    Column("error_hint", "what to do about it", _key("error", "hint")),
)


def results_csv(report: Row) -> str:
    """results.csv: a row for each entry of the manifest, in its order (RFC 4180)."""
    target = io.StringIO(newline="")
    writer = csv.writer(target)
    writer.writerow(column.name for column in COLUMNS)
    for job in report["jobs"]:
        writer.writerow(_cell(column.of(job)) for column in COLUMNS)
    return target.getvalue()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return "" if value is None else value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) or value.startswith(_FORMULA) else text


def junit_xml(report: Row) -> str:
    """JUnit XML: a test case for each entry. Failed is a failure, in doubt an error, what is left to do is skipped."""
    totals = report["totals"]
    numbers = {
        "tests": str(totals["jobs"]),
        "failures": str(totals["failed"]),
        "errors": str(totals["in_doubt"]),
        "skipped": str(totals["in_flight"] + totals["pending"]),
    }
    name = printable(report["name"])
    suites = ET.Element("testsuites", {"name": "batchrunner", **numbers})
    seconds = (seconds_of(report["finished_at"]) or 0.0) - (seconds_of(report["started_at"]) or 0.0)
    when = {"time": f"{max(0.0, seconds):.3f}", "timestamp": report["started_at"].rstrip("Z")}
    suite = ET.SubElement(suites, "testsuite", {"name": name, **numbers, **when})
    words = {"failed": "failure", "in_doubt": "error"}
    for job in report["jobs"]:
        case = ET.SubElement(
            suite, "testcase", name=printable(job["id"]), classname=name, time=f"{job['times']['total_s'] or 0:.3f}"
        )
        error = job["error"]
        if error is not None:
            told = {"message": printable(error["message"])}
            word = words.get(job["state"], "skipped")
            if word != "skipped":
                told["type"] = printable(error["kind"])
            ET.SubElement(case, word, told).text = printable(error["hint"])
        if job["file"]:
            ET.SubElement(case, "system-out").text = printable(job["file"])
    ET.indent(suites, " ")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(suites, "unicode")}\n'


def _states(report: Row) -> Iterable[tuple[Mapping[str, str], float | None]]:
    states = ("succeeded", "failed", "in_doubt", "in_flight", "pending")
    return [({"state": state}, report["totals"][state]) for state in states]


def _took(report: Row) -> Iterable[tuple[Mapping[str, str], float | None]]:
    """Quantiles of how long generations took: the value that so large a part of them did not pass."""
    took = sorted(
        each["completed_at"] - each["accepted_at"]
        for each in attempts(report["jobs"])
        if each["completed_at"] is not None and each["accepted_at"] is not None
    )
    if took:
        for each in _QUANTILES:
            yield {"quantile": str(each)}, took[min(len(took) - 1, int(each * len(took)))]


def _one(value: Callable[[Row], float | None]) -> Callable[[Row], list[tuple[Mapping[str, str], float | None]]]:
    return lambda report: [({}, value(report))]


METRICS: tuple[Metric, ...] = (
    Metric("batchrunner_jobs", "Entries of the manifest by state.", _states),
    Metric("batchrunner_generations", "Generations accepted.", _one(lambda report: report["totals"]["generations"])),
    Metric("batchrunner_polls", "Looks at generations.", _one(lambda report: report["totals"]["polls"])),
    Metric("batchrunner_result_bytes", "Size of all clips.", _one(lambda report: report["totals"]["bytes"])),
    Metric(
        "batchrunner_credits",
        "Money over all runs, in credits: spent, reserved, worst_case, budget.",
        lambda report: [
            ({"kind": "spent"}, report["money"]["spent"]),
            ({"kind": "reserved"}, report["money"]["reserved"]),
            ({"kind": "worst_case"}, report["money"]["worst_case"]),
            ({"kind": "budget"}, report["money"]["budget_credits"]),
        ],
    ),
    Metric(
        "batchrunner_unpriced_generations",
        "Generations whose price is not known.",
        _one(lambda report: report["money"]["unpriced"]),
    ),
    Metric("batchrunner_generation_seconds", "How long generations took, queue included, by quantile.", _took),
    Metric(
        "batchrunner_run_started_timestamp_seconds",
        "When the latest run started.",
        _one(lambda report: seconds_of(report["started_at"])),
    ),
    Metric(
        "batchrunner_run_finished_timestamp_seconds",
        "When it finished; missing while it lasts, and where it was killed.",
        _one(lambda report: seconds_of(report["finished_at"])),
    ),
    Metric("batchrunner_run_exit_status", "Its exit status.", _one(lambda report: report["exit_status"])),
    Metric(
        "batchrunner_info",
        "Always 1; the labels tell the version, the provider and the service.",
        lambda report: [
            (
                {
                    "version": report["batchrunner_version"],
                    "provider": report["provider"],
                    "service": report["service"],
                },
                1,
            )
        ],
    ),
)


def metrics_text(report: Row) -> str:
    """The report in Prometheus' text format; every sample carries the label ``batch``, the batch's name."""
    lines = []
    for metric in METRICS:
        samples = [(labels, value) for labels, value in metric.of(report) if value is not None]
        if samples:
            lines += [f"# HELP {metric.name} {metric.meaning}", f"# TYPE {metric.name} gauge"]
        for labels, value in samples:
            told = ",".join(f'{name}="{_label(text)}"' for name, text in {"batch": report["name"], **labels}.items())
            lines.append(f"{metric.name}{{{told}}} {value:.15g}")
    return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    return printable(text).replace("\\", "\\\\").replace('"', '\\"')
