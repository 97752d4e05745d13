"""What does a job cost, and how many go through a second? batchrunner beside a bare loop and the field's tools.

    python benchmarks/overhead.py --peers .venv-peers/bin/python      # a quarter of an hour; writes RESULTS.md
    python benchmarks/overhead.py --smoke                             # some seconds, writes nothing

All contenders in turn, round by round, on one machine; medians, and ratios within a round to the bare loop's run.
Exit status: 0 where every run of every contender brought every clip.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import overhead_page, results
from harness.instant import CLIP_BYTES, Instant, instant
from harness.measured import Cost, measured
from harness.racers import BARE, RACERS, SMOKE, Racer, Work, versions

MAIN_CAP = 64


@dataclass(frozen=True, slots=True)
class Heat:
    """One run: jobs, what it cost, and what the stand-in for the service used meanwhile, CPU seconds."""

    jobs: int
    cost: Cost
    service_s: float


Heats = dict[tuple[Racer, int], list[Heat]]  # by contender and cap


def main() -> int:
    options = _options()
    found = versions(options.peers)
    racers = [racer for racer in (SMOKE if options.smoke else RACERS) if not _absent(racer, found)]
    _say(f"left out: {', '.join(racer.name for racer in RACERS if racer not in racers) or 'nobody'}")
    work = Path(tempfile.mkdtemp(prefix="overhead-", dir=options.work))
    try:
        with instant(work / "service") as service:
            heats, failed = race(racers, work, service, options)
            kind = service.kind
    finally:
        shutil.rmtree(work, ignore_errors=True)
    table = overhead_page.tables(summary(heats), found)
    _say(table)
    if not options.smoke:
        text = overhead_page.section(summary(heats), found, {**vars(options), "service": kind})
        results.put("overhead", text)
        (results.PAGE.parent / "overhead.svg").write_text(overhead_page.plot(summary(heats), found))
        _say(f"written: {results.PAGE}")
    return 1 if failed else 0


def race(racers: Sequence[Racer], work: Path, service: Instant, options: argparse.Namespace) -> tuple[Heats, int]:
    """Every contender once a round; the slow ones in the first few. Returns the runs, and how many went wrong."""
    many, few = Work.write(work / "many", options.jobs), Work.write(work / "few", options.few)
    heats: Heats = {}
    failed = 0
    for number in range(options.rounds):
        for cap in options.caps:
            for racer in racers:
                if (racer.slow and number >= options.slow_rounds) or (
                    cap != MAIN_CAP and (racer.slow or not racer.main)
                ):
                    continue
                heat = one(racer, few if racer.slow else many, cap, work, service, options.peers)
                failed += heat is None
                if heat is not None:
                    heats.setdefault((racer, cap), []).append(heat)
    return heats, failed


def one(racer: Racer, jobs: Work, cap: int, work: Path, service: Instant, peers: str) -> Heat | None:
    """One run, or None where it did not bring every clip."""
    root = work / "run"
    shutil.rmtree(root, ignore_errors=True)
    (root / "clips").mkdir(parents=True)
    environment = {**os.environ, "AIMLAPI_BASE_URL": service.url, "AIMLAPI_KEY": "sandbox", "POLL_S": "0"}
    argv = jobs.command_line(racer, cap, root / "clips", peers)
    before_s = service.cpu_s()
    cost = measured(argv, root, environment, root / "log", terminal=racer.terminal)
    heat = Heat(jobs.count, cost, service.cpu_s() - before_s)
    whole = sum(clip.stat().st_size == CLIP_BYTES for clip in (root / "clips").glob("*.mp4"))
    _say(
        f"{racer.name}, {cap}: {jobs.count / cost.wall_s:.0f}/s, {1000 * cost.cpu_s / jobs.count:.2f} ms, {whole} clips"
    )
    if cost.status == 0 and whole == jobs.count:
        return heat
    _say(f"exit {cost.status}: {(root / 'log').read_text()[-2000:] if not racer.terminal else ''}")
    return None


def summary(heats: Heats) -> list[overhead_page.Row]:
    """Medians; ratios are medians of those within a round, against the bare loop at the same cap."""
    rows = []
    for (racer, cap), runs in heats.items():
        bare = heats.get((BARE, cap), [])
        pairs = list(zip(runs, bare, strict=False))
        rows.append(
            overhead_page.Row(
                name=racer.name,
                cap=cap,
                jobs=runs[0].jobs,
                rounds=len(runs),
                jobs_per_s=statistics.median(run.jobs / run.cost.wall_s for run in runs),
                cpu_ms=statistics.median(1000 * run.cost.cpu_s / run.jobs for run in runs),
                peak_mib=max(run.cost.peak_mib for run in runs),
                service_ms=statistics.median(1000 * run.service_s / run.jobs for run in runs),
                cpu_ratio=_ratio(pairs, lambda heat: heat.cost.cpu_s / heat.jobs),
                speed_ratio=_ratio(pairs, lambda heat: heat.jobs / heat.cost.wall_s),
            )
        )
    return rows


def _ratio(pairs: Sequence[tuple[Heat, Heat]], of: "overhead_page.Figure") -> float:
    return statistics.median(of(ours) / of(bare) for ours, bare in pairs) if pairs else float("nan")


def _absent(racer: Racer, found: dict[str, str]) -> bool:
    return any(name not in found for name in (*racer.programs, *racer.packages))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What a job costs. Writes benchmarks/RESULTS.md.")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="Python that has the other tools")
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--few", type=int, default=100, help="jobs of the contenders that start processes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slow-rounds", type=int, default=3)
    parser.add_argument("--caps", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--work", metavar="DIR", help="where to work; the disk under it counts")
    parser.add_argument("--smoke", action="store_true", help="20 jobs, one round, few contenders, no page")
    options = parser.parse_args()
    if options.smoke:
        options.jobs = options.few = 20
        options.rounds, options.caps = 1, [MAIN_CAP]
    options.peers = str(Path(options.peers).absolute())  # a link is what tells a virtual environment's Python
    return options


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
