"""Measure whether batchrunner slows down with many jobs: batches of 2,000 to 100,000 jobs through an instant service.

    python benchmarks/scale.py                  # a quarter of an hour; writes its part of RESULTS.md, and scale.svg
    python benchmarks/scale.py --before COMMIT  # and batchrunner at this commit: the largest batch, and the rest
    python benchmarks/scale.py --jobs 2000 5000
    python benchmarks/scale.py --smoke          # 200 and 400 jobs; writes nothing

After each batch, the same command runs again (nothing to do), then `status` and `report`. The smallest batch is run
three times, also in between and at the end, because the others are compared with it. Then follow the first screen of
the largest batch, the longest callback of the event loop at 10,000 jobs, and the memory per row of `validate` and
`plan`. Exit status: 0 if every command succeeded and all clips were delivered.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import results, scale_page
from harness.instant import CLIP_BYTES, Instant, instant
from harness.measured import Cost, child_environment, measured, settle
from harness.packages import environment, unpacked
from harness.racers import SCRIPTS, Work

CAP = 64
STATUS_RUNS = 3  # at `status`; the median counts
JOURNAL = "journal"  # prefix of its file names
CALLBACK_JOBS = 10_000
PLAIN = "--no-progress"
# Command, file name of the manifest, further options, and the two numbers of rows whose difference counts.
MEMORY = (
    ("validate", "rows.jsonl", (), (50_000, 250_000)),
    ("validate", "rows.csv", (), (50_000, 250_000)),
    ("plan", "rows.jsonl", (), (20_000, 100_000)),
    ("plan", "rows.jsonl", ("--json",), (20_000, 100_000)),
)
SMOKE_ROWS = (400, 800)


@dataclass(frozen=True, slots=True)
class Bench:
    """The service, the working directory, and the steps that batchrunner omits, as for `contenders/without.py`.

    package: batchrunner's files at another commit; None for the working tree.
    """

    service: Instant
    work: Path
    without: str
    package: Path | None = None

    @property
    def clips(self) -> Path:
        return self.work / "clips"

    def command(self, *arguments: str, script: tuple[str, ...] = ("without.py",), terminal: bool = False) -> Cost:
        """Run one command of batchrunner as a process. script: of `contenders`, with its own arguments."""
        argv = [sys.executable, str(SCRIPTS / script[0]), *script[1:], self.without, *arguments]
        own = {"AIMLAPI_BASE_URL": self.service.url, "AIMLAPI_KEY": "sandbox", **environment(self.package)}
        cost = measured(argv, self.work, child_environment(**own), self.work / "log", terminal=terminal)
        if cost.status:
            sys.exit(f"{' '.join(arguments)}: exit {cost.status}: {(self.work / 'log').read_text()[-2000:]}")
        return cost


def main() -> int:
    options = _options()
    work = Path(tempfile.mkdtemp(prefix="scale-", dir=options.work))
    try:
        with instant(work / "service") as service:
            benches = [Bench(service, work, options.without)]
            if options.before:
                benches.append(replace(benches[0], package=unpacked(options.before, work / "before")))
            if not options.smoke:
                settle()
            rows, before = batches(benches, options)
            further = [beyond(bench, options) for bench in benches]
    finally:
        shutil.rmtree(work, ignore_errors=True)
    results_of = scale_page.Results(rows, before, further[0], further[1] if options.before else None)
    _say(scale_page.tables(results_of))
    if not options.smoke:
        (results.FOLDER / "scale.svg").write_text(scale_page.plot(rows))
        text = scale_page.section(results_of, service.kind, CAP, options.without)
        results.put("scale", text, scale_page.bars(results_of))
        _say(f"written: {results.PAGE}")
    return 0


def batches(
    benches: Sequence[Bench], options: argparse.Namespace
) -> tuple[list[scale_page.Row], scale_page.Row | None]:
    """Run the batches. Return a row per size, and that of the largest batch at the earlier commit."""
    found: dict[int, list[scale_page.Row]] = {}
    before = None
    for jobs in options.jobs if options.smoke else in_turn(options.jobs):
        found.setdefault(jobs, []).append(one(benches[0], jobs))
        if jobs == max(options.jobs) and benches[1:]:
            before = one(benches[1], jobs)
    return [min(item, key=lambda row, all_=item: _off(row, all_)) for item in found.values()], before


def beyond(bench: Bench, options: argparse.Namespace) -> scale_page.Beyond:
    """Return the first screen, the longest callbacks, and the memory of reading a manifest."""
    largest = max(options.jobs)
    return scale_page.Beyond(
        first_screen(bench, largest),
        callbacks(bench, options.jobs[0] if options.smoke else CALLBACK_JOBS),
        [row_memory(bench, *case, smoke=options.smoke) for case in MEMORY],
    )


def in_turn(sizes: Sequence[int]) -> list[int]:
    """Return the order of the batches. The smallest one also runs before the largest, and at the end."""
    small, *more = sorted(sizes)
    return [small, *more[:-1], small, *more[-1:], small] if more else [small]


def one(bench: Bench, jobs: int) -> scale_page.Row:
    """Run a batch and the commands after it."""
    run = _new_run(bench, jobs)
    batch = bench.command(*run)
    _say(f"{jobs:,} jobs: {jobs / batch.wall_s:.0f}/s, {batch.cpu_s:.1f} s of CPU, {batch.peak_mib:.0f} MiB")
    whole = sum(clip.stat().st_size == CLIP_BYTES for clip in bench.clips.glob("*.mp4"))
    if whole != jobs:
        sys.exit(f"{whole} of {jobs} clips came whole")
    again = bench.command(*run)
    status_costs = sorted(
        (bench.command("status", str(bench.clips)) for _ in range(STATUS_RUNS)), key=lambda cost: cost.wall_s
    )
    report = bench.command("report", str(bench.clips))
    row = scale_page.Row(jobs, batch, again, status_costs[STATUS_RUNS // 2], report, sizes(bench.clips))
    _say(f"  again {again.cpu_s:.2f} s of CPU, status {row.status.wall_s:.2f} s, report {report.cpu_s:.2f} s of CPU")
    return row


def first_screen(bench: Bench, jobs: int) -> scale_page.FirstScreen:
    """Return the CPU time until a batch's first screen is drawn, and that of its validation."""
    run, report = _new_run(bench, jobs), bench.work / "first_screen.txt"
    validation = bench.command("validate", run[1])
    bench.command(
        *(option for option in run if option != PLAIN), script=("first_screen.py", str(report)), terminal=True
    )
    return scale_page.FirstScreen(jobs, float(report.read_text()), validation.cpu_s)


