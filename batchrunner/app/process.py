"""The process as the shell sees it: standard streams, signals, and error messages.

Rule: signals do not interrupt critical sections. Code in a critical section reads them afterwards.
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


class ReceivedSignals:
    """The signals received so far, in order.

    unwinds: whether a signal also raises in the main thread. leave_terminal: restores the terminal before the process
    ends at once.
    """

    def __init__(self) -> None:
        self.numbers: list[signal.Signals] = []
        self.unwinds = True
        self.leave_terminal: Callable[[], None] = lambda: None


@contextmanager
def record_signals() -> Iterator[ReceivedSignals]:
    """Record signals for as long as the context is open.

    Python discards an exception that a handler raises during cleanup, for example in the lock of an import. The record
    keeps the signal.
    """
    received = ReceivedSignals()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    handled = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}

    def receive(number: int, frame: FrameType | None) -> None:
        received.numbers.append(signal.Signals(number))
        handler = before[signal.Signals(number)]
        if received.unwinds and callable(handler):
            handler(number, frame)

    for number in handled:
        signal.signal(number, receive)
    try:
        yield received
    except ImportError:  # a compiled module raises this if a signal interrupts its import
        if received.numbers:
            sys.exit(128 + received.numbers[0])
        raise
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)


def prepare() -> None:
    """Prepare the process for a command: open missing standard streams, and let SIGTERM unwind like Ctrl-C."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:  # otherwise the next opened file would get this number and receive the stream's output
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8", closefd=False))
    _open_streams()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ExitStatus.SIGTERM))


class ProcessEnd:
    """Ends the process with its exit status before the interpreter is taken down, if a bucket was used.

    Threads of the library for buckets hand over results without being waited for. If they do so while the interpreter
    is taken down, the process aborts (status 134). Registered first, `at_exit` runs after all other handlers.
    """

    def __init__(self) -> None:
        self.status: object = None  # of SystemExit; None until the command has ended

    def at_exit(self) -> None:
        """End the process if the library for buckets is loaded and the command has ended."""
        if "obstore" in sys.modules:
            self.at_once()

    def at_once(self, *_: object) -> None:
        """End the process if the command has ended. Also a handler of a signal that comes while exit handlers run."""
        if isinstance(self.status, int):
            flush_streams()
            os._exit(self.status)


def flush_streams() -> None:
    """Flush the standard streams. Drop the output if the reader is gone: it must not change the exit status."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _drop_output(stream)


def _drop_output(stream: TextIO) -> None:
    """Redirect the stream to /dev/null. Otherwise Python flushes it at exit, fails, and exits with status 120."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Stream(io.TextIOWrapper):
    """A standard stream that ignores a reader that goes away. is_log: ignore every write error."""

    is_log = False

    def write(self, text: str) -> int:
        """Write text; drop it if the reader is gone."""
        try:
            return super().write(text)
        except OSError as error:
            self._drop_output(error)
            return len(text)

    def flush(self) -> None:
        """Flush; drop the output if the reader is gone."""
        try:
            super().flush()
        except OSError as error:
            self._drop_output(error)
            super().flush()

    def _drop_output(self, error: OSError) -> None:
        if not self.is_log and not isinstance(error, BrokenPipeError):
            raise error
        _drop_output(self)


def _open_streams() -> None:
    """Replace the standard streams with ones that never stop a command.

    A missing reader is ignored. Characters that the encoding lacks are escaped.
    """
    codecs.register_error("batchrunner", _escaped)
    encoding = None
    if sys.flags.utf8_mode and not os.environ.get("PYTHONIOENCODING") and not os.environ.get("PYTHONUTF8"):
        from _locale import getencoding  # the module `locale` is slow to load

        encoding = getencoding()
        if codecs.lookup(encoding).name == "ascii":  # no locale was chosen (C, POSIX): use UTF-8, as Python does
            encoding = None
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper:  # not a stream that a test installed
            lines, through = stream.line_buffering, stream.write_through
            found = encoding or stream.encoding
            stream_out = _Stream(stream.detach(), found, "batchrunner", line_buffering=lines, write_through=through)
            stream_out.is_log = name == "stderr"
            setattr(sys, name, stream_out)
            setattr(sys, f"__{name}__", stream_out)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Escape characters as JSON does, which keeps JSON output valid."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    pairs = (units[at : at + 2].hex() for at in range(0, len(units), 2))
    return "".join(f"\\u{pair}" for pair in pairs), error.end


def print_error(error: BatchrunnerError) -> None:
    """Print an error and its hint to stderr."""
    with suppress(OSError, ValueError):
        _print_error(error)


def print_warning(message: str) -> None:
    """Print a message about the program itself to stderr."""
    with suppress(OSError, ValueError):
        click.echo(f"batchrunner: {_lines(Redactor.of(os.environ).text(message))}", err=True)


def _print_error(error: BatchrunnerError) -> None:
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


def print_usage_error(error: click.ClickException) -> None:
    """Print an error in the command line to stderr."""
    shown = io.StringIO()
    error.show(file=shown)
    click.echo(_lines(Redactor.of(os.environ).text(shown.getvalue().rstrip("\n"))), err=True)


def _lines(text: str) -> str:
    """Make `text` printable, line by line."""
    return "\n".join(printable(line) for line in text.split("\n"))


def print_os_error(error: OSError) -> None:
    """Print an error from the operating system, for example a failed write to a stream."""
    what = "the output could not be written" if error.filename is None else str(error.filename)
    with suppress(OSError):
        click.echo(f"batchrunner: {_lines(f'{what}: {error.strerror or error}')}", err=True)


def wants_colour(stream: TextIO) -> bool:
    """Return whether to use colours: on a terminal, unless NO_COLOR or FORCE_COLOR say otherwise."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (stream.isatty() and os.environ.get("TERM") != "dumb")
