"""The simulated environment: virtual time, a disk that loses unflushed data, a process that can die.

One seeded generator decides everything. A simulated process runs the real engine, client, downloader and journal
against the real sandbox, all in one event loop with simulated sockets. It dies by `Mortal.die`: from then on its file
operations fail and its tasks are cancelled, so that its clean-up code has no effect.
"""

import asyncio
import concurrent.futures
import errno
import os
import selectors
from asyncio.base_events import MAXIMUM_SELECT_TIMEOUT  # type: ignore[attr-defined]
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, BinaryIO, NoReturn, cast
from unittest.mock import patch

import aiohappyeyeballs
import async_solipsism
import async_solipsism.selector
from async_solipsism import SleepForeverError
from async_solipsism.socket import Socket

from batchrunner.events import EventBus, Listener
from batchrunner.sandbox import service
from batchrunner.sandbox.clips.reader import measure
from tests.conftest import Opening
from tests.scenarios.damage import NO_FAILURE, DiskFailure, JournalFiles, files_end_at

_NOTHING: deque[Any] = deque()
_MEASURED: dict[bytes, Any] = {}  # by content
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
EPOCH = 1_800_000_000.0  # wall time at virtual time zero


class Died(BaseException):
    """The simulated process is dead: its actions have no effect any more."""


@dataclass
class Mortal:
    """A process that dies at its `die_at`-th checkpoint, or at the `die_at_turn`-th turn of the loop (0: never)."""

    die_at: int = 0
    die_at_turn: int = 0
    dead: bool = False
    passed: int = 0
    turns: int = 0
    on_death: Callable[[], object] = field(default=lambda: None)
    at_death: Callable[[], object] = field(default=lambda: None)  # before the death has consequences

    def checkpoint(self) -> None:
        """A place where the process may die: before and after each disk operation."""
        if self.dead:
            raise Died
        self.passed += 1
        if self.passed == self.die_at:
            self.die()
            raise Died

    def turn(self) -> None:
        """One turn of the loop: the process may die between any two of its steps."""
        self.turns += 1
        if self.turns == self.die_at_turn and not self.dead:
            self.die()

    def die(self) -> None:
        """Die as by SIGKILL or a power cut."""
        self.at_death()
        self.dead = True
        self.on_death()


class _Selector(async_solipsism.selector.Selector):  # type: ignore[misc]  # the library has no types
    """The library's selector, in a tenth of its CPU time, which was a third of that of a whole simulation.

    The library looks each socket up by its hash, at each turn of the loop, and asks its queues through three calls.
    """

    def _fileobj_lookup(self, fileobj: Any) -> Any:
        return fileobj.fileno() if type(fileobj) is Socket else fileobj

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = []
        for key in self._fd_to_key.values():
            socket, wanted = key.fd.socket, key.events
            if type(socket) is Socket:
                queue = socket._read_queue
                events = wanted & _READ if queue is None or queue._buffer or queue._eof else 0
                if wanted & _WRITE and socket.write_ready():
                    events |= _WRITE
            else:  # a server's, which only accepts
                events = wanted & _READ if socket._queue != _NOTHING and socket.read_ready() else 0
            if events:
                ready.append((key, events))
        if not ready and timeout != 0:
            if timeout is None or timeout >= MAXIMUM_SELECT_TIMEOUT:
                raise SleepForeverError("nothing is ready, and no timer is set")
            self.clock.advance(timeout)
        return ready