def callbacks(bench: Bench, jobs: int) -> scale_page.Callbacks:
    """Return the longest callbacks of the event loop in a batch."""
    report = bench.work / "callbacks.json"
    bench.command(*_new_run(bench, jobs), script=("callbacks.py", str(report)))
    longest = {phase: (cpu_ms, wall_ms) for phase, (cpu_ms, wall_ms) in json.loads(report.read_text()).items()}
    return scale_page.Callbacks(jobs, longest)


def row_memory(
    bench: Bench, command: str, name: str, options: Sequence[str], numbers: tuple[int, int], *, smoke: bool
) -> scale_page.RowMemory:
    """Return the peak memory of a command for a manifest with few rows and with many."""
    few, many = SMOKE_ROWS if smoke else numbers
    costs = []
    for rows in (few, many):
        path = bench.work / name
        _write_rows(path, rows)
        place = ("--output", str(bench.work / "unused")) if command == "plan" else ()
        costs.append(bench.command(command, str(path), *place, *options))
    called = " ".join((command, *options))
    return scale_page.RowMemory(
        called, path.suffix[1:], few, many, costs[0].peak_mib, costs[1].peak_mib, costs[1].cpu_s
    )


def _new_run(bench: Bench, jobs: int) -> tuple[str, ...]:
    """Write a manifest, move the clips of the run before away, and return the command that runs it."""
    for old in (bench.work / "jobs", bench.clips):
        if old.exists():  # removed at the end: new files would cost more after that (`harness.measured.settle`)
            old.rename(Path(tempfile.mkdtemp(dir=bench.work)) / old.name)
    manifest = Work.write(bench.work / "jobs", jobs).root / "manifest.jsonl"
    calls = ("--uploads", str(CAP), "--downloads", str(CAP), "--poll-interval", "1ms", PLAIN)
    return ("run", str(manifest), "--output", str(bench.clips), "--concurrency", str(CAP), *calls)


def _write_rows(path: Path, rows: int) -> None:
    """Write a table of jobs: JSON Lines or CSV, by the extension of its name."""
    with path.open("w") as file:
        if path.suffix == ".csv":
            file.write("id,video,image\n")
        for number in range(rows):
            name, clip = f"job-{number:07d}", f"https://example.com/clips/{number}.mp4"
            picture = "https://example.com/face.png"
            if path.suffix == ".csv":
                file.write(f"{name},{clip},{picture}\n")
            else:
                file.write(json.dumps({"id": name, "video": clip, "image": picture}) + "\n")


def sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of the journal and of each file of the report."""
    own = sum(file.stat().st_size for file in (folder / ".batchrunner").glob(f"{JOURNAL}*"))
    files = ("report.html", "report.json", "results.csv")
    return {"journal": own, **{name: (folder / name).stat().st_size for name in files}}


def _off(row: scale_page.Row, others: Sequence[scale_page.Row]) -> float:
    """Return how far this batch's time is from the median of its size."""
    return abs(row.run.wall_s - statistics.median(item.run.wall_s for item in others))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Costs against the number of jobs. Writes benchmarks/RESULTS.md.")
    parser.add_argument("--jobs", type=int, nargs="+", default=[2_000, 10_000, 30_000, 100_000])
    parser.add_argument(
        "--without",
        default="posters,decode",
        metavar="PARTS",
        help="steps that batchrunner omits; - for none. The clip is always the same, and the cost of decoding is "
        "stated separately [%(default)s]",
    )
    parser.add_argument("--before", metavar="COMMIT", help="also measure batchrunner of this commit")
    parser.add_argument("--work", metavar="DIR", help="working directory; its disk is measured")
    parser.add_argument("--smoke", action="store_true", help="200 and 400 jobs, no page")
    options = parser.parse_args()
    if options.smoke:
        options.jobs = [200, 400]
    return options


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
