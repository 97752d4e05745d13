"""The page of polling.py and its plot: polls per job on x, unseen seconds on y, one panel per case."""

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from xml.sax.saxutils import escape

from batchrunner import __version__
from harness.results import Bar, setting

NAMES = {
    "fixed": "fixed interval",
    "exponential": "exponential",
    "cold": "batchrunner, first batch",
    "history": "batchrunner, 200 jobs known",
}
FLOOR = "floor: the distribution known"
COLOURS = {"floor": "#70b070", "fixed": "#888888", "exponential": "#c08030", "cold": "#5aa0e0", "history": "#1040a0"}
OURS = ("cold", "history")
SAME = 1.03  # ratios up to this are called equal: three batches of 256 say no more
_WIDE, _HIGH, _COLUMNS = 230, 170, 4

MAIN = (  # of the cases, those that RESULTS.md shows
    "20 s, spread 0.5", "55 s, spread 0.25", "55 s, spread 0.5", "55 s, spread 1.0", "bimodal: 30 or 120 s",
    "queue 40 s, then 55 s", "55 s doubles half way",
)  # fmt: skip
SHOWN = (  # the columns there: a contender, its interval, and its name
    ("fixed", 10.0, "every 10 s"), ("fixed", 15.0, "every 15 s"), ("exponential", 10.0, "exponential from 10 s"),
    ("cold", 10.0, "batchrunner, 10 s, first batch"), ("history", 10.0, "batchrunner, 10 s, 200 jobs known"),
    ("history", 15.0, "batchrunner, 15 s, 200 jobs known"),
)  # fmt: skip

Simulated = Mapping[str, Mapping[str, Mapping[float, Any]]]
Played = Mapping[tuple[str, str], tuple[Any, float]]  # by service and policy: figures, and how long the batch took, s


@dataclass(frozen=True, slots=True)
class Point:
    """A batchrunner point compared with the other curves. ratio: of unseen time to the better other curve at the same
    number of polls.

    later: the same for the second half of the batch, for the mean only. floor: of a schedule that knows the
    distribution.
    """

    case: str
    kind: str
    interval_s: float
    ratio: float
    later: float
    floor: float | None

    def __str__(self) -> str:
        floor = "" if self.floor is None else f" (floor {self.floor:.2f})"
        return f"{self.case}, {self.interval_s:g} s: {self.ratio:.2f}{floor}"


def moment(text: str) -> float:
    """A report's time as seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def at_the_same_polls(curve: Mapping[float, Any], poll_count: float, name: str) -> float | None:
    """Interpolate a curve at a number of polls per job; None outside its range."""
    points = sorted((item.poll_count, getattr(item, name)) for item in curve.values())
    near = [(low, high) for low, high in pairwise(points) if low[0] <= poll_count <= high[0] and low[0] < high[0]]
    values = [low[1] + (poll_count - low[0]) / (high[0] - low[0]) * (high[1] - low[1]) for low, high in near]
    return min(values, default=None)


def points(simulated: Simulated, kind: str, name: str) -> list[Point]:
    """Return all points of one kind of batchrunner, as far as the other curves reach. name: of the figure."""
    found = []
    for case, kinds in simulated.items():
        for interval_s, figures in kinds[kind].items():
            others = [at_the_same_polls(kinds[other], figures.poll_count, name) for other in ("fixed", "exponential")]
            if known := [other for other in others if other]:
                value, best = getattr(figures, name), min(known)
                later = figures.later_s if name == "unseen_s" else value
                least = at_the_same_polls(kinds.get("floor", {}), figures.poll_count, name)
                found.append(Point(case, kind, interval_s, value / best, later / best, least and least / best))
    return found


def page(simulated: Simulated, engine: Played, jobs: int, seeds: int) -> str:
    lines = [
        "# Polls and latency",
        "",
        f"{datetime.now(UTC):%d %B %Y}, Python {platform.python_version()}, batchrunner {__version__}.",
        "Made by `python benchmarks/polling.py`; seeded: the figures do not depend on the machine.",
        "",
        "A clip that is complete lies unseen until the next look at it, and its slot stays idle. More looks make that",
        "shorter and cost requests. batchrunner learns how long generations of a model and resolution take, and looks",
        "when one is likely to be complete; `poll_interval` says how many looks it may spend: as many as a fixed",
        "interval of that length would, but at least one and a half a generation: with one alone, all would have to",
        "wait for the slowest. No wait is longer than three intervals, or shorter than a tenth of one.",
        "",
        f"## Simulated: {jobs} jobs, 8 at a time, mean of {seeds} batches",
        "",
        "Polls per job / average seconds unseen / 95th percentile of seconds unseen. *Exponential*: the first wait is",
        "the interval, each further one half as long again, up to eight times.",
        "",
    ]
    for interval_s in (10.0, 15.0):
        lines += [f"| interval {interval_s:g} s | {' | '.join(NAMES.values())} |", "|---|---|---|---|---|"]
        for case, kinds in simulated.items():
            lines.append(f"| {case} | {' | '.join(_cell(kinds[kind][interval_s]) for kind in NAMES)} |")
        lines.append("")
    lines += [*_compared(simulated), *_real(engine, jobs)]
    return "\n".join(lines) + "\n"


def section(simulated: Simulated, engine: Played, jobs: int) -> str:
    """Return the section of RESULTS.md."""
    policies = list(dict.fromkeys(policy for _, policy in engine))
    played = [
        [service, *(_cell(engine[service, policy][0]) for policy in policies)]
        for service in dict.fromkeys(service for service, _ in engine)
    ]
    shown = [[case, *(_cell(simulated[case][kind][item]) for kind, item, _ in SHOWN)] for case in MAIN]
    return f"""\
