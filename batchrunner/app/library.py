"""The classes of the Python API: a loaded batch, its plan, and the result of a run.

They are stable views of internal classes. `plan` and `run` are methods of `Batch`, because a function ``plan`` in the
top-level package would be hidden by the subpackage of that name.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from batchrunner.app import setup as setups
from batchrunner.app import shards, takes
from batchrunner.errors import ExitStatus, Problem, UsageError
from batchrunner.events import Event
from batchrunner.job import Snapshot
from batchrunner.settings import SETTINGS

# Options of `run` that are not settings.
_RUN_OPTIONS = ("fast", "faults", "recover", "only", "retake", "allow_bucket", "locked", "shard", "per_shard")


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """An entry of the manifest and the action that a run would take.

    action: ``new``, ``changed``, ``retry``, ``resubmit``, ``fetch``, ``in flight``, ``in doubt``, ``failed`` or
    ``done``. note: the action as text. credits: the estimated price; None if it is unknown or nothing is paid.
    job, take: the id that all takes of the job share, and the number of the take.
    """

    id: str
    action: str
    note: str
    credits: float | None
    job: str
    take: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The actions that a run would take.

    submissions: the number of submissions. credits: their estimated price without those of unknown price (2,000,000
    credits are 1 USD). unpriced: submissions of unknown price. finish_in_s: the expected duration; None if it is
    unknown. obstacles: reasons why a run would stop early. jobs: in manifest order.
    """

    submissions: int
    credits: float
    unpriced: int
    finish_in_s: float | None
    obstacles: tuple[str, ...]
    jobs: tuple[PlannedJob, ...]


@dataclass(frozen=True, slots=True)
class JobResult:
    """An entry of the manifest after a run.

    state: ``succeeded``, ``failed``, ``in_doubt``, ``in_flight`` or ``pending``. file: the clip, None unless the job
    succeeded. error: why the job did not succeed, None if it did or if no reason is known.
    job, take: the id that all takes of the job share, and the number of the take.
    """

    id: str
    state: str
    file: Path | None
    error: Problem | None
    job: str
    take: int


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of a run. stopped: why the run stopped early, or "". jobs: in manifest order."""

    exit_status: ExitStatus
    stopped: str
    jobs: tuple[JobResult, ...]

    @property
    def ok(self) -> bool:
        """True if all jobs succeeded."""
        return self.exit_status is ExitStatus.OK


class Batch:
    """A batch loaded from its manifest. Create one with `batchrunner.load`."""

    def __init__(self, setup: setups.Setup, environment: Mapping[str, str]) -> None:
        self._setup = setup
        self._environment = environment

    @property
    def name(self) -> str:
        """The name of the batch."""
        return self._setup.batch.name

    @property
    def run_directory(self) -> Path:
        """The directory of the clips, the reports and the journal."""
        return self._setup.rundir.path

    @property
    def warnings(self) -> tuple[str, ...]:
        """Problems in the manifest and the environment that do not prevent a run."""
        return self._setup.notices

    def plan(self) -> Plan:
        """Return the actions that `run` would take now. Sends nothing and writes nothing. Raises JournalError."""
        shards.require_fitting(self._setup)
        plan, projection, _ = setups.plan_batch(takes.settled(self._setup))
        jobs = (
            PlannedJob(row.id, row.action, row.note, row.estimate.credits if row.estimate else None, row.job, row.take)
            for row in plan.rows
        )
        return Plan(
            submissions=projection.submissions,
            credits=projection.credits,
            unpriced=projection.unpriced,
            finish_in_s=projection.finish_in_s,
            obstacles=projection.obstacles,
            jobs=tuple(jobs),
        )

    def run(self, on_event: Callable[[Event], None] | None = None) -> RunResult:
        """Start or continue the batch and return its result. With provider ``aimlapi``, this costs money.

        on_event: called with each event of the run (`batchrunner.events`), in the thread of the run. If it raises, it
        is dropped and reported on stderr, and the run continues. Call `run` in the main thread, outside an event loop:
        the first SIGINT or SIGTERM stops the run cleanly. Raises UsageError elsewhere, BatchLocked if another process
        runs the batch, and other BatchrunnerErrors. All errors are raised
        before anything is submitted.
        """
        _require_main_thread()
        from batchrunner.app import process, start
        from batchrunner.app.status import read_snapshot

        with process.record_signals() as received:
            status = start.run_batch(self._setup, self._environment, on_event or _ignore, received)
        return _result(ExitStatus(status), read_snapshot(self._setup.rundir), self.run_directory)


def load_batch(
    manifest: str | Path,
    variables: Mapping[str, str],
    allowed_variables: Sequence[str],
    environment: Mapping[str, str] | None,
    settings: Mapping[str, object],
) -> Batch:
    """Load a batch for `batchrunner.load`, which describes the arguments."""
    known = [*(setting.name for setting in SETTINGS), *_RUN_OPTIONS]
    for name in settings:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            raise UsageError(f"there is no setting {name!r}", f"did you mean {close[0]!r}?" if close else "")
    if environment is None:
        environment = os.environ
    buckets = setups.names_of(settings.get("allow_bucket"))
    setup = setups.load(Path(manifest), settings, environment, variables, allowed_variables, buckets)
    return Batch(setup, environment)


def _require_main_thread() -> None:
    import asyncio

    if threading.current_thread() is not threading.main_thread():
        raise UsageError(
            "a batch runs in the main thread only", "Start a process for it, or call run() in the main thread."
        )
    with suppress(RuntimeError):
        asyncio.get_running_loop()
        raise UsageError("a batch cannot run inside an event loop", "Call run() outside of it, or start a process.")


def _ignore(_: Event) -> None:
    """Ignore an event."""


def _result(status: ExitStatus, snapshot: Snapshot, folder: Path) -> RunResult:
    jobs = []
    for entry in snapshot.entries:
        record = snapshot.records[entry.job.fingerprint]
        file = folder / entry.file if record.result and record.state == "succeeded" else None
        state = "in_doubt" if record.state == "submitting" else str(record.state)
        jobs.append(JobResult(entry.id, state, file, None if file else record.error, entry.base, entry.take))
    return RunResult(status, snapshot.run.stopped, tuple(jobs))
