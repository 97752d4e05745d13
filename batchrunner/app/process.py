"""The process as the shell sees it: streams that are there, signals, and what went wrong in words.

Rule: a signal asks; it does not tear. Whoever is in the middle of something that must not be torn hears it afterwards.
"""

import codecs
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO

import click

from batchrunner.errors import BatchrunnerError, ExitStatus, ManifestError
from batchrunner.formatting import printable
from batchrunner.redaction import Redactor

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Heard:
    """Signals that came, in order.

    unwinds: whether one also ends at once what is going on. leave: gives the terminal back, where that is ended hard.
    """

    def __init__(self) -> None:
        self.numbers: list[signal.Signals] = []
        self.unwinds = True
        self.leave: Callable[[], None] = lambda: None


@contextmanager
def heard() -> Iterator[Heard]:
    """Note signals, since Python loses what is raised while it happens to clean up something (a lock of an import)."""
    found = Heard()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heeded = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}

    def hear(number: int, frame: FrameType | None) -> None:
        found.numbers.append(signal.Signals(number))
        handler = before[signal.Signals(number)]
        if found.unwinds and callable(handler):
            handler(number, frame)

    for number in heeded:
        signal.signal(number, hear)
    try:
        yield found
    except ImportError:  # what a compiled module makes of an interruption while it is loaded
        if found.numbers:
            sys.exit(128 + found.numbers[0])
        raise
    finally:
        for number, handler in heeded.items():
            signal.signal(number, handler)


def prepare() -> None:
    """Make a process fit to run a command: every stream is there, and SIGTERM unwinds as Ctrl-C does."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:  # else the next file would get this number, and the words for a stream with it
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))
    _open_streams()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ExitStatus.SIGTERM))


def settle() -> None:
    """Write what the streams still hold; let it go where nobody takes it: a log's reader changes no exit status."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _let_go(stream)


def _let_go(stream: TextIO) -> None:
    """What the stream still holds would be tried again at the very end, and end the process with a status of 120."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Stream(io.TextIOWrapper):
    """A standard stream that does not mind when its reader goes away. is_log: nor when it cannot be written at all."""

    is_log = False

    def write(self, text: str) -> int:
        """Write, or let the stream go."""
        try:
            return super().write(text)
        except OSError as error:
            self._let_go(error)
            return len(text)

    def flush(self) -> None:
        """Flush, or let the stream go."""
        try:
            super().flush()
        except OSError as error:
            self._let_go(error)
            super().flush()

    def _let_go(self, error: OSError) -> None:
        if not self.is_log and not isinstance(error, BrokenPipeError):
            raise error
        _let_go(self)


def _open_streams() -> None:
    """Let no stream stop a command: nobody may read it, and its encoding may lack characters, which are escaped."""
    codecs.register_error("batchrunner", _escaped)
    encoding = None
    if sys.flags.utf8_mode and not os.environ.get("PYTHONIOENCODING") and not os.environ.get("PYTHONUTF8"):
        from _locale import getencoding  # the module `locale` is slow to load

        encoding = getencoding()
        if codecs.lookup(encoding).name == "ascii":  # nothing was chosen (C, POSIX): UTF-8, as Python has it
            encoding = None
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper:  # and not what a test has put there
            lines, through = stream.line_buffering, stream.write_through
            found = encoding or stream.encoding
            stream_out = _Stream(stream.detach(), found, "batchrunner", line_buffering=lines, write_through=through)
            stream_out.is_log = name == "stderr"
            setattr(sys, name, stream_out)
            setattr(sys, f"__{name}__", stream_out)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Characters as JSON escapes them, so that they may stand in JSON too."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    pairs = (units[at : at + 2].hex() for at in range(0, len(units), 2))
    return "".join(f"\\u{pair}" for pair in pairs), error.end


def complain(error: BatchrunnerError) -> None:
    """Say what went wrong, and what to do, if anybody listens."""
    with suppress(OSError, ValueError):
        _complain(error)


def _complain(error: BatchrunnerError) -> None:
    clean = Redactor.of(os.environ).text
    if isinstance(error, ManifestError) and error.diagnostics:
        from batchrunner import manifest

        shown = manifest.render(error.diagnostics, colour=wants_colour(sys.stderr))
        click.echo(clean(shown), err=True, color=True)
        click.echo(f"{_lines(clean(error.message))}; nothing was submitted", err=True)
        return
    click.echo(f"batchrunner: {_lines(clean(error.message))}", err=True)
    if error.hint:
        click.echo(f"hint: {_lines(clean(error.hint))}", err=True)


def refuse(error: click.ClickException) -> None:
    """Say what is wrong with the command line."""
    shown = io.StringIO()
    error.show(file=shown)
    click.echo(_lines(Redactor.of(os.environ).text(shown.getvalue().rstrip("\n"))), err=True)


def _lines(text: str) -> str:
    """`text` made printable, line by line."""
    return "\n".join(printable(line) for line in text.split("\n"))


def give_up(error: OSError) -> None:
    """Say that the system refused something that a command does only for whoever looks: to write to a stream."""
    what = "the output could not be written" if error.filename is None else str(error.filename)
    with suppress(OSError):
        click.echo(f"batchrunner: {_lines(f'{what}: {error.strerror or error}')}", err=True)


def wants_colour(stream: TextIO) -> bool:
    """True where colours are wanted: on a terminal, unless the environment says otherwise."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (stream.isatty() and os.environ.get("TERM") != "dumb")
