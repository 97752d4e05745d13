"""An executor over a cluster that may lose workers and its scheduler: what has no result is sent again.

A task that the cluster loses goes to it again, a few times; then it runs on this machine. If the cluster does not
answer, or has no workers, for some time, everything without a result runs on this machine until the cluster is back.
So each task ends, and each has one result. A late second result is compared with the first.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from batchrunner.workers.results import Results
from batchrunner.workers.tasks import content_key

_MOST_SENT = 3
Notify = Callable[[str], None]


class Cluster(Protocol):
    """A cluster of workers. name: as a user should see it. epoch: rises with each new connection."""

    name: str
    epoch: int

    def submit(self, key: str, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Send a task. Raises OSError, RuntimeError or ValueError if it cannot be sent."""
        ...

    def problem(self) -> str:
        """Return why tasks do not proceed now, or "". Connects again if need be. Blocks, for some seconds at most."""
        ...

    def close(self) -> None:
        """Cancel what runs, and disconnect."""
        ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a cluster may have a problem: so many checks, `every_s` apart. A check without an answer takes time too.

    With the default, a scheduler that is gone is given up within half a minute.
    """

    every_s: float = 5.0
    checks: int = 2


@dataclass(eq=False, slots=True)
class _Task:
    key: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    outcome: "Future[Any]" = field(default_factory=Future)
    sent: int = 0
    epoch: int = 0


class Resending(Executor):
    """See the module. here: runs tasks on this machine. notify: gets sentences for the user."""

    def __init__(self, cluster: Cluster, here: Executor, notify: Notify, patience: Patience | None = None) -> None:
        self._cluster, self._here, self._notify = cluster, here, notify
        self._patience = patience or Patience()
        self._lock = threading.Lock()
        self._open: set[_Task] = set()
        self._results = Results()
        self._is_away = False
        self._is_closed = threading.Event()
        self._resent = 0
        self._watch: threading.Thread | None = None

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> "Future[Any]":
        """Send a task: a module-level function and plain arguments."""
        if named or self._is_closed.is_set():
            raise RuntimeError("cannot schedule new futures after shutdown" if not named else "plain arguments only")
        task = _Task(content_key(f"{function.__module__}.{function.__qualname__}", arguments), function, arguments)
        task.outcome.set_running_or_notify_cancel()
        with self._lock:
            self._open.add(task)
            if self._watch is None:
                self._watch = threading.Thread(target=self._watch_cluster, name="workers", daemon=True)
                self._watch.start()
        self._send(task)
        return task.outcome

    def _send(self, task: _Task) -> None:
        """Send a task to the cluster, or to this machine if the cluster is away or has lost it too often."""
        if self._is_closed.is_set():
            self._abandon(task)
        elif self._is_away or task.sent >= _MOST_SENT:
            self._run_here(task)
        else:
            task.sent += 1
            task.epoch = self._cluster.epoch
            try:
                future = self._cluster.submit(f"{task.key}-{task.sent}", task.function, *task.arguments)
            except (OSError, RuntimeError, ValueError, TypeError, AttributeError):
                self._run_here(task)
            else:
                future.add_done_callback(partial(self._ended, task))

    def _run_here(self, task: _Task) -> None:
        try:
            self._here.submit(task.function, *task.arguments).add_done_callback(partial(self._ended_here, task))
        except RuntimeError:  # this machine's threads are shut down
            self._abandon(task)

    def _ended(self, task: _Task, future: "Future[Any]") -> None:
        """Take the outcome of the cluster. Our functions raise nothing: an exception is the cluster's."""
        if not future.cancelled() and future.exception() is None:
            self._settle(task, future.result())
        elif not task.outcome.done():
            with self._lock:
                self._resent += 1
                is_first = self._resent == 1
            if is_first and not self._is_closed.is_set():
                why = "cancelled" if future.cancelled() else type(future.exception()).__name__
                self._notify(f"{self._cluster.name} lost a task ({why}): such tasks are sent again")
            self._send(task)

    def _ended_here(self, task: _Task, future: "Future[Any]") -> None:
        if future.cancelled():
            self._abandon(task)
        elif (error := future.exception()) is not None:
            with self._lock:
                self._open.discard(task)
                if not task.outcome.done():
                    task.outcome.set_exception(error)
        else:
            self._settle(task, future.result())

    def _settle(self, task: _Task, result: Any) -> None:
        with self._lock:
            self._open.discard(task)
            is_second = task.outcome.done()
            if not is_second:
                task.outcome.set_result(result)
        if not self._results.agrees(task.key, result):
            what = "a second result of one task" if is_second else "the result of equal content"
            self._notify(f"{self._cluster.name}: {what} differs from the first ({_shown(task)}). The first counts.")

    def _abandon(self, task: _Task) -> None:
        with self._lock:
            self._open.discard(task)
            if not task.outcome.done():
                task.outcome.set_exception(RuntimeError("the run ended before this task"))

    def _watch_cluster(self) -> None:
        """Check the cluster until the end."""
        bad = 0
        while not self._is_closed.wait(self._patience.every_s):
            if not self._open and not self._is_away:
                bad = 0
                continue
            problem = self._cluster.problem()
            bad = bad + 1 if problem else 0
            if self._is_closed.is_set():
                return
            if not problem:
                self._come_back()
            elif bad >= self._patience.checks and not self._is_away:
                self._go_on_here(problem)

    def _come_back(self) -> None:
        if self._is_away:
            self._is_away = False
            self._notify(f"{self._cluster.name} is back: new work on clips goes there")
        with self._lock:
            stranded = [task for task in self._open if task.sent and task.epoch != self._cluster.epoch]
        for task in stranded:
            self._send(task)

    def _go_on_here(self, problem: str) -> None:
        self._is_away = True
        with self._lock:
            waiting = list(self._open)
        self._notify(
            f"{self._cluster.name} {problem}: the work on clips continues on this machine until it is back. No clip is "
            "lost, and nothing is paid again."
        )
        for task in waiting:
            self._run_here(task)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the connection. wait: wait for the tasks that run."""
        if wait and not cancel_futures:
            for task in list(self._open):
                task.outcome.exception()
        self._is_closed.set()
        for task in list(self._open):
            self._abandon(task)
        self._cluster.close()


def _shown(task: _Task) -> str:
    """Return the file that a task is about, for people."""
    return next(
        (str(item["path"]) for item in task.arguments if isinstance(item, dict) and "path" in item),
        task.function.__name__,
    )
