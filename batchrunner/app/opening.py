"""Open the journal of a run and store the start of the run.

With many jobs this takes seconds. Rule: whatever grows with the number of jobs runs in a thread, so the event loop
handles signals and draws progress meanwhile. A simulation passes executors that work inline.
"""

from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack, closing
from dataclasses import replace

from batchrunner.account.older_copy import Lost, adopted
from batchrunner.app import recovery, takes
from batchrunner.app.environment import Environment
from batchrunner.app.setup import Setup, order_of, prices_of, run_of
from batchrunner.errors import UsageError
from batchrunner.events import EventBus, Noticed
from batchrunner.gc_pause import gc_paused
from batchrunner.job import Record, Run, Snapshot
from batchrunner.journal.journal import Journal
from batchrunner.journal.timeline import TimelineWriter
from batchrunner.plan.resume import held_before_retry, held_in_doubt, take_up
from batchrunner.providers.endpoint import service_name


async def open_journal(
    setup: Setup, outside: Environment, base_url: str, bus: EventBus, stack: AsyncExitStack
) -> tuple[Journal, Setup, Snapshot | None]:
    """Open the journal, let it store the timeline, and announce its warning. `stack` closes it.

    Returns the journal, the setup with all takes of the batch, and the journal's content. Raises UsageError,
    JournalError, LocalFault.
    """
    now = outside.clock.now()  # a clock may read the time of the event loop
    journal, setup, before = await outside.in_thread(_opened, setup, outside, base_url, now)
    stack.enter_context(closing(journal))
    bus.subscribe(TimelineWriter(journal), name="timeline", events=TimelineWriter.EVENTS)
    if journal.warning:
        bus.publish(Noticed(outside.clock.now(), (), journal.warning, urgent=True))
    return journal, setup, before


def _opened(setup: Setup, outside: Environment, base_url: str, now: float) -> tuple[Journal, Setup, Snapshot | None]:
    def run() -> Run:
        service = service_name(setup.settings, base_url)
        return run_of(setup, service, f"{outside.rng.getrandbits(48):012x}", now)

    recover = run if setup.recover else None
    entries, guard = setup.batch.entries, outside.lease.problem if outside.lease else _no_problem
    journal = recovery.open_journal(setup.rundir, entries, outside.journal_executor, outside.files, recover, guard)
    with ExitStack() as undo:
        undo.callback(journal.close)
        before = journal.snapshot()
        setup = takes.stored(setup, before)
        if journal.is_stale:
            setup = takes.recovered(setup)
        undo.pop_all()
    return journal, setup, before


def _no_problem(**_: bool) -> None:
    """Nobody else can have the run directory."""


async def begin(
    setup: Setup, journal: Journal, before: Snapshot | None, lost: Lost, outside: Environment, base_url: str
) -> tuple[Run, dict[str, Record], bool]:
    """Store the start of this run and return it. lost: the work that only the account's index knows.

    Returns the run, each job's record by fingerprint, and whether the run recovers a lost journal. Raises UsageError
    if the journal belongs to another provider or service.
    """
    settings, recovers = setup.settings, journal.is_stale
    if before is not None and before.run.provider != settings.provider:
        raise UsageError(
            f"{setup.rundir.path} contains a batch of provider {before.run.provider}, not {settings.provider}",
            "Give this provider a run directory of its own with --output DIR. Nothing was submitted.",
        )
    service = service_name(settings, base_url)
    if before is not None and before.run.service != service:
        raise UsageError(
            f"{setup.rundir.path} contains a batch of {before.run.service}, not of {service}",
            "Give this service a run directory of its own with --output DIR. Nothing was submitted.",
        )
    run = run_of(setup, service, f"{outside.rng.getrandbits(48):012x}", outside.clock.now())
    known = before.records if before else {}
    records, changed = await outside.in_thread(_taken_up, setup, known, lost, run, recovers)
    if recovers or settings.retry_failed:
        changed = list(records.values())
    retakes = [replace(retake, run_id=run.run_id) for retake in setup.retakes]
    if retakes:
        takes.append(setup.rundir, retakes)
    await journal.begin(run, setup.batch.entries, changed, retakes)
    return run, records, recovers


@gc_paused()
def _taken_up(
    setup: Setup, known: Mapping[str, Record], lost: Lost, run: Run, recovers: bool
) -> tuple[dict[str, Record], list[Record]]:
    """Return each job's record at the start by fingerprint, and the new or changed ones. recovers: a lost journal."""
    entries, settings = setup.batch.entries, setup.settings
    price = prices_of(setup).estimate
    if recovers:
        known = adopted(known, entries, lost, lambda job: price(job).credits)
        known = held_in_doubt(known, entries, run.run_id, run.started_at, lambda job: price(job).credits)
    elif settings.retry_failed:
        known = held_before_retry(known, run.run_id, run.started_at, lambda job: price(job).credits)
    return take_up(
        known,
        entries,
        retry_failed=False if recovers else settings.retry_failed,
        resubmit_in_doubt=False,  # the service's log is searched first
        chosen=frozenset(order_of(setup.chosen)) if setup.only else None,
    )
