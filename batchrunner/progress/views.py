"""Where a run is shown: a live screen, lines for people, lines for machines.

Rules: a stream that is gone is no reason to disturb the run: from then on nothing is shown. A terminal that takes
nothing just now (Ctrl-S) misses frames, and holds nobody up. Frames are drawn when time passes (`events.Alive`), not
when something happens: however many jobs move, there are as many frames.
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

_STILL_S = 1.0  # a frame at least so often, so that lengths of time move
_STYLES = {"": "", "bold": "bold", "dim": "dim", "good": "green", "bad": "red", "busy": "cyan"}
_LEVELS = {Level.INFO: "", Level.WARNING: "yellow", Level.ERROR: "bold red"}


class View(Protocol):
    """Where a run is shown. The model has taken an event in before it is shown."""

    def show(self, event: Event) -> None:
        """Show what there is to show of `event`."""
        ...

    def close(self) -> None:
        """Leave the stream as it was found."""
        ...


class _Guarded:
    """Writes for as long as there is somebody to read."""

    def __init__(self) -> None:
        self._broken = False

    def _write(self, action: Callable[..., Any], *arguments: object) -> None:
        if not self._broken:
            try:
                action(*arguments)
            except (OSError, ValueError):  # a closed file raises ValueError
                self._broken = True


class Lines(_Guarded):
    """Plain lines with their time. put: prints one. quiet: nothing unless something needs a person."""

    def __init__(self, model: Model, put: Callable[[str, Level], None], *, quiet: bool) -> None:
        super().__init__()
        self._model = model
        self._put = put
        self._least = Level.ERROR if quiet else Level.INFO
        self._narrator = Narrator(model)

    def show(self, event: Event) -> None:
        """Print what the narrator tells of `event`, and the last words at the end."""
        lines = self._narrator.take(event)
        if isinstance(event, RunFinished):
            level = Level.ERROR if event.exit_status else Level.INFO
            lines[-1:] = [Line(level, text) for text in last_words(event)]
        for line in lines:
            if line.level >= self._least:
                self._write(self._put, f"{rfc3339(event.at)} {line.text}", line.level)
        if isinstance(event, RunFinished):
            self._least = min(self._least, Level.WARNING)  # what comes after the end needs a person

    def close(self) -> None:
        """There is nothing to undo."""


class JsonLines(_Guarded):
    """One JSON object an event. quiet: only those of level ``error``."""

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
        """There is nothing to undo."""


class Live(_Guarded):
    """The screen of a run, redrawn in place; at the end it makes room for the last words."""

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
        """Draw when it is time to, and print the last words at the end."""
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
        """Draw the screen as it stands, unless the terminal takes nothing just now."""
        self._changed = False
        self._drawn_at = self._model.at
        if _takes(self._console.file):
            self._write(self._draw)

    def redraw(self, model: Model) -> None:
        """Draw another model."""
        self._model = model
        self.frame()

    def close(self) -> None:
        """Take the screen away."""
        if self._live is not None:
            self._broken = False  # also where nothing more can be drawn: rich gives back what it has redirected
            self._write(self._live.stop)
            self._live = None

    def _draw(self) -> None:
        size = self._console.size
        if self._live is not None and (size.width, size.height) != self._size:
            # The terminal has wrapped or cut what was drawn: where it begins cannot be known.
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
    """Lines that fit already, for rich."""

    def __init__(self, lines: list[Spans]) -> None:
        self._lines = lines

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.segment import Segment

        styles = {name: console.get_style(words or "none") for name, words in _STYLES.items()}
        for number, spans in enumerate(self._lines):
            if number:
                yield Segment.line()
            for text, style in spans:
                yield Segment(text.encode(options.encoding, "replace").decode(options.encoding), styles[style])


def last_words(event: RunFinished, width: int | None = None) -> list[str]:
    """The outcome, what failed and why, where the report is, and what to type next: lines that stay."""
    if not event.report:
        return [safe(event.summary)]
    pages = [path for path in event.reports if path.endswith(".html")]
    return status_text(dict(event.report), pages, width).splitlines()


def console_on(stream: TextIO) -> "Console":
    """A console on `stream`."""
    from rich.console import Console

    class Listener(Console):
        """A console whose reader may leave: rich would end the program and silence its standard output."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Listener(file=stream, highlight=False)


def line_printer(stream: TextIO) -> Callable[[str, Level], None]:
    """What prints lines on `stream`. Rich, which knows of colours, is loaded only where there may be some."""
    if stream.isatty() or os.environ.get("FORCE_COLOR") or os.environ.get("TTY_COMPATIBLE"):
        return partial(_print, console_on(stream))
    return partial(_put, stream)


def takes_screen(stream: TextIO) -> bool:
    """Whether `stream` is a terminal on which a screen can be drawn."""
    return stream.isatty() and not console_on(stream).is_dumb_terminal


def print_lines(console: "Console", lines: Iterable[Spans]) -> None:
    """Print a screen once, to stay."""
    console.print(_Frame([*lines, []]), soft_wrap=True)


def _print(console: "Console", words: str, level: Level) -> None:
    from rich.text import Text

    words = words.encode(console.encoding, "backslashreplace").decode(console.encoding)
    console.print(Text(words, _LEVELS[level]), soft_wrap=True)


def _put(stream: TextIO, words: str, _: Level) -> None:
    encoding = stream.encoding or "utf-8"
    stream.write(words.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()


def _takes(file: Any) -> bool:
    """Whether what is written now would be taken at once: a terminal that was stopped takes nothing."""
    try:
        poll = select.poll()
        poll.register(file.fileno(), select.POLLOUT)
        return bool(poll.poll(0))
    except (OSError, ValueError, AttributeError):
        return True  # no file of the system's; or gone, which writing will show
