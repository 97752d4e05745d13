"""The written result: tables in Markdown, with the setup of the measurement. Text only."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from harness.contenders import Contender
from harness.scenarios import Batch, OneCall

_Outcome = TypeVar("_Outcome")
OneCalls = Mapping[str, Sequence[OneCall]]  # by LOST_REPLIES

_HEAD = """\
# Who pays twice?

Every contender is judged by the same ledger, the sandbox's own account (`GET /sandbox/ledger`) of the generations that
it accepted, each of which is paid for, and by the files that stand at the end. A cell shows each of the {runs} runs.

Written by `python benchmarks/pays_twice.py` (see [README.md](README.md)) on {date}. Do not edit.

- Machine: {machine}
- Versions: {versions}
- Service: `batchrunner sandbox` on loopback, one per contender and run; generations of about 1 s after about 0.3 s in
  the queue; at most 8 worked on at once.
"""
_ONE_CALL = """
## One job, and the reply to its submission is lost

The service accepts the POST, then cuts the connection without a word (fault `lost_reply`): the first time only, or
every time. Accepted is what is paid for; one clip was wanted.
"""
_BATCH = """
## {jobs} jobs, {at_once} at once, {kills} kills

SIGKILL to the contender and everything it started, at moments drawn from a seed, the same for all (so many clips
stand, and a moment later), each with work in flight; then the contender's own way to resume, until it is done. A clip
is good if it stands under its job's name, is byte for byte what the service made for that job, and decodes. Held in
doubt are jobs whose submission was cut off by a kill and that the service's log does not know: batchrunner names them
and leaves them to its user, who here asks for them with `--in-doubt resubmit` once everything else is done.
"""
_NOTES = """
What this does not show: how a contender fares when only its main process dies, and what somebody could add to it by
hand. A script that stores each id as soon as it has one pays for less twice. Only the POST that is active at the kill
is left then, and that needs the look-up. Seconds are for orientation: the sandbox, its rendering and the
contender share the machine.
"""


def write(
    path: Path,
    one_calls: Mapping[Contender, OneCalls],
    batches: Mapping[Contender, Sequence[Batch]],
    versions: Mapping[str, str],
    setting: Mapping[str, object],
) -> None:
    """Write the page. setting: runs, jobs, kills, at_once, and absent: the names of contenders that were left out."""
    head = _HEAD.format(date=f"{datetime.now(UTC):%Y-%m-%d}", machine=machine(), versions=_listed(versions), **setting)
    left_out = f"- Left out, not installed: {setting['absent']}\n" if setting["absent"] else ""
    pieces = [head, left_out, _ONE_CALL, one_call_table(one_calls, versions)]
    pieces += [_BATCH.format(**setting), batch_table(batches, versions), _NOTES]
    path.write_text("".join(pieces))


def one_call_table(results: Mapping[Contender, OneCalls], versions: Mapping[str, str]) -> str:
    """Return the first table."""
    heads = ("contender", "how it retries", "lost once: accepted", "clip", "lost always: accepted", "clip")
    rows = []
    for contender, found in results.items():
        cells = [contender.name.format_map(versions), contender.how]
        for outcomes in (found["once"], found["always"]):
            cells += [
                _joined(outcomes, lambda one: one.accepted),
                _joined(outcomes, lambda one: "yes" if one.clip else "no"),
            ]
        rows.append(cells)
    return _table(heads, rows)


def batch_table(results: Mapping[Contender, Sequence[Batch]], versions: Mapping[str, str]) -> str:
    """Return the second table, followed by the behaviour of each contender on a restart."""
    columns: dict[str, Callable[[Batch], object]] = {
        "accepted": lambda one: one.accepted,
        "jobs paid twice or more": lambda one: one.paid_twice,
        "clips missing or bad": lambda one: one.bad,
        "held in doubt": lambda one: one.ends.left_in_doubt,
        "in flight at the kills": lambda one: "+".join(map(str, one.ends.in_flight)),
        "restarts": lambda one: one.ends.starts - 1,
        "seconds": lambda one: f"{one.seconds:.0f}" + ("" if one.ends.status == 0 else f" (exit {one.ends.status})"),
    }
    rows = []
    for contender, outcomes in results.items():
        name = contender.name.format_map(versions)
        rows.append([name, *(_joined(outcomes, column) for column in columns.values())])
    said = "".join(f"- {contender.name.format_map(versions)}: {contender.how}.\n" for contender in results)
    return f"{_table(('contender', *columns), rows)}\nThe behaviour of each contender on a restart:\n\n{said}"


def machine() -> str:
    """Return processors, memory, system and Python version."""
    model = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "?")
    memory = next((int(line.split()[1]) / 2**20 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    system = f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}"
    return f"{os.cpu_count()} x {model}, {memory:.0f} GiB, {system}, Python {platform.python_version()}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def _joined(outcomes: Sequence[_Outcome], column: Callable[[_Outcome], object]) -> str:
    return " / ".join(str(column(outcome)) for outcome in outcomes)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
