"""Compare the cost of a job between two commits: python benchmarks/compare.py BEFORE [AFTER]

BEFORE and AFTER are commits; without AFTER, the working tree is used. The package of each commit is unpacked into a
directory, and both run alternately against the instant service. A ratio compares the two runs of a round. Check the
spread of the ratios before you use the median. To measure the noise of the machine, compare a commit with itself.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from harness.instant import Instant, instant
from harness.measured import Cost
from harness.packages import ROOT, unpacked
from harness.racers import OURS, Work
from harness.runs import run


def main() -> int:
    parser = argparse.ArgumentParser(description="The cost of a job at two commits.")
    parser.add_argument("before")
    parser.add_argument("after", nargs="?", help="default: the working tree")
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cap", type=int, default=64)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="compare-"))
    try:
        after = unpacked(options.after, work / "after") if options.after else ROOT
        packages = [unpacked(options.before, work / "before"), after]
        jobs = Work.write(work / "jobs", options.jobs)
        with instant(work / "service") as service:
            rounds = [[one(jobs, item, options.cap, service) for item in packages] for _ in range(options.rounds)]
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print_comparison("CPU", "ms a job", [[1000 * cost.cpu_s / options.jobs for cost in pair] for pair in rounds])
    print_comparison("time", "s", [[cost.wall_s for cost in pair] for pair in rounds])
    print_comparison("memory", "MiB", [[cost.peak_mib for cost in pair] for pair in rounds])
    return 0


def one(jobs: Work, package: Path, cap: int, service: Instant) -> Cost:
    cost = run(replace(OURS, package=package), jobs, cap, service)
    return cost or sys.exit(f"{package}: the run failed")


def print_comparison(what: str, unit: str, pairs: list[list[float]]) -> None:
    before, after = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = sorted(pair[1] / pair[0] for pair in pairs)
    spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    print(f"{what}: {statistics.median(ratios):.2f} of before ({spread}); {before:.2f} -> {after:.2f} {unit}")


if __name__ == "__main__":
    sys.exit(main())
