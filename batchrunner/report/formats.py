"""The report for other programs: report.json, results.csv, JUnit XML, Prometheus text. Pure: dict in, text out.

Rules: a file with a line per job is a `Form`, and one pass over the rows writes all of them. COLUMNS and METRICS define
the contents; docs/outputs.md is generated from them. Text from outside is made printable. In the CSV, an apostrophe
quotes text that a spreadsheet would read as a formula.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from batchrunner.formatting import printable
from batchrunner.providers import registry
from batchrunner.report.charts import AttemptTable, seconds_of
from batchrunner.report.rows import complete

_SIGNS = "=+-@"
_WIDE_SIGNS = (chr(ord(item) + 0xFEE0) for item in _SIGNS)  # full-width forms, which spreadsheets read as well
_FORMULA = (*_SIGNS, *_WIDE_SIGNS, "\t", "\r")
_SEPARATORS = re.compile(r'[;="]|^\s|\s$|^$')
_PLAIN = re.compile(r"[A-Za-z0-9][ -~]*")  # most texts: printable and not a formula
_BEGINS_WITH_A_SIGN = re.compile(r",[^A-Za-z0-9,]")
# Shared by all rows. Rows contain no cycles.
_JSON = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"), allow_nan=False)
_ROWS = ("jobs", "earlier_jobs")
_NESTED = ("request", "cost", "estimate", "times", "verdict", "error", "rendered_by", "object")
_LAST = "the latest attempt"
_DERIVED = "derived"  # from several values of the job, see `_derived`
_COST_KINDS = tuple((kind, f"{kind}_usd") for kind in ("settled", "quoted", "estimated"))
_QUANTILES = (0.5, 0.9, 0.99)

Row = dict[str, Any]


class Form(NamedTuple):
    """A file with a line per job.

    first: returns the text before the lines. line: returns the line of a job from the report and the job's complete
    row. between: the separator. last: yields the text after the lines.
    """

    first: Callable[[Row], str]
    line: Callable[[Row, Row], str]
    between: str
    last: Callable[[Row], Iterable[str]]


def pieces(form: Form, report: Row) -> Iterator[str]:
    """Yield the file's text in pieces."""
    yield form.first(report)
    for number, job in enumerate(report["jobs"]):
        yield f"{form.between if number else ''}{form.line(report, complete(job))}"
    yield from form.last(report)


def _json_head(report: Row) -> str:
    """Return the keys before the rows, in the contract's order."""
    head = json.dumps({key: value for key, value in report.items() if key not in _ROWS}, indent=1, ensure_ascii=False)
    return f'{head[:-2]},\n "jobs": [\n'


def _json_tail(report: Row) -> Iterator[str]:
    yield '\n ],\n "earlier_jobs": [\n'
    for number, job in enumerate(report["earlier_jobs"]):
        yield f"{JSON.between if number else ''}{_JSON.encode(complete(job))}"
    yield "\n ]\n}\n"


JSON = Form(_json_head, lambda report, job: _JSON.encode(job), ",\n", _json_tail)


class Column(NamedTuple):
    """A column of results.csv. keys: of a section of the job (`_sections`), and of the value in it. A value that is
    missing or None is an empty cell.
    """

    name: str
    meaning: str
    keys: tuple[str, str]


class Metric(NamedTuple):
    """A metric, always a gauge. of: returns its samples as labels and value; a sample with value None is omitted."""

    name: str
    meaning: str
    of: Callable[[Row], Iterable[tuple[Mapping[str, str], float | None]]]


def _key(name: str, inner: str | None = None) -> tuple[str, str]:
    """Return the keys of a value of a job, or of a value within that value."""
    return ("", name) if inner is None else (name, inner)


def _last(name: str) -> tuple[str, str]:
    """Return the keys of a value of the latest attempt."""
    return (_LAST, name)


def _sections(job: Row) -> dict[str, Row]:
    """Return the sections of a job that have values of columns, by name. A missing one is empty."""
    nested = {name: job[name] or {} for name in _NESTED}
    return {"": job, _LAST: job["attempts"][-1] if job["attempts"] else {}, _DERIVED: _derived(job), **nested}


