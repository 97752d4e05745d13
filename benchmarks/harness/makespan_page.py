"""The page of makespan.py and its section of RESULTS.md, as text."""

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from statistics import mean, stdev
from typing import Any

from batchrunner import __version__
from harness.results import Bar, setting

BEFORE = "batchrunner, manifest order, age in seconds"
BY_WORK = "batchrunner, manifest order"
COLD = "batchrunner, longest first"
LESS_S = 16.5
LESS = f"batchrunner, longest first, poll_interval {LESS_S:g} s"
HISTORY = "batchrunner, longest first, 200 jobs known"
NO_LAG = "longest first, no lag"
FIXED: Mapping[str, float] = {"every 10 s, manifest order": 10.0, "every 15 s, manifest order": 15.0}
LONGEST = (COLD, LESS, HISTORY)
POLICIES = (*FIXED, BEFORE, BY_WORK, COLD, LESS, HISTORY, NO_LAG)
GOALS = {8: 1.10, 32: 1.13}  # of COLD in the first workload, by cap
_SAME = 1.001

Found = dict[tuple[str, str, int], list[Any]]  # by workload, policy and cap: figures, one per seed


def page(found: Found, jobs: int, seeds: int, caps: Sequence[int]) -> str:
    """Return MAKESPAN.md."""
    lines = [
        "# The time that a batch takes",
        "",
        f"{datetime.now(UTC):%d %B %Y}, Python {platform.python_version()}, batchrunner {__version__}.",
        "Made by `python benchmarks/makespan.py`; seeded: the figures do not depend on the machine.",
        "",
        "A batch takes at least max(sum / cap, longest): the sum of all generations divided by the number in flight,",
        "or the longest one. The cells are the time of the batch divided by that, as mean ± standard deviation over",
        "the seeds, and the polls per job. A slot is idle from the end of a generation to its next poll, and at",
        "the end of the batch, while the last jobs run. The longest jobs first leave only short ones for the end.",
        "",
        f"{jobs} jobs, {seeds} batches each, `poll_interval` 15 s, no known durations unless the row says so. *Mixed*:",
        "clips of 3 to 10 s at three resolutions; a generation takes 6.5 s per second of video at 480p, 1.5 times that",
        "at 580p and 2.25 times at 720p, times a lognormal spread of 0.2. *No lag*: each end is seen at once, and the",
        "expected time of each job is known from the start.",
        "",
    ]
    for load in dict.fromkeys(load for load, policy, _ in found if policy == NO_LAG):
        lines += [f"## {load[0].upper()}{load[1:]}", "", *_table(found, load, caps), ""]
    lines += [
        "## The cases of polling.py",
        "",
        "All jobs of these cases are equal: the order is the manifest's, and the batch takes as long as before.",
        "",
        "| durations | cap | manifest order, age in seconds | longest first |",
        "|---|---|---|---|",
    ]
    for (case, policy, cap), figures in found.items():
        if policy == BEFORE and (case, NO_LAG, cap) not in found:
            lines.append(f"| {case} | {cap} | {_cell(figures)} | {_cell(found[case, COLD, cap])} |")
    return "\n".join(lines) + "\n"


def section(found: Found, jobs: int, seeds: int, caps: Sequence[int]) -> str:
    """Return the section of RESULTS.md."""
    load = next(iter(found))[0]
    table = "\n".join(_table(found, load, caps))
    return f"""\
## The time that a batch takes

Cells: time of the batch / max(sum / cap, longest), mean ± standard deviation, and polls per job. {jobs} jobs of mixed
lengths and resolutions, {seeds} batches, `poll_interval` 15 s. Further workloads: [MAKESPAN.md](MAKESPAN.md).

{setting()}
{table}
"""


def bars(found: Found) -> list[Bar]:
    """Return the targets and results."""
    load = next(iter(found))[0]
    rows = []
    for cap, goal in GOALS.items():
        ours, before = found[load, COLD, cap], found[load, BEFORE, cap]
        if _polls(ours) > _polls(before):  # at equal polls
            ours = found[load, LESS, cap]
        figures = f"{_ratio(ours):.3f} with {_polls(ours):.2f} polls per job"
        asked = f"Mixed batch, {cap} in flight: at most {goal:.2f} of max(sum / cap, longest)"
        measured = f"{figures} (manifest order, age in seconds: {_ratio(before):.3f} with {_polls(before):.2f})"
        rows.append(Bar(asked, measured, _ratio(ours) <= goal and _polls(ours) <= _polls(before)))
    pairs = {key: found[key[0], BEFORE, key[2]] for key in found if key[1] == COLD}
    worst = max(pairs, key=lambda key: _ratio(found[key]) / _ratio(pairs[key]))
    factor = _ratio(found[worst]) / _ratio(pairs[worst])
    asked = "No workload takes longer than in manifest order with the age in seconds"
    return [*rows, Bar(asked, f"worst: {factor:.3f} ({worst[0]}, {worst[2]} in flight)", factor <= _SAME)]


def _table(found: Found, load: str, caps: Sequence[int]) -> list[str]:
    rows = [f"| | {' | '.join(f'cap {cap}' for cap in caps)} |", "|---" * (len(caps) + 1) + "|"]
    for policy in POLICIES:
        rows += [f"| {policy} | {' | '.join(_cell(found[load, policy, cap]) for cap in caps)} |"]
    return rows


def _ratio(figures: Sequence[Any]) -> float:
    return mean(item.ratio for item in figures)


def _polls(figures: Sequence[Any]) -> float:
    return mean(item.poll_count for item in figures)


def _cell(figures: Sequence[Any]) -> str:
    ratios = [item.ratio for item in figures]
    spread = f" ± {stdev(ratios):.3f}" if len(ratios) > 1 else ""
    polls = _polls(figures)
    return f"{mean(ratios):.3f}{spread}" + (f" / {polls:.2f}" if polls else "")
