"""Where a batch stands, from its journal: while another process runs it, or long after. Reads, and writes nothing.

While it runs, the screen is that of the run itself, made of the journal's facts; else the last words on it, as the run
would have said them. Whether it runs is asked of the lock.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO, TypeVar

from batchrunner import __version__
from batchrunner.app.run_started import reopened
from batchrunner.app.signs import require_trusted
from batchrunner.clock import pause, wall_time
from batchrunner.errors import UsageError
from batchrunner.events import Alive, CallHealthChanged, CapChanged, Event
from batchrunner.formatting import printable_json
from batchrunner.job import Snapshot
from batchrunner.journal.journal import read
from batchrunner.journal.live_view import Moving, moving
from batchrunner.journal.summary import Counts, count
from batchrunner.plan.prices import Prices
from batchrunner.progress.model import RATE_OVER_S, Model
from batchrunner.progress.phrases import lasting
from batchrunner.progress.screen import draw
from batchrunner.progress.views import Live, console_on, print_lines, takes_screen
from batchrunner.report import writer
from batchrunner.report.summary import outline
from batchrunner.report.text import status_text
from batchrunner.storage.run_directory import RunDir

_T = TypeVar("_T")

_EVERY_S = 2.0
_EVERY_S_A_JOB = 0.00005  # a large batch takes longer to read
_LINES = 24
_NARROW, _WIDE = 20, 120


def look(rundir: RunDir) -> Snapshot:
    """What the journal of `rundir` holds. Raises UsageError where there is none, JournalError."""
    require_trusted(rundir)
    return _found(read(rundir.journal), rundir)


def _found(held: _T | None, rundir: RunDir) -> _T:
    if held is None:
        raise UsageError(f"{rundir.path} holds no batch", "Name a run directory (output/<name>) or a manifest.")
    return held


def show(rundir: RunDir, stream: TextIO, *, as_json: bool = False) -> None:
    """Print where the batch in `rundir` stands. as_json: as report.json would hold it."""
    holder, now = rundir.holder(), wall_time()  # asked before the journal, which then knows how it ended
    if as_json:
        pieces = writer.json_pieces(writer.build(look(rundir), __version__))
        stream.writelines(printable_json(piece) for piece in pieces)
        return
    width = console_on(stream).width if stream.isatty() else None
    if holder is None:
        require_trusted(rundir)
        print(ended(_found(count(rundir.journal), rundir), rundir.path, now, width), file=stream)
        return
    model = replay(_found(moving(rundir.journal, now - RATE_OVER_S), rundir), str(rundir.path), now)
    print_lines(console_on(stream), draw(model, min(width or _WIDE, _WIDE), _LINES))
    print(f"running: {holder}", file=stream)


def watch(rundir: RunDir, stream: TextIO, *, as_json: bool = False) -> None:
    """Redraw where the batch stands until no process runs it. Elsewhere than on a terminal: wait, and print the end."""
    live = takes_screen(stream) and not as_json
    view = Live(Model(), console_on(stream))
    try:
        while rundir.holder() is not None:
            pause_s = _EVERY_S
            if live:
                now = wall_time()
                batch = _found(moving(rundir.journal, now - RATE_OVER_S), rundir)
                view.redraw(replay(batch, str(rundir.path), now))
                pause_s += _EVERY_S_A_JOB * sum(batch.counts.jobs.values())
            pause(pause_s)
    finally:
        view.close()
    show(rundir, stream, as_json=as_json)


def ended(counts: Counts, path: Path, now: float, width: int | None = None) -> str:
    """The last words on a batch that no process runs."""
    pages = [str(path / "report.html")] if (path / "report.html").exists() else []
    text = status_text(outline(counts, __version__), pages, width)
    if counts.run.finished_at is None:
        return f"{text}\nIts last run was cut off before it could end: run it again, and it continues."
    return f"{text}\nEnded {_ago(now - counts.run.finished_at)} ago."


def replay(batch: Moving, run_dir: str, now: float) -> Model:
    """The screen's state, as it would be had every event of the run been seen."""
    model = Model()
    for event in _events(batch, run_dir):
        model.take(event)
    model.take(Alive(max(now, model.at)))
    return model


def _events(batch: Moving, run_dir: str) -> Iterator[Event]:
    run = batch.counts.run
    settings = json.loads(run.settings_json)
    prices = Prices(settings.get("prices") or {}, settings.get("assume_length_s"))
    yield reopened(batch, run_dir, prices)
    for event in batch.timeline_events:
        if event.kind == "call_health":
            yield CallHealthChanged(event.at, event.call, event.status, event.message)
        elif event.kind == "cap":
            yield CapChanged(event.at, int(event.status), run.concurrency)


def _ago(seconds: float) -> str:
    days = int(seconds // 86_400)
    return f"{days} days" if days > 1 else lasting(seconds)
