"""The report for other programs: report.json, results.csv, JUnit XML, a Prometheus text file. Pure: dict in, text out.

Each file with a line for each job is a `Form`, so all files go through the rows in the same way. `columns` and METRICS
alone say what the files contain; docs/outputs.md is made from these tables. Text from outside is made printable. In the
CSV, a text that a spreadsheet would read as a formula is quoted with an apostrophe.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any, NamedTuple
from xml.etree import ElementTree as ET

from batchrunner.formatting import printable
from batchrunner.providers import registry
from batchrunner.report.charts import AttemptTable, seconds_of

_SIGNS = "=+-@"
_WIDE_SIGNS = (chr(ord(item) + 0xFEE0) for item in _SIGNS)  # full-width forms, which spreadsheets read as well
_FORMULA = (*_SIGNS, *_WIDE_SIGNS, "\t", "\r")
_SEPARATORS = re.compile(r'[;="]|^\s|\s$|^$')
_PLAIN = re.compile(r"[A-Za-z0-9][ -~]*")  # most texts by far: printable, and no formula
# Kept, as it is wanted for each row; a row holds no part of itself.
_JSON = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"), allow_nan=False)
_ROWS = ("jobs", "earlier_jobs")
_QUANTILES = (0.5, 0.9, 0.99)

Row = dict[str, Any]


class Form(NamedTuple):
    """A file with a line for each job.

    first: what stands before them. line: a job's, of the report and its row with all values made. between: what parts
    lines. last: what stands after them, in pieces.
    """

    first: Callable[[Row], str]
    line: Callable[[Row, Row], str]
    between: str
    last: Callable[[Row], Iterable[str]]


def pieces(form: Form, report: Row) -> Iterator[str]:
    """The file's text, bit by bit."""
    yield form.first(report)
    for number, job in enumerate(report["jobs"]):
        yield f"{form.between if number else ''}{form.line(report, dict(job))}"
    yield from form.last(report)


def _json_head(report: Row) -> str:
    """The keys in the contract's order, up to the first row."""
    head = json.dumps({key: value for key, value in report.items() if key not in _ROWS}, indent=1, ensure_ascii=False)
    return f'{head[:-2]},\n "jobs": [\n'


def _json_tail(report: Row) -> Iterator[str]:
    yield '\n ],\n "earlier_jobs": [\n'
    for number, job in enumerate(report["earlier_jobs"]):
        yield f"{JSON.between if number else ''}{_JSON.encode(dict(job))}"
    yield "\n ]\n}\n"


JSON = Form(_json_head, lambda report, job: _JSON.encode(job), ",\n", _json_tail)


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


def _key(name: str, inner: str | None = None) -> Callable[[Row], object]:
    """A value of a job, or one within that; None where there is none."""
    if inner is None:
        return itemgetter(name)
    return lambda job: job[name] and job[name].get(inner)


def _last(name: str) -> Callable[[Row], object]:
    """A value of the latest attempt."""
    return lambda job: job["attempts"][-1][name] if job["attempts"] else None


def _tags(tags: Mapping[str, str]) -> str:
    return "; ".join(f"{_quoted(key)}={_quoted(value)}" for key, value in tags.items())


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if _SEPARATORS.search(text) else text


