"""A pool of processes that decode media. Callers pass a task and items, and get one outcome per item.

`Decoders` is the seam. `Pool` runs tasks in a few long-lived child processes (`batchrunner.media.decode_worker`) with
limits on memory and time, and replaces a process that ends. `Here` runs tasks in this process, for simulations and
tests. `pool` returns the pool of this process; the checks of inputs and results share it.
Rule: a file that breaks a decoder causes an exception for that file and does not affect other files.
"""

import atexit
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Protocol

from batchrunner.errors import BatchrunnerError, ExitStatus, LocalFault
from batchrunner.media.decoder import CheckLimit, allow_pixels

if TYPE_CHECKING:
    from subprocess import Popen

WORKERS = max(1, min(4, os.cpu_count() or 1))
# The environment variables of a worker: those of an interpreter and its libraries, without secrets.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ")
# numpy's threads would count against the memory limit of a worker, and its small arrays need none.
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# glibc returns freed memory to the system after each clip, and the next clip faults every page in again. That took two
# thirds of the time of a small clip. Other C libraries ignore these names.
_KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(64 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
START = "from batchrunner.media.decode_worker import main; main()"
_PATH = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "  # the worker finds modules on the same path
_PATIENCE_S = 0.25  # a new worker takes as much CPU time
_STARTS = 3  # a worker that is killed while it starts is started again
_CHECK_EVERY_S = 0.25
_LONGEST_START_S = 120.0
_LONGEST_TASK_S = 10_800.0  # a worker stops itself much earlier
_LONGEST_REPLY_BYTES = 1 << 20
_MOST_RESIDENT_KB = None if sys.platform.startswith("linux") else 3 << 20  # Linux limits the address space
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ENDED = "the check was stopped because the run ended"
_SIGNAL_TEXTS = {
    signal.SIGXCPU: "decoding it takes more time than a clip of its size needs",
    signal.SIGALRM: "decoding it takes more time than a clip of its size needs",
    signal.SIGKILL: "the decoder was killed: it used too much memory or time",
}


class NoDecoder(LocalFault):
    """The decoder cannot be loaded: no file can be checked on this machine."""

    exit_status = ExitStatus.USAGE


Outcome = Any  # a task's result, or an exception: CheckLimit, ValueError, OSError, BatchrunnerError


class Decoders(Protocol):
    """Runs tasks of `batchrunner.media.decode_worker`."""

    def ready(self) -> None:
        """Return when a decoder is loaded. Raises NoDecoder if that fails."""
        ...

    def run_all(
        self, task: str, items: Sequence[Mapping[str, Any]], enough: Callable[[], bool] = lambda: False
    ) -> list[Outcome]:
        """Run a task for each item and return one outcome per item. enough: polled; True stops. Blocks."""
        ...

    def stop(self) -> None:
        """Stop the running tasks, from any thread. Their outcomes are CheckLimit."""
        ...


def one(decoders: Decoders, task: str, item: Mapping[str, Any], enough: Callable[[], bool] = lambda: False) -> Any:
    """Run a task for one item. Return its result, or raise its exception."""
    outcome = decoders.run_all(task, [item], enough)[0]
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


class Here:
    """Decodes in this process, without limits on memory and time."""

    def ready(self) -> None:
        """Import the decoder."""
        import batchrunner.media.decode_worker

        assert batchrunner.media.decode_worker

    def run_all(
        self, task: str, items: Sequence[Mapping[str, Any]], enough: Callable[[], bool] = lambda: False
    ) -> list[Outcome]:
        """Run a task for each item."""
        from batchrunner.media.decode_worker import TASKS, answer

        done: list[Outcome] = []
        for item in items:
            reply = {"limit": _ENDED} if enough() else answer(TASKS[task], item, allow_pixels)
            done.append(_outcome(json.loads(json.dumps(reply))))  # as a process would send it
        return done

    def stop(self) -> None:
        """Do nothing: no task runs between calls."""


class Pool:
    """A few workers, started on demand. Safe to use from several threads.

    workers: the maximum number of processes. most_resident_kb: the memory limit of a worker, checked by this class;
    None if the system limits it. start: Python code that serves tasks. patience_s: how long a task waits for a busy
    worker before another one is started.
    """

    def __init__(
        self,
        workers: int = WORKERS,
        *,
        most_resident_kb: int | None = _MOST_RESIDENT_KB,
        start: str = START,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._slots = threading.BoundedSemaphore(workers)
        self._lock = threading.Lock()
        self._returned = threading.Condition(self._lock)
        self._taken = 0  # workers that run a task or start
        self._patience_s = patience_s
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._stops = 0
        self._make = partial(_Worker, start, most_resident_kb)

    def ready(self) -> None:
        """Start a worker, unless one has been started."""
        with self._slots:
            self._give_back(self._take())

    def run_all(
        self, task: str, items: Sequence[Mapping[str, Any]], enough: Callable[[], bool] = lambda: False
    ) -> list[Outcome]:
        """Run a task for each item in one worker. A new worker replaces one that ends.

        The items are one message, and their outcomes are one reply: switching between processes costs as much as
        checking a small clip. If the worker ends, each item is a message of its own, to find the one that ended it.
        """
        items = [_absolute(item) for item in items]
        outcomes: list[Outcome] = []
        stops, size = self._stops, len(items)

        def over() -> bool:
            return self._stops != stops or enough()

        with self._slots:
            while len(outcomes) < len(items) and not over():
                worker = self._take()
                is_over = False
                try:
                    found = worker.ask(task, items[len(outcomes) :][:size], over)
                    outcomes += found
                    size = size if found else 1
                    is_over = True
                finally:
                    if not is_over:  # interrupted: later replies would have no reader
                        worker.end()
                    self._give_back(worker)
        return outcomes + [CheckLimit(_ENDED) for _ in items[len(outcomes) :]]

    def stop(self) -> None:
        """Stop the running tasks. Later tasks run."""
        self._stops += 1
        with self._lock:
            busy = list(self._busy)
        for worker in busy:
            worker.end()

    def close(self) -> None:
        """End every worker."""
        self.stop()
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.close()

    def _take(self) -> "_Worker":
        with self._returned:
            if not self._idle and self._taken:
                self._returned.wait(self._patience_s)
            self._taken += 1
        worker = None
        try:
            worker = self._take_idle() or _started(self._make)
        finally:
            if worker is None:
                self._end_use()
        with self._lock:
            self._busy.add(worker)
        return worker

    def _take_idle(self) -> "_Worker | None":
        while True:
            with self._lock:
                if not self._idle:
                    return None
                worker = self._idle.pop()
            if not worker.has_ended():
                return worker
            worker.close()

    def _give_back(self, worker: "_Worker") -> None:
        with self._lock:
            self._busy.discard(worker)
            is_alive = worker.is_alive
            if is_alive:
                self._idle.append(worker)
        self._end_use()
        if not is_alive:
            worker.close()

    def _end_use(self) -> None:
        with self._returned:
            self._taken -= 1
            self._returned.notify()


@cache
def pool() -> Pool:
    """Return the workers of this process."""
    found = Pool()
    atexit.register(found.close)
    return found


def _started(make: "Callable[[], _Worker]") -> "_Worker":
    """Return a worker that is ready. Raises NoDecoder."""
    why = ""
    for _ in range(_STARTS):
        worker = make()
        fault = worker.load()
        if fault is None:
            return worker
        worker.close()
        why = fault
    hint = "Install batchrunner again, then run the same command again."
    raise NoDecoder("no_decoder", f"the video decoder cannot be loaded: {why}", hint)


def _absolute(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """The item with absolute paths, because a worker runs in another directory."""
    paths = {name: os.path.abspath(item[name]) for name in ("path", "folder") if name in item}  # noqa: PTH100 (a link stays)
    return {**item, **paths}


class _Worker:
    """One child process, used by one thread at a time; `end` may come from another."""

    def __init__(self, start: str, most_resident_kb: int | None) -> None:
        self._most_resident_kb = most_resident_kb
        self._buffer = b""
        self.is_alive = True
        self._process = _spawn(start)

    def load(self) -> str | None:
        """Wait until the worker is ready. Return an error message, or ""."""
        reply = self._reply(_LONGEST_START_S, lambda: False)
        if reply is None:
            return self._end_reason()
        return None if "ready" in reply else str(reply.get("fault"))

    def ask(self, task: str, items: Sequence[Mapping[str, Any]], over: Callable[[], bool]) -> list[Outcome]:
        """Return the outcomes of a task, in order. If the process ends: that of a single item says why, or none."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the missing reply shows it
            self._process.stdin.write(json.dumps([task, list(items)]).encode() + b"\n")
            self._process.stdin.flush()
        reply = self._reply(_LONGEST_TASK_S * len(items), over)
        if reply is not None:
            return [_outcome(found) for found in reply["outcomes"]]
        return [CheckLimit(_ENDED if over() else self._end_reason())] if len(items) == 1 else []

    def has_ended(self) -> bool:
        """Return whether the process has ended."""
        return self._process.poll() is not None

    def end(self) -> None:
        """End the process; from any thread."""
        self.is_alive = False
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End the process and close its pipes."""
        self.end()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # unread items
                pipe.close()

    def _reply(self, longest_s: float, over: Callable[[], bool]) -> dict[str, Any] | None:
        """Return the next reply, or None if the process has ended."""
        import select

        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
        for _ in range(int(longest_s / _CHECK_EVERY_S)):
            line, found, remainder = self._buffer.partition(b"\n")
            if found:
                self._buffer = remainder
                with suppress(ValueError):
                    return dict(json.loads(line))
                break
            if poll.poll(1000 * _CHECK_EVERY_S):
                block = os.read(descriptor, 1 << 16)
                self._buffer += block
                if not block or len(self._buffer) > _LONGEST_REPLY_BYTES:
                    break
            elif over() or self._is_too_large():
                break
        self.end()
        return None

    def _is_too_large(self) -> bool:
        most = self._most_resident_kb
        return most is not None and _resident_kb(self._process.pid) > most

    def _end_reason(self) -> str:
        """Return why the process ended."""
        status = self._process.returncode
        with suppress(ValueError):
            number = signal.Signals(-status)
            return _SIGNAL_TEXTS.get(number, f"the decoder crashed ({number.name})")
        return f"the decoder ended with status {status}"


def _spawn(start: str) -> "Popen[bytes]":
    """Start a worker: in a session of its own, without this process's environment and open files."""
    import subprocess

    before = signal.pthread_sigmask(signal.SIG_BLOCK, _IGNORED)  # a worker inherits this
    try:
        return subprocess.Popen(  # noqa: S603 (no argument comes from outside)
            [sys.executable, "-P", "-c", _PATH + start, json.dumps([*map(os.path.abspath, sys.path)])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | _ONE_THREAD | _KEPT_MEMORY,
            cwd="/",
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _resident_kb(pid: int) -> int:
    """Return the memory that a process uses, or 0 if unknown."""
    import subprocess

    command = ["/bin/ps", "-o", "rss=", "-p", str(pid)]
    output = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 (only the process id varies)
    return int(output.stdout) if output.stdout.strip().isdigit() else 0


def _outcome(reply: Mapping[str, Any]) -> Outcome:
    """Convert a worker's reply into an outcome."""
    if "done" in reply:
        return reply["done"]
    if "limit" in reply:
        return CheckLimit(str(reply["limit"]))
    if "problem" in reply:
        return BatchrunnerError(*map(str, reply["problem"]))
    if "system" in reply:
        number, command = reply["system"]
        return OSError(number, command)
    return ValueError(str(reply.get("bad")))
