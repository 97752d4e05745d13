"""The timeline as a drawing: the phases of each job and the events of the batch. Geometry only. Pure.

Up to `MOST_ROWS` jobs have a row each. More jobs are drawn as areas with the number of jobs in each phase. Above them
are the outages of the three kinds of calls. Starts and ends of runs are vertical lines. All events are also listed as
text, for people who cannot see the drawing.
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
PHASES = {
    "sending": "submission",
    "queue": "queue",
    "work": "generation",
    "fetch": "download",
    "doubt": "in doubt",
}
CALL_STATUSES = {
    "throttled": "the service asks for fewer requests",
    "down": "the service is down",
    "unreachable": "the service is unreachable",
    "paused": "the account is refused",
}
_CALLS = {"submit": "submissions", "poll": "polls", "download": "downloads", "deliver": "deliveries"}
_LEFT, _RIGHT, _TOP = 150, 14, 26
_TRACK_PX, _AREA_PX = 16, 220
_SAMPLE_PX = 3
_LAYERS = ("work", "queue", "sending", "fetch")  # from the ground up
_CAP_LABEL_PX = 18


def run_spans(report: dict[str, Any], tries: Iterable[Try]) -> list[Span]:
    """Return the start and end of each run; for a killed run, the time of its last known event.

    tries: all attempts, also of earlier jobs.
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
    """Return the drawing; None if nothing was submitted yet. done: the attempts of the manifest's jobs."""
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
        "events": events_of(report, spans),
        "used": _LAYERS if many else {phase["phase"] for row in body["rows"] for phase in row["parts"]},
        "summary": _summary(report, spans, done.rows),
        "rows": [],
        "areas": [],
        "levels": [],
        "cap": "",
        **body,
    }


def events_of(report: dict[str, Any], spans: Sequence[Span]) -> list[dict[str, Any]]:
    """List the events as text: starts and ends of runs, changes of call health and of the cap, stops."""
    found = []
    for number, (run, span) in enumerate(zip(report["runs"], spans, strict=True), 1):
        found.append({"at": run["started_at"], "text": f"run {number} starts, up to {run['concurrency']} in flight"})
        if run["finished_at"]:
            why = f": {run['stopped']}" if run["stopped"] else ""
            text = f"run {number} ends after {length_text(span[1] - span[0])}, exit status {run['exit_status']}{why}"
            found.append({"at": run["finished_at"], "text": text})
    for item in report["timeline"]:
        text = item["message"]
        if item["kind"] == "call_health":
            calls = _CALLS.get(item["call"], item["call"])
            text = f"{calls}: {CALL_STATUSES.get(item['status'], item['status'])}"
            if item["status"] != "fine" and item["message"]:
                text += f" ({item['message']})"
        found.append({"at": item["at"], "text": text})
    return sorted(found, key=lambda item: str(item["at"]))


def phases_of(attempt: Try, until: float) -> list[tuple[str, float, float]]:
    """Return the phases of an attempt as (phase, start, end). until: the end of an open phase."""
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
    return [(phase, start, end) for phase, start, end in found if end > start]


def _summary(report: dict[str, Any], spans: Sequence[Span], jobs: int) -> str:
    busy_s = sum(end - start for start, end in spans)
    text = f"{count_text(jobs, 'job')} in {count_text(len(spans), 'run')}, {length_text(busy_s)} running"
    outages = sum(item["kind"] == "call_health" and item["status"] != "fine" for item in report["timeline"])
    return f"{text}, {count_text(outages, 'time')} of outage." if outages else f"{text}."


def _moments(report: dict[str, Any], tries: Iterable[Try]) -> list[float]:
    """Return the times of all events in the report."""
    found = [_at(item["at"]) for item in report["timeline"]]
    for item in tries:
        times = (item.submitted_at, item.accepted_at, item.generating_at, item.completed_at, item.ended_at)
        found += [at for at in times if at is not None]
    return found


def _at(time: str) -> float:
    seconds = seconds_of(time)
    assert seconds is not None
    return seconds


def _end_of(spans: Sequence[Span], moment: float) -> float:
    """Return the end of the run that contains `moment`."""
    return next((end for start, end in reversed(spans) if start <= moment), spans[-1][1])


