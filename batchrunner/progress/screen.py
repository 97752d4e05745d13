"""The screen of a run as lines of styled text for a window of a given size. Pure: `views` draws them.

First come progress, expected end, cost and state of the service, then the most important jobs, then the latest
problems. There are never more lines than the window has, no line is wider, and no information is in a colour alone.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from heapq import nlargest, nsmallest
from typing import NamedTuple

from batchrunner.formatting import ASCII_MARKS, UNICODE_MARKS, Marks, count_text, printable, size_text
from batchrunner.job import State
from batchrunner.progress.model import PHASES, Incident, Model, Row
from batchrunner.progress.phrases import SLOTS_IN_DOUBT, clock_time, cost, counts, incident, lasting, names, safe

Span = tuple[str, str]  # text and style: "", "bold", "dim", "good", "bad", "busy"
Spans = list[Span]

_LABEL_COLUMNS = 9
_NAME_COLUMNS = 34
NAME_MOST = 40  # characters of an id in a sentence
_PROBLEMS_MOST = 8
_ECHO_COLUMNS = 4
_ROOMY = 18  # from this number of lines on, blank lines are added, and long status lines are broken
_STATUS_LINES_MOST = 2  # of one status line


class Glyphs(NamedTuple):
    """The characters for the parts of the bar, for states and for cut lines."""

    full: str
    bad: str
    busy: str
    left: str
    marks: Marks

    @property
    def cut(self) -> str:
        """The end of a cut line."""
        return self.marks.cut


UNICODE = Glyphs("━", "✗", "╍", "─", UNICODE_MARKS)
ASCII = Glyphs("#", "x", "=", "-", ASCII_MARKS)


def draw(model: Model, width: int, height: int, glyphs: Glyphs = UNICODE) -> list[Spans]:
    """Return the screen for `width` columns and `height` lines."""
    if model.started is None or width < 1 or height < 1:
        return []
    status = _status_lines(model)
    if height >= _ROOMY:
        status = [line for spans in status for line in _broken(spans, width)]
    top = [_title(model, width), _bar(model, width, glyphs), *status]
    blank: list[Spans] = [[]] if height >= _ROOMY else []
    lines_left = height - len(top) - 2 * len(blank)
    problems = _problems(model, min(_PROBLEMS_MOST, max(2, lines_left // 3), lines_left), glyphs)
    jobs = _jobs(model, lines_left - len(problems), width, glyphs)
    lines = top
    for block in (jobs, problems):
        lines = lines + (blank + block if block else [])
    fitted = [_fit(spans, width, glyphs.cut) for spans in lines[:height]]
    # The terminal echoes input behind the last line. With free columns there, ^C does not move the screen.
    return [*fitted[:-1], _fit(fitted[-1], max(1, width - _ECHO_COLUMNS), glyphs.cut)]


def _title(model: Model, width: int) -> Spans:
    assert model.started is not None
    name = f"{safe(model.started.name, 60)} on {safe(model.started.provider, 60)}"
    lasted = lasting(model.at - model.started.at)
    gap = max(2, width - columns(name) - len(lasted))
    return [(name, "bold"), (" " * gap, ""), (lasted, "dim")]


def _bar(model: Model, width: int, glyphs: Glyphs) -> Spans:
    label = f" {model.done:,} of {model.jobs:,}"
    cells = max(1, width - len(label))
    segments = [
        (model.states[State.SUCCEEDED], glyphs.full, "good"),
        (model.states[State.FAILED] + model.states[State.IN_DOUBT], glyphs.bad, "bad"),
        (model.in_flight, glyphs.busy, "busy"),
        (model.states[State.PENDING], glyphs.left, "dim"),
    ]
    spans: Spans = []
    seen = used = 0
    for count, glyph, style in segments:
        seen += count
        upto = cells * seen // max(1, model.jobs)
        spans.append((glyph * (upto - used), style))
        used = upto
    return [*spans, (glyphs.left * (cells - used), "dim"), (label, "bold")]


def _status_lines(model: Model) -> list[Spans]:
    lines = [
        ("jobs", _counts(model)),
        ("finish", _finish(model)),
        ("cost", [(cost(model), "")]),
        ("service", _service(model)),
    ]
    return [[(f"{label:<{_LABEL_COLUMNS}}", "dim"), *spans] for label, spans in lines]


def _counts(model: Model) -> Spans:
    styles = {"succeeded": "good", "failed": "bad", "in doubt": "bad"}
    spans: Spans = []
    for text in counts(model.states).split(", "):
        spans += [(", ", "")] * bool(spans) + [(text, styles.get(text.partition(" ")[2], ""))]
    return spans


def _finish(model: Model) -> Spans:
    if model.finished or model.is_ending:
        return [("ended" if model.finished else "the report is being written", "")]
    if model.stopping:
        return [(f"stopping: {safe(model.stopping)}", "bad")]
    if model.is_held_back:
        return [("not known while calls are paused", "")]
    if model.waits_for_in_doubt:
        return [(SLOTS_IN_DOUBT, "bad")]
    return _estimate(model)


def _estimate(model: Model) -> Spans:
    """The expected end, or the planned stop before it, and the rate."""
    per_hour, left_s = model.per_hour(), model.left_s()
    rate = f"; {count_text(round(per_hour), 'clip')} an hour" if per_hour and per_hour >= 1 else ""
    if left_s is None:
        is_ending = not model.states[State.PENDING] and not model.in_flight
        text = "no estimate for so few jobs" if model.is_too_small_to_estimate else "known after three clips"
        return [("in a moment" if is_ending else text, ""), (rate, "")]
    stop = model.planned_stop()
    if stop is None:
        return [(f"about {clock_time(model.at + left_s, model.at)}, in {lasting(left_s)}", "bold"), (rate, "")]
    at, setting = stop
    when = (
        f"stops at {clock_time(at, model.at)}, in {lasting(at - model.at)} ({setting})"
        if at > model.at
        else f"{setting} stops it"
    )
    return [(f"{when}; all jobs would take {lasting(left_s)}", "bold"), (rate, "")]


def _service(model: Model) -> Spans:
    cap = f"at most {model.cap:,} at once"
    if model.cap < model.limit:
        cap = f"at most {model.cap:,} of {model.limit:,} at once because the service asks for fewer"
    if model.closed:
        return [(incident(model.closed, model.at, clock=True), "bad")]
    return [("fine", "good"), (f"; {cap}", "")]


def _jobs(model: Model, most: int, width: int, glyphs: Glyphs) -> list[Spans]:
    """Return the rows that fit: transfers and the oldest generations first, because these rows keep their places."""
    if most < 1 or not model.rows:
        return []
    rows = model.rows.values()
    shown = min(len(rows), most if len(rows) <= most else most - 1)
    chosen = nsmallest(shown, rows, key=lambda row: (PHASES.index(row.phase), row.since, row.ids))
    most_columns = min(_NAME_COLUMNS, max(10, width - 28))
    short = model.short_names(most_columns, glyphs.cut)
    shown_names = [_name(row, short) for row in chosen]
    name_columns = min(most_columns, max(map(columns, shown_names), default=0))
    lines = [
        _row(model, row, _padded(name, name_columns, glyphs.cut)) for row, name in zip(chosen, shown_names, strict=True)
    ]
    if shown < len(rows):
        left = model.phases()
        left.subtract(row.phase for row in chosen)
        others = ", ".join(f"{left[phase]:,} {phase}" for phase in PHASES if left[phase])
        lines.append(
            [(f"{'and' if shown else 'now'} {len(rows) - shown:,}{' more' if shown else ''}: {others}", "dim")]
        )
    return lines


def _row(model: Model, row: Row, name: str) -> Spans:
    text = lasting(model.at - row.since)
    expected_s = model.expected_s(row.record.job) if row.phase in {"generating", "queued"} else None
    if expected_s is not None:
        text = f"{text}, usually {lasting(expected_s)}"
    if row.received_bytes is not None:
        of = f" of {size_text(row.total_bytes)}" if row.total_bytes else ""
        text = f"{size_text(row.received_bytes)}{of}"
    style = "busy" if row.phase in {"downloading", "uploading"} else "bad" if row.phase == "in doubt" else ""
    return [(name, ""), (f"  {row.phase:<11}", style), (f"  {text}", "dim")]


def _name(row: Row, short: Mapping[str, str]) -> str:
    return printable(short.get(row.ids[0], row.ids[0]), 100) if row.ids else "an earlier manifest's job"


def _problems(model: Model, most: int, glyphs: Glyphs) -> list[Spans]:
    """Return the latest problems, the newest last. Failed jobs take precedence over failed calls."""
    chosen = nlargest(max(0, most), model.problems, key=lambda problem: (not problem.call, problem.at))
    short = model.short_names(NAME_MOST, glyphs.cut)
    return [
        _problem(problem, model.at, short, glyphs.marks) for problem in sorted(chosen, key=lambda problem: problem.at)
    ]


def _problem(problem: Incident, now: float, short: Mapping[str, str], marks: Marks) -> Spans:
    is_passing = bool(problem.call) or problem.problem.kind == "noticed"
    style, mark = (
        ("", marks.warning) if is_passing else ("bad", marks.in_doubt if problem.is_in_doubt else marks.failed)
    )
    return [(f"{clock_time(problem.at, now)} ", "dim"), (f"{mark} ", style), (problem_text(problem, short), style)]


def problem_text(problem: Incident, short: Mapping[str, str]) -> str:
    """Describe a problem in one line. short: short forms of ids."""
    subject = names([short.get(name, name) for name in problem.ids[:1]]) if problem.ids else "the run"
    if problem.times > 1:
        subject = f"{problem.times:,} times, last {subject}"
    failed = f"{problem.call} failed: " if problem.call else ""
    return f"{subject}: {failed}{safe(problem.problem.message)}"


# Columns: wide characters take two, combining ones none.


def columns(text: str) -> int:
    """Return the number of terminal columns of `text`."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _cut(text: str, width: int) -> str:
    """Return the part of `text` that fits into `width` columns."""
    if columns(text) <= width:
        return text
    used = 0
    for place, character in enumerate(text):
        used += _columns(character)
        if used > width:
            return text[:place]
    return text


