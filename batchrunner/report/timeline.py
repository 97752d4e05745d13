"""The night as a drawing: what became of each job when, and what befell the batch. Geometry only. Pure.

Up to `MOST_ROWS` jobs have a row each; more are summed up as how many stood where at each moment. Above them run the
troubles of the three kinds of calls, and across all of it starts and ends of runs.
Rule: as in `batchrunner.report.charts`; what the drawing shows is told in words too, for who cannot see it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, zip_longest
from typing import Any

from batchrunner.formatting import count_text, length_text
from batchrunner.report.charts import AttemptTable, Try, seconds_of
from batchrunner.report.time_axis import Axis, nice_step

Drawing = dict[str, Any]
Span = tuple[float, float]

WIDTH = 1000
MOST_ROWS = 60
PARTS = {
    "sending": "submission",
    "queue": "queue",
    "work": "generation",
    "fetch": "download",
    "doubt": "in doubt",
}
CALL_STATUSES = {
    "throttled": "the service asks for fewer",
    "down": "the service is down",
    "unreachable": "the service is out of reach",
    "paused": "the account refuses",
}
_CALLS = {"submit": "submissions", "poll": "polls", "download": "downloads"}
_LEFT, _RIGHT, _TOP = 150, 14, 26
_TRACK_PX, _AREA_PX = 16, 220
_SAMPLE_PX = 3
_LAYERS = ("work", "queue", "sending", "fetch")  # from the ground up
_CAP_LABEL_PX = 18


def run_spans(report: dict[str, Any], tries: Iterable[Try]) -> list[Span]:
    """From when to when each run was under way; one that was killed, to the last that is known of it.

    tries: all there were, those of earlier jobs too.
    """
    cut_off = any(run["finished_at"] is None for run in report["runs"])
    known = sorted(_moments(report, tries)) if cut_off else []
    spans = []
    starts = [_at(run["started_at"]) for run in report["runs"]]
    for number, run in enumerate(report["runs"]):
        start = starts[number]
        end = seconds_of(run["finished_at"])
        if end is None:
            until = starts[number + 1] if number + 1 < len(starts) else float("inf")
            before = bisect_right(known, until)
            end = known[before - 1] if before else start
        spans.append((start, max(start, end)))
    return spans


def timeline(report: dict[str, Any], done: AttemptTable, spans: Sequence[Span]) -> Drawing | None:
    """The drawing; None where nothing was submitted yet. done: what was tried of the manifest's jobs."""
    if not done.rows:
        return None
    axis = Axis(spans, _LEFT, WIDTH - _RIGHT)
    tracks = _tracks(report, spans, axis)
    many = done.rows > MOST_ROWS
    caps = [] if many else _cap_labels(report, spans, axis)
    caps_y = _TOP + _TRACK_PX * len(tracks)
    top = caps_y + (_TRACK_PX if caps else 0) + (8 if tracks or caps else 0)
    body = _areas(done, report, spans, axis, top) if many else _rows(report, spans, axis, top)
    return {
        "width": WIDTH,
        "left": _LEFT,
        "top": _TOP,
        "body_top": top,
        "height": body["bottom"] + 4,
        "ticks": [{"x": x, "moment": moment} for moment, x in axis.ticks(80)],
        "breaks": [{"x": x, "label": length_text(length)} for x, length in axis.breaks],
        "tracks": tracks,
        "caps": caps,
        "caps_y": caps_y,
        "marks": _run_marks(report, spans, axis),
        "told": told(report, spans),
        "used": _LAYERS if many else {part["part"] for row in body["rows"] for part in row["parts"]},
        "summary": _summary(report, spans, done.rows),
        "rows": [],
        "areas": [],
        "levels": [],
        "cap": "",
        **body,
    }


def told(report: dict[str, Any], spans: Sequence[Span]) -> list[dict[str, Any]]:
    """What happened when, in words: starts and ends of runs, weather, changes of the cap, stops."""
    found = []
    for number, (run, span) in enumerate(zip(report["runs"], spans, strict=True), 1):
        found.append({"at": run["started_at"], "text": f"run {number} starts, up to {run['concurrency']} in flight"})
        if run["finished_at"]:
            why = f": {run['stopped']}" if run["stopped"] else ""
            text = f"run {number} ends after {length_text(span[1] - span[0])}, exit status {run['exit_status']}{why}"
            found.append({"at": run["finished_at"], "text": text})
    for each in report["timeline"]:
        text = each["message"]
        if each["kind"] == "call_health":
            calls = _CALLS.get(each["call"], each["call"])
            text = f"{calls}: {CALL_STATUSES.get(each['status'], each['status'])}"
            if each["status"] != "fine" and each["message"]:
                text += f" ({each['message']})"
        found.append({"at": each["at"], "text": text})
    return sorted(found, key=lambda each: str(each["at"]))