class Loop(async_solipsism.EventLoop):  # type: ignore[misc]  # the library has no types
    """Virtual time. Work in a MortalExecutor takes a little of it, so that steps interleave as with threads.

    It does what the base class does in the same order, without checks for debugging and for other threads.
    """

    mortal: Mortal | None = None
    _selector: Any
    _ready: deque[Any]
    _scheduled: list[Any]  # the times of timers, their numbers for a comparison of equal times, and the timers

    def __init__(self) -> None:
        super().__init__()
        self._selector = _Selector(self._selector.clock)
        self.time = self._selector.clock.time
        self._numbers = count()
        self.get_debug = bool  # False: each callback asks for it

    def _run_once(self) -> None:
        ready, timers = self._ready, self._scheduled
        while timers and timers[0][2]._cancelled:
            heappop(timers)
        if ready or self._stopping:
            wait_s = 0.0
        else:
            wait_s = max(0.0, timers[0][0] - self.time()) if timers else MAXIMUM_SELECT_TIMEOUT
        if found := self._selector.select(wait_s):
            self._process_events(found)
        end = self.time() + self._clock_resolution
        while timers and timers[0][0] < end:
            ready.append(heappop(timers)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()
        handle = None  # it would keep alive what it refers to
        if self.mortal is not None:
            self.mortal.turn()

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        """Return a time that is never early: code that re-arms a timer which fired a tick early loops for ever."""
        timer = asyncio.TimerHandle(when + 2e-6, callback, args, self, context)
        heappush(self._scheduled, (timer.when(), next(self._numbers), timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Do nothing: a cancelled timer leaves the queue when its time comes."""

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:
        """Run the work in this thread, in virtual time."""
        return cast(asyncio.Future[Any], self.create_task(self._in_executor(executor, func, *args)))

    async def _in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        if not isinstance(executor, MortalExecutor):
            return func(*args)
        await asyncio.sleep(executor.delay_s())
        return executor.submit(func, *args).result()


def _measure_once(path: Path) -> Any:
    """Measure an input of the sandbox, which is the bundled clip in most scenarios, unless that was done before."""
    content = path.read_bytes()
    if content not in _MEASURED:
        _MEASURED[content] = measure(path)
    return _MEASURED[content]


def in_virtual_time(main: Callable[[Loop], Coroutine[Any, Any, None]]) -> None:
    """Run `main` to its end in a new loop with simulated sockets for aiohttp's clients."""
    loop = Loop()
    # Nobody awaits the tasks of dead processes.
    loop.set_exception_handler(lambda *_: None)
    asyncio.set_event_loop(loop)
    connect = async_solipsism.aiohappyeyeballs_start_connection
    try:
        with (
            patch.object(aiohappyeyeballs, "start_connection", connect),
            patch.object(service, "measure", _measure_once),
        ):
            loop.run_until_complete(main(loop))
    finally:
        loop.close()
        asyncio.set_event_loop(None)


def strict_bus(*listeners: Listener) -> EventBus:
    """Return a bus with these listeners. A test fails if one of them raises."""

    def report(message: str) -> NoReturn:
        raise AssertionError(message)

    bus = EventBus(report)
    for listener in listeners:
        bus.subscribe(listener)
    return bus


class MortalExecutor(concurrent.futures.Executor):
    """Simulated threads: work runs at once unless its process is dead."""

    def __init__(self, mortal: Mortal, rng: Random) -> None:
        self._mortal = mortal
        self._rng = rng

    def delay_s(self) -> float:
        return self._rng.uniform(0.0005, 0.02)

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "concurrent.futures.Future[Any]":
        self._mortal.checkpoint()
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 (handed on to whoever waits, as a real executor does)
            future.set_exception(error)
        self._mortal.checkpoint()
        return future


class JournalExecutor(MortalExecutor):
    """The journal's thread. A death may tear its commits, and they may fail for a while."""

    def __init__(self, mortal: Mortal, rng: Random, files: JournalFiles, disk_failure: DiskFailure) -> None:
        super().__init__(mortal, rng)
        self._files = files
        self._disk_failure = disk_failure

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "concurrent.futures.Future[Any]":
        if self._disk_failure.next_error():
            size_bytes = sum(map(len, filter(None, self._files.now().values())))
            limit = self._rng.choice([0, size_bytes, size_bytes // 2])
            return super().submit(self._failing, limit, fn, *args, **kwargs)
        mortal = self._mortal
        if mortal.dead or mortal.passed + 2 != mortal.die_at or self._rng.random() < 0.5:
            return super().submit(fn, *args, **kwargs)
        # The next checkpoint but one is the last, and follows the commit: this time the death comes within it.
        before = self._files.now()
        try:
            return super().submit(fn, *args, **kwargs)
        except Died:
            self._files.freeze_torn(before)
            raise

    def _failing(self, limit: int, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        with files_end_at(limit, visible=self._disk_failure.error == errno.ENOSPC):
            return fn(*args, **kwargs)


class SimDisk(Opening):
    """The real file system, with a memory of what a power cut would remove.

    Content is durable after `flush`; a name is durable after `flush_folder`. `cut_power` decides at random for
    everything
    else: kept, lost, torn, or holes of zeros; names are restored.
    """

    def __init__(self, mortal: Mortal, rng: Random, disk_failure: DiskFailure = NO_FAILURE) -> None:
        self._mortal = mortal
        self._rng = rng
        self._disk_failure = disk_failure
        self._dirty: dict[Path, bytes | None] = {}  # the durable content; None: nothing
        self._files: dict[int, Path] = {}  # open files by identity of their wrapper
        # changed names that are not flushed, with their durable content
        self._names: list[tuple[Path, bytes | None]] = []

    def _checkpoint(self) -> None:
        """Before an operation: the process may die, or the operation may fail."""
        self._mortal.checkpoint()
        self._disk_failure.fail()

    def open(self, path: Path, mode: str) -> BinaryIO:
        self._checkpoint()
        before = path.read_bytes() if path.exists() else None
        self._dirty.setdefault(path, before)
        file = cast(BinaryIO, path.open(mode, buffering=0))
        self._files[id(file)] = path
        return file

    def read(self, path: Path, most_bytes: int) -> bytes:
        self._disk_failure.fail()
        return super().read(path, most_bytes)

    def overwrite(self, file: BinaryIO, start_bytes: int, content: bytes) -> None:
        """Durable on return; a process that dies during it leaves a part of it."""
        self._checkpoint()
        path = self._files[id(file)]
        before = os.pread(file.fileno(), len(content), start_bytes)
        os.pwrite(file.fileno(), content, start_bytes)
        self._dirty.pop(path, None)
        try:
            self._mortal.checkpoint()
        except Died:
            cut = self._rng.randrange(len(content) + 1)
            os.pwrite(file.fileno(), content[:cut] + before[cut:], start_bytes)
            raise

    def flush(self, file: BinaryIO) -> None:
        self._checkpoint()
        self._dirty.pop(self._files[id(file)], None)
        self._mortal.checkpoint()

    def flush_all(self, paths: Sequence[Path | str]) -> None:
        for path in map(Path, paths):
            self._checkpoint()
            self._dirty.pop(path, None)
        self._mortal.checkpoint()

    def rename_all(self, names: Sequence[tuple[Path | str, Path | str]]) -> None:
        pairs = [(Path(source), Path(target)) for source, target in names]
        for source, target in pairs:
            self._checkpoint()
            self._names.append((target, target.read_bytes() if target.exists() else None))
            self._names.append((source, source.read_bytes()))
            source.replace(target)
            if source in self._dirty:
                self._dirty[target] = self._dirty.pop(source)
        self._mortal.checkpoint()
        for folder in sorted({path.parent for pair in pairs for path in pair}):
            self.flush_folder(folder)

    def remove(self, path: Path) -> None:
        self._mortal.checkpoint()
        if path.exists():
            self._names.append((path, path.read_bytes()))
            self._dirty.pop(path, None)
            path.unlink()

    def flush_folder(self, folder: Path) -> None:
        self._checkpoint()
        self._names = [(path, durable) for path, durable in self._names if path.parent != folder]

    def cut_power(self) -> None:
        """The power was cut: decide what is left of everything that was not flushed."""
        for path, durable in reversed(self._names):
            if self._rng.random() < 0.5:
                _put(path, durable)
        for path, durable in self._dirty.items():
            if path.exists():
                _put(path, self._left_of(path.read_bytes(), durable))
        self._dirty.clear()
        self._names.clear()

    def _left_of(self, written: bytes, durable: bytes | None) -> bytes | None:
        fate = self._rng.choice(["kept", "gone", "torn", "holes"])
        if fate == "kept":
            return written
        if fate == "gone" or not written:
            return durable
        cut = self._rng.randrange(len(written) + 1)
        return written[:cut] + (b"" if fate == "torn" else bytes(len(written) - cut))


def _put(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
    else:
        path.unlink(missing_ok=True)  # a hard link elsewhere keeps its own content
        path.write_bytes(content)
