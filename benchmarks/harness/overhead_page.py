"""The section of RESULTS.md that overhead.py writes, and its plot. Text only."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from harness.results import setting

Figure = Callable[[Any], float]
_HEADS = (
    "contender", "jobs x rounds", "CPU, of the bare loop's", "throughput, of the bare loop's",
    "CPU ms a job", "jobs/s", "peak MiB", "service's CPU ms a job",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """A contender at one cap; medians but for peak_mib, the largest. Ratios: to the bare loop of the same round."""

    name: str
    cap: int
    jobs: int
    rounds: int
    jobs_per_s: float
    cpu_ms: float
    peak_mib: float
    service_ms: float
    cpu_ratio: float
    speed_ratio: float


def tables(rows: Sequence[Row], versions: Mapping[str, str]) -> str:
    """A table for each cap."""
    return "".join(_table(cap, [row for row in rows if row.cap == cap], versions) for cap in _caps(rows))


def section(rows: Sequence[Row], versions: Mapping[str, str], options: Mapping[str, Any]) -> str:
    """All that is written."""
    listed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return f"""\
## What a job costs

Each job is a POST, one look that answers completed, a download of 4 KiB and one file, the same for everybody; start
and end of each program count. batchrunner does all it does in a real run: journal flushed before and after each call,
each clip hashed, checked, decoded, flushed, renamed, the report and its pictures. Ratios are medians of rounds.

{setting()}- Versions: {listed}
- Service: {options["service"]} with fixed answers, in a process of its own; its CPU is the last column, so its headroom
  is what is left of a processor.
- Contenders in turn, {options["rounds"]} rounds ({options["slow_rounds"]} of those with few jobs).

![CPU and throughput](overhead.svg)
{tables(rows, versions)}
Memory is that of the largest process. `without` rows switch one thing off, so that its cost can be told; rows of the
bare loop with a `+` add one promise to it, by the same means: what batchrunner cannot go below.
"""


def plot(rows: Sequence[Row], versions: Mapping[str, str]) -> str:
    """Bars of CPU a job at the middle cap, on a logarithmic scale, as SVG."""
    cap = _caps(rows)[len(_caps(rows)) // 2]
    bars = sorted((row for row in rows if row.cap == cap), key=lambda row: row.cpu_ms)
    height, left, width = 24 * len(bars) + 60, 330, 900
    import math

    low, high = 0.5, max(2.0, *(row.cpu_ms for row in bars)) * 1.6
    scale = (width - left - 130) / math.log(high / low)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="12" y="24" font-size="15">CPU a job, ms, {cap} in flight (logarithmic; shorter is better)</text>',
    ]
    for at, row in enumerate(bars):
        y, length = 42 + 24 * at, max(1.0, math.log(max(row.cpu_ms, low) / low) * scale)
        colour = "#0b6e4f" if row.name.startswith("batchrunner") else "#8a8f98"
        name = escape(_named(row.name, versions))
        parts.append(f'<text font-size="13" x="{left - 8}" y="{y + 13}" text-anchor="end">{name}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{length:.0f}" height="17" fill="{colour}"/>')
        told = f"{row.cpu_ms:.2f} ms, {row.jobs_per_s:.0f} jobs/s"
        parts.append(f'<text font-size="13" x="{left + length + 6:.0f}" y="{y + 13}">{told}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _table(cap: int, rows: Sequence[Row], versions: Mapping[str, str]) -> str:
    cells = (
        (_named(row.name, versions), f"{row.jobs} x {row.rounds}", f"{row.cpu_ratio:.2f}", f"{row.speed_ratio:.3f}",
         f"{row.cpu_ms:.2f}", f"{row.jobs_per_s:.0f}", f"{row.peak_mib:.0f}", f"{row.service_ms:.2f}")
        for row in rows
    )  # fmt: skip
    lines = [_HEADS, ["---"] * len(_HEADS), *cells]
    return f"\n### {cap} in flight\n\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _named(name: str, versions: Mapping[str, str]) -> str:
    return name.format_map(versions)


def _caps(rows: Sequence[Row]) -> list[int]:
    return sorted({row.cap for row in rows})