def parts_of(attempt: Try, until: float) -> list[tuple[str, float, float]]:
    """What became of an attempt, as (part, start, end). until: the end of what is still open."""
    sent, accepted, ended = attempt.submitted_at, attempt.accepted_at, attempt.ended_at
    if attempt.outcome == "in_doubt":
        return [("doubt", sent, until)]
    if accepted is None:
        return [("sending", sent, until if ended is None else ended)]
    over = until if ended is None else ended
    completed = over if attempt.completed_at is None else attempt.completed_at
    working = completed if attempt.generating_at is None else attempt.generating_at
    found = [("sending", sent, accepted), ("queue", accepted, working), ("work", working, completed)]
    if attempt.completed_at is not None:
        found.append(("fetch", completed, over))
    return [(part, start, end) for part, start, end in found if end > start]


def _summary(report: dict[str, Any], spans: Sequence[Span], jobs: int) -> str:
    busy_s = sum(end - start for start, end in spans)
    text = f"{count_text(jobs, 'job')} in {count_text(len(spans), 'run')}, {length_text(busy_s)} under way"
    troubles = sum(each["kind"] == "call_health" and each["status"] != "fine" for each in report["timeline"])
    return f"{text}, {count_text(troubles, 'time')} of trouble." if troubles else f"{text}."


def _moments(report: dict[str, Any], tries: Iterable[Try]) -> list[float]:
    """Every moment the report knows of."""
    found = [_at(each["at"]) for each in report["timeline"]]
    for each in tries:
        times = (each.submitted_at, each.accepted_at, each.generating_at, each.completed_at, each.ended_at)
        found += [at for at in times if at is not None]
    return found


def _at(time: str) -> float:
    seconds = seconds_of(time)
    assert seconds is not None
    return seconds


def _end_of(spans: Sequence[Span], moment: float) -> float:
    """When the run ended in which `moment` lies."""
    return next((end for start, end in reversed(spans) if start <= moment), spans[-1][1])


def _tracks(report: dict[str, Any], spans: Sequence[Span], axis: Axis) -> list[Drawing]:
    """A track for each kind of calls that met trouble."""
    tracks: list[Drawing] = []
    for call, name in _CALLS.items():
        told_ = [each for each in report["timeline"] if each["kind"] == "call_health" and each["call"] == call]
        found = []
        for each, following in zip_longest(told_, told_[1:]):
            if each["status"] == "fine":
                continue
            start = _at(each["at"])
            end = _end_of(spans, start)
            if following is not None:
                end = min(end, _at(following["at"]))
            words = f"{name}: {CALL_STATUSES.get(each['status'], each['status'])} for {length_text(end - start)}"
            title = f"{words}. {each['message']}"
            found.append({"status": each["status"], "title": title, **_box(axis, start, end, 2.0)})
        if found:
            tracks.append({"label": name, "y": _TOP + _TRACK_PX * len(tracks), "h": _TRACK_PX - 5, "spans": found})
    return tracks


def _box(axis: Axis, start: float, end: float, least_px: float) -> Drawing:
    x = axis.x(start)
    return {"x": x, "w": max(least_px, axis.x(end) - x)}


def _run_marks(report: dict[str, Any], spans: Sequence[Span], axis: Axis) -> list[Drawing]:
    marks = []
    for number, (run, (start, end)) in enumerate(zip(report["runs"], spans, strict=True), 1):
        marks.append({"x": axis.x(start), "kind": "start", "title": f"run {number} starts"})
        how = "was killed, or still lasts" if run["finished_at"] is None else f"ends, exit status {run['exit_status']}"
        marks.append({"x": axis.x(end), "kind": "end", "title": f"run {number} {how}"})
    marks += [
        {"x": axis.x(_at(each["at"])), "kind": "stopping", "title": each["message"]}
        for each in report["timeline"]
        if each["kind"] == "stopping"
    ]
    return marks


