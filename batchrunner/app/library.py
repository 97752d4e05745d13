"""The classes of the Python API: a loaded batch, its plan, and the result of a run.

They are stable views of the internal ones. Planning and running are methods of `Batch`: a function called ``plan`` in
the front door would be hidden by the package of that name.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from batchrunner.app import setup as setups
from batchrunner.errors import ExitStatus, Problem, UsageError
from batchrunner.events import Event
from batchrunner.job import Snapshot
from batchrunner.settings import SETTINGS

_FURTHER = ("fast", "faults", "recover")  # options of `run` that are no settings


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """An entry of the manifest, and what a run would do with it.

    action: ``new``, ``changed``, ``retry``, ``resubmit``, ``fetch``, ``in flight``, ``in doubt``, ``failed`` or
    ``done``. note: the action in words. credits: the estimated price, None if it is unknown or nothing is paid.
    """

    id: str
    action: str
    note: str
    credits: float | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do.

    submissions: how many a run would make. credits: their estimated price, as far as it is known (2,000,000 credits
    are 1 USD). unpriced: submissions without a known price. finish_in_s: expected duration, None if it is unknown.
    obstacles: why a run would stop before its end. jobs: in the order of the manifest.
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
    """

    id: str
    state: str
    file: Path | None
    error: Problem | None


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of a run. stopped: why it ended before every job was done, or "". jobs: in manifest order."""

    exit_status: ExitStatus
    stopped: str
    jobs: tuple[JobResult, ...]

    @property
    def ok(self) -> bool:
        """Whether every job succeeded."""
        return self.exit_status is ExitStatus.OK


class Batch:
    """A batch that is loaded from its manifest. Make one with `batchrunner.load`."""

    def __init__(self, setup: setups.Setup, environment: Mapping[str, str]) -> None:
        self._setup = setup
        self._environment = environment

    @property
    def name(self) -> str:
        """The name of the batch."""
        return self._setup.batch.name

    @property
    def run_directory(self) -> Path:
        """Where the clips, the reports and the journal are."""
        return self._setup.rundir.path

    @property
    def warnings(self) -> tuple[str, ...]:
        """Problems of the manifest and the environment that do not prevent a run."""
        return self._setup.notices

    def plan(self) -> Plan:
        """Compute what `run` would do now. Sends nothing and writes nothing. Raises JournalError."""
        plan, projection, _ = setups.plan_batch(self._setup)
        jobs = (
            PlannedJob(row.id, row.action, row.note, row.estimate.credits if row.estimate else None)
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
        """Start the batch, or continue it, and return its result. With provider ``aimlapi`` this costs money.

        on_event: is called with each event of the run (`batchrunner.events`), in the thread of the run.
        Call it in the main thread, outside of an event loop: the first SIGINT or SIGTERM ends the run in order.
        Raises UsageError elsewhere, BatchLocked if another process runs the batch, and other BatchrunnerErrors before
        anything is submitted, and only then.
        """
        _require_main_thread()
        from batchrunner.app import process, start
        from batchrunner.app.status import look

        with process.heard() as heard:
            status = start.run_batch(self._setup, self._environment, on_event or _ignore, heard)
        return _result(ExitStatus(status), look(self._setup.rundir), self.run_directory)


def load_batch(
    manifest: str | Path,
    variables: Mapping[str, str],
    allowed_variables: Sequence[str],
    environment: Mapping[str, str] | None,
    settings: Mapping[str, object],
) -> Batch:
    """Load a batch for `batchrunner.load`, which describes the arguments."""
    known = [*(setting.name for setting in SETTINGS), *_FURTHER]
    for name in settings:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            raise UsageError(f"there is no setting {name!r}", f"did you mean {close[0]!r}?" if close else "")
    if environment is None:
        environment = os.environ
    setup = setups.load(Path(manifest), settings, environment, variables, allowed_variables)
    return Batch(setup, environment)


def _require_main_thread() -> None:
    import asyncio

    if threading.current_thread() is not threading.main_thread():
        raise UsageError(
            "a batch runs in the main thread only", "Start a process for it, or call run() in the main thread."
        )
    with suppress(RuntimeError):
        asyncio.get_running_loop()
        raise UsageError("a batch cannot run inside of an event loop", "Call run() outside of it, or start a process.")


def _ignore(_: Event) -> None:
    """Take no notice of an event."""


def _result(status: ExitStatus, snapshot: Snapshot, folder: Path) -> RunResult:
    jobs = []
    for entry in snapshot.entries:
        record = snapshot.records[entry.job.fingerprint]
        file = folder / entry.file if record.result and record.state == "succeeded" else None
        state = "in_doubt" if record.state == "submitting" else str(record.state)
        jobs.append(JobResult(entry.id, state, file, None if file else record.error))
    return RunResult(status, snapshot.run.stopped, tuple(jobs))
