"""Runs of the command that start without loading the interpreter and the package again.

A server process loads the package once, and forks itself for each run. A forked run is a process of its own with its
own id, session, files and threads: a signal or SIGKILL ends it as it ends an executed one. After the fork, it continues
in the command's entry point. At the end it waits for its threads and calls the exit functions, but releases no memory.
Where the run would execute a process that decodes media, the server forks that as well. With the environment variable
PLAIN_POSTERS, such a process makes posters of one pixel: drawing the report's pictures took a quarter of a kill's CPU.
"""

import atexit
import ctypes
import fcntl
import io
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parent.parent.parent
# An interpreter and its libraries read these while they start: a run that changes one of them is executed.
_READ_AT_START = ("PYTHON", "LD_", "DYLD_", "LC_", "LANG", "MALLOC", "OPENBLAS", "OMP_", "MKL_")
_CODE = """
import sys
from tests.soak.forks import serve
serve(int(sys.argv[1]))()
"""
_LOADED = (  # besides the package
    *("av", "av.subtitles.stream", "encodings.ascii", "encodings.unicode_escape", "encodings.utf_8_sig", "jinja2"),
    *("numpy.ma", "PIL.Image", "PIL.WebPImagePlugin", "xml.etree.ElementTree"),
)
PLAIN_POSTERS = "SOAK_PLAIN_POSTERS"  # an environment variable of a run
_LENGTH = struct.Struct("!I")


def available() -> bool:
    """Return whether this system can fork a loaded interpreter safely. macOS cannot: its libraries use threads."""
    return sys.platform.startswith("linux")


class ForkedProcess:
    """A forked run, with the interface of `subprocess.Popen`, as far as tests use it."""

    def __init__(self, pid: int, replies: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._replies = replies
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Return the status, or None while the run is active."""
        return self._read_status(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the status. Raises subprocess.TimeoutExpired."""
        status = self._read_status(timeout)
        if status is None:
            raise subprocess.TimeoutExpired("batchrunner", timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the run has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _read_status(self, longest_s: float | None) -> int | None:
        with self._lock:
            if self.returncode is None:
                self._replies.settimeout(max(longest_s, 1e-4) if longest_s is not None else None)
                try:
                    self.returncode = int(_received(self._replies))
                except TimeoutError:
                    return None
                self._replies.close()
            return self.returncode


class ForkedDecoder(ForkedProcess):
    """A forked process that decodes media, with pipes to its standard streams."""

    def __init__(self, requests: "Requests", environment: Mapping[str, str], *, plain_posters: bool) -> None:
        (theirs_in, mine_in), (mine_out, theirs_out) = os.pipe(), os.pipe()
        try:
            request = {"environment": dict(environment), "plain_posters": plain_posters}
            process = requests.send(request, theirs_in, theirs_out)
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        super().__init__(process.pid, process._replies)
        self.stdin, self.stdout = open(mine_in, "wb"), open(mine_out, "rb")  # noqa: SIM115, PTH123 (the pool closes them)


class Requests:
    """A connection to the server. Threads and forks may use it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, request: Mapping[str, Any], *descriptors: int) -> ForkedProcess:
        """Have a process forked that gets these descriptors."""
        content = json.dumps(request).encode()
        mine, theirs = socket.socketpair()
        with theirs, self._lock:
            socket.send_fds(self._connection, [_LENGTH.pack(len(content))], [*descriptors, theirs.fileno()])
            self._connection.sendall(content)
        return ForkedProcess(int(_received(mine)), mine)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Forks:
    """The server process. It ends with the process that made it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = _read_at_start(environment)
        requests, theirs = socket.socketpair()
        self._requests = Requests(requests)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CODE, str(theirs.fileno())],
                cwd=ROOT,
                env={**environment, "OPENBLAS_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        assert _received(requests) == b"ready"

    def can_start(self, environment: Mapping[str, str]) -> bool:
        """Return whether the interpreter of a run with this environment starts like the server's."""
        return _read_at_start(environment) == self._environment

    def start(
        self, arguments: list[str], cwd: Path, environment: Mapping[str, str], output: int, errors: int
    ) -> ForkedProcess:
        """Start a run in a session of its own. output, errors: the descriptors of its standard output and error.

        If these are one terminal, it is the session's terminal and the run's standard input too.
        """
        request = {"arguments": arguments, "cwd": str(cwd), "environment": dict(environment)}
        return self._requests.send(request, output, errors)

    def close(self) -> None:
        """End the server."""
        self._requests.close()
        self._process.wait()


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_START)}