def _rows(report: dict[str, Any], spans: Sequence[Span], axis: Axis, top: float) -> Drawing:
    """A row for each job that was tried."""
    jobs = [job for job in report["jobs"] if job["attempts"]]
    row_px = 20 if len(jobs) <= 20 else 13
    rows = []
    for number, job in enumerate(jobs):
        drawn = []
        for each in AttemptTable([job]):
            until = _end_of(spans, each.submitted_at) if each.outcome == "in_doubt" else spans[-1][1]
            for part, start, end in parts_of(each, until):
                title = f"{job['id']}: {PARTS[part]} {length_text(end - start)}"
                drawn.append({"part": part, "title": title, **_box(axis, start, end, 1.5)})
        place = {"y": top + number * row_px, "h": row_px - 4}
        rows.append({"id": job["id"], "state": job["state"], "parts": drawn, **place})
    return {"rows": rows, "row_px": row_px, "bottom": top + len(jobs) * row_px}


def _areas(tries: Iterable[Try], report: dict[str, Any], spans: Sequence[Span], axis: Axis, top: float) -> Drawing:
    """How many attempts stood where at each moment, one upon the other, and the cap."""
    places = [_LEFT + _SAMPLE_PX * n for n in range(int((WIDTH - _RIGHT - _LEFT) / _SAMPLE_PX) + 1)]
    counts = _counts(tries, [axis.moment(x) for x in places], spans[-1][1])
    layers: list[tuple[str, list[int]]] = []
    below = [0] * len(places)
    for part in _LAYERS:
        below = [under + count for under, count in zip(below, counts[part], strict=True)]
        layers.append((part, below))
    cap = _cap_steps(report, spans)
    most = max(1, *below, *(working for _, working in cap))
    step = max(1.0, nice_step(most, 4))
    full = step * -(-most // step)
    bottom = top + _AREA_PX

    def y(count: float) -> float:
        return bottom - count / full * (_AREA_PX - 6)

    areas = [
        {"part": part, "path": "M" + "L".join(f"{x} {y(n):.1f}" for x, n in zip(places, layer, strict=True))}
        for part, layer in layers
    ]
    for area in areas:
        area["path"] += f"L{places[-1]} {bottom}L{places[0]} {bottom}Z"
    path = ""
    for number, (at, working) in enumerate(cap):
        path += f"{'V' if number else f'M{axis.x(at):.1f} '}{y(working):.1f}"
        following = cap[number + 1][0] if number + 1 < len(cap) else spans[-1][1]
        path += f"H{axis.x(following):.1f}"
    levels = [{"y": y(step * n), "label": f"{step * n:,.0f}"} for n in range(round(full / step) + 1)]
    return {"areas": areas[::-1], "levels": levels, "cap": path, "bottom": bottom}


def _counts(tries: Iterable[Try], moments: Sequence[float], until: float) -> dict[str, list[int]]:
    """For each part, how many are in it at each of `moments`, which are in order. until: the end of what is open."""
    changes = {part: [0] * (len(moments) + 1) for part in PARTS}
    for each in tries:
        for part, start, end in parts_of(each, until):
            changes[part][bisect_left(moments, start)] += 1
            changes[part][bisect_left(moments, end)] -= 1
    return {part: list(accumulate(found[:-1])) for part, found in changes.items()}


def _cap_labels(report: dict[str, Any], spans: Sequence[Span], axis: Axis) -> list[Drawing]:
    """The working cap where it changed, as numbers that do not overlap; none where it never moved."""
    steps = _cap_steps(report, spans)
    if len({cap for _, cap in steps}) < 2:
        return []
    labels: list[Drawing] = []
    for at, cap in steps:
        label = {"x": axis.x(at), "label": f"{cap:,}", "title": f"up to {cap:,} in flight"}
        if labels and label["x"] - labels[-1]["x"] < _CAP_LABEL_PX:
            labels[-1] = {**label, "x": labels[-1]["x"]}
        else:
            labels.append(label)
    return labels


def _cap_steps(report: dict[str, Any], spans: Sequence[Span]) -> list[tuple[float, int]]:
    """The working cap, as (from when, how many): it starts every run at the limit."""
    steps = [(start, run["concurrency"]) for (start, _), run in zip(spans, report["runs"], strict=True)]
    steps += [
        (_at(each["at"]), int(each["status"]))
        for each in report["timeline"]
        if each["kind"] == "cap" and each["status"].isdecimal()
    ]
    return sorted(steps, key=lambda step: step[0])
