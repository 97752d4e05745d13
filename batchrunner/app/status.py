"""``status``: the state of a batch from its journal, during a run or later. Writes nothing.

During a run it draws the run's own screen from the journal; afterwards it prints the closing summary of the run. The
lock of the run directory shows whether a process runs the batch.
"""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO, TypeVar

from batchrunner import __version__
from batchrunner.app.outlines import outline_of
from batchrunner.app.rehearsal import SUFFIX
from batchrunner.app.run_started import reopened
from batchrunner.app.signs import require_trusted
from batchrunner.clock import pause, wall_time
from batchrunner.errors import UsageError
from batchrunner.events import Alive, CallHealthChanged, CapChanged, Event
from batchrunner.formatting import UNICODE_MARKS, Marks, printable_json
from batchrunner.job import Snapshot
from batchrunner.journal.journal import read
from batchrunner.journal.live_view import Moving, moving
from batchrunner.journal.summary import Counts, count
from batchrunner.plan.prices import prices_from
from batchrunner.progress.model import RATE_OVER_S, Model
from batchrunner.progress.phrases import lasting
from batchrunner.progress.screen import Spans, draw
from batchrunner.progress.views import (
    Live,
    console_on,
    glyphs_of,
    line_printer,
    print_lines,
    takes_screen,
    width_of,
)
from batchrunner.report import writer
from batchrunner.report.build import Report
from batchrunner.report.closing import closing
from batchrunner.review.verdicts import VerdictLines
from batchrunner.storage.run_directory import RunDir

_T = TypeVar("_T")

_EVERY_S = 2.0
_EVERY_S_PER_JOB = 0.00005  # a large batch takes longer to read
_LINES = 24
_NARROW, _WIDE = 20, 120


def read_snapshot(rundir: RunDir) -> Snapshot:
    """Return the contents of the journal of `rundir`. Raises UsageError if there is none, JournalError."""
    require_trusted(rundir)
    return _found(read(rundir.journal), rundir)


def read_with_charges(rundir: RunDir, environment: Mapping[str, str]) -> Snapshot:
    """Return the journal's contents with the charges that the account has settled since. Errors: `read_snapshot`."""
    from batchrunner.app.late_charges import with_late_charges  # imported here: the account's modules take time to load

    return with_late_charges(read_snapshot(rundir), rundir, environment)


def _found(found: _T | None, rundir: RunDir) -> _T:
    if found is None:
        raise no_batch(rundir)
    return found


def no_batch(rundir: RunDir) -> UsageError:
    """Return the error for a run directory without a batch."""
    return UsageError(f"{rundir.path} contains no batch", _where_else(rundir.path))


def _where_else(path: Path) -> str:
    """Return the next step if `path` contains no batch: the name of its rehearsal, if there is one."""
    from batchrunner.app import shards  # here, as most commands need no manifest's modules

    if step := shards.where_else(path):
        return step
    rehearsed = path.parent / f"{path.name}{SUFFIX}"
    if RunDir(rehearsed).journal.exists():
        return f"There is a rehearsal: name {rehearsed}, or add --provider sandbox to the manifest."
    return "Name the run directory (output/<name>) of a batch that was started, or its manifest."


def show(rundir: RunDir, stream: TextIO, *, as_json: bool = False) -> None:
    """Print the state of the batch in `rundir`. as_json: print the contents of report.json."""
    holder, now = rundir.holder(), wall_time()  # read before the journal, which then has the outcome
    if as_json:
        stream.writelines(printable_json(piece) for piece in writer.json_pieces(_whole_report(rundir)))
        return
    width = width_of(stream)
    if holder is None:
        require_trusted(rundir)
        put = line_printer(stream)
        for spans in ended(_found(count(rundir.journal), rundir), rundir.path, now, width, glyphs_of(stream).marks):
            put(spans)
        return
    model = replay(_found(moving(rundir.journal, now - RATE_OVER_S), rundir), str(rundir.path), now)
    print_lines(console_on(stream), draw(model, min(width or _WIDE, _WIDE), _LINES))
    print(f"running: {holder}", file=stream)


def watch(rundir: RunDir, stream: TextIO, *, as_json: bool = False) -> None:
    """Redraw the state of the batch until no process runs it. Without a terminal, wait and print the final state."""
    live = takes_screen(stream) and not as_json
    view = Live(Model(), console_on(stream))
    try:
        while rundir.holder() is not None:
            pause_s = _EVERY_S
            if live:
                now = wall_time()
                batch = _found(moving(rundir.journal, now - RATE_OVER_S), rundir)
                view.redraw(replay(batch, str(rundir.path), now))
                pause_s += _EVERY_S_PER_JOB * sum(batch.counts.jobs.values())
            pause(pause_s)
    finally:
        view.close()
    show(rundir, stream, as_json=as_json)


def ended(
    counts: Counts, path: Path, now: float, width: int | None = None, marks: Marks = UNICODE_MARKS
) -> list[Spans]:
    """Return the closing block of a batch that no process runs."""
    pages = [str(path / "report.html")] if (path / "report.html").exists() else []
    report = outline_of(counts, RunDir(path), __version__)
    if report["money"]["settle_command"] and (late := _with_late_charges(RunDir(path))):
        report = late
    lines = closing(report, pages, width, marks)
    if counts.run.finished_at is None:
        return [*lines, [("Its last run was killed before it ended. Run it again to continue.", "")]]
    return [*lines, [(f"Ended {_ago(now - counts.run.finished_at)} ago.", "dim")]]


def _with_late_charges(rundir: RunDir) -> Report | None:
    """Return the report with the charges that the account has settled since the last run; None if it has none."""
    from batchrunner.app.late_charges import late_charges

    if not late_charges(rundir, os.environ):
        return None
    return _whole_report(rundir)


def _whole_report(rundir: RunDir) -> Report:
    lines = VerdictLines(rundir.path)
    lines.refresh()
    return writer.build(read_with_charges(rundir, os.environ), __version__, lines.by_clip)


def replay(batch: Moving, run_dir: str, now: float) -> Model:
    """Return the screen's state as if it had received every event of the run."""
    model = Model()
    for event in _events(batch, run_dir):
        model.take(event)
    model.take(Alive(max(now, model.at)))
    return model


def _events(batch: Moving, run_dir: str) -> Iterator[Event]:
    run = batch.counts.run
    settings = json.loads(run.settings_json)
    prices = prices_from(settings).raised_by(batch.records.values())
    yield reopened(batch, run_dir, prices)
    for event in batch.timeline_events:
        if event.kind == "call_health":
            yield CallHealthChanged(event.at, event.call, event.status, event.message)
        elif event.kind == "cap":
            yield CapChanged(event.at, int(event.status), run.concurrency)


def _ago(seconds: float) -> str:
    days = int(seconds // 86_400)
    return f"{days} days" if days > 1 else lasting(seconds)
