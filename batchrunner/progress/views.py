"""The views of a run: a live screen, a text log, a JSON log.

If a stream is closed, nothing more is shown and the run continues. A stopped terminal (Ctrl-S) misses frames and does
not block the run. Frames are drawn at a fixed rate (`events.Alive`), so their number does not depend on the jobs.
"""

import os
import select
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from batchrunner.events import Alive, Event, RunFinished, RunStarted, Stopping
from batchrunner.formatting import rfc3339
from batchrunner.progress import json_lines
from batchrunner.progress.log_lines import Narrator, Pulse
from batchrunner.progress.model import Model
from batchrunner.progress.phrases import Level, Line, clock_time, day_text, local_time, safe, zone_text
from batchrunner.progress.screen import ASCII, NAME_MOST, UNICODE, Glyphs, Spans, draw, problem_text
from batchrunner.report.closing import closing

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live as RichLive

_STILL_S = 1.0  # the minimum frame rate: durations advance
_STYLES = {
    "": "",
    "bold": "bold",
    "dim": "dim",
    "good": "green",
    "bad": "red",
    "busy": "cyan",
    "warning": "yellow",
    "error": "bold red",
}
_LEVELS = {Level.INFO: "", Level.WARNING: "warning", Level.ERROR: "error"}
_NOTICES_MOST = 5
_STAMP_COLUMNS = 11  # local time and mark
# Characters of this program's own texts that an encoding may lack.
_PLAIN = str.maketrans({"…": "...", "→": "->"})
_SIMPLE_TERMINALS = {"linux", "dumb", "vt100", "vt220"}  # their fonts lack the marks