## The time until a finished clip is seen

Cells: polls per job / seconds until a complete clip is seen, on average / of 95 % at most. batchrunner learns how long
generations take, and spends no more looks than its `poll_interval`, the seconds in its column's name, would. All cases,
intervals and what is meant by each: [POLLING.md](POLLING.md).

{setting()}
Simulated, {jobs} jobs, 8 in flight; seconds are medians, spread is that of the logarithm:

{_table(["durations", *(name for *_, name in SHOWN)], shown)}
The whole engine against a timed stand-in for the service (the sandbox, in virtual time); without known durations:

{_table(["service", *policies], played)}
![Polls against time unseen, one panel per case](polling.svg)

At the same number of polls per job as the better of the other curves: {_summary(simulated)}
"""


def bars(simulated: Simulated, engine: Played) -> list[Bar]:
    """Return the targets and results."""
    found = []
    for name, what in (("unseen_s", "on average"), ("unseen_95_s", "of 95 % of clips")):
        cells, met = [], True
        for kind in OURS:
            all_points = points(simulated, kind, name)
            worst = max(all_points, key=lambda point: point.ratio)
            fine = sum(point.ratio <= SAME for point in all_points)
            met = met and worst.ratio <= SAME
            cells.append(f"{NAMES[kind].partition(', ')[2]}: {fine} of {len(all_points)} points, worst {worst}")
        asked = f"Time unseen {what}: on or below every other curve (within {SAME - 1:.0%})"
        found.append(Bar(asked, "; ".join(cells), met))
    beaten = _beaten(engine)
    asked = "Against the timed stand-in: no other policy needs fewer polls and sees clips earlier"
    return [*found, Bar(asked, "; ".join(beaten) or "none does", not beaten)]


def _summary(simulated: Simulated) -> str:
    """Summarize how often batchrunner is above the other curves, also without the first half of a batch."""
    cells = []
    for kind in OURS:
        all_points = points(simulated, kind, "unseen_s")
        above = [point for point in all_points if point.ratio > SAME]
        middle = sorted(point.ratio for point in all_points)[len(all_points) // 2]
        clause = (
            f"{NAMES[kind].partition(', ')[2]}, a median of {middle:.2f} of its time unseen, above it at {len(above)}"
        )
        clause += f" of {len(all_points)} points"
        if kind == "cold" and above:
            learning = sum(point.later <= SAME for point in above)
            clause += f" ({learning} of these only in the first half of the batch, while it learns)"
        cells.append(clause)
    return "; ".join(cells) + "."


def _missed(all_points: Sequence[Point]) -> str:
    above = [point for point in all_points if point.ratio > SAME]
    floors = sum(point.floor is not None and point.floor > SAME for point in above)
    return f"{len(above)} of {len(all_points)} points, at {floors} of these the floor, too"


def _beaten(engine: Played) -> list[str]:
    """List the cases in which batchrunner is not better than another policy."""
    found = []
    for (service, policy), (ours, _) in engine.items():
        for (where, other), (theirs, _) in engine.items():
            rival = where == service and policy.startswith("batchrunner") and not other.startswith("batchrunner")
            if rival and theirs.poll_count <= ours.poll_count and theirs.unseen_s <= ours.unseen_s:
                found.append(f"{service}: {other} before {policy}")
    return found


def _cell(figures: Any) -> str:
    return f"{figures.poll_count:.2f} / {figures.unseen_s:.1f} / {figures.unseen_95_s:.1f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, ["---"] * len(heads), *rows))


def _compared(simulated: Simulated) -> list[str]:
    lines = [
        "## At the same number of looks",
        "",
        "Time unseen, ours over the better of the two others *at the same number of polls per job* (read off their",
        "curves of 27 intervals each, the luckiest point where a curve has several): under 1 is better. Lowest to",
        "highest over the intervals 3, 6, 10, 15, 30 and 60 s, as far as the others' curves reach. *Floor*: the same",
        "of one who knows how durations are distributed, though not each one, and looks when that is best on average.",
        "",
        "| case | mean, first batch | mean, 200 known | 95 %, first batch | 95 %, 200 known |",
        "|---|---|---|---|---|",
    ]
    both = {name: [points(simulated, kind, name) for kind in OURS] for name in ("unseen_s", "unseen_95_s")}
    for case in simulated:
        cells = []
        for item in (*both["unseen_s"], *both["unseen_95_s"]):
            here = [point.ratio for point in item if point.case == case]
            cells.append(f"{min(here):.2f} to {max(here):.2f}" if here else "")
        lines.append(f"| {case} | {' | '.join(cells)} |")
    for name, what in (("unseen_s", "On average"), ("unseen_95_s", "For the slowest 5 %")):
        lines += ["", f"{what} ours lies above another curve, by more than {SAME - 1:.0%}, here:", ""]
        for kind, item in zip(OURS, both[name], strict=True):
            above = sorted((point for point in item if point.ratio > SAME), key=lambda point: -point.ratio)
            listed = "; ".join(map(str, above)) or "nowhere"
            lines.append(f"- {NAMES[kind].partition(', ')[2]}, {_missed(item)}: {listed}.")
    return [*lines, "", f"On average: {_summary(simulated)}", "", "![curves](polling.svg)", ""]


def _real(engine: Played, jobs: int) -> list[str]:
    lines = [
        "## The whole engine against the sandbox",
        "",
        f"{jobs} jobs, 8 in flight, in virtual time, without known durations. The other policies are put in the place",
        "of the engine's own; the seconds after batchrunner's name are its `poll_interval`. The service's own ledger",
        "says when a clip was complete, the report when it was seen.",
        "",
        "| service | polling | polls per job | unseen, s | 95 %, s | batch takes, s |",
        "|---|---|---|---|---|---|",
    ]
    for (service, policy), (figures, took_s) in engine.items():
        cells = f"{figures.poll_count:.2f} | {figures.unseen_s:.2f} | {figures.unseen_95_s:.1f} | {took_s:.0f}"
        lines.append(f"| {service} | {policy} | {cells} |")
    return lines


def plot(simulated: Simulated) -> str:
    """Return an SVG of all cases with two logarithmic axes."""
    rows = math.ceil(len(simulated) / _COLUMNS)
    size = f'width="{_WIDE * _COLUMNS + 20}" height="{_HIGH * rows + 50}"'
    pieces = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="10">']
    pieces.append('<rect width="100%" height="100%" fill="white"/>')
    for place, (kind, name) in enumerate({**NAMES, "floor": FLOOR}.items()):
        x = 20 + 185 * place
        pieces.append(
            f'<rect x="{x}" y="12" width="18" height="4" fill="{COLOURS[kind]}"/>'
            f'<text x="{x + 24}" y="18">{name}</text>'
        )
    for place, (case, kinds) in enumerate(simulated.items()):
        x, y = 10 + _WIDE * (place % _COLUMNS), 35 + _HIGH * (place // _COLUMNS)
        pieces.append(f'<g transform="translate({x},{y})">{_panel(case, kinds)}</g>')
    return "".join([*pieces, "</svg>\n"])


def _panel(case: str, kinds: Mapping[str, Mapping[float, Any]]) -> str:
    ours = [item for kind in OURS for item in kinds[kind].values()]
    left, right = 0.9 * min(item.poll_count for item in ours), 1.15 * max(item.poll_count for item in ours)
    shown = [item for kind in kinds.values() for item in kind.values() if left <= item.poll_count <= right]
    low, high = 0.85 * min(item.unseen_s for item in shown), 1.15 * max(item.unseen_s for item in ours)

    def at(poll_count: float, unseen_s: float) -> str:
        x = 34 + (_WIDE - 50) * math.log(poll_count / left) / math.log(right / left)
        return f"{x:.1f},{14 + (_HIGH - 50) * (1 - math.log(unseen_s / low) / math.log(high / low)):.1f}"

    drawn = [f'<text x="34" y="8" font-weight="bold">{escape(case)}</text>']
    drawn.append(f'<rect x="34" y="14" width="{_WIDE - 50}" height="{_HIGH - 50}" fill="none" stroke="#bbbbbb"/>')
    drawn += [
        f'<text x="{at(tick, low).partition(",")[0]}" y="{_HIGH - 24}" text-anchor="middle">{tick:g}</text>'
        for tick in (1, 1.5, 2, 3, 5, 10, 20, 50, 100)
        if left <= tick <= right
    ]
    for tick in (0.2, 0.5, 1, 2, 5, 10, 20, 50):
        if low <= tick <= high:
            height = float(at(left, tick).partition(",")[2])
            drawn.append(f'<text x="30" y="{height + 3:.1f}" text-anchor="end">{tick:g}</text>')
    for kind, curve in kinds.items():
        points = sorted((item.poll_count, item.unseen_s) for item in curve.values())
        inside = [at(*item) for item in points if left <= item[0] <= right and low <= item[1] <= high]
        dots = "".join(f'<circle r="2.2" cx="{p.partition(",")[0]}" cy="{p.partition(",")[2]}"/>' for p in inside)
        colour = COLOURS[kind]
        drawn.append(f'<polyline points="{" ".join(inside)}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        drawn.append(f'<g fill="{colour}">{dots if kind in OURS else ""}</g>')
    return "".join(
        [*drawn, f'<text x="{_WIDE - 18}" y="{_HIGH - 14}" text-anchor="end">polls per job; y axis: s unseen</text>']
    )
