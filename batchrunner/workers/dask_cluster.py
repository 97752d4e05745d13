"""Dask as an engine: a scheduler that runs already, or one that this program starts, with workers as Slurm jobs.

Tasks go through `Client.get_executor()`. A task is the name of a function and its arguments: no environment is sent.
"""

import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from batchrunner.errors import UsageError
from batchrunner.workers.spec import MOST

if TYPE_CHECKING:
    from distributed import Client

_CONNECT_S = 10.0
_ANSWER_S = 4.0
_CLOSE_S = 3.0
_SLURM_JOBS = 1
_JOB_THREADS = 4  # tasks sent at once for each job, which may not have started: its decoders bound what runs
_EXTRA = "pip install 'batchrunner[dask]'"
_NOTHING = "Nothing was submitted."


class DaskCluster:
    """Dask's scheduler and its workers. connect: opens a client. name: as a user should see it. width: tasks at once.

    closing: called at the end, after the client is closed.
    """

    def __init__(
        self, connect: "Callable[[], Client]", name: str, width: int = 0, closing: Callable[[], object] = lambda: None
    ) -> None:
        self.name = name
        self.epoch = 1
        self._connect, self._closing = connect, closing
        self._client = connect()
        self._executor = self._client.get_executor()
        self._is_closed = False
        threads = sum(self._client.nthreads().values())
        self.width = max(1, min(MOST, width or threads))

    def submit(self, key: str, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Send a task. Equal keys are one task. Raises RuntimeError if the client is closed."""
        future: Future[Any] = self._executor.submit(function, *arguments, key=f"batchrunner-{key}")
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
        except (OSError, RuntimeError, ValueError, AttributeError):  # TimeoutError and CommClosedError are OSErrors
            return None
        return found

    def _reconnect(self) -> bool:
        try:
            client = self._connect()
        except (OSError, RuntimeError, ValueError, ImportError):
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
            with suppress(OSError, RuntimeError, AttributeError):
                self._executor.shutdown(wait=False)
            _close(self._client)
            self._closing()


def _close(client: "Client") -> None:
    with suppress(OSError, RuntimeError, AttributeError), _quiet():
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

    def client() -> Client:
        with _quiet():
            return Client(address, timeout=_CONNECT_S, set_as_default=False, name="batchrunner")

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
    cluster.scale(jobs=count)

    def client() -> "Client":
        with _quiet():
            return Client(cluster, timeout=_CONNECT_S, set_as_default=False)

    def closing() -> None:
        with suppress(OSError, RuntimeError), _quiet():
            cluster.close(timeout=_CLOSE_S)

    return DaskCluster(client, "the Dask scheduler of the Slurm jobs", count * _JOB_THREADS, closing)
