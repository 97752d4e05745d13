"""The views of a run: a live screen, a text log, a JSON log.

If a stream is closed, nothing more is shown and the run continues. A stopped terminal (Ctrl-S) misses frames and does
not block the run. Frames are drawn at a fixed rate (`events.Alive`), so their number does not depend on the jobs.
"""

import os
import select
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from batchrunner.events import Alive, Event, RunFinished, RunStarted, Stopping
from batchrunner.formatting import rfc3339
from batchrunner.progress import json_lines
from batchrunner.progress.log_lines import Narrator, Pulse
from batchrunner.progress.model import Model
from batchrunner.progress.phrases import Level, Line, safe
from batchrunner.progress.screen import ASCII, UNICODE, Spans, draw
from batchrunner.report.text import status_text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live as RichLive

_STILL_S = 1.0  # the minimum frame rate: durations advance
_STYLES = {"": "", "bold": "bold", "dim": "dim", "good": "green", "bad": "red", "busy": "cyan"}
_LEVELS = {Level.INFO: "", Level.WARNING: "yellow", Level.ERROR: "bold red"}


class View(Protocol):
    """A view of a run. The model processes an event before the view shows it."""

    def show(self, event: Event) -> None:
        """Show `event`."""
        ...

    def close(self) -> None:
        """Restore the stream."""
        ...


class _Guarded:
    """A writer that stops silently when its stream is closed."""

    def __init__(self) -> None:
        self._broken = False

    def _write(self, action: Callable[..., Any], *arguments: object) -> None:
        if not self._broken:
            try:
                action(*arguments)
            except (OSError, ValueError):  # a closed file raises ValueError
                self._broken = True


class Lines(_Guarded):
    """Plain lines with their time. put: prints a line. quiet: print only lines that need a person."""

    def __init__(self, model: Model, put: Callable[[str, Level], None], *, quiet: bool) -> None:
        super().__init__()
        self._model = model
        self._put = put
        self._least = Level.ERROR if quiet else Level.INFO
        self._narrator = Narrator(model)

    def show(self, event: Event) -> None:
        """Print the lines for `event`, and the summary at the end."""
        lines = self._narrator.take(event)
        if isinstance(event, RunFinished):
            level = Level.ERROR if event.exit_status else Level.INFO
            lines[-1:] = [Line(level, text) for text in last_words(event)]
        for line in lines:
            if line.level >= self._least:
                self._write(self._put, f"{rfc3339(event.at)} {line.text}", line.level)
        if isinstance(event, RunFinished):
            self._least = min(self._least, Level.WARNING)  # warnings after the end need a person

    def close(self) -> None:
        """Do nothing: there is nothing to restore."""


