"""The section of RESULTS.md that overhead.py writes, its bars, and its plot. Text only."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any
from xml.sax.saxutils import escape

from harness.racers import BARE, COMPLETE, COMPLETE_WHOLE, FLOOR, FLOOR_WHOLE, MOST_CALLS, OURS, WHOLE, Racer
from harness.results import Bar, setting

_HEADS = (
    "contender", "jobs x rounds", "CPU, of the bare loop's", "throughput, of the bare loop's",
    "CPU ms per job", "jobs/s", "peak MiB", "service's CPU ms per job",
)  # fmt: skip
_COMPARED = (BARE, OURS, WHOLE, FLOOR, FLOOR_WHOLE, COMPLETE, COMPLETE_WHOLE)
MAIN_CAP = 64
CAPS = (8, MAIN_CAP, 512)
MOST_CPU = {8: 4.5, MAIN_CAP: 2.8}  # of the bare loop's, decoding no frame, by cap: the bars
MOST_CPU_WHOLE, LEAST_SPEED = (
    5.0,
    0.7,
)  # of the bare loop's CPU with everything on, and of its throughput, at the main cap


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
            lines = [row for row in here if row.racer in _COMPARED or row.racer.step]
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
only that. The floor of three promises is the bare loop with a journal of four rows per job, a connection for each POST,
and flushed files; decoding is added to it in a row of its own. The complete floor keeps every promise for these jobs
(checked manifest, journal with all values of the report, account index, strict replies, hash and structure of the clip,
progress lines, three reports) in one program without settings, retries, budgets or a second model: what a program of
Python and aiohttp needs at least, as far as we know. Rows of batchrunner at a commit are its package as it was then, in
the same rounds.

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
    floors = [row for row in rows if row.racer is COMPLETE and row.cpu_ratios]
    least = {row.cap: f"the complete floor {median(row.cpu_ratios):.2f}" for row in floors}
    least_whole = {
        row.cap: f"the complete floor with the decode check {median(row.cpu_ratios):.2f}"
        for row in rows
        if row.racer is COMPLETE_WHOLE and row.cpu_ratios
    }
    tools = [row for row in rows if row.racer.slow]
    if not ours:
        return []
    found = [
        _cpu_bar(row, rows, f"CPU per job with {cap} in flight, decoding no frame", most, least.get(cap, ""))
        for cap, most in MOST_CPU.items()
        if (row := ours.get(cap)) is not None
    ]
    asked = f"CPU per job with {MAIN_CAP} in flight, everything on"
    found += [_cpu_bar(row, rows, asked, MOST_CPU_WHOLE, least_whole.get(MAIN_CAP, "")) for row in _at_main(whole)]
    for row in _at_main(ours):
        speed = median(row.speed_ratios)
        asked = f"Throughput with {MAIN_CAP} in flight: at least {LEAST_SPEED} of the bare loop's"
        most = "".join(
            f"; the complete floor {median(item.speed_ratios):.2f}" for item in floors if item.cap == MAIN_CAP
        )
        found.append(Bar(asked, f"{speed:.2f}{most}", speed >= LEAST_SPEED))
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


def _cpu_bar(row: Row, rows: Sequence[Row], what: str, most: float, floor: str) -> Bar:
    """Compare a row's CPU with a target, and name the same row of the earlier commit, if it ran."""
    cpu = median(row.cpu_ratios)
    before = [
        f"before {median(old.cpu_ratios):.2f}"
        for old in rows
        if old.racer.package is not None and old.cap == row.cap and old.racer.argv == row.racer.argv
    ]
    return Bar(
        f"{what}: at most {most} of the bare loop's",
        "; ".join([f"{cpu:.2f}", *before, *filter(None, [floor])]),
        cpu <= most,
    )


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
