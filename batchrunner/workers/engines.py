"""The engines of the work on clips: `open_workers` opens the one that the setting names.

On this machine, the threads of a command wait for files and for decoder processes; hashing, copying and waiting
release the interpreter's lock. ``processes:N`` has N decoder processes; ``threads:N`` has N tasks at once and at most
one decoder process a CPU. Both start decoders with an environment that has no secrets.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from batchrunner.media import decoder_pool
from batchrunner.media.decoder_pool import WORKERS, Decoders
from batchrunner.workers import spec as specs
from batchrunner.workers.spec import WorkerSpec

if TYPE_CHECKING:
    from batchrunner.workers.dask_cluster import DaskCluster
    from batchrunner.workers.resending import Cluster, Patience

Notify = Callable[[str], None]


class Workers(NamedTuple):
    """Where the work on clips runs.

    decoders: decode media there. width: how many tasks run at once. remote: None if that is this machine, where the
    caller's threads do the other work; or the executor of a cluster, for module-level functions with plain arguments.
    """

    decoders: Decoders
    width: int = WORKERS
    remote: Executor | None = None

    @property
    def local(self) -> Decoders:
        """The decoders of this machine, for temporary files."""
        return self.decoders if self.remote is None else decoder_pool.pool()

    def confirm(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a check on the cluster. Return its result, or None if it has to run on this machine. Blocks.

        function: module-level; it returns None if something is not as it should be, or cannot be checked there.
        """
        if self.remote is None:
            return None
        try:
            return self.remote.submit(function, *arguments).result()
        except RuntimeError:  # the end of the command
            return None


@contextmanager
def open_workers(spec: WorkerSpec, notify: Notify = lambda _: None) -> Iterator[Workers]:
    """Open the workers until the context ends. notify: gets sentences for the user. Raises UsageError."""
    if spec.is_remote:
        with closing(_connected(spec)) as cluster, on_cluster(cluster, cluster.width, notify) as workers:
            yield workers
        return
    width = spec.count or WORKERS
    if spec.engine == specs.PROCESSES and width != WORKERS:
        with closing(decoder_pool.Pool(width)) as pool:
            yield Workers(pool, width)
    else:
        yield Workers(decoder_pool.pool(), width)


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Start threads on demand. An abandoned task does not delay the end."""
    threads = ThreadPoolExecutor(max_workers=count, thread_name_prefix="clips")
    try:
        yield threads
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _connected(spec: WorkerSpec) -> "DaskCluster":
    from batchrunner.workers import dask_cluster

    return dask_cluster.connect(spec.address) if spec.engine == specs.DASK else dask_cluster.start_slurm(spec.count)


@contextmanager
def on_cluster(cluster: "Cluster", width: int, notify: Notify, patience: "Patience | None" = None) -> Iterator[Workers]:
    """Use a cluster until the context ends. This machine does what the cluster cannot do."""
    from batchrunner.workers.executor_decoders import ExecutorDecoders
    from batchrunner.workers.resending import Resending

    with _threads(WORKERS) as here:
        executor = Resending(cluster, here, notify, patience)
        try:
            yield Workers(ExecutorDecoders(executor, decoder_pool.pool(), notify), width, executor)
        finally:
            executor.shutdown(wait=False)
