"""Measure speed and cost of downloads of large clips: batchrunner, aria2c, curl and plain loops.

    python benchmarks/downloads.py --peers .venv-peers/bin/python     # some minutes; writes its part of RESULTS.md
    python benchmarks/downloads.py --smoke                            # some seconds, writes nothing

32 files of 64 MiB are fetched from nginx on loopback into one directory. The contenders run alternately, round by
round; files are deleted between runs. The results are medians, and ratios to aria2c's run of the same round. Exit
status: 0 if all contenders fetched all files.
"""

import argparse
import filecmp
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import downloads_page, results
from harness.fetchers import ARIA2, FETCHERS, SMOKE, Fetcher, at_commit, versions, write_lists
from harness.instant import Instant, instant
from harness.measured import Cost, child_environment, measured
from harness.packages import environment, unpacked

_STOPPED = 3  # batchrunner's exit status when the budget ends a run


@dataclass(frozen=True, slots=True)
class Bench:
    """The setup. clip: the file to fetch, and its URL. folder: emptied before each run."""

    service: Instant
    clip: Path
    folder: Path
    count: int
    peers: str

    @property
    def url(self) -> str:
        return f"{self.service.url}/clip.mp4"

    def empty(self) -> None:
        """Delete the files of an earlier run and wait until the disk is idle."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        os.sync()


def main() -> int:
    options = _options()
    found = versions(options.peers)
    fetchers = [item for item in (SMOKE if options.smoke else FETCHERS) if not item.lacks(found)]
    _say(f"left out: {', '.join(item.plain for item in FETCHERS if item not in fetchers) or 'nobody'}")
    work = Path(tempfile.mkdtemp(prefix="downloads-", dir=options.work))
    try:
        if options.before:
            fetchers += at_commit(options.before, unpacked(options.before, work / "before"))
        clip = work / "clip.mp4"
        code = Path(__file__).with_name("harness") / "instant.py"
        subprocess.run([sys.executable, code, clip, str(options.mib << 20)], check=True)
        with instant(work / "service", clip) as service:
            bench = Bench(service, clip, work / "files", options.files, options.peers)
            write_lists(work, bench.url, bench.folder, bench.count)
            costs = race(fetchers, bench, options.rounds)
            _say("with nothing to fetch:")
            idle_mib = {item: idle(item, bench) for item in fetchers if item.idle}
    finally:
        shutil.rmtree(work, ignore_errors=True)
    rows = summary(costs, idle_mib, options)
    _say(downloads_page.table(rows, found))
    if not options.smoke:
        text = downloads_page.section(rows, found, {**vars(options), "service": service.kind})
        results.put("downloads", text, downloads_page.bars(rows))
        _say(f"written: {results.PAGE}")
    return 0 if all(len(runs) == options.rounds for runs in costs.values()) else 1


def race(fetchers: Sequence[Fetcher], bench: Bench, rounds: int) -> dict[Fetcher, list[Cost]]:
    """Run each contender once per round. A run with missing or incomplete files is reported and not counted."""
    costs: dict[Fetcher, list[Cost]] = {item: [] for item in fetchers}
    for _ in range(rounds):
        for item in fetchers:
            bench.empty()
            cost = one(item, bench, item.command_line(bench.url, bench.folder, bench.count, bench.peers))
            if whole(bench) == bench.count and cost.status == 0:
                costs[item].append(cost)
            else:
                _say(f"exit {cost.status}: {(bench.folder.parent / 'log').read_text()[-2000:]}")
    return costs


def one(fetcher: Fetcher, bench: Bench, argv: list[str]) -> Cost:
    variables = child_environment(
        AIMLAPI_BASE_URL=bench.service.url, AIMLAPI_KEY="sandbox", **environment(fetcher.package)
    )
    cost = measured(argv, bench.folder.parent, variables, bench.folder.parent / "log")
    result = f"{cost.wall_s:.1f} s, {1000 * cost.cpu_s / bench.count:.0f} ms of CPU per file, {cost.peak_mib:.0f} MiB"
    _say(f"{fetcher.name}: {result}")
    return cost


def idle(fetcher: Fetcher, bench: Bench) -> float:
    """Return the MiB of the same process without downloads: a count of zero, or a batch that may submit nothing."""
    bench.empty()
    count = bench.count if fetcher.batch else 0
    argv = fetcher.command_line(bench.url, bench.folder, count, bench.peers)
    cost = one(fetcher, bench, [*argv, *(("--max-credits", "1") if fetcher.batch else ())])
    if cost.status != (_STOPPED if fetcher.batch else 0):
        sys.exit(f"exit {cost.status}: {(bench.folder.parent / 'log').read_text()[-2000:]}")
    return cost.peak_mib


def whole(bench: Bench) -> int:
    """Return the number of files with the clip's size. One of them is compared byte by byte."""
    size_bytes = bench.clip.stat().st_size
    found = [path for path in bench.folder.glob("*.mp4") if path.stat().st_size == size_bytes]
    return len(found) if found and filecmp.cmp(found[-1], bench.clip, shallow=False) else 0


def summary(
    costs: dict[Fetcher, list[Cost]], idle_mib: dict[Fetcher, float], options: argparse.Namespace
) -> list[downloads_page.Row]:
    """Return medians; ratios are medians of the ratios within a round."""
    files = options.files
    rows = []
    for fetcher, runs in costs.items():
        if not runs:
            continue
        pairs = list(zip(runs, costs.get(ARIA2, []), strict=False))
        peak_mib = max(run.peak_mib for run in runs)
        rows.append(
            downloads_page.Row(
                name=fetcher.name,
                promises=fetcher.promises,
                speed_ratio=_ratio(pairs, lambda cost: 1 / cost.wall_s),
                cpu_ratio=_ratio(pairs, lambda cost: cost.cpu_s),
                files_per_s=statistics.median(files / run.wall_s for run in runs),
                cpu_ms=statistics.median(1000 * run.cpu_s / files for run in runs),
                peak_mib=peak_mib,
                above_mib=peak_mib - idle_mib[fetcher] if fetcher in idle_mib else None,
            )
        )
    return rows


def _ratio(pairs: Sequence[tuple[Cost, Cost]], of: Callable[[Cost], float]) -> float:
    return statistics.median(of(ours) / of(theirs) for ours, theirs in pairs) if pairs else float("nan")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure downloads of large clips. Writes benchmarks/RESULTS.md.")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="Python with requests and aiohttp")
    parser.add_argument("--files", type=int, default=32)
    parser.add_argument("--mib", type=int, default=64, help="size of a file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--before", metavar="COMMIT", help="also run batchrunner of this commit, in the same rounds")
    parser.add_argument("--work", metavar="DIR", help="working directory; its disk is measured")
    parser.add_argument("--smoke", action="store_true", help="4 files of 2 MiB, one round, few contenders, no page")
    options = parser.parse_args()
    if options.smoke:
        options.files, options.mib, options.rounds = 4, 2, 1
    options.peers = str(Path(options.peers).absolute())  # not resolved: the link identifies a virtual environment
    return options


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
