"""``status`` of a folder with the shards of a batch: a line for each shard, and the sum of all. Writes nothing."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from batchrunner.app import merge as merging
from batchrunner.app.outlines import outline_of
from batchrunner.app.shards import find, merge_command
from batchrunner.app.signs import require_trusted
from batchrunner.clock import pause
from batchrunner.errors import BatchrunnerError
from batchrunner.formatting import count_text, printable, printable_json, shell_line, shell_path
from batchrunner.journal.summary import count
from batchrunner.manifest.shards import Shard
from batchrunner.plan.prices import dollars
from batchrunner.report import merge, overview, writer
from batchrunner.report.build import Report
from batchrunner.storage.run_directory import RunDir

_EVERY_S = 2.0
_CLEAR = "\x1b[H\x1b[2J"
_STATES = {"failed": "failed", "in_doubt": "in doubt", "in_flight": "in flight", "pending": "not submitted"}


@dataclass(frozen=True, slots=True)
class ShardState:
    """A shard. outline: its counted report; None without one. holder: the process that runs it. fault: why there is no
    outline; "" if no run was started."""

    outline: Report | None = None
    holder: str | None = None
    fault: str = ""

    @property
    def is_open(self) -> bool:
        """Whether no run was started, and none is starting."""
        return self.outline is None and not self.fault and self.holder is None


def report(folder: Path, stream: TextIO, version: str, *, as_json: bool, watch: bool) -> bool:
    """Print the state of the shards in `folder`. Return False without printing if it has none.

    version: of this program. as_json: print the merged report. watch: repeat until no process runs a shard.
    """
    found = find(folder)
    if not found:
        return False
    live = watch and not as_json and stream.isatty()
    while watch and any(rundir.holder() is not None for rundir in found.values()):
        if live:
            stream.write("".join((_CLEAR, *(f"{printable(line)}\n" for line in _lines_of(found, folder, version)))))
            stream.flush()
        pause(_EVERY_S)
        found = find(folder)
    if live:
        stream.write(_CLEAR)
    if as_json:
        inputs = merging.read([rundir.path for rundir in found.values()], folder, os.environ, version)
        merged = merge.merge([item.source for item in inputs])
        stream.writelines(printable_json(piece) for piece in writer.json_pieces(merged))
        return True
    for line in _lines_of(found, folder, version):
        print(printable(line), file=stream)
    return True


def _lines_of(found: Mapping[Shard, RunDir], folder: Path, version: str) -> list[str]:
    last = max(shard.count for shard in found)
    states = {Shard(index, last): ShardState() for index in range(1, last + 1)}
    states |= {shard: _read(rundir, version) for shard, rundir in found.items()}
    return lines(states, folder)


def _read(rundir: RunDir, version: str) -> ShardState:
    holder = rundir.holder()
    try:
        require_trusted(rundir)
        counts = count(rundir.journal)
        if counts is None:
            return ShardState(holder=holder, fault="starting" if holder else "")
        return ShardState(outline_of(counts, rundir, version), holder)
    except BatchrunnerError as error:
        return ShardState(holder=holder, fault=error.message)


def lines(states: Mapping[Shard, ShardState], folder: Path) -> list[str]:
    """Return a line for each shard, the sum, and the next steps."""
    found = [_line(shard, state) for shard, state in states.items()]
    outlines = [state.outline for state in states.values() if state.outline is not None]
    if outlines:
        found.append(f"{'all':<9}{_sum(outlines)}")
    absent = [str(shard) for shard, state in states.items() if state.is_open]
    if absent:
        found.append(f"{'open':<9}run each of these with --shard: {', '.join(absent[:20])}")
    needy = next((shard for shard, state in states.items() if _needs_a_look(state)), None)
    if needy is not None:
        command = shell_line(["batchrunner", "status", shell_path(str(folder / needy.folder))])
        found.append(f"{'next':<9}{command}")
    return [*found, f"{'report':<9}{merge_command(folder)}"]


def _needs_a_look(state: ShardState) -> bool:
    if state.outline is None:
        return not state.is_open and state.holder is None
    done = state.outline["totals"]["succeeded"] == state.outline["totals"]["jobs"]
    return state.holder is None and not done


def _line(shard: Shard, state: ShardState) -> str:
    text = state.fault or "not started" if state.outline is None else overview.headline(state.outline)
    running = f" · running: {state.holder}" if state.holder else ""
    return f"{shard!s:<9}{text}{running}"


def _sum(outlines: list[Report]) -> str:
    totals, spent = Counter[str](), 0.0
    for outline in outlines:
        numbers: Mapping[str, Any] = outline["totals"]
        totals.update({name: numbers[name] for name in ("jobs", "succeeded", *_STATES)})
        spent += outline["money"]["spent"]
    others = "".join(f", {totals[name]:,} {text}" for name, text in _STATES.items() if totals[name])
    done = f"{totals['succeeded']:,} of {count_text(totals['jobs'], 'job')} done"
    return f"{done}{others} · {dollars(spent)} spent · {count_text(len(outlines), 'shard')} started"
