"""Measure what `export` costs: memory and CPU of 1,000 and 10,000 clips in each format.

    python benchmarks/exports.py               # some minutes; writes its part of RESULTS.md
    python benchmarks/exports.py --smoke       # 50 and 100 clips; writes nothing

The clips differ, and have 100 kB of random bytes each: an export does not decode them. Their jobs are in a journal, as
after a run. The references and characters are shared. Formats whose package is missing are left out and named. Exit
status: 0 if every export succeeded.
"""

import argparse
import importlib.util
import multiprocessing
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import results
from harness.measured import Cost, child_environment, measured

TOOL = str(Path(sys.executable).with_name("batchrunner"))
FORMATS = ("folder", "webdataset", "parquet")
CLIP_BYTES = 100_000
MOST_GROWTH_MIB = 100  # of the peak, from 1,000 to 10,000 clips of 1 GB together: the index of the jobs grows


@dataclass(frozen=True, slots=True)
class Row:
    """An export. clips: their number."""

    form: str
    clips: int
    cost: Cost


def main() -> int:
    options = _options()
    formats = [form for form in FORMATS if form != "parquet" or importlib.util.find_spec("pyarrow")]
    rows = []
    for clips in options.clips:
        work = Path(tempfile.mkdtemp(prefix="datasets-", dir=options.work))
        try:
            rows += exports(work, clips, formats)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    print(table(rows))
    if missing := set(FORMATS) - set(formats):
        print(f"NOT MEASURED: {', '.join(missing)} (pyarrow is not installed)")
    if not options.smoke:
        results.put("exports", section(rows), bars(rows))
        print(f"written: {results.PAGE}")
    return 0


def exports(work: Path, clips: int, formats: Sequence[str]) -> list[Row]:
    """Export a batch in each format."""
    # In a process of its own: Linux counts the peak of a process that starts another one as the other's.
    maker = multiprocessing.get_context("spawn").Process(target=make, args=(work, clips))
    maker.start()
    maker.join()
    if maker.exitcode:
        sys.exit("the batch could not be made")
    rows = []
    for form in formats:
        out = work / form
        argv = [TOOL, "export", str(work / "run"), str(out), "--format", form, "--split", "train=.8,val=.2"]
        cost = measured(argv, work, child_environment(), work / "log")
        if cost.status:
            sys.exit(f"{form}: exit {cost.status}: {(work / 'log').read_text()[-2000:]}")
        print(f"{clips:,} clips, {form}: {cost.wall_s:.1f} s, {cost.peak_mib:.0f} MiB", flush=True)
        rows.append(Row(form, clips, cost))
        shutil.rmtree(out)
    return rows


def make(work: Path, clips: int) -> None:
    """Make the batch in the folder `run`."""
    from tests.datasets.sample_batches import Sample, make_batch

    chance = random.Random(clips)
    make_batch(
        work,
        (Sample(f"job-{number:05}", chance.randbytes(CLIP_BYTES), reference(number)) for number in range(clips)),
    )


def reference(number: int) -> bytes:
    """Return one of 50 references. A file is named by its content."""
    return f"walk-{number % 50}".encode()


def table(rows: Sequence[Row]) -> str:
    """A line an export."""
    lines = [
        "| format | clips | peak memory, MiB | CPU, s | CPU a clip, ms | wall, s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(rows, key=lambda row: (FORMATS.index(row.form), row.clips)):
        cost = row.cost
        figures = f"{cost.peak_mib:.0f} | {cost.cpu_s:.1f} | {1000 * cost.cpu_s / row.clips:.2f} | {cost.wall_s:.1f}"
        lines.append(f"| {row.form} | {row.clips:,} | {figures} |")
    return "\n".join(lines)


def section(rows: Sequence[Row]) -> str:
    """All that is written."""
    return f"""\
## Data sets

`export` of clips of {CLIP_BYTES / 1000:.0f} kB to a new folder, as a process. Media pass through in pieces (folder,
webdataset) or in row groups of at most 16 MB (parquet). What grows is the index: the report's row of each job.

{results.setting()}
{table(rows)}
"""


def bars(rows: Sequence[Row]) -> list[results.Bar]:
    """Return the targets and results."""
    found = []
    for form in FORMATS:
        peaks = {row.clips: row.cost.peak_mib for row in rows if row.form == form}
        if len(peaks) > 1:
            few, many = min(peaks), max(peaks)
            growth = peaks[many] - peaks[few]
            asked = f"`export --format {form}`: {many:,} clips need at most {MOST_GROWTH_MIB} MiB more than {few:,}"
            measured_text = f"{peaks[few]:.0f} and {peaks[many]:.0f} MiB"
            found.append(results.Bar(asked, measured_text, growth <= MOST_GROWTH_MIB))
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Costs of an export. Writes benchmarks/RESULTS.md.")
    parser.add_argument("--clips", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--work", metavar="DIR", help="working directory; its disk is used")
    parser.add_argument("--smoke", action="store_true", help="50 and 100 clips, no page")
    options = parser.parse_args()
    if options.smoke:
        options.clips = [50, 100]
    return options


if __name__ == "__main__":
    sys.exit(main())
