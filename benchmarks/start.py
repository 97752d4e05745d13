"""Measure the start times of batchrunner's commands, compared with `python -c "import argparse"`.

    python benchmarks/start.py             # half a minute; writes its part of RESULTS.md
    python benchmarks/start.py --smoke     # two starts each; writes nothing

Each start is a process. The commands run alternately, round by round; the results are medians. A first round fills the
caches of compiled modules and of the disk, and is not counted. Exit status: 0 if all commands succeeded.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import results
from harness.instant import instant
from harness.measured import Cost, child_environment, measured
from harness.racers import Work

TOOL = str(Path(sys.executable).with_name("batchrunner"))
DEMO = results.FOLDER.parent / "manifests" / "demo.yaml"
YARDSTICK = 'python -c "import argparse"'
TIMES, PLUS_S = 1.5, 0.1  # of the yardstick's time: the bar of what is JUDGED
JUDGED = ("batchrunner --version", "batchrunner --help")
OUTPUT = "{output}"


def main() -> int:
    options = _options()
    work = Path(tempfile.mkdtemp(prefix="start-"))
    try:
        with instant(work / "service") as service:
            environment = child_environment(AIMLAPI_BASE_URL=service.url, AIMLAPI_KEY="sandbox")
            starts = race(commands(work), work, environment, options.rounds)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    figures = {name: _median(costs) for name, costs in starts.items()}
    print(table(figures))
    if not options.smoke:
        results.put("start", section(figures, options.rounds), bars(figures))
        print(f"written: {results.PAGE}")
    return 0


def commands(work: Path) -> dict[str, list[str]]:
    """Return the commands by their name on the page. OUTPUT is replaced by a new run directory."""
    jobs = Work.write(work / "jobs", 20).root / "manifest.jsonl"
    single = Work.write(work / "single", 1).root / "manifest.jsonl"
    ended, quickly = str(work / "ended"), ("--poll-interval", "1ms", "--no-progress")
    return {
        YARDSTICK: [sys.executable, "-c", "import argparse"],
        JUDGED[0]: [TOOL, "--version"],
        JUDGED[1]: [TOOL, "--help"],
        "`validate` of the demo's manifest": [TOOL, "validate", str(DEMO)],
        "`run` of 20 jobs, nothing to do": [TOOL, "run", str(jobs), "--output", ended, *quickly],
        "`status` of those 20": [TOOL, "status", ended],
        "`run` of one job on the instant service": [TOOL, "run", str(single), "--output", OUTPUT, *quickly],
    }


def race(
    asked: Mapping[str, Sequence[str]], work: Path, environment: Mapping[str, str], rounds: int
) -> dict[str, list[Cost]]:
    """Every command once a round."""
    starts: dict[str, list[Cost]] = {name: [] for name in asked}
    for number in range(rounds + 1):
        for name, arguments in asked.items():
            argv = [str(work / f"output-{number}") if argument == OUTPUT else argument for argument in arguments]
            cost = measured(argv, work, environment, work / "log")
            if cost.status:
                sys.exit(f"{name}: exit {cost.status}: {(work / 'log').read_text()[-2000:]}")
            if number:
                starts[name].append(cost)
    return starts


def table(figures: Mapping[str, Cost]) -> str:
    """A line a command."""
    base = figures[YARDSTICK]
    lines = ["| command | wall, ms | of the yardstick's | CPU, ms |", "| --- | --- | --- | --- |"]
    for name, cost in figures.items():
        shown = name if "`" in name else f"`{name}`"
        ratio = f"{cost.wall_s / base.wall_s:.1f}"
        lines.append(f"| {shown} | {1000 * cost.wall_s:.0f} | {ratio} | {1000 * cost.cpu_s:.0f} |")
    return "\n".join(lines)


def section(figures: Mapping[str, Cost], rounds: int) -> str:
    """All that is written."""
    judged = "; ".join(f"{bar.measured}: {'met' if bar.met else '**not met**'}" for bar in bars(figures))
    return f"""\
## Start

From the start of the process to its end, {rounds} of each, in turn; medians. The yardstick is `{YARDSTICK}`; the bar of
`--version` and `--help` is {TIMES} times its time plus {1000 * PLUS_S:.0f} ms. {judged}.

{results.setting()}
{table(figures)}

What must not be loaded until it is used stands in `tests/test_architecture.py`.
"""


def bars(figures: Mapping[str, Cost]) -> list[results.Bar]:
    """Return the targets and results."""
    most_s = TIMES * figures[YARDSTICK].wall_s + PLUS_S
    return [
        results.Bar(
            f"`{name}` in at most {TIMES} times `{YARDSTICK}` plus {1000 * PLUS_S:.0f} ms",
            f"`{name.split()[-1]}` {1000 * figures[name].wall_s:.0f} ms of {1000 * most_s:.0f} ms",
            figures[name].wall_s <= most_s,
        )
        for name in JUDGED
    ]


def _median(costs: Sequence[Cost]) -> Cost:
    walls, cpus = ([getattr(cost, name) for cost in costs] for name in ("wall_s", "cpu_s"))
    return Cost(statistics.median(walls), statistics.median(cpus), max(cost.peak_mib for cost in costs), 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time until a command answers. Writes benchmarks/RESULTS.md.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--smoke", action="store_true", help="two rounds, no page")
    options = parser.parse_args()
    if options.smoke:
        options.rounds = 2
    return options


if __name__ == "__main__":
    sys.exit(main())
