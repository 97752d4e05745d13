"""The section of RESULTS.md that downloads.py writes. Text only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.fetchers import ARIA2, HASHING, OURS
from harness.results import Bar, setting

_HEADS = (
    "contender", "files/s, of aria2c's", "CPU, of aria2c's", "files/s", "CPU ms a file", "peak MiB", "above idle, MiB",
    "done for each file",
)  # fmt: skip
MOST_CPU = 1.35  # of aiohttp's with SHA-256: the bar


@dataclass(frozen=True, slots=True)
class Row:
    """A contender: medians, except for the memory, which is the maximum. Ratios are to aria2c's run of the same round.

    above_mib: compared with the same process without downloads; None if it was not measured.
    """

    name: str
    promises: str
    speed_ratio: float
    cpu_ratio: float
    files_per_s: float
    cpu_ms: float
    peak_mib: float
    above_mib: float | None


def table(rows: Sequence[Row], versions: Mapping[str, str]) -> str:
    """Return the table in Markdown."""
    cells = (
        (row.name.format_map(versions), f"{row.speed_ratio:.2f}", f"{row.cpu_ratio:.2f}", f"{row.files_per_s:.1f}",
         f"{row.cpu_ms:.0f}", f"{row.peak_mib:.0f}", "" if row.above_mib is None else f"{row.above_mib:.0f}",
         row.promises)
        for row in rows
    )  # fmt: skip
    return "".join(f"| {' | '.join(item)} |\n" for item in (_HEADS, ["---"] * len(_HEADS), *cells))


def section(rows: Sequence[Row], versions: Mapping[str, str], options: Mapping[str, Any]) -> str:
    """Return the section."""
    listed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return f"""\
## How fast clips come

{options["files"]} files of {options["mib"]} MiB over loopback into one folder; start and end of each program count.
Ratios are medians of rounds. Everybody fetches 32 at once, but for the rows that say something else.

{setting()}- Versions: {listed}
- Host: {options["service"]}, one worker, `sendfile` of a file in memory; it shares the processors with the contenders.
- Contenders in turn, {options["rounds"]} rounds; before each run the folder is emptied and the disk has caught up.

{table(rows, versions)}
The other tools leave what they fetched to the page cache: the files are deleted before most of it is written to the
disk. batchrunner has flushed each file before it says that it is there, and hashed and decoded it. `without` rows leave
that out, so that its cost can be told. Memory is that of the largest process; idle is the same program with nothing to
fetch, and for a whole run one that its budget keeps from submitting.
"""


def bars(rows: Sequence[Row]) -> list[Bar]:
    """Return the targets and results; none if aria2c is not installed."""
    found = {row.name: row for row in rows}
    if ARIA2.name not in found or OURS.name not in found:
        return []
    ours = found[OURS.name]
    curl = [f"curl -Z: {row.speed_ratio:.2f}" for name, row in found.items() if name.startswith("curl -Z {")]
    text = "; ".join(
        (f"{ours.speed_ratio:.2f} ({ours.files_per_s:.1f} files/s, {ours.cpu_ms:.0f} ms of CPU per file)", *curl)
    )
    above = {row.name: row.above_mib for row in rows if "batchrunner" in row.name and row.above_mib is not None}
    highest = max(above, key=lambda name: above[name])
    return [
        Bar("Throughput of large files, SHA-256 included: at least aria2c's", text, ours.speed_ratio >= 1),
        Bar(
            "Their memory: under 64 MiB above the idle process",
            f"{above[highest]:.0f} MiB ({highest})",
            above[highest] < 64,
        ),
        *_cpu_bars(found),
    ]


def _cpu_bars(found: Mapping[str, Row]) -> list[Bar]:
    """Compare the downloader's CPU with that of aiohttp and SHA-256; none if that is not installed."""
    if HASHING.name not in found:
        return []
    theirs = found[HASHING.name].cpu_ms
    ratios = {name: row.cpu_ms / theirs for name, row in found.items() if name.startswith(OURS.name)}
    ratio = ratios.pop(OURS.name)
    text = "; ".join([f"{ratio:.2f}", *(f"before {before:.2f}" for before in ratios.values())])
    return [Bar(f"CPU per large file: at most {MOST_CPU} of aiohttp's with SHA-256", text, ratio <= MOST_CPU)]
