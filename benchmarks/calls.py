"""Count Python calls per job, by thread and part: batchrunner, the bare loop, and the floors of its promises.

    python benchmarks/calls.py                        # a minute; writes its section of RESULTS.md
    python benchmarks/calls.py --before COMMIT        # and batchrunner at this commit
    python benchmarks/calls.py --smoke                # few jobs; writes nothing

overhead.py measures the CPU time. This counts what it is spent on. Counts have almost no noise, so they show small
changes. Exit status: 0 if every run delivered all clips.
"""

import argparse
import collections
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import results
from harness.instant import Instant, instant
from harness.measured import allow_files
from harness.packages import unpacked
from harness.racers import BARE, COMPLETE, FLOOR, OURS, SCRIPTS, Racer, Work, at_commit
from harness.runs import run

CAP = 64
LIBRARIES = ("aiohttp", "yarl", "multidict", "aiohappyeyeballs", "propcache", "frozenlist", "aiosignal", "attr")
STANDARD = "other standard library"
LOOP = ("asyncio", "selectors.py", "socket.py", "concurrent")
# What a package of batchrunner does for a job, in the order of the table.
PURPOSES = {
    "engine": "slots, order, retries, deadlines, circuit breakers, the time of the next look",
    "plan": "costs, budgets and estimates after each change of a job",
    "providers": "body of a submission; check of each reply's framing, ids, duplicate keys, link",
    "net": "proxies and connections",
    "transfer": "download, name, partial file, hash, link rules",
    "storage": "files, flushes, lock and lease of the run directory",
    "journal": "rows before and after each call, with checksums",
    "account": "the index of all runs of this account: no job is paid for twice",
    "manifest": "reading and validation",
    "media": "check of the clip's boxes and samples; posters",
    "report": "report.json, report.csv, report.html",
    "progress": "two lines per job in the log",
    "app": "opening, end, files of the run directory",
}

Group = tuple[str, str]  # thread, part
Calls = Mapping[Group, float]  # per job


def main() -> int:
    options = _options()
    allow_files()
    work = Path(tempfile.mkdtemp(prefix="calls-"))
    racers = [BARE, FLOOR, COMPLETE, OURS]
    try:
        if options.before:
            racers += at_commit(options.before, unpacked(options.before, work / "before"))[:1]
        with instant(work / "service") as service:
            jobs = Work.write(work / "jobs", options.jobs)
            found = {racer: counted(racer, jobs, service, work) for racer in racers}
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if any(calls is None for calls in found.values()):
        return 1
    calls = {racer: item for racer, item in found.items() if item is not None}
    print(table(calls))
    if not options.smoke:
        results.put("calls", section(calls, options))
        print(f"written: {results.PAGE}")
    return 0


def counted(racer: Racer, jobs: Work, service: Instant, work: Path) -> Calls | None:
    """Run a contender once and count its calls per job. Return None if clips are missing."""
    target = work / "counts.json"
    if run(racer, jobs, CAP, service, around=[str(SCRIPTS / "counted.py"), str(target)]) is None:
        return None
    calls: dict[Group, float] = collections.Counter()
    for thread, files in json.loads(target.read_text()).items():
        for file, number in files.items():
            calls["main" if thread == "MainThread" else "others", group_of(file)] += number / jobs.count
    return calls


def group_of(file: str) -> str:
    """Return the part that a source file belongs to: a package of batchrunner, a group of libraries, or the script."""
    _, is_ours, inside = file.rpartition("/batchrunner/")
    if is_ours and not inside.startswith("benchmarks/"):
        return inside.split("/")[0].removesuffix(".py")
    _, is_library, inside = file.rpartition("/site-packages/")
    if is_library:
        return "aiohttp" if inside.split("/")[0] in LIBRARIES else "other libraries"
    if "/contenders/" in file:
        return "the loop itself"
    inside = file.rpartition(f"/python{sys.version_info.major}.{sys.version_info.minor}/")[2]
    return "asyncio" if inside.split("/")[0] in LOOP else STANDARD


def table(calls: Mapping[Racer, Calls]) -> str:
    """Return the table: a row per part, a column per contender."""
    groups = {group for counts in calls.values() for _, group in counts}
    modules = sorted(groups - {*PURPOSES, "asyncio", "aiohttp", STANDARD, "other libraries", "the loop itself"})
    rows = [
        ("asyncio", ["asyncio"], "event loop, sockets, tasks, hand-overs to threads"),
        ("aiohttp", ["aiohttp"], "three requests and replies; a new connection for each POST"),
        ("the loop itself", ["the loop itself"], ""),
        *((f"`{name}`", [name], purpose) for name, purpose in PURPOSES.items()),
        ("other modules of batchrunner", modules, "jobs, events, redaction, clock, settings"),
        ("other libraries", ["other libraries"], "templates of the report, click"),
        (STANDARD, [STANDARD], "json, re, pathlib, urllib; imports"),
    ]
    heads = ["part", *(racer.name for racer in calls), "for"]
    lines = [heads, ["---"] * len(heads)]
    lines += [
        [title, *(_cell(counts, names) for counts in calls.values()), purpose]
        for title, names, purpose in rows
        if any(group in names for counts in calls.values() for _, group in counts)
    ]
    lines.append(["**all**", *(_cell(counts, groups) for counts in calls.values()), ""])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def section(calls: Mapping[Racer, Calls], options: argparse.Namespace) -> str:
    """Return the section."""
    return f"""\
## Where the work of a job is

Calls of functions per job, counted with a profiling function in each thread, {CAP} in flight, decoding no frame; start
and end of the program count. Cells: on the thread of the event loop + on other threads. A call of a function written in
C counts for the file that calls it, a call into the standard library for that. The CPU time of the same runs is in the
section before this one. Work in other processes (the check of a clip's structure) and in the system (system calls,
flushes, changes of thread) is not counted here.

{results.setting()}- Jobs: {options.jobs}

{table(calls)}"""


def _cell(counts: Calls, groups: Sequence[str] | set[str]) -> str:
    main, others = (sum(counts.get((thread, group), 0.0) for group in groups) for thread in ("main", "others"))
    if round(main + others) == 0:
        return ""
    return f"{main:.0f} + {others:.0f}" if round(others) else f"{main:.0f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Count Python calls per job. Writes its section of RESULTS.md.")
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--before", metavar="COMMIT", help="also count batchrunner of this commit")
    parser.add_argument("--smoke", action="store_true", help="20 jobs, no page")
    options = parser.parse_args()
    options.jobs = 20 if options.smoke else options.jobs
    return options


if __name__ == "__main__":
    sys.exit(main())
