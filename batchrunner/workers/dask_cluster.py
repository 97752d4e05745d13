"""Dask as an engine: a scheduler that runs already, or one that this program starts, with workers as Slurm jobs.

Tasks go through `Client.get_executor()`. A task is the name of a function and its arguments: no environment is sent.
"""

import logging
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from batchrunner.errors import UsageError
from batchrunner.workers.spec import MOST

if TYPE_CHECKING:
    from distributed import Client

_CONNECT_S = 10.0
_ANSWER_S = 4.0
_CLOSE_S = 3.0
_LATE_S = 1.0
_SLURM_JOBS = 1
_LEAST = 4  # tasks at once, also while the first workers have not come
_JOB_THREADS = 4  # tasks sent at once for each job, which may not have started: its decoders bound what runs
_EXTRA = "pip install 'batchrunner[dask]'"
_NOTHING = "Nothing was submitted."


class DaskCluster:
    """Dask's scheduler and its workers.

    connect: opens a client, within so many seconds. name: as a user should see it. width: how many tasks run at once.
    closing: called at the end, after the client is closed.
    """

    def __init__(
        self,
        connect: "Callable[[float], Client]",
        name: str,
        width: int = 0,
        closing: Callable[[], object] = lambda: None,
    ) -> None:
        self.name = name
        self.epoch = 1
        self._connect, self._closing = connect, closing
        self._client = connect(_CONNECT_S)
        self._executor = self._client.get_executor()
        self._is_closed = False
        self.width = min(MOST, max(_LEAST, width or sum((self._counts() or {}).values())))

    def submit(self, key: str, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Send a task. Equal keys are one task. Raises RuntimeError if the client is closed."""
        try:
            future: Future[Any] = self._executor.submit(function, *arguments, key=f"batchrunner-{key}")
        except _errors() as error:
            raise RuntimeError(str(error)) from None
        return future

    def problem(self) -> str:
        """Return why tasks do not proceed, or "". A lost connection is opened again."""
        counts = self._counts()
        if counts is None and not self._is_closed and self._reconnect():
            counts = self._counts()
        if counts is None:
            return "does not answer"
        return "" if counts else "has no workers"

    def _counts(self) -> "dict[str, int] | None":
        """Return the threads of each worker; None without an answer."""
        client = self._client
        try:
            found: dict[str, int] = client.sync(client.scheduler.ncores, callback_timeout=_ANSWER_S)
        except _errors():
            return None
        return found

    def _reconnect(self) -> bool:
        try:
            client = self._connect(_ANSWER_S)
        except _errors():
            return False
        before, self._client = self._client, client
        self._executor = client.get_executor()
        self.epoch += 1
        _close(before)
        return True

    def close(self) -> None:
        """Cancel what runs, and disconnect."""
        if not self._is_closed:
            self._is_closed = True
            with suppress(*_errors()):
                self._executor.shutdown(wait=False)
            _close(self._client)
            self._closing()


def _errors() -> tuple[type[Exception], ...]:
    """Return what a client raises if it is closed or the scheduler is gone. Its time-outs are OSErrors."""
    from distributed import client

    closed = getattr(client, "ClosedClientError", RuntimeError)
    return (closed, OSError, RuntimeError, ValueError, AttributeError, ImportError)


def _within(timeout_s: float, make: "Callable[[], Client]") -> "Client":
    """Make a client. Raises TimeoutError: a client waits for ever for a server that accepts and says nothing."""
    outcome: Future[Client] = Future()

    def run() -> None:
        try:
            with _quiet():
                client = make()
        except _errors() as error:
            with suppress(InvalidStateError):
                outcome.set_exception(error)
        else:
            with suppress(InvalidStateError):
                outcome.set_result(client)
                return
            _close(client)  # too late

    outcome.set_running_or_notify_cancel()
    threading.Thread(target=run, name="dask client", daemon=True).start()
    try:
        return outcome.result(timeout_s + _LATE_S)
    finally:
        with suppress(InvalidStateError):
            outcome.set_exception(TimeoutError())


def _close(client: "Client") -> None:
    with suppress(*_errors()), _quiet():
        client.close(timeout=_CLOSE_S)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's warnings, for example on other versions of libraries, off standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _require(module: str) -> None:
    """Import a module of the extra. Raises UsageError."""
    import importlib

    try:
        with _quiet():
            importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"--workers: {error.name or module} is not installed", f"{_NOTHING} {_EXTRA}") from None
    for name in ("distributed", "distributed.client", "distributed.scheduler", "distributed.core", "distributed.comm"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def connect(address: str) -> DaskCluster:
    """Connect to a scheduler. address: ``tcp://HOST:PORT``. Raises UsageError."""
    _require("distributed")
    from distributed import Client

    shown = address.replace("tcp://", "dask://")

    def client(timeout_s: float) -> Client:
        def make() -> Client:
            return Client(address, timeout=timeout_s, set_as_default=False, name="batchrunner")

        return _within(timeout_s, make)

    try:
        return DaskCluster(client, f"the Dask scheduler at {shown}")
    except (OSError, RuntimeError, ValueError) as error:
        cause = str(error) if isinstance(error, ValueError) else f"no answer in {_CONNECT_S:.0f} s"
        start = "Start it with: dask scheduler; and workers with: dask worker HOST:PORT"
        hint = f"{_NOTHING} {start}. Or give no --workers."
        raise UsageError(f"no Dask scheduler at {shown}: {cause}", hint) from None


def start_slurm(jobs: int | None) -> DaskCluster:
    """Start a scheduler on this host, and workers as Slurm jobs. jobs: how many. Raises UsageError."""
    _require("dask_jobqueue")
    from distributed import Client

    from batchrunner.workers import slurm

    if shutil.which("sbatch") is None:
        hint = f"{_NOTHING} Run it on a host that submits Slurm jobs, or use another engine."
        raise UsageError("--workers slurm: there is no sbatch here", hint)
    with _quiet():
        cluster = slurm.new_cluster()
    count = jobs or _SLURM_JOBS
    with suppress(*_errors()):  # without jobs, the work runs on this machine
        cluster.scale(jobs=count)

    def client(timeout_s: float) -> "Client":
        return _within(timeout_s, lambda: Client(cluster, timeout=timeout_s, set_as_default=False))

    def closing() -> None:
        with suppress(OSError, RuntimeError), _quiet():
            cluster.close(timeout=_CLOSE_S)

    try:
        return DaskCluster(client, "the Dask scheduler of the Slurm jobs", count * _JOB_THREADS, closing)
    except _errors() as error:
        closing()
        raise UsageError(f"--workers slurm: Dask's scheduler does not answer: {error}", _NOTHING) from None
