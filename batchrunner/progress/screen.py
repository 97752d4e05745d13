"""The screen of a run, as lines of styled words for a window of a given size. Pure: what draws them is `live`.

What answers a glance stands first (how far, when done, what it costs, what is wrong), then the jobs that matter now,
then the last problems. Rule: never more lines than the window, never a line wider than it, and nothing that only a
colour says.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from heapq import nlargest, nsmallest
from typing import NamedTuple

from batchrunner.formatting import count_text, printable, size_text
from batchrunner.job import State
from batchrunner.progress.model import PHASES, Incident, Model, Row
from batchrunner.progress.phrases import HELD_BY_DOUBTS, clock_time, cost, counts, incident, lasting, names, safe

Span = tuple[str, str]  # words and style: "", "bold", "dim", "good", "bad", "busy"
Spans = list[Span]

_LABEL_COLUMNS = 9
_NAME_COLUMNS = 34
_PROBLEMS_MOST = 8
_ECHO_COLUMNS = 4
_ROOMY = 18  # so many lines, and blank ones are spent


class Glyphs(NamedTuple):
    """What bars and cut lines are made of."""

    full: str
    busy: str
    left: str
    cut: str


UNICODE = Glyphs("━", "╍", "─", "…")
ASCII = Glyphs("#", "=", "-", "~")


def draw(model: Model, width: int, height: int, glyphs: Glyphs = UNICODE) -> list[Spans]:
    """The screen, for `width` columns and `height` lines."""
    if model.started is None or width < 1 or height < 1:
        return []
    top = [_title(model, width), _bar(model, width, glyphs), *_facts(model)]
    blank: list[Spans] = [[]] if height >= _ROOMY else []
    room = height - len(top) - 2 * len(blank)
    problems = _problems(model, min(_PROBLEMS_MOST, max(2, room // 3), room))
    jobs = _jobs(model, room - len(problems), width)
    lines = top
    for block in (jobs, problems):
        lines = lines + (blank + block if block else [])
    fitted = [_fit(spans, width, glyphs.cut) for spans in lines[:height]]
    # What is typed is echoed behind the last line: with room there, ^C moves nothing.
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
    parts = [
        (model.states[State.SUCCEEDED], glyphs.full, "good"),
        (model.states[State.FAILED] + model.states[State.IN_DOUBT], glyphs.full, "bad"),
        (model.in_flight, glyphs.busy, "busy"),
        (model.states[State.PENDING], glyphs.left, "dim"),
    ]
    spans: Spans = []
    seen = used = 0
    for count, glyph, style in parts:
        seen += count
        upto = cells * seen // max(1, model.jobs)
        spans.append((glyph * (upto - used), style))
        used = upto
    return [*spans, (glyphs.left * (cells - used), "dim"), (label, "bold")]


def _facts(model: Model) -> list[Spans]:
    facts = [
        ("jobs", _counts(model)),
        ("finish", _finish(model)),
        ("cost", [(cost(model), "")]),
        ("service", _service(model)),
    ]
    return [[(f"{label:<{_LABEL_COLUMNS}}", "dim"), *spans] for label, spans in facts]


def _counts(model: Model) -> Spans:
    styles = {"succeeded": "good", "failed": "bad", "in doubt": "bad"}
    spans: Spans = []
    for part in counts(model.states).split(", "):
        spans += [(", ", "")] * bool(spans) + [(part, styles.get(part.partition(" ")[2], ""))]
    return spans


def _finish(model: Model) -> Spans:
    if model.finished:
        return [("ended", "")]
    if model.stopping:
        return [(f"stopping: {safe(model.stopping)}", "bad")]
    if model.is_held_back:
        return [("not known while calls are held back", "")]
    if model.waits_for_doubts:
        return [(HELD_BY_DOUBTS, "bad")]
    per_hour, left_s = model.per_hour(), model.left_s()
    rate = f"; {count_text(round(per_hour), 'clip')} an hour" if per_hour and per_hour >= 1 else ""
    if left_s is None:
        waits = "a moment" if not model.states[State.PENDING] and not model.in_flight else "after three clips"
        return [(f"{'in ' if waits == 'a moment' else 'known '}{waits}{rate}", "")]
    return [(f"about {clock_time(model.at + left_s)}, in {lasting(left_s)}", "bold"), (rate, "")]


def _service(model: Model) -> Spans:
    cap = f"at most {model.cap:,} at once"
    if model.cap < model.limit:
        cap = f"at most {model.cap:,} of {model.limit:,} at once, as the service asks for fewer"
    if model.closed:
        return [(incident(model.closed, model.at), "bad")]
    return [("fine", "good"), (f"; {cap}", "")]


def _jobs(model: Model, room: int, width: int) -> list[Spans]:
    """The rows that fit: transfers and the oldest generations first, so that rows stay where they are."""
    if room < 1 or not model.rows:
        return []
    rows = model.rows.values()
    shown = min(len(rows), room if len(rows) <= room else room - 1)
    chosen = nsmallest(shown, rows, key=lambda row: (PHASES.index(row.phase), row.since, row.ids))
    name_columns = min(_NAME_COLUMNS, max(10, width - 28), max((columns(_name(row)) for row in chosen), default=0))
    lines = [_row(model, row, name_columns) for row in chosen]
    if shown < len(rows):
        left = model.phases()
        left.subtract(row.phase for row in chosen)
        rest = ", ".join(f"{left[phase]:,} {phase}" for phase in PHASES if left[phase])
        lines.append([(f"{'and' if shown else 'now'} {len(rows) - shown:,}{' more' if shown else ''}: {rest}", "dim")])
    return lines


def _row(model: Model, row: Row, name_columns: int) -> Spans:
    told = lasting(model.at - row.since)
    expected_s = model.expected_s(row.record.job) if row.phase in {"generating", "queued"} else None
    if expected_s is not None:
        told = f"{told}, usually {lasting(expected_s)}"
    if row.received_bytes is not None:
        of = f" of {size_text(row.total_bytes)}" if row.total_bytes else ""
        told = f"{size_text(row.received_bytes)}{of}"
    style = "busy" if row.phase in {"downloading", "uploading"} else "bad" if row.phase == "in doubt" else ""
    return [(_padded(_name(row), name_columns), ""), (f"  {row.phase:<11}", style), (f"  {told}", "dim")]


def _name(row: Row) -> str:
    return printable(row.ids[0], 100) if row.ids else "an earlier manifest's job"


def _problems(model: Model, room: int) -> list[Spans]:
    """The last ones, the latest below; what settles itself gives way to what does not."""
    chosen = nlargest(max(0, room), model.problems, key=lambda each: (not each.call, each.at))
    return [_problem(each) for each in sorted(chosen, key=lambda each: each.at)]


def _problem(each: Incident) -> Spans:
    about = names(each.ids[:1]) if each.ids else "the run"
    if each.times > 1:
        about = f"{each.times:,} times, last {about}"
    failed = f"{each.call} failed: " if each.call else ""
    style = "" if each.call or each.problem.kind == "noticed" else "bad"
    return [(f"{clock_time(each.at)} ", "dim"), (f"{about}: {failed}{safe(each.problem.message)}", style)]


# Columns: wide characters take two, combining ones none.


def columns(text: str) -> int:
    """How many columns of a terminal `text` takes."""
    if text.isascii():
        return len(text)
    return sum(_columns(each) for each in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _cut(text: str, width: int) -> str:
    """As much of `text` as fits into `width` columns."""
    if columns(text) <= width:
        return text
    used = 0
    for place, character in enumerate(text):
        used += _columns(character)
        if used > width:
            return text[:place]
    return text


def _padded(text: str, width: int) -> str:
    if columns(text) > width:
        text = _cut(text, width - 1) + "…"
    return text + " " * (width - columns(text))


def _fit(spans: Iterable[Span], width: int, mark: str) -> Spans:
    """The line, cut where the window ends."""
    line = [span for span in spans if span[0]]
    if sum(columns(text) for text, _ in line) <= width:
        return line
    fitted: Spans = []
    room = width - 1
    for text, style in line:
        part = _cut(text, room)
        fitted.append((part, style))
        room -= columns(part)
        if part != text:
            break
    return [*fitted, (mark, "dim")]


def plain(lines: Sequence[Spans]) -> list[str]:
    """The words of the lines alone."""
    return ["".join(text for text, _ in spans).rstrip() for spans in lines]
