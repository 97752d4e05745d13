"""The written page of polling.py, and its plot: looks a job across, seconds unseen upwards, one panel a case."""

import math
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any
from xml.sax.saxutils import escape

from batchrunner import __version__

NAMES = {
    "fixed": "fixed interval",
    "exponential": "exponential",
    "cold": "batchrunner, first batch",
    "history": "batchrunner, 200 jobs known",
}
COLOURS = {"fixed": "#888888", "exponential": "#c08030", "cold": "#5aa0e0", "history": "#1040a0"}
OURS = ("cold", "history")
SAME = 1.03  # ratios up to this are called equal: three batches of 256 say no more
_WIDE, _HIGH, _COLUMNS = 230, 170, 4

Simulated = Mapping[str, Mapping[str, Mapping[float, Any]]]


def moment(text: str) -> float:
    """A report's time as seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def at_the_same_looks(curve: Mapping[float, Any], looks: float, name: str) -> float | None:
    """What this curve shows at so many looks a job, between two of its points; None beyond its ends."""
    points = sorted((each.looks, getattr(each, name)) for each in curve.values())
    near = [(low, high) for low, high in pairwise(points) if low[0] <= looks <= high[0] and low[0] < high[0]]
    values = [low[1] + (looks - low[0]) / (high[0] - low[0]) * (high[1] - low[1]) for low, high in near]
    return min(values, default=None)


def ratios(cases: Mapping[str, Mapping[float, Any]], kind: str, name: str) -> dict[float, float]:
    """Ours over the better of the others at the same looks a job, by interval."""
    found = {}
    for interval_s, figures in cases[kind].items():
        others = [at_the_same_looks(cases[other], figures.looks, name) for other in ("fixed", "exponential")]
        known = [other for other in others if other]
        if known:
            found[interval_s] = getattr(figures, name) / min(known)
    return found


def page(simulated: Simulated, engine: Mapping[tuple[str, bool], tuple[Any, float]], jobs: int, seeds: int) -> str:
    lines = [
        "# Looks and lateness",
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
        "Looks a job / seconds unseen on average / seconds unseen of 95 % at most. *Exponential*: the first wait is",
        "the interval, each further one half as long again, up to eight times.",
        "",
    ]
    for interval_s in (10.0, 15.0):
        lines += [f"| interval {interval_s:g} s | {' | '.join(NAMES.values())} |", "|---|---|---|---|---|"]
        for case, kinds in simulated.items():
            cells = [kinds[kind][interval_s] for kind in NAMES]
            told = [f"{each.looks:.2f} / {each.unseen_s:.1f} / {each.unseen_95_s:.1f}" for each in cells]
            lines.append(f"| {case} | {' | '.join(told)} |")
        lines.append("")
    lines += [*_compared(simulated), *_real(engine, jobs)]
    return "\n".join(lines) + "\n"


def _compared(simulated: Simulated) -> list[str]:
    lines = [
        "## At the same number of looks",
        "",
        "Time unseen, ours over the better of the two others *at the same number of looks a job* (read off their",
        "curves of 27 intervals each, the luckiest point where a curve has several): under 1 is better. Lowest to",
        "highest over the intervals 3, 6, 10, 15, 30 and 60 s, as far as the others' curves reach.",
        "",
        "| case | mean, first batch | mean, 200 known | 95 %, first batch | 95 %, 200 known |",
        "|---|---|---|---|---|",
    ]
    above: dict[str, list[str]] = {"unseen_s": [], "unseen_95_s": []}
    for case, kinds in simulated.items():
        cells = []
        for name in above:
            for kind in OURS:
                found = ratios(kinds, kind, name)
                cells.append(f"{min(found.values()):.2f} to {max(found.values()):.2f}" if found else "")
                above[name] += [
                    f"{case}, {each:g} s, {NAMES[kind].partition(', ')[2]}: {ratio:.2f}"
                    for each, ratio in found.items()
                    if ratio > SAME
                ]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    for name, what in (("unseen_s", "On average"), ("unseen_95_s", "For the slowest 5 %")):
        listed = "; ".join(above[name]) or "nowhere"
        lines += ["", f"{what} ours lies above another curve (by more than {SAME - 1:.0%}) here: {listed}."]
    return [*lines, "", "![curves](polling.svg)", ""]


def _real(engine: Mapping[tuple[str, bool], tuple[Any, float]], jobs: int) -> list[str]:
    lines = [
        "## The whole engine against the sandbox",
        "",
        f"{jobs} jobs, 8 in flight, the default `poll_interval` of 15 s, in virtual time, nothing known beforehand.",
        "The service's own ledger says when a clip was complete, the report when it was seen.",
        "",
        "| service | polling | looks a job | unseen, s | 95 %, s | batch takes, s |",
        "|---|---|---|---|---|---|",
    ]
    for (service, learning), (figures, took_s) in engine.items():
        polling = "learned" if learning else "every 15 s"
        told = f"{figures.looks:.2f} | {figures.unseen_s:.2f} | {figures.unseen_95_s:.1f} | {took_s:.0f}"
        lines.append(f"| {service} | {polling} | {told} |")
    return lines


def plot(simulated: Simulated) -> str:
    """An SVG of all cases. Both axes are logarithmic."""
    rows = math.ceil(len(simulated) / _COLUMNS)
    size = f'width="{_WIDE * _COLUMNS + 20}" height="{_HIGH * rows + 50}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="10">']
    parts.append('<rect width="100%" height="100%" fill="white"/>')
    for place, (kind, name) in enumerate(NAMES.items()):
        x = 20 + 225 * place
        parts.append(
            f'<rect x="{x}" y="12" width="18" height="4" fill="{COLOURS[kind]}"/>'
            f'<text x="{x + 24}" y="18">{name}</text>'
        )
    for place, (case, kinds) in enumerate(simulated.items()):
        x, y = 10 + _WIDE * (place % _COLUMNS), 35 + _HIGH * (place // _COLUMNS)
        parts.append(f'<g transform="translate({x},{y})">{_panel(case, kinds)}</g>')
    return "".join([*parts, "</svg>\n"])


def _panel(case: str, kinds: Mapping[str, Mapping[float, Any]]) -> str:
    ours = [each for kind in OURS for each in kinds[kind].values()]
    left, right = 0.9 * min(each.looks for each in ours), 1.15 * max(each.looks for each in ours)
    shown = [each for kind in kinds.values() for each in kind.values() if left <= each.looks <= right]
    low, high = 0.85 * min(each.unseen_s for each in shown), 1.15 * max(each.unseen_s for each in ours)

    def at(looks: float, unseen_s: float) -> str:
        x = 34 + (_WIDE - 50) * math.log(looks / left) / math.log(right / left)
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
        points = sorted((each.looks, each.unseen_s) for each in curve.values())
        inside = [at(*each) for each in points if left <= each[0] <= right and low <= each[1] <= high]
        dots = "".join(f'<circle r="2.2" cx="{p.partition(",")[0]}" cy="{p.partition(",")[2]}"/>' for p in inside)
        colour = COLOURS[kind]
        drawn.append(f'<polyline points="{" ".join(inside)}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        drawn.append(f'<g fill="{colour}">{dots if kind in OURS else ""}</g>')
    return "".join(
        [*drawn, f'<text x="{_WIDE - 18}" y="{_HIGH - 14}" text-anchor="end">looks a job; upwards: s unseen</text>']
    )