def _derived(job: Row) -> Row:
    """Return the values of columns that are computed from lists and dicts of the job."""
    attempts, quality, cost = job["attempts"], job["quality"], job["cost"]
    return {
        "tags": _tags(job["tags"]) if job["tags"] else "",
        "attempts": len(attempts),
        "polls": sum([item["polls"] for item in attempts]),
        "cost_basis": "; ".join([kind for kind, key in _COST_KINDS if cost[key]]),
        "warnings": "; ".join(job["warnings"]),
        "synthetic_marks": "; ".join(job["synthetic_marks"] or ()),
        "marks": "; ".join([mark["kind"] for mark in quality["marks"]]) if quality else "",
    }


def _tags(tags: Mapping[str, str]) -> str:
    return "; ".join([f"{_quoted(key)}={_quoted(value)}" for key, value in tags.items()])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if _SEPARATORS.search(text) else text


_COLUMNS_BEFORE_INPUTS = (
    Column("id", "the entry's id", _key("id")),
    Column("state", "`succeeded`, `failed`, `in_doubt`, `in_flight` or `pending`", _key("state")),
    Column("file", "the clip, relative to the run directory", _key("file")),
    Column("resolution", "the requested resolution", _key("request", "resolution")),
)
_COLUMNS_AFTER_INPUTS = (
    Column("job", "the id that all takes of the job share", _key("job")),
    Column("take", "the number of the take, from 1", _key("take")),
    Column(
        "tags",
        '`key=value`, separated by `; `; text with `;`, `=` or `"` is in double quotes, as in JSON',
        _key(_DERIVED, "tags"),
    ),
    Column("priority", "a higher number is submitted first", _key("priority")),
    Column("fingerprint", "the hash of the job's model, inputs and parameters", _key("fingerprint")),
    Column("generation_id", "the service's id of the latest generation", _key("generation_id")),
    Column("request_id", "the X-Client-Request-Id of the latest submission", _last("request_id")),
    Column("attempts", "number of submissions", _key(_DERIVED, "attempts")),
    Column("polls", "number of polls of its generations", _key(_DERIVED, "polls")),
    Column("credits", "the service's quote for the latest generation", _last("credits")),
    Column("cost_usd", "the cost of its generations in US dollars, reserved amounts included", _key("cost", "usd")),
    Column(
        "cost_basis", "`settled`, `quoted` or `estimated`; several are separated by `; `", _key(_DERIVED, "cost_basis")
    ),
    Column("estimate_credits", "the expected charge for one generation", _key("estimate", "credits")),
    Column("submitted_at", "time of the latest submission, RFC 3339 in UTC", _last("submitted_at")),
    Column("completed_at", "time of the first poll that saw it completed", _last("completed_at")),
    Column("ended_at", "time of delivery or failure", _last("ended_at")),
    Column("queue_s", "seconds from acceptance to the start of the generation", _key("times", "queue_s")),
    Column("generating_s", "seconds from the start of the generation to its completion", _key("times", "generating_s")),
    Column("generation_s", "queue_s + generating_s", _key("times", "generation_s")),
    Column("expected_s", "the usual generation_s of similar jobs", _key("times", "expected_s")),
    Column("download_s", "seconds from completion to delivery", _key("times", "download_s")),
    Column("total_s", "seconds from the first submission to delivery", _key("times", "total_s")),
    Column("bytes", "size of the clip", _key("bytes")),
    Column("sha256", "SHA-256 of the clip, in hex", _key("sha256")),
    Column("width_px", "width of the clip in pixels", _key("width_px")),
    Column("height_px", "height of the clip in pixels", _key("height_px")),
    Column("duration_s", "length of the clip in seconds", _key("duration_s")),
    Column("warnings", "unusual properties of the clip, separated by `; `", _key(_DERIVED, "warnings")),
    Column(
        "synthetic_marks",
        "`c2pa`, `xmp:<digital source type>` and `aigc`, separated by `; `; empty if the clip has none",
        _key(_DERIVED, "synthetic_marks"),
    ),
    Column("marks", "kinds of marks of the clip, separated by `; `", _key(_DERIVED, "marks")),
    Column("verdict", "`accept`, `reject`, or empty", _key("verdict", "verdict")),
    Column("error_kind", "a stable identifier of the reason for failure", _key("error", "kind")),
    Column("error_fault", "`job`, `account`, `service`, `network` or `local`", _key("error", "fault")),
    Column("error_message", "the reason as text", _key("error", "message")),
    Column("error_hint", "the next step", _key("error", "hint")),
    Column("model", "the model that the job asks for", _key("request", "model")),
    Column(
        "service",
        "the service that rendered the clip: its host, or `the embedded sandbox`",
        _key("rendered_by", "service"),
    ),
    Column("run_id", "the run that submitted the clip's generation", _key("rendered_by", "run_id")),
    Column("price_basis", "where the price of the estimate comes from", _key("estimate", "basis")),
    Column("object", "the address of the clip's copy in the bucket, or empty", _key("object", "address")),
)