Put = Callable[[Spans], None]


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
    """Plain lines with their time.

    On a terminal times are local and long ids are shortened. In a file times are UTC and ids are whole. quiet: print
    only lines that need a person.
    """

    def __init__(self, model: Model, stream: TextIO, *, quiet: bool) -> None:
        super().__init__()
        self._model = model
        self._put = line_printer(stream)
        self._least = Level.ERROR if quiet else Level.INFO
        self._glyphs = glyphs_of(stream)
        self._is_terminal = stream.isatty()
        self._width = width_of(stream)
        self._day = ""
        self._narrator = Narrator(model, self._short_names if self._is_terminal else None)

    def _short_names(self) -> Mapping[str, str]:
        beside_time = (self._width or NAME_MOST) - _STAMP_COLUMNS - 1
        return self._model.short_names(min(NAME_MOST, max(beside_time, NAME_MOST // 2)), self._glyphs.cut)

    def show(self, event: Event) -> None:
        """Print the lines for `event`, and the closing block at the end."""
        lines = self._narrator.take(event)
        if type(event) is not RunFinished:
            if lines:
                self._print(event.at, lines)
            return
        self._print(event.at, lines[:-1])
        if event.exit_status or self._least is Level.INFO:
            first, *others = last_lines(event, self._glyphs, self._width)
            if self._is_terminal:
                self._write(self._put, [])
            self._write(self._put, first if self._is_terminal else [(f"{rfc3339(event.at)} ", ""), *first])
            for spans in others:
                self._write(self._put, spans)
        self._least = min(self._least, Level.WARNING)  # warnings after the end need a person

    def _print(self, at: float, lines: Iterable[Line]) -> None:
        for line in lines:
            if line.level < self._least:
                continue
            style = _LEVELS[line.level]
            if not self._is_terminal:
                self._write(self._put, [(f"{rfc3339(at)} ", ""), (line.whole, style)])
                continue
            first, *others = self._in_width(line.whole)
            self._write(self._put, [*self._stamp(at, line), (first, style)])
            for text in others:
                self._write(self._put, [(" " * _STAMP_COLUMNS + text, style)])

    def _in_width(self, text: str) -> list[str]:
        """Break a text between its words, to be printed beside the time."""
        columns = (self._width or 0) - _STAMP_COLUMNS
        if columns < _STAMP_COLUMNS:
            return [text]
        return wrap(text, columns, break_on_hyphens=False, break_long_words=False) or [""]

    def _stamp(self, at: float, line: Line) -> Spans:
        """Return time and mark, for a terminal. Print day and zone before the first line and where they change."""
        local = local_time(at)
        day = f"{day_text(local)} {local.year}, {zone_text(local)}"
        if day != self._day:
            self._day = day
            self._write(self._put, [(day, "dim")])
        mark = getattr(self._glyphs.marks, line.mark) if line.mark else " "
        return [(f"{local:%H:%M:%S} ", "dim"), (f"{mark} ", _LEVELS[line.level])]

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
    """The screen of a run, redrawn in place. The closing block replaces it at the end."""

    def __init__(self, model: Model, console: "Console") -> None:
        super().__init__()
        self._model = model
        self._console = console
        self._glyphs = glyphs_of(console.file)
        self._live: RichLive | None = None
        self._size = (0, 0)
        self._changed = False
        self._drawn_at = 0.0

    def show(self, event: Event) -> None:
        """Draw if a frame is due, and print the notices of the run and the closing block at the end."""
        if isinstance(event, RunFinished):
            self.close()
            for spans in [*self._notices(event.at), *last_lines(event, self._glyphs, self._console.width)]:
                self._write(_print, self._console, spans)
        elif self._model.finished:
            for line in Narrator(self._model).take(event):
                self._write(_print, self._console, [(line.whole, _LEVELS[line.level])])
        elif isinstance(event, RunStarted | Stopping):
            self.frame()
        elif not isinstance(event, Alive):
            self._changed = True
        elif self._changed or abs(event.at - self._drawn_at) >= _STILL_S:
            self.frame()

    def _notices(self, now: float) -> list[Spans]:
        """Return the latest notices about the run, which disappear with the screen. The report has those about jobs."""
        found = [item for item in self._model.problems if item.problem.kind == "noticed" and not item.ids]
        short = self._model.short_names(NAME_MOST, self._glyphs.cut)
        return [
            [
                (f"{clock_time(item.at, now)} ", "dim"),
                (f"{self._glyphs.marks.warning} ", "warning"),
                (problem_text(item, short), ""),
            ]
            for item in found[-_NOTICES_MOST:]
        ]

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
                yield Segment(_encodable(text, options.encoding), styles[style])


def last_lines(event: RunFinished, glyphs: Glyphs, width: int | None = None) -> list[Spans]:
    """Return the closing block: outcome, money, what is left, place of the report, next command."""
    if not event.report:
        return [[(safe(event.summary), "error" if event.exit_status else "")]]
    pages = [path for path in event.reports if path.endswith(".html")]
    return closing(dict(event.report), pages, width, glyphs.marks)


def glyphs_of(stream: Any) -> Glyphs:
    """Return the characters that `stream` can show."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    is_simple = stream.isatty() and os.environ.get("TERM", "") in _SIMPLE_TERMINALS
    return UNICODE if "utf" in encoding.lower() and not is_simple else ASCII


def width_of(stream: TextIO) -> int | None:
    """Return the columns of a terminal; None for a file or a pipe, whose lines are not broken."""
    return console_on(stream).width if stream.isatty() else None


def console_on(stream: TextIO) -> "Console":
    """Return a console on `stream`."""
    from rich.console import Console

    class Listener(Console):
        """A console that reports a closed pipe: rich would end the program and silence standard output."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Listener(file=stream, highlight=False)


def line_printer(stream: TextIO) -> Put:
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


def _print(console: "Console", spans: Spans) -> None:
    from rich.text import Text

    pieces = [(_encodable(text, console.encoding), _STYLES[style]) for text, style in spans]
    console.print(Text.assemble(*pieces), soft_wrap=True)


def _put(stream: TextIO, spans: Spans) -> None:
    stream.write(_encodable("".join([text for text, _ in spans]), stream.encoding or "utf-8") + "\n")
    stream.flush()


def _encodable(text: str, encoding: str) -> str:
    """Replace the characters that the encoding lacks, those of other texts by escapes."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_PLAIN).encode(encoding, "backslashreplace").decode(encoding)
    return text


def _takes(file: Any) -> bool:
    """Return whether the terminal accepts output now; a stopped terminal does not."""
    try:
        poll = select.poll()
        poll.register(file.fileno(), select.POLLOUT)
        return bool(poll.poll(0))
    except (OSError, ValueError, AttributeError):
        return True  # not a system file, or closed, which the write will show