def _send(to: socket.socket, content: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # the test does not wait for this run
        to.sendall(_LENGTH.pack(len(content)) + content)


def _received(from_: socket.socket) -> bytes:
    """Receive one message. Raises EOFError, and TimeoutError if it does not begin in time."""
    head = from_.recv(_LENGTH.size)
    from_.settimeout(None)
    return _exactly(from_, _LENGTH.unpack(head)[0]) if head else _ended()


def _exactly(from_: socket.socket, size_bytes: int) -> bytes:
    content = b""
    while len(content) < size_bytes:
        content += from_.recv(size_bytes - len(content)) or _ended()
    return content


def _ended() -> NoReturn:
    raise EOFError("the server of forked runs has ended")


# In the server process


def serve(descriptor: int) -> Callable[[], None]:
    """Fork a process for each request. Return its function in it, and end the server when no more requests can come."""
    _load()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
    assert len(os.listdir("/proc/self/task")) == 1, "a fork copies one thread only"  # noqa: PTH208
    requests = socket.socket(fileno=descriptor)
    ends, wakes = socket.socketpair()
    for end in (ends, wakes):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    active: dict[int, socket.socket] = {}
    connections = {requests}  # and one from each run
    _send(requests, b"ready")
    while True:
        ready, _, _ = select.select([ends, *connections], [], [])
        if ends in ready:
            ends.recv(1 << 12)
            _report_ends(active)
        for connection in connections.intersection(ready):
            head, descriptors, _, _ = socket.recv_fds(connection, _LENGTH.size, 3)
            if not head:
                if connection is requests:
                    os._exit(0)
                connections.remove(connection)
                connection.close()
                continue
            request = json.loads(_exactly(connection, _LENGTH.unpack(head)[0]))
            replies = socket.socket(fileno=descriptors.pop())
            ours, theirs = socket.socketpair()
            pid = os.fork()
            if not pid:
                for inherited in (ends, wakes, ours, replies, *active.values(), *connections):
                    inherited.close()
                return _become(request, descriptors, Requests(theirs))
            theirs.close()
            for stream in descriptors:
                os.close(stream)
            active[pid] = replies
            connections.add(ours)
            _send(replies, str(pid).encode())


def _load() -> None:
    """Import the package and what its functions import."""
    import gc
    import importlib
    import pkgutil

    package = importlib.import_module("batchrunner")
    modules = [module.name for module in pkgutil.walk_packages(package.__path__, "batchrunner.")]
    for name in (*_LOADED, *modules):
        if not name.endswith("__main__"):
            importlib.import_module(name)
    _fill_caches()
    gc.collect()
    gc.freeze()  # a collection in a run would copy the memory of all these objects


def _fill_caches() -> None:
    """Compile the schema's checks and the report's templates, which takes half of the CPU time of a short run."""
    from PIL import Image

    from batchrunner.manifest.schema import _fits
    from batchrunner.report import html

    for section in ("", "jobs"):
        _fits(section)
    for name in ("report.html.j2", "drawings.j2"):
        html._environment().get_template(name)
    Image.preinit()
    _pixel()


def _report_ends(active: dict[int, socket.socket]) -> None:
    """Send the status of each run that has ended."""
    while active:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with active.pop(pid) as replies:
            _send(replies, str(os.waitstatus_to_exitcode(status)).encode())


def _become(request: dict[str, Any], descriptors: Sequence[int], requests: Requests) -> Callable[[], None]:
    """Give this process what an executed one would have. Return its function."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.chdir(request.get("cwd", "/"))
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    if "LD_PRELOAD" in os.environ:
        ctypes.CDLL(None).preload_begin()  # of tests/preload
    is_run = "arguments" in request
    for descriptor, stream in zip(descriptors, (1, 2) if is_run else (0, 1), strict=True):
        os.dup2(descriptor, stream)
        os.close(descriptor)
    if not is_run:
        requests.close()
        return decode_worker(plain_posters=request["plain_posters"])
    if os.isatty(1):
        _use_terminal()
    sys.argv[:] = request["arguments"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    _fork_decoders(requests)
    return command()


def _use_terminal() -> None:
    fcntl.ioctl(1, termios.TIOCSCTTY, 0)
    os.dup2(1, 0)
    # The server's streams know of their own files whether these can seek and are terminals.
    for descriptor, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        setattr(sys, name, open(descriptor, mode, buffering=1, closefd=False))  # noqa: SIM115 (a descriptor)


def command() -> Callable[[], None]:
    """Return the entry point of a run."""
    from batchrunner.__main__ import main

    return partial(_end_at_once_after, main)


def _end_at_once_after(main: Callable[[], None]) -> None:
    """Run `main`, and end this process as the interpreter does, except that no memory is released.

    Releasing what the server has loaded would first copy it, in half of the CPU time of a short run.
    """
    try:
        main()
        status: object = None
    except SystemExit as end:
        status = end.code
    if not isinstance(status, int | None):
        raise SystemExit(status)  # it is printed
    threading._shutdown()  # type: ignore[attr-defined]  # waits for the threads that an interpreter waits for
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        raise SystemExit(status) from None  # the interpreter reports it
    os._exit(status or 0)


def decode_worker(*, plain_posters: bool) -> Callable[[], None]:
    """Return the entry point of a process that decodes media."""
    from batchrunner.media.decode_worker import TASKS, main

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    return partial(main, {**TASKS, "poster": _make_plain_poster}) if plain_posters else main


def _make_plain_poster(item: Mapping[str, Any], _: object) -> None:
    """Write a poster of one pixel in each size."""
    from batchrunner.media.posters import SIZE_NAMES, poster_name

    folder = Path(item["folder"])
    folder.mkdir(exist_ok=True)
    for size in SIZE_NAMES:
        (folder / poster_name(item["key"], size)).write_bytes(_pixel())


@cache
def _pixel() -> bytes:
    from PIL import Image

    target = io.BytesIO()
    Image.new("RGB", (1, 1)).save(target, "WEBP")
    return target.getvalue()


def _fork_decoders(requests: Requests) -> None:
    """From now on, processes that decode media are forked by the server. All others are executed."""
    from batchrunner.media.decoder_pool import START

    execute = subprocess.Popen

    def start(arguments: Sequence[str], **options: Any) -> Any:
        if any(str(argument).endswith(START) for argument in arguments):
            return ForkedDecoder(requests, options["env"], plain_posters=PLAIN_POSTERS in os.environ)
        return execute(arguments, **options)

    subprocess.Popen = start  # type: ignore[assignment, misc]