_AS_JSON = {bool, list, dict}


class ColumnFamily(NamedTuple):
    """Columns of results.csv that depend on the batch: one for each name in ``columns`` of the report.

    names: the key there. name: with {} for the name. of: returns the values for a job and all names.
    """

    names: str
    name: str
    meaning: str
    of: Callable[[Row, Sequence[str]], list[object]]


def _tag_values(job: Row, names: Sequence[str]) -> list[object]:
    tags = job["tags"]
    return [tags.get(name) for name in names] if tags else [None] * len(names)


def _parameter_values(job: Row, names: Sequence[str]) -> list[object]:
    """Return texts and numbers as they are, other values as JSON."""
    values = job["parameters"]
    found = list(map(values.get, names))
    if _AS_JSON.isdisjoint(map(type, found)):
        return found
    return [json.dumps(value, ensure_ascii=False) if type(value) in _AS_JSON else value for value in found]


def _input_values(job: Row, names: Sequence[str]) -> list[object]:
    inputs = job["inputs"]
    return [inputs[name]["sha256"] if name in inputs else None for name in names]


FAMILIES = (
    ColumnFamily("tags", "tags.{}", "a tag; empty for a job without it", _tag_values),
    ColumnFamily(
        "parameters",
        "parameters.{}",
        "a parameter of the model as it is sent; empty for a job without it",
        _parameter_values,
    ),
    ColumnFamily(
        "inputs",
        "inputs.{}.sha256",
        "SHA-256 of an input, in hex; empty for a URL",
        _input_values,
    ),
)


@registry.cached
def columns() -> tuple[Column, ...]:
    """Return the columns of results.csv. Each input of any model has a column."""
    labels = {item.name: item.label for spec in registry.models().values() for item in spec.inputs}
    inputs = [
        Column(name, f"the {label.lower()}, as the manifest names it", _key("request", name))
        for name, label in labels.items()
    ]
    return (*_COLUMNS_BEFORE_INPUTS, *inputs, *_COLUMNS_AFTER_INPUTS)


class _Line:
    """A file object whose `write` returns the text."""

    write = staticmethod(str)


_csv_line: Callable[[Iterable[object]], str] = csv.writer(_Line()).writerow


def _csv_head(report: Row) -> str:
    names = [column.name for column in columns()]
    seen = set(names)
    for family in FAMILIES:
        for name in report["columns"][family.names]:
            header = base = family.name.format(printable(name))
            number = 1
            while header in seen:  # names that differ in characters that are not printable
                number += 1
                header = f"{base}~{number}"
            seen.add(header)
            names.append(header)
    return _csv_line(names)


def _csv_row(report: Row, job: Row) -> str:
    sections, names = _sections(job), report["columns"]
    values = [found[key] if key in (found := sections[section]) else None for _, _, (section, key) in columns()]
    for family in FAMILIES:
        if names[family.names]:
            values += family.of(job, names[family.names])
    texts = [item if type(item) is str else "" if item is None else str(item) for item in values]
    line = ",".join(texts)
    if _is_plain(line, len(texts)):  # most lines; csv.writer takes longer than all other steps
        return f"{line}\r\n"
    return _csv_line([_cell(item) if isinstance(item, str) and not _PLAIN.fullmatch(item) else item for item in values])