class JsonLines(_Guarded):
    """One JSON object per event. quiet: only level ``error``."""

    def __init__(self, model: Model, stream: TextIO, *, quiet: bool) -> None:
        super().__init__()
        self._model = model
        self._stream = stream
        self._least = Level.ERROR if quiet else Level.INFO
        self._pulse = Pulse()

    def show(self, event: Event) -> None:
        """Write `event`, or a heartbeat when one is due."""
        line = json_lines.line(event, self._model)
        if line is not None and json_lines.level_of(event, self._model) >= self._least:
            self._write(self._put, line)
        if self._pulse.is_due(event) and self._least is Level.INFO:
            self._write(self._put, json_lines.heartbeat(event.at, self._model))
        if isinstance(event, RunFinished):
            self._least = min(self._least, Level.WARNING)

    def _put(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Do nothing: there is nothing to restore."""


class Live(_Guarded):
    """The screen of a run, redrawn in place. The summary replaces it at the end."""

    def __init__(self, model: Model, console: "Console") -> None:
        super().__init__()
        self._model = model
        self._console = console
        self._glyphs = UNICODE if "utf" in console.encoding.lower() else ASCII
        self._live: RichLive | None = None
        self._size = (0, 0)
        self._changed = False
        self._drawn_at = 0.0

    def show(self, event: Event) -> None:
        """Draw if a frame is due, and print the summary at the end."""
        if isinstance(event, RunFinished):
            self.close()
            for number, text in enumerate(last_words(event, self._console.width)):
                style = Level.ERROR if event.exit_status and not number else Level.INFO
                self._write(_print, self._console, text, style)
        elif self._model.finished:
            for line in Narrator(self._model).take(event):
                self._write(_print, self._console, line.text, line.level)
        elif isinstance(event, RunStarted | Stopping):
            self.frame()
        elif not isinstance(event, Alive):
            self._changed = True
        elif self._changed or abs(event.at - self._drawn_at) >= _STILL_S:
            self.frame()

    def frame(self) -> None:
        """Draw the screen, unless the terminal is stopped."""
        self._changed = False
        self._drawn_at = self._model.at
        if _takes(self._console.file):
            self._write(self._draw)

    def redraw(self, model: Model) -> None:
        """Draw another model."""
        self._model = model
        self.frame()

    def close(self) -> None:
        """Remove the screen."""
        if self._live is not None:
            self._broken = False  # also after an error: rich must restore the streams that it redirected
            self._write(self._live.stop)
            self._live = None

    def _draw(self) -> None:
        size = self._console.size
        if self._live is not None and (size.width, size.height) != self._size:
            # The terminal has wrapped or cut the old screen, so its start is unknown.
            self._live.stop()
            self._live = None
            self._console.clear()
        if self._live is None:
            self._size = (size.width, size.height)
            self._live = _rich_live(self._console)
            self._live.start()
        self._live.update(_Frame(draw(self._model, size.width, size.height - 1, self._glyphs)), refresh=True)


def _rich_live(console: "Console") -> "RichLive":
    from rich.live import Live as RichLive

    return RichLive(console=console, auto_refresh=False, transient=True, redirect_stdout=False)


class _Frame:
    """Lines that already fit, for rich."""

    def __init__(self, lines: list[Spans]) -> None:
        self._lines = lines

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.segment import Segment

        styles = {name: console.get_style(style_text or "none") for name, style_text in _STYLES.items()}
        for number, spans in enumerate(self._lines):
            if number:
                yield Segment.line()
            for text, style in spans:
                yield Segment(text.encode(options.encoding, "replace").decode(options.encoding), styles[style])


def last_words(event: RunFinished, width: int | None = None) -> list[str]:
    """Return the final lines: outcome, failures with reasons, place of the report, next command."""
    if not event.report:
        return [safe(event.summary)]
    pages = [path for path in event.reports if path.endswith(".html")]
    return status_text(dict(event.report), pages, width).splitlines()


def console_on(stream: TextIO) -> "Console":
    """Return a console on `stream`."""
    from rich.console import Console

    class Listener(Console):
        """A console that reports a closed pipe: rich would end the program and silence standard output."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Listener(file=stream, highlight=False)


def line_printer(stream: TextIO) -> Callable[[str, Level], None]:
    """Return a function that prints lines on `stream`. Rich is loaded only if colours are possible."""
    if stream.isatty() or os.environ.get("FORCE_COLOR") or os.environ.get("TTY_COMPATIBLE"):
        return partial(_print, console_on(stream))
    return partial(_put, stream)


def takes_screen(stream: TextIO) -> bool:
    """Return whether `stream` is a terminal on which a screen can be drawn."""
    return stream.isatty() and not console_on(stream).is_dumb_terminal


def print_lines(console: "Console", lines: Iterable[Spans]) -> None:
    """Print a screen once, permanently."""
    console.print(_Frame([*lines, []]), soft_wrap=True)


def _print(console: "Console", text: str, level: Level) -> None:
    from rich.text import Text

    text = text.encode(console.encoding, "backslashreplace").decode(console.encoding)
    console.print(Text(text, _LEVELS[level]), soft_wrap=True)


def _put(stream: TextIO, text: str, _: Level) -> None:
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()


def _takes(file: Any) -> bool:
    """Return whether the terminal accepts output now; a stopped terminal does not."""
    try:
        poll = select.poll()
        poll.register(file.fileno(), select.POLLOUT)
        return bool(poll.poll(0))
    except (OSError, ValueError, AttributeError):
        return True  # not a system file, or closed, which the write will show
