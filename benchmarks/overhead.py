"""Measure CPU per job and jobs per second: batchrunner, a bare loop, and other tools.

    python benchmarks/overhead.py --peers .venv-peers/bin/python      # a quarter of an hour; writes RESULTS.md
    python benchmarks/overhead.py --only batchrunner --caps 64        # these and the bare loop; writes nothing
    python benchmarks/overhead.py --smoke                             # some seconds, writes nothing

The contenders run alternately, round by round, on one machine. The results are medians, and ratios to the bare loop's
run of the same round. Exit status: 0 if every run of every contender delivered all clips.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import overhead_page, results
from harness.instant import Instant, instant
from harness.measured import Cost, allow_files, settle
from harness.packages import unpacked
from harness.racers import BARE, OURS, RACERS, SMOKE, Racer, Work, at_commit, versions
from harness.runs import run

MAIN_CAP = overhead_page.MAIN_CAP


@dataclass(frozen=True, slots=True)
class Heat:
    """One run: jobs, its cost, and the CPU seconds of the stand-in for the service."""

    jobs: int
    cost: Cost
    service_s: float


Heats = dict[tuple[Racer, int], list[Heat]]  # by contender and cap


def main() -> int:
    options = _options()
    allow_files()  # 512 in flight want more than the usual 1,024
    found = versions(options.peers)
    wanted = [racer for racer in (SMOKE if options.smoke else RACERS) if _asked_for(racer, options.only)]
    racers = [racer for racer in wanted if not _absent(racer, found)]
    _say(f"left out, not installed: {', '.join(racer.name for racer in wanted if racer not in racers) or 'nobody'}")
    work = Path(tempfile.mkdtemp(prefix="overhead-", dir=options.work))
    try:
        if options.before:
            racers += at_commit(options.before, unpacked(options.before, work / "before"))
        with instant(work / "service") as service:
            if not options.smoke:
                settle()
            heats, failed = race(racers, work, service, options)
            kind = service.kind
    finally:
        shutil.rmtree(work, ignore_errors=True)
    rows = summary(heats, found)
    _say(overhead_page.tables(rows))
    if not options.smoke and not options.only and any(row.racer is OURS for row in rows):
        text = overhead_page.section(rows, found, {**vars(options), "service": kind, "failed": failed})
        results.put("overhead", text, overhead_page.bars(rows))
        (results.FOLDER / "overhead.svg").write_text(overhead_page.plot(rows))
        _say(f"written: {results.PAGE}")
    return 1 if failed else 0


def race(racers: Sequence[Racer], work: Path, service: Instant, options: argparse.Namespace) -> tuple[Heats, int]:
    """Run each contender once per round; the slow ones in the first rounds.

    Return the runs and the number of failed runs.
    """
    jobs = Work.write(work / "jobs", options.jobs)
    heats: Heats = {}
    failed = 0
    for number in range(options.rounds):
        for cap in options.caps:
            for racer in racers:
                if (racer.slow and number >= options.slow_rounds) or (cap != MAIN_CAP and (racer.slow or racer.step)):
                    continue
                heat = one(racer, jobs, cap, service, options.peers)
                failed += heat is None
                if heat is not None:
                    heats.setdefault((racer, cap), []).append(heat)
    return heats, failed


def one(racer: Racer, jobs: Work, cap: int, service: Instant, peers: str) -> Heat | None:
    """Run a contender once. Return None if clips are missing."""
    before_s = service.cpu_s()
    cost = run(racer, jobs, cap, service, peers=peers)
    return None if cost is None else Heat(jobs.count, cost, service.cpu_s() - before_s)


def summary(heats: Heats, found: Mapping[str, str]) -> list[overhead_page.Row]:
    """Return medians; ratios are within a round, to the bare loop at the same cap."""
    rows = []
    for (racer, cap), runs in heats.items():
        pairs = list(zip(runs, heats.get((BARE, cap), []), strict=False))
        rows.append(
            overhead_page.Row(
                name=racer.name.format_map(found),
                racer=racer,
                cap=cap,
                jobs=runs[0].jobs,
                rounds=len(runs),
                jobs_per_s=statistics.median(run.jobs / run.cost.wall_s for run in runs),
                cpu_ms=statistics.median(1000 * run.cost.cpu_s / run.jobs for run in runs),
                peak_mib=max(run.cost.peak_mib for run in runs),
                service_ms=statistics.median(1000 * run.service_s / run.jobs for run in runs),
                cpu_ratios=sorted(ours.cost.cpu_s / bare.cost.cpu_s for ours, bare in pairs),
                speed_ratios=sorted(bare.cost.wall_s / ours.cost.wall_s for ours, bare in pairs),
            )
        )
    return rows


def _asked_for(racer: Racer, only: Sequence[str]) -> bool:
    return not only or racer is BARE or any(argument.lower() in racer.name.lower() for argument in only)


def _absent(racer: Racer, found: dict[str, str]) -> bool:
    return any(name not in found for name in (*racer.programs, *racer.packages))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the cost of a job. Writes benchmarks/RESULTS.md.")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="Python that has the other tools")
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slow-rounds", type=int, default=1, help="of the tools that take minutes")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="contenders with NAME in theirs; no page")
    parser.add_argument("--before", metavar="COMMIT", help="also run batchrunner of this commit, in the same rounds")
    parser.add_argument("--caps", type=int, nargs="+", default=list(overhead_page.CAPS))
    parser.add_argument("--work", metavar="DIR", help="where to work; the disk under it counts")
    parser.add_argument("--smoke", action="store_true", help="20 jobs, one round, few contenders, no page")
    options = parser.parse_args()
    if options.smoke:
        options.jobs = 20
        options.rounds, options.caps = 1, [MAIN_CAP]
    options.peers = str(Path(options.peers).absolute())  # a link is what tells a virtual environment's Python
    return options


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