def _is_plain(line: str, cells: int) -> bool:
    """Return whether the cells of a line need no quotes, no escapes and no apostrophe: each is plain or empty."""
    is_text = line.isascii() and line.isprintable() and '"' not in line
    return is_text and line.count(",") == cells - 1 and not _BEGINS_WITH_A_SIGN.search(f",{line}")


def _cell(value: str) -> str:
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) or value.startswith(_FORMULA) else text


# A row for each entry of the manifest, in its order (RFC 4180).
CSV = Form(_csv_head, _csv_row, "", lambda report: ())


def _junit_head(report: Row) -> str:
    totals = report["totals"]
    numbers = {
        "tests": str(totals["jobs"]),
        "failures": str(totals["failed"]),
        "errors": str(totals["in_doubt"]),
        "skipped": str(totals["in_flight"] + totals["pending"]),
    }
    from xml.etree import ElementTree as ET  # here, as most batches write no JUnit XML

    seconds = (seconds_of(report["finished_at"]) or 0.0) - (seconds_of(report["started_at"]) or 0.0)
    when = {"time": f"{max(0.0, seconds):.3f}", "timestamp": report["started_at"].rstrip("Z")}
    suites = ET.Element("testsuites", {"name": "batchrunner", **numbers})
    suite = ET.Element("testsuite", {"name": printable(report["name"]), **numbers, **when})
    opened = "\n ".join(ET.tostring(item, "unicode").removesuffix(" />") + ">" for item in (suites, suite))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{opened}\n'


def _junit_case(report: Row, job: Row) -> str:
    """Return the test case of a job: failed is a failure, in doubt an error, and unfinished is skipped."""
    from xml.etree import ElementTree as ET

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


def _generation_times(report: Row) -> Iterable[tuple[Mapping[str, str], float | None]]:
    """Return quantiles of the generation times."""
    durations_s = sorted(AttemptTable(report["jobs"]).durations_s)
    if durations_s:
        for item in _QUANTILES:
            yield {"quantile": str(item)}, durations_s[min(len(durations_s) - 1, int(item * len(durations_s)))]


def _one(value: Callable[[Row], float | None]) -> Callable[[Row], list[tuple[Mapping[str, str], float | None]]]:
    return lambda report: [({}, value(report))]


METRICS: tuple[Metric, ...] = (
    Metric("batchrunner_jobs", "Entries of the manifest by state.", _states),
    Metric("batchrunner_generations", "Generations accepted.", _one(lambda report: report["totals"]["generations"])),
    Metric("batchrunner_polls", "Polls of generations.", _one(lambda report: report["totals"]["polls"])),
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
        "batchrunner_cost_usd",
        "Money over all runs, in US dollars: spent, reserved, worst_case, budget, overrun; settled, quoted, estimated.",
        lambda report: [
            ({"kind": kind}, report["money"][f"{kind}_usd"])
            for kind in ("spent", "reserved", "worst_case", "budget", "overrun", "settled", "quoted", "estimated")
        ],
    ),
    Metric(
        "batchrunner_unpriced_generations",
        "Generations of unknown price.",
        _one(lambda report: report["money"]["unpriced"]),
    ),
    Metric("batchrunner_generation_seconds", "Quantiles of the generation time, queue included.", _generation_times),
    Metric(
        "batchrunner_run_started_timestamp_seconds",
        "Start time of the latest run.",
        _one(lambda report: seconds_of(report["started_at"])),
    ),
    Metric(
        "batchrunner_run_finished_timestamp_seconds",
        "End time of the latest run; missing while it runs or if it was killed.",
        _one(lambda report: seconds_of(report["finished_at"])),
    ),
    Metric("batchrunner_run_exit_status", "Exit status of the latest run.", _one(lambda report: report["exit_status"])),
    Metric(
        "batchrunner_info",
        "Always 1; the labels contain the version, the provider and the service.",
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
    """Return the report in Prometheus' text format. Each sample has the label ``batch`` with the batch's name."""
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
