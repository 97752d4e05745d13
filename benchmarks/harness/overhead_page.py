"""The section of RESULTS.md that overhead.py writes, its bars, and its plot. Text only."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any
from xml.sax.saxutils import escape

from harness.racers import BARE, FLOOR, MOST_CALLS, OURS, WHOLE, Racer
from harness.results import Bar, setting

_HEADS = (
    "contender", "jobs x rounds", "CPU, of the bare loop's", "throughput, of the bare loop's",
    "CPU ms per job", "jobs/s", "peak MiB", "service's CPU ms per job",
)  # fmt: skip
_MOST_CPU, _LEAST_SPEED = 1.5, 0.7  # of the bare loop's: the bars
MAIN_CAP = 64


@dataclass(frozen=True, slots=True)
class Row:
    """A contender at one cap: medians, except for peak_mib, the maximum.

    Ratios are to the bare loop by round, sorted.
    """

    name: str
    racer: Racer
    cap: int
    jobs: int
    rounds: int
    jobs_per_s: float
    cpu_ms: float
    peak_mib: float
    service_ms: float
    cpu_ratios: Sequence[float]
    speed_ratios: Sequence[float]


def tables(rows: Sequence[Row]) -> str:
    """Return a table for each cap. Rows that measure single steps have a table of their own."""
    sections = []
    for cap in _caps(rows):
        here = [row for row in rows if row.cap == cap]
        sections.append(f"\n### {cap} in flight\n\n{_table([row for row in here if not row.racer.step])}")
        if any(row.racer.step for row in here):
            lines = [row for row in here if row.racer in (BARE, OURS, WHOLE) or row.racer.step]
            sections.append(f"\n#### The cost of single steps, {cap} in flight\n\n{_table(lines)}")
    return "".join(sections)


def section(rows: Sequence[Row], versions: Mapping[str, str], options: Mapping[str, Any]) -> str:
    """Return the section."""
    listed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return f"""\
## The cost of a job

Each job is a POST, one look that answers completed, a download of 4 KiB and one file, the same for everybody; start
and end of each program count. batchrunner does all it does in a real run: journal flushed before and after each call,
each clip hashed, checked, decoded, flushed, renamed, the report and its pictures. The bare loop and the other
contenders check nothing, so the **bold** row leaves out what decodes frames (the decode check and the posters), and
only that: it is held against the bars, {_MOST_CPU} of the bare loop's CPU and {_LEAST_SPEED} of its throughput.

{setting()}- Versions: {listed}
- Service: {options["service"]} with fixed answers, in a process of its own; its CPU is the last column, so its headroom
  is what is left of a processor.
- Rounds: {options["rounds"]}, all contenders in turn; of the tools that take minutes {options["slow_rounds"]}.
  Ratios are medians of the rounds' own ratios, lowest to highest in brackets. Runs that failed: {options["failed"]}.
- batchrunner's `--uploads` and `--downloads` are as many as are in flight, up to {MOST_CALLS}: more bring nothing here.