def _padded(text: str, width: int, cut: str) -> str:
    if columns(text) > width:
        tail = _cut(text[::-1], (width - 1) // 2)[::-1]
        text = _cut(text, width - 1 - columns(tail)) + cut + tail
    return text + " " * (width - columns(text))


def _broken(spans: Spans, width: int) -> list[Spans]:
    """Break a status line between its texts' words; the last of its lines may still be too wide."""
    lines: list[Spans] = [[]]
    used = 0
    for text, style in spans:
        for piece in re.findall(r"\S*\s*", text)[:-1]:
            if used + columns(piece.rstrip()) > width and len(lines) < _STATUS_LINES_MOST:
                lines.append([(" " * _LABEL_COLUMNS, "")])
                used = _LABEL_COLUMNS
            lines[-1].append((piece, style))
            used += columns(piece)
    return lines


def _fit(spans: Iterable[Span], width: int, mark: str) -> Spans:
    """Cut the line at the end of the window."""
    line = [span for span in spans if span[0]]
    if sum(columns(text) for text, _ in line) <= width:
        return line
    fitted: Spans = []
    columns_left = width - 1
    for text, style in line:
        fitting = _cut(text, columns_left)
        fitted.append((fitting, style))
        columns_left -= columns(fitting)
        if fitting != text:
            break
    return [*fitted, (mark, "dim")]


def plain(lines: Sequence[Spans]) -> list[str]:
    """Return the text of the lines without styles."""
    return ["".join(text for text, _ in spans).rstrip() for spans in lines]
