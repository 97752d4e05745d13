"""Measure how long many slow downloads take at once: a batch whose clips come at a fixed low rate.

    python benchmarks/slow_links.py                # two minutes; writes its section of RESULTS.md
    python benchmarks/slow_links.py --smoke        # four links of one second; writes nothing

nginx sends each clip at the rate at which one takes `--seconds`. All clips are fetched at once, so the bound is the
time of one link. The contenders run alternately. Exit status: 0 if every run delivered all clips.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import results
from harness.instant import Instant, instant
from harness.measured import Cost, allow_files
from harness.packages import unpacked
from harness.racers import BARE, WHOLE, Racer, Work, at_commit
from harness.runs import run

INSTANT = Path(__file__).with_name("harness") / "instant.py"
PAGE_BYTES = 4096  # nginx sends whole pages of a file, so a clip has many
MOST_TIMES = 1.5  # of one link's time: the bar


def main() -> int:
    options = _options()
    allow_files()
    work = Path(tempfile.mkdtemp(prefix="slow-links-"))
    racers = [BARE, WHOLE]
    try:
        if options.before:
            racers += at_commit(options.before, unpacked(options.before, work / "before"))[1:]
        clip, size_bytes = work / "clip.mp4", round(options.seconds * PAGE_BYTES)
        subprocess.run([sys.executable, INSTANT, clip, str(size_bytes)], check=True)
        with instant(work / "service", clip, rate_bytes=PAGE_BYTES) as service:
            if not service.kind.startswith("nginx"):
                print("left out: only nginx limits the rate")
                return 0
            costs = race(racers, Work.write(work / "jobs", options.links), service, options)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if any(len(runs) < options.rounds for runs in costs.values()):
        return 1
    times = {racer: statistics.median(cost.wall_s for cost in runs) for racer, runs in costs.items()}
    print(table(times))
    if not options.smoke:
        results.put("slow_links", section(times, options), bars(times, options.seconds))
        print(f"written: {results.PAGE}")
    return 0


def race(racers: Sequence[Racer], jobs: Work, service: Instant, options: argparse.Namespace) -> dict[Racer, list[Cost]]:
    """Run each contender once per round. A run that lacks clips is not counted."""
    costs: dict[Racer, list[Cost]] = {racer: [] for racer in racers}
    for _ in range(options.rounds):
        for racer in racers:
            cost = run(racer, jobs, jobs.count, service, calls=jobs.count)
            costs[racer] += [cost] if cost else []
    return costs


def table(times: Mapping[Racer, float]) -> str:
    """Return the table in Markdown."""
    rows = "".join(f"| {racer.name} | {wall_s:.1f} |\n" for racer, wall_s in times.items())
    return f"| contender | s |\n| --- | --- |\n{rows}"


def section(times: Mapping[Racer, float], options: argparse.Namespace) -> str:
    """Return the section."""
    return f"""\
## Many slow links

{options.links} clips, each sent in {options.seconds:g} s, all fetched at once (`--downloads {options.links}`): the time
of the whole batch, start and end of the program included. Medians of {options.rounds} rounds, in turn.

{results.setting()}
{table(times)}"""


def bars(times: Mapping[Racer, float], link_s: float) -> list[results.Bar]:
    """Return the target and the result."""
    before = [f"before {wall_s:.1f} s" for racer, wall_s in times.items() if racer.package is not None]
    ours = times[WHOLE]
    asked = f"Slow links, all at once: a batch takes at most {MOST_TIMES} times one link's {link_s:g} s"
    return [results.Bar(asked, "; ".join([f"{ours:.1f} s", *before]), ours <= MOST_TIMES * link_s)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Many slow downloads at once. Writes benchmarks/RESULTS.md.")
    parser.add_argument("--links", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=16.0, help="the time of one link")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--before", metavar="COMMIT", help="also run batchrunner of this commit, in the same rounds")
    parser.add_argument("--smoke", action="store_true", help="four links of one second, one round, no page")
    options = parser.parse_args()
    if options.smoke:
        options.links, options.seconds, options.rounds = 4, 1.0, 1
    return options


if __name__ == "__main__":
    sys.exit(main())
