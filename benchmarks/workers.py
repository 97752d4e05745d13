"""Measure the work on clips with 1, 2 and 4 workers: processes of this machine, and Dask's workers on this machine.

    python benchmarks/workers.py               # some minutes; writes its part of RESULTS.md
    python benchmarks/workers.py --smoke       # few clips, 1 and 2 workers; writes nothing

A task decodes and measures a clip of 1280x720 and 150 frames (`quality`). All clips differ. The files are in the page
cache. CPU is that of all processes: this one, the scheduler, the workers and their decoders, without their start.
Without the packages of the extra ``dask``, that part is left out and named. Exit status: 0 if all numbers are the same.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from decoding import encode
from harness import results

from batchrunner.workers.engines import Workers, open_workers
from batchrunner.workers.spec import parse

COUNTS = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class Row:
    """A measured case. cpu_s, wall_s: of all clips. digest: of all results."""

    engine: str
    workers: int
    wall_s: float
    cpu_s: float
    digest: str


def main() -> int:
    options, load = _options(), os.getloadavg()[0]
    engines = ["processes", *(["dask"] if importlib.util.find_spec("distributed") else [])]
    with tempfile.TemporaryDirectory() as folder:
        items = clips(Path(folder), options.clips)
        rows = [case(engine, count, items, Path(folder)) for engine in engines for count in options.counts]
    print(table(rows, options.clips))
    if "dask" not in engines:
        print("NOT MEASURED: dask (distributed is not installed)")
    if not options.smoke:
        results.put("workers", section(rows, options.clips, load), bars(rows))
        print(f"written: {results.PAGE}")
    return 0 if len({row.digest for row in rows}) == 1 else 1


def clips(folder: Path, count: int) -> list[dict[str, Any]]:
    """Make tasks for clips that differ in a box at their end, which players skip."""
    encode(folder / "clip.mp4")
    content, found = (folder / "clip.mp4").read_bytes(), []
    for number in range(count):
        whole = content + struct.pack(">I4sQ", 16, b"free", number)
        (path := folder / f"{number}.mp4").write_bytes(whole)
        digest = hashlib.sha256(whole).hexdigest()
        found.append({"path": str(path), "size_bytes": len(whole), "sha256": digest, "quality": True})
    return found


def case(engine: str, count: int, items: Sequence[dict[str, Any]], folder: Path) -> Row:
    with _opened(engine, count, folder) as workers, ThreadPoolExecutor(max_workers=max(4, count)) as threads:
        warm = [threads.submit(workers.decoders.run_all, "clip", [items[0]]) for _ in range(count)]
        [future.result() for future in warm]  # every decoder is started
        cpu_s, began = _cpu_s(), time.perf_counter()
        found = list(threads.map(lambda item: workers.decoders.run_all("clip", [item])[0], items))
        wall_s = time.perf_counter() - began
        cpu_s = _cpu_s() - cpu_s
    digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    return Row(engine, count, wall_s, cpu_s, digest)


@contextmanager
def _opened(engine: str, count: int, folder: Path) -> Iterator[Workers]:
    if engine == "processes":
        with open_workers(parse(f"processes:{count}")) as workers:
            yield workers
        return
    from tests.dask.conftest import DaskProcesses

    dask = DaskProcesses(folder)
    try:
        for _ in range(count):
            dask.add_worker()
        dask.wait_for_workers(count)
        with open_workers(parse(dask.spec), print) as workers:
            yield workers
    finally:
        dask.stop()


def _cpu_s() -> float:
    """Return the CPU seconds of this process and all its descendants. Those that have ended count too."""
    parents, times = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)] = int(fields[1])
        times[int(path.parent.name)] = sum(map(int, fields[11:15]))
    total, todo = 0, [os.getpid()]
    while todo:
        pid = todo.pop()
        total += times.get(pid, 0)
        todo += [child for child, parent in parents.items() if parent == pid]
    return total / os.sysconf("SC_CLK_TCK")


def table(rows: Sequence[Row], count: int) -> str:
    lines = ["| engine | workers | clips a second | CPU a clip | CPUs in use |", "|---|--:|--:|--:|--:|"]
    lines += [
        f"| {row.engine} | {row.workers} | {count / row.wall_s:.2f} | {1000 * row.cpu_s / count:.0f} ms "
        f"| {row.cpu_s / row.wall_s:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def section(rows: Sequence[Row], count: int, load: float) -> str:
    busy = ""
    if load > (os.cpu_count() or 1):
        busy = (
            f"\n**The machine was busy with other work (load {load:.0f} before the first case).** The rates show which "
            "share of it\nmore workers get, and no speed. The CPU a clip is valid."
        )
    return f"""## The work on clips: 1, 2 and 4 workers

{results.setting()}
{count} clips of 1280x720 and 150 frames are decoded and measured (`quality`). `dask` is a scheduler and workers on this
machine.

{table(rows, count)}

This machine has {os.cpu_count()} CPUs. It can show what a second worker adds, what Dask costs a clip, and that more
workers than CPUs add no CPUs. It cannot show how a cluster scales: there, workers share no CPU, and the disk and the
network decide. Dask's processes use some CPU all the time, so its cost a clip grows with the time that a case takes.
{busy}
"""


def bars(rows: Sequence[Row]) -> list[results.Bar]:
    digests = {row.digest for row in rows}
    return [
        results.Bar("The work on clips gives equal results on every engine", f"{len(rows)} cases", len(digests) == 1)
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The work on clips with 1, 2 and 4 workers.")
    parser.add_argument("--smoke", action="store_true", help="few clips, no page")
    parser.add_argument("--clips", type=int, default=24, metavar="N")
    options = parser.parse_args()
    options.counts = COUNTS
    if options.smoke:
        options.clips, options.counts = 2, COUNTS[:2]
    return options


if __name__ == "__main__":
    sys.exit(main())