def _tracks(report: dict[str, Any], spans: Sequence[Span], axis: Axis) -> list[Drawing]:
    """Return a track for each kind of call that had an outage."""
    tracks: list[Drawing] = []
    for call, name in _CALLS.items():
        changes = [item for item in report["timeline"] if item["kind"] == "call_health" and item["call"] == call]
        found = []
        for item, following in zip_longest(changes, changes[1:]):
            if item["status"] == "fine":
                continue
            start = _at(item["at"])
            end = _end_of(spans, start)
            if following is not None:
                end = min(end, _at(following["at"]))
            text = f"{name}: {CALL_STATUSES.get(item['status'], item['status'])} for {length_text(end - start)}"
            title = f"{text}. {item['message']}"
            found.append({"status": item["status"], "title": title, **_box(axis, start, end, 2.0)})
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
        how = (
            "was killed or is still running"
            if run["finished_at"] is None
            else f"ends, exit status {run['exit_status']}"
        )
        marks.append({"x": axis.x(end), "kind": "end", "title": f"run {number} {how}"})
    marks += [
        {"x": axis.x(_at(item["at"])), "kind": "stopping", "title": item["message"]}
        for item in report["timeline"]
        if item["kind"] == "stopping"
    ]
    return marks


def _rows(report: dict[str, Any], spans: Sequence[Span], axis: Axis, top: float) -> Drawing:
    """Return a row for each job with an attempt."""
    jobs = [job for job in report["jobs"] if job["attempts"]]
    row_px = 20 if len(jobs) <= 20 else 13
    rows = []
    for number, job in enumerate(jobs):
        drawn = []
        for item in AttemptTable([job]):
            until = _end_of(spans, item.submitted_at) if item.outcome == "in_doubt" else spans[-1][1]
            for phase, start, end in phases_of(item, until):
                title = f"{job['id']}: {PHASES[phase]} {length_text(end - start)}"
                drawn.append({"phase": phase, "title": title, **_box(axis, start, end, 1.5)})
        place = {"y": top + number * row_px, "h": row_px - 4}
        rows.append({"id": job["id"], "state": job["state"], "parts": drawn, **place})
    return {"rows": rows, "row_px": row_px, "bottom": top + len(jobs) * row_px}


def _areas(tries: Iterable[Try], report: dict[str, Any], spans: Sequence[Span], axis: Axis, top: float) -> Drawing:
    """Return stacked areas with the number of attempts in each phase, and the cap."""
    places = [_LEFT + _SAMPLE_PX * n for n in range(int((WIDTH - _RIGHT - _LEFT) / _SAMPLE_PX) + 1)]
    counts = _counts(tries, [axis.moment(x) for x in places], spans[-1][1])
    layers: list[tuple[str, list[int]]] = []
    below = [0] * len(places)
    for phase in _LAYERS:
        below = [under + count for under, count in zip(below, counts[phase], strict=True)]
        layers.append((phase, below))
    cap = _cap_steps(report, spans)
    most = max(1, *below, *(working for _, working in cap))
    step = max(1.0, nice_step(most, 4))
    full = step * -(-most // step)
    bottom = top + _AREA_PX

    def y(count: float) -> float:
        return bottom - count / full * (_AREA_PX - 6)

    areas = [
        {"phase": phase, "path": "M" + "L".join(f"{x} {y(n):.1f}" for x, n in zip(places, layer, strict=True))}
        for phase, layer in layers
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
    """Count the attempts in each phase at each of `moments` (sorted). until: the end of an open phase."""
    changes = {phase: [0] * (len(moments) + 1) for phase in PHASES}
    for item in tries:
        for phase, start, end in phases_of(item, until):
            changes[phase][bisect_left(moments, start)] += 1
            changes[phase][bisect_left(moments, end)] -= 1
    return {phase: list(accumulate(found[:-1])) for phase, found in changes.items()}


def _cap_labels(report: dict[str, Any], spans: Sequence[Span], axis: Axis) -> list[Drawing]:
    """Return labels for the changes of the working cap that do not overlap; none if it never changed."""
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
    """Return the working cap as (start, cap). Each run starts at its limit."""
    if "sources" in report:  # each run directory has its own
        return []
    steps = [(start, run["concurrency"]) for (start, _), run in zip(spans, report["runs"], strict=True)]
    steps += [
        (_at(item["at"]), int(item["status"]))
        for item in report["timeline"]
        if item["kind"] == "cap" and item["status"].isdecimal()
    ]
    return sorted(steps, key=lambda step: step[0])
