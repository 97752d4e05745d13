"""The embedded sandbox in place of the service: runs with provider ``sandbox``, and rehearsals of other manifests.

A rehearsal is a run with ``--provider sandbox`` of a manifest that names another provider. Rules: a rehearsal sends
nothing to another machine and writes to a run directory of its own. The sandbox itself is `batchrunner.sandbox`.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from batchrunner.clock import Clock, FastClock, SystemClock, wall_time
from batchrunner.errors import JournalError, UsageError
from batchrunner.job import Snapshot
from batchrunner.journal import journal
from batchrunner.providers.endpoint import Endpoint
from batchrunner.settings import Settings
from batchrunner.storage.run_directory import RunDir

if TYPE_CHECKING:
    from batchrunner.sandbox import SandboxConfig

SUFFIX = "-rehearsal"


class RehearsalConfig(NamedTuple):
    """The settings and the run directory of a run. config: of the sandbox; None for another provider."""

    settings: Settings
    folder: Path
    config: "SandboxConfig | None" = None


def configure(
    settings: Settings, name: str, manifest: Mapping[str, object], options: Mapping[str, object]
) -> RehearsalConfig:
    """Return the settings and the run directory of the batch `name`.

    manifest: the settings in the manifest. options: ``fast`` and ``faults`` of the command line, and ``output`` if the
    user, not the manifest, named the run directory. Raises UsageError.
    """
    fast, faults = bool(options.get("fast")), options.get("faults")
    if settings.provider != "sandbox" and (fast or faults):
        raise UsageError(
            f"{'--fast' if fast else '--faults'} is for rehearsals, and this run would be a real one",
            "Add --provider sandbox. Nothing was submitted.",
        )
    folder = Path(settings.output or f"output/{name}")
    if settings.provider != "sandbox":
        return RehearsalConfig(settings, folder)
    from batchrunner import sandbox  # a run against a real service does not need it

    config = sandbox.rehearsal(fast=fast, faults=Path(str(faults)) if faults else None)
    if manifest.get("provider") != "sandbox":
        deadline = settings.deadline and replace(settings.deadline, rehearsed=True)
        # The webhook is on another machine, or not meant for rehearsals.
        # A bucket is too, unless the command itself names it.
        stage = settings.stage if options.get("stage") else None
        deliver = settings.deliver if options.get("deliver") else None
        keep_local = settings.keep_local or deliver is None
        settings = replace(
            settings, notify=None, deadline=deadline, stage=stage, deliver=deliver, keep_local=keep_local
        )
        if not options.get("output"):
            folder = folder.with_name(folder.name + SUFFIX)
    return RehearsalConfig(settings, folder, config)


def clock(config: "SandboxConfig | None", rundir: RunDir, *, recover: bool = False) -> Clock:
    """Return the clock that client and sandbox share; the system clock if there is no sandbox.

    A fast clock continues at the end of the previous run, which may be in the future. Raises JournalError, unless
    `recover` is set.
    """
    if config is None or config.speed == 1:
        return SystemClock()
    return FastClock(config.speed, begins_at(config, rundir, recover=recover))


def begins_at(config: "SandboxConfig | None", rundir: RunDir, *, recover: bool = False) -> float:
    """Return the wall time (s) at which a run begins on that clock.

    Needs no event loop. Raises JournalError like `clock`.
    """
    try:
        snapshot = journal.read(rundir.journal) if config is not None and config.speed != 1 else None
    except JournalError:
        if not recover:
            raise
        snapshot = None
    return max(wall_time(), latest(snapshot) if snapshot else 0.0)


def latest(snapshot: Snapshot) -> float:
    """Return the latest time in a journal. A killed run has no end time."""
    moments: list[float | None] = [
        snapshot.run.started_at,
        snapshot.run.finished_at,
        *(item.at for item in snapshot.timeline_events),
    ]
    for record in snapshot.records.values():
        for one in record.attempts:
            moments += [one.submitted_at, one.accepted_at, one.generating_at, one.completed_at, one.ended_at]
    return max(moment for moment in moments if moment is not None)


@asynccontextmanager
async def service(config: "SandboxConfig | None", rundir: RunDir, shared: Clock) -> AsyncIterator[Endpoint]:
    """Start the sandbox for one run. It keeps its state between runs. shared: the run's clock."""
    from batchrunner import sandbox  # a run against a real service does not need it

    assert config is not None
    local = await sandbox.start(replace(config, state_dir=rundir.sandbox), clock=shared)
    try:
        yield Endpoint(local.url, "sandbox", lists_on_acceptance=config.lists_on_acceptance)
    finally:
        await local.close()
