"""The end of a run: fetch missing clips again, store the outcome, write the reports, post the webhook."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import batchrunner
from batchrunner.account.base import HELD_KINDS
from batchrunner.app import webhook
from batchrunner.app.environment import Environment
from batchrunner.app.run_signals import EXIT_STATUSES
from batchrunner.app.setup import Setup
from batchrunner.engine.job_records import JobRecords
from batchrunner.engine.loop import Engine
from batchrunner.engine.ports import InThread, at_once
from batchrunner.errors import CallError, ExitStatus, JournalError, LocalFault
from batchrunner.events import EventBus, Noticed, RunEnding, RunFinished
from batchrunner.job import Record, Run, Snapshot, State, count_states
from batchrunner.journal.journal import Journal
from batchrunner.plan.endings import NO_REASON, StopReason
from batchrunner.report import writer
from batchrunner.report.closing import summed_up
from batchrunner.review.verdicts import VerdictLines
from batchrunner.storage.run_directory import RunDir
from batchrunner.transfer.delivery import ResultStore

if TYPE_CHECKING:
    from batchrunner.transfer.bucket_delivery import BucketStore

_COPY_S = 300.0  # for all reports
_SIGNALLED_COPY_S = 10.0


async def final_status(
    lost: Callable[[], str],
    engine: Engine,
    store: ResultStore,
    journal: Journal,
    records: JobRecords,
    order: Sequence[str],
    in_thread: InThread = at_once,
) -> ExitStatus:
    """Check the delivered clips once more and return the batch's own exit status, from the records of the report.

    lost: why nothing can be stored any more; "" if it can. in_thread: see `Dependencies`.
    """
    if lost():
        return ExitStatus.NEEDS_ACTION
    await _fetch_missing_clips(engine, store, records)
    status: ExitStatus = await in_thread(_status_of, stored_records(journal, records), order, engine.stopped)
    return status


def _status_of(records: Mapping[str, Record], order: Sequence[str], stopped: StopReason) -> ExitStatus:
    return exit_status([records[item] for item in order], stopped)


async def _fetch_missing_clips(engine: Engine, store: ResultStore, records: JobRecords) -> None:
    """Fetch again the delivered clips that were removed or changed during the run, if time is left."""
    for is_last in (False, True):
        try:
            missing = await store.look_again(records.view)
            if not missing:
                return
            await engine.settle(missing)
        except LocalFault as fault:
            engine.stop(StopReason(fault.kind, f"the delivered clips could not be checked: {fault.message}"))
            return
        if not is_last:
            await engine.follow_again(missing)
        for fingerprint in missing:
            fetched = records[fingerprint].state is State.SUCCEEDED
            consequence = "it was fetched again" if fetched else "run again to fetch it, at no charge"
            records.notice(fingerprint, f"its clip was removed or changed during the run: {consequence}")


async def finish(
    setup: Setup,
    journal: Journal,
    records: JobRecords,
    run: Run,
    outside: Environment,
    bus: EventBus,
    bucket: "BucketStore | None" = None,
) -> int:
    """Store the outcome, write the reports from the journal, copy them to the bucket, and return the exit status."""
    bus.publish(RunEnding(run.finished_at or run.started_at))
    before = writer.stamps(setup.rundir.path)
    written: tuple[Path, ...] = ()
    content: dict[str, Any] | None = None
    try:
        await records.flush()
        await journal.finish(run)
        written, content = await _write_reports(setup, journal, records, outside)
        if foreign := writer.foreign_verdicts(setup.rundir.path):
            bus.publish(Noticed(run.finished_at or run.started_at, (), foreign))
    except (LocalFault, OSError) as error:
        message = f"the report could not be written: {error}"
        older = ", ".join(sorted(name for name, *_ in before & writer.stamps(setup.rundir.path)))
        if older:
            message += f"; these files are from an earlier run: {older}"
        bus.publish(Noticed(run.finished_at or run.started_at, (), message + _ids_in_flight(records), urgent=True))
        if run.exit_status not in EXIT_STATUSES.values():
            run = replace(run, exit_status=int(ExitStatus.NEEDS_ACTION))
    if bucket is not None and written:
        run = await _finish_bucket(bucket, setup.rundir, run, bus)
    snapshot = replace(_snapshot(setup, journal, records), run=run)
    states, report = await outside.in_thread(last_words, snapshot, setup.rundir, content)
    at = run.finished_at or run.started_at
    status = run.exit_status or 0
    bus.publish(RunFinished(at, status, states, tuple(map(str, written)), writer.headline(report), report))
    await webhook.notify(setup.settings.notify, report, setup.rundir.path, bus.publish, outside.proxies)
    return status


def last_words(
    snapshot: Snapshot, rundir: RunDir, written: dict[str, Any] | None
) -> tuple[dict[State, int], dict[str, Any]]:
    """Return the number of jobs in each state, and the report with what the closing block shows of its rows.

    written: the report as `write_and_sum_up` returned it; None if it could not be written.
    """
    states = count_states([snapshot.records[name] for name in {entry.job.fingerprint for entry in snapshot.entries}])
    if written is not None and written["exit_status"] == snapshot.run.exit_status:
        return states, written
    lines = VerdictLines(rundir.path)
    with suppress(LocalFault):  # the report was written without them, too
        lines.refresh()
    return states, summed_up(writer.build(snapshot, batchrunner.__version__, lines.by_clip))


async def _finish_bucket(bucket: "BucketStore", rundir: RunDir, run: Run, bus: EventBus) -> Run:
    """Copy the reports to the bucket, and free the files that the user does not want to keep. Return the run.

    The reports in the run directory stay. If they cannot be copied, a person has to act.
    """
    signalled = run.exit_status in EXIT_STATUSES.values()
    try:
        async with asyncio.timeout(_SIGNALLED_COPY_S if signalled else _COPY_S):
            await bucket.put_reports(rundir.path)
        await bucket.release_all()
    except (CallError, TimeoutError) as error:
        message = uncopied_reports(error)
        bus.publish(Noticed(run.finished_at or run.started_at, (), message, urgent=True))
        if not signalled and run.exit_status != ExitStatus.STOPPED:
            return replace(run, exit_status=int(ExitStatus.NEEDS_ACTION))
    return run


def uncopied_reports(error: CallError | TimeoutError) -> str:
    """Describe why the reports are not in the bucket, and the step that makes the same command copy them."""
    why = "no answer in time" if isinstance(error, TimeoutError) else error.message
    step = f"{error.hint.rstrip('.')}. Then run" if isinstance(error, LocalFault) and error.hint else "Run"
    return f"the reports could not be copied to the bucket: {why}. {step} the same command again to copy them"


async def _write_reports(
    setup: Setup, journal: Journal, records: JobRecords, outside: Environment
) -> tuple[tuple[Path, ...], dict[str, Any]]:
    """Write the reports, and return their paths and the report, summed up. Raises LocalFault, OSError."""
    snapshot = _snapshot(setup, journal, records)
    if outside.posters is not None:
        with suppress(OSError):  # the report works without pictures
            shown = await outside.in_thread(writer.on_page, snapshot)
            await asyncio.wrap_future(outside.posters.finish(shown))
    if not setup.rundir.internal_dir.is_dir():
        raise LocalFault("disk_error", f"the run directory {setup.rundir.path} is gone")
    extra = {"junit": setup.settings.junit, "metrics_file": setup.settings.metrics_file}
    write = partial(writer.write_and_sum_up, snapshot, setup.rundir.path, batchrunner.__version__, **extra)
    return await asyncio.get_running_loop().run_in_executor(outside.executor, write)  # a large report takes seconds


def _snapshot(setup: Setup, journal: Journal, records: JobRecords) -> Snapshot:
    """Return the batch as the journal has it."""
    return replace(journal.story(), entries=setup.batch.entries, records=stored_records(journal, records))


def stored_records(journal: Journal, records: JobRecords) -> Mapping[str, Record]:
    """Return the records as the journal has them.

    `records` has the same ones unless a save failed: reading 100,000 again takes seconds.
    """
    if not records.matches_journal:
        with suppress(JournalError):
            if (stored := journal.snapshot()) is not None:
                return stored.records
    return records.view


def _ids_in_flight(records: JobRecords) -> str:
    """List the generations in flight, for a user who has lost the run directory."""
    ids = [record.generation_id for record in records.view.values() if record.state is State.IN_FLIGHT]
    known = [item for item in ids if item is not None]
    return f"; generations in flight: {', '.join(known)}" if known else ""


def is_held(record: Record) -> bool:
    """Return whether a pending job waits for another batch of the account."""
    return record.state is State.PENDING and record.error is not None and record.error.kind in HELD_KINDS


def exit_status(records: list[Record], stopped: StopReason = NO_REASON) -> ExitStatus:
    """Return the batch's own exit status.

    OK: all jobs succeeded. NEEDS_ACTION or STOPPED: work is left, by the reason that stopped the run. FAILED: only
    failed jobs, jobs in doubt, or jobs that another batch has are left.
    """
    counts = count_states(records)
    waiting = sum(is_held(record) for record in records)
    counts[State.PENDING] -= waiting
    counts[State.IN_DOUBT] += waiting
    if counts[State.PENDING] or counts[State.IN_FLIGHT] or counts[State.SUBMITTING]:
        return stopped.ending.status if stopped else ExitStatus.STOPPED
    return ExitStatus.FAILED if counts[State.FAILED] or counts[State.IN_DOUBT] else ExitStatus.OK