![CPU and throughput](overhead.svg)
{tables(rows)}
Memory is that of the largest process. Rows of the bare loop with a `+` add one promise to it, by the same means as
batchrunner: what that cannot go below. Rows of batchrunner without something tell what that part of it costs; what is
left without all of them is aiohttp's work, the start, and the engine: every state stored, every call judged and told.
"""


def bars(rows: Sequence[Row]) -> list[Bar]:
    """Return the targets and results at each cap."""
    ours = {row.cap: row for row in rows if row.racer is OURS and row.cpu_ratios}
    whole = {row.cap: row for row in rows if row.racer is WHOLE and row.cpu_ratios}
    floor = [row for row in rows if row.racer is FLOOR and row.cpu_ratios]
    tools = [row for row in rows if row.racer.slow]
    if not ours:
        return []
    cpu = {cap: median(row.cpu_ratios) for cap, row in ours.items()}
    text = ", ".join(f"{ratio:.2f} with {cap} in flight" for cap, ratio in cpu.items())
    asked = f"CPU per job: at most {_MOST_CPU} of the bare loop's, decoding no frame"
    decoding = "; ".join(f"with decoding and posters {median(row.cpu_ratios):.2f}" for row in _at_main(whole))
    least = "; ".join(f"the floor of the promises {median(row.cpu_ratios):.2f}" for row in floor)
    found = [
        Bar(asked, "; ".join(filter(None, (text, least, decoding))), all(item <= _MOST_CPU for item in cpu.values()))
    ]
    for row in _at_main(ours):
        speed = median(row.speed_ratios)
        asked = f"Throughput with {MAIN_CAP} in flight: at least {_LEAST_SPEED} of the bare loop's"
        most = "".join(f"; the floor of the promises {median(item.speed_ratios):.2f}" for item in floor)
        found.append(Bar(asked, f"{speed:.2f}{most}", speed >= _LEAST_SPEED))
    for row in _at_main(whole) if tools else ():
        best = max(tools, key=lambda tool: tool.jobs_per_s)
        cheapest = min(tools, key=lambda tool: tool.cpu_ms)
        text = (
            f"{row.jobs_per_s:.0f} jobs/s and {row.cpu_ms:.1f} ms of CPU per job, decoding; the best of them "
            f"{best.jobs_per_s:.0f} jobs/s ({best.name}), {cheapest.cpu_ms:.1f} ms ({cheapest.name})"
        )
        ahead = row.jobs_per_s > best.jobs_per_s and row.cpu_ms < cheapest.cpu_ms
        found.append(Bar("Ahead of every tool of the field", text, ahead))
    return found


def plot(rows: Sequence[Row]) -> str:
    """Draw CPU per job at the main cap on a logarithmic scale, as SVG."""
    cap = MAIN_CAP if MAIN_CAP in _caps(rows) else _caps(rows)[0]
    bars = sorted((row for row in rows if row.cap == cap), key=lambda row: row.cpu_ms)
    height, left, width = 24 * len(bars) + 60, 400, 960
    low, high = 0.5, max(2.0, *(row.cpu_ms for row in bars)) * 1.6
    scale = (width - left - 130) / math.log(high / low)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="12" y="24" font-size="15">CPU per job, ms, {cap} in flight (logarithmic; shorter is better)</text>',
    ]
    for at, row in enumerate(bars):
        y, length = 42 + 24 * at, max(1.0, math.log(max(row.cpu_ms, low) / low) * scale)
        colour = "#0b6e4f" if row.name.startswith("batchrunner") else "#8a8f98"
        weight = ' font-weight="bold"' if row.racer is OURS else ""
        name = escape(row.name)
        lines.append(f'<text font-size="13"{weight} x="{left - 8}" y="{y + 13}" text-anchor="end">{name}</text>')
        lines.append(f'<rect x="{left}" y="{y}" width="{length:.0f}" height="17" fill="{colour}"/>')
        text = f"{row.cpu_ms:.2f} ms, {row.jobs_per_s:.0f} jobs/s"
        lines.append(f'<text font-size="13" x="{left + length + 6:.0f}" y="{y + 13}">{text}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _table(rows: Sequence[Row]) -> str:
    cells = (
        (f"**{row.name}**" if row.racer is OURS else row.name, f"{row.jobs} x {row.rounds}", _ratio(row.cpu_ratios, 2),
         _ratio(row.speed_ratios, 3), f"{row.cpu_ms:.2f}", f"{row.jobs_per_s:.0f}", f"{row.peak_mib:.0f}",
         f"{row.service_ms:.2f}")
        for row in rows
    )  # fmt: skip
    lines = [_HEADS, ["---"] * len(_HEADS), *cells]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _ratio(ratios: Sequence[float], digits: int) -> str:
    """Return the median and the range of several ratios."""
    if not ratios:
        return ""
    spread = f" ({ratios[0]:.{digits}f} to {ratios[-1]:.{digits}f})" if len(ratios) > 1 else ""
    return f"{median(ratios):.{digits}f}" + spread


def _at_main(rows: Mapping[int, Row]) -> list[Row]:
    return [row for cap, row in rows.items() if cap == MAIN_CAP]


def _caps(rows: Sequence[Row]) -> list[int]:
    return sorted({row.cap for row in rows})
