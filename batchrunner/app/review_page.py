"""``review``: serve the review page of a batch on this machine until a signal ends it.

Rules: one server for a run directory; the second one names the first. The run's lock is not taken: a run may start and
go on meanwhile. The address has a secret token, so a browser gets it from a private file and not from its arguments.
"""

import asyncio
import fcntl
import getpass
import html
import os
import signal
import socket
import sys
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from batchrunner.app.signs import require_trusted
from batchrunner.app.status import no_batch
from batchrunner.errors import BatchLocked, ExitStatus, UsageError
from batchrunner.formatting import count_text, printable
from batchrunner.report.failure_groups import command
from batchrunner.review import guard
from batchrunner.review.board import Board
from batchrunner.review.catalogue import Catalogue
from batchrunner.review.server import Address, ReviewServer, start
from batchrunner.review.source import BatchSource
from batchrunner.review.verdicts import ACCEPT, NONE, REJECT, VerdictLog
from batchrunner.storage import durable_files
from batchrunner.storage.objects.blocking import ObjectReader
from batchrunner.storage.run_directory import RunDir

PORT = 8766  # the usual one: a page that was open before a restart finds its unsaved verdicts under the same address
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MOST_NOTE_BYTES = 200

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PageOptions:
    """Options of the command. port: None for the usual port, or a free one if it is taken. open_browser: open it."""

    host: str = "127.0.0.1"
    port: int | None = None
    open_browser: bool = True


def serve(rundir: RunDir, options: PageOptions, version: str, say: Say, objects: ObjectReader | None = None) -> int:
    """Serve the page until SIGINT, SIGTERM or SIGHUP. say: receives the lines for the terminal.

    objects: reads clips that only a bucket has. Raises UsageError, JournalError, LocalFault; BatchLocked if another
    server has the run directory.
    """
    require_trusted(rundir)
    source = BatchSource(rundir, version, objects.fetch if objects else None)
    verdicts, found = source.read_verdicts() or {}, source.read()
    if found is None:
        raise no_batch(rundir)
    if objects is not None:
        require_readable(found, objects)
    with closing(source), VerdictLog(rundir.path) as log, _only_server(rundir) as note:
        board = Board(found, verdicts)
        asyncio.run(_serve(source, board, log, options, lambda url: _announce(url, note, options, rundir, say)))
    for line in ending(board, rundir, command(source.head(), "--retake", "rejected")):
        say(line)
    return ExitStatus.OK


def require_readable(found: Catalogue, objects: ObjectReader) -> None:
    """Raise UsageError if a clip is only in a bucket that the user does not allow."""
    for source in found.sources.values():
        if source.address and not source.path.exists():
            objects.require_allowed(source.address)
            return


async def _serve(
    source: BatchSource, board: Board, log: VerdictLog, options: PageOptions, announce: Callable[[str], None]
) -> None:
    over = asyncio.Event()
    for number in _SIGNALS:
        if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:  # as with nohup
            continue
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    server = await _started(source, board, log, options)
    try:
        announce(server.url)
        await over.wait()
    finally:
        await server.close()


async def _started(source: BatchSource, board: Board, log: VerdictLog, options: PageOptions) -> ReviewServer:
    """Start on the requested port; without one, on the usual port or, if it is taken, on a free one."""
    names = frozenset({socket.gethostname().lower()}) if not guard.is_loopback(options.host) else frozenset[str]()
    if not guard.is_loopback(options.host) and options.host not in guard.WILDCARDS:
        names |= {options.host.lower()}
    for port in (PORT, 0) if options.port is None else (options.port,):
        try:
            return await start(source, board, log, _reviewer(os.environ), Address(options.host, port, names))
        except UsageError:
            if port != PORT or options.port is not None:
                raise
    raise AssertionError("the last port raises")


def _announce(url: str, note: Callable[[str], None], options: PageOptions, rundir: RunDir, say: Say) -> None:
    note(url.rsplit("/", 2)[0])
    for line in warnings_of(options):
        say(line)
    say(f"review page: {url}")
    say("Verdicts are stored at once. End with Ctrl-C.")
    if options.open_browser:
        open_page(url, rundir, os.environ)


def warnings_of(options: PageOptions) -> list[str]:
    """Return what a person has to know before other machines can reach the page."""
    if guard.is_loopback(options.host):
        return []
    text = (
        f"warning: the page listens on {printable(options.host)}: everybody who can reach this machine and has the "
        "address can watch the clips and give verdicts. The connection is not encrypted."
    )
    return [text]


def open_page(url: str, rundir: RunDir, environ: Mapping[str, str]) -> None:
    """Open the address in a browser, if there is a screen.

    Arguments of programs can be read by every user of the machine. So the browser gets the name of a file that only
    this user can read and that leads to the address.
    """
    if sys.platform.startswith("linux") and not {"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"} & environ.keys():
        return  # a browser in the terminal would take the terminal
    path = rundir.internal_dir / "review.html"
    with suppress(OSError, webbrowser.Error):
        path.unlink(missing_ok=True)
        text = f'<!doctype html><title>review</title><meta http-equiv="refresh" content="0; url={html.escape(url)}">\n'
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
            file.write(text)
        webbrowser.open(path.absolute().as_uri())


@contextmanager
def _only_server(rundir: RunDir) -> Iterator[Callable[[str], None]]:
    """Hold the lock of review servers. Yield a function that notes the address, without its token, for the second one.

    Raises BatchLocked.
    """
    path = rundir.internal_dir / "review.server"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def note(address: str) -> None:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} at {address}\n".encode(), 0)

    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BatchLocked(
                f"the review page of {rundir.path} is open already: {_noted(path)}",
                "Use that page, or end that process with Ctrl-C. Nothing was changed.",
            ) from None
        except OSError:
            pass  # a file system without locks: each verdict is still written whole
        yield note
        (rundir.internal_dir / "review.html").unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _noted(path: Path) -> str:
    with suppress(OSError), durable_files.open_plain(path) as file:
        return printable(file.read(_MOST_NOTE_BYTES).decode("utf-8", "replace").strip()) or "another process"
    return "another process"


def _reviewer(environ: Mapping[str, str]) -> str:
    try:
        return printable(getpass.getuser())
    except (OSError, KeyError):
        return printable(environ.get("USER", "")) or "unknown"


def ending(board: Board, rundir: RunDir, retake: str) -> list[str]:
    """Return the closing lines: the verdicts, where they are, and the next step. retake: the command for it."""
    tally = board.tally()
    verdicts = f"{tally[ACCEPT]:,} accepted, {tally[REJECT]:,} rejected, {tally[NONE]:,} undecided"
    lines = [f"{count_text(sum(tally.values()), 'clip')}: {verdicts}. Stored in {printable(str(rundir.review))}"]
    if tally[REJECT]:
        lines.append(f"To generate the next take of each rejected job, at its price:\n  {retake}")
    return lines