_COLUMNS_BEFORE_INPUTS = (
    Column("id", "the entry's id", _key("id")),
    Column("state", "`succeeded`, `failed`, `in_doubt`, `in_flight` or `pending`", _key("state")),
    Column("file", "the clip, relative to the run directory", _key("file")),
    Column("resolution", "as asked for", _key("request", "resolution")),
)
_COLUMNS_AFTER_INPUTS = (
    Column(
        "tags",
        '`key=value`, separated by `; `; what holds `;`, `=` or `"` stands in double quotes, as in JSON',
        lambda job: _tags(job["tags"]),
    ),
    Column("priority", "what is higher is submitted first", _key("priority")),
    Column("fingerprint", "what the job is made of, hashed", _key("fingerprint")),
    Column("generation_id", "the service's id of the latest generation", _key("generation_id")),
    Column("request_id", "what was sent as X-Client-Request-Id with the latest submission", _last("request_id")),
    Column("attempts", "submissions made", lambda job: len(job["attempts"])),
    Column("polls", "looks at its generations", lambda job: sum(item["polls"] for item in job["attempts"])),
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


@registry.cached
def columns() -> tuple[Column, ...]:
    """The columns of results.csv. The inputs of all models have one each."""
    labels = {item.name: item.label for spec in registry.models().values() for item in spec.inputs}
    inputs = [
        Column(name, f"the {label.lower()}, as the manifest names it", _key("request", name))
        for name, label in labels.items()
    ]
    return (*_COLUMNS_BEFORE_INPUTS, *inputs, *_COLUMNS_AFTER_INPUTS)


class _Line:
    """A file that hands back what is written to it."""

    write = staticmethod(str)


_csv_line: Callable[[Iterable[object]], str] = csv.writer(_Line()).writerow


def _csv_row(report: Row, job: Row) -> str:
    values = [column.of(job) for column in columns()]
    return _csv_line([_cell(item) if isinstance(item, str) and not _PLAIN.fullmatch(item) else item for item in values])


def _cell(value: str) -> str:
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) or value.startswith(_FORMULA) else text


# A row for each entry of the manifest, in its order (RFC 4180).
CSV = Form(lambda report: _csv_line(column.name for column in columns()), _csv_row, "", lambda report: ())


def _junit_head(report: Row) -> str:
    totals = report["totals"]
    numbers = {
        "tests": str(totals["jobs"]),
        "failures": str(totals["failed"]),
        "errors": str(totals["in_doubt"]),
        "skipped": str(totals["in_flight"] + totals["pending"]),
    }
    seconds = (seconds_of(report["finished_at"]) or 0.0) - (seconds_of(report["started_at"]) or 0.0)
    when = {"time": f"{max(0.0, seconds):.3f}", "timestamp": report["started_at"].rstrip("Z")}
    suites = ET.Element("testsuites", {"name": "batchrunner", **numbers})
    suite = ET.Element("testsuite", {"name": printable(report["name"]), **numbers, **when})
    opened = "\n ".join(ET.tostring(item, "unicode").removesuffix(" />") + ">" for item in (suites, suite))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{opened}\n'


def _junit_case(report: Row, job: Row) -> str:
    """Failed is a failure, in doubt an error, and what is left to do is skipped."""
    seconds = job["times"]["total_s"] or 0
    names = {"name": printable(job["id"]), "classname": printable(report["name"])}
    case = ET.Element("testcase", {**names, "time": f"{seconds:.3f}"})
    error = job["error"]
    if error is not None:
        attributes = {"message": printable(error["message"])}
        tag = {"failed": "failure", "in_doubt": "error"}.get(job["state"], "skipped")
        if tag != "skipped":
            attributes["type"] = printable(error["kind"])
        ET.SubElement(case, tag, attributes).text = printable(error["hint"])
    if job["file"]:
        ET.SubElement(case, "system-out").text = printable(job["file"])
    ET.indent(case, " ", 2)
    return f"  {ET.tostring(case, 'unicode')}\n"


# A test case for each entry.
JUNIT = Form(_junit_head, _junit_case, "", lambda report: (" </testsuite>\n</testsuites>\n",))


def _states(report: Row) -> Iterable[tuple[Mapping[str, str], float | None]]:
    states = ("succeeded", "failed", "in_doubt", "in_flight", "pending")
    return [({"state": state}, report["totals"][state]) for state in states]


def _took(report: Row) -> Iterable[tuple[Mapping[str, str], float | None]]:
    """Quantiles of how long generations took: the value that so large a part of them did not pass."""
    took = sorted(
        item.completed_at - item.accepted_at
        for item in AttemptTable(report["jobs"])
        if item.completed_at is not None and item.accepted_at is not None
    )
    if took:
        for item in _QUANTILES:
            yield {"quantile": str(item)}, took[min(len(took) - 1, int(item * len(took)))]


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
            label_text = ",".join(
                f'{name}="{_label(text)}"' for name, text in {"batch": report["name"], **labels}.items()
            )
            lines.append(f"{metric.name}{{{label_text}}} {value:.15g}")
    return "\n".join(lines) + "\n"


def _label(text: str) -> str:
    return printable(text).replace("\\", "\\\\").replace('"', '\\"')
