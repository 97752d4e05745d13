"""``resolve``: settle one submission in doubt by hand, with a generation id or with the decision to submit again.

A job that another batch of the account has in doubt is settled in that batch. Rules: an id that any job of the account
has is refused, and an adopted id must be known to the service.
"""

import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from batchrunner.account import index, journals, transactions
from batchrunner.account.folders import state_folder
from batchrunner.account.names import account_of
from batchrunner.account.rows import BatchRow, rows_of
from batchrunner.app.process import print_warning
from batchrunner.app.signs import require_trusted
from batchrunner.clock import LoopClock, wall_time
from batchrunner.errors import CallError, LocalFault, UsageError
from batchrunner.formatting import shell_line
from batchrunner.job import Entry, Move, Record, Run, Snapshot, State, advance
from batchrunner.journal import journal
from batchrunner.journal.journal import Journal
from batchrunner.journal.statements import Guard
from batchrunner.journal.witness import Witness
from batchrunner.manifest.diagnostics.diagnostic import nearest
from batchrunner.net.proxies import read_proxies
from batchrunner.plan.resume import LOST
from batchrunner.providers import registry
from batchrunner.providers.base import GenerationStatus
from batchrunner.providers.endpoint import Endpoint, address_of, read_endpoint
from batchrunner.report.failure_groups import command
from batchrunner.settings import resolve as resolve_settings
from batchrunner.storage.durable_files import Disk
from batchrunner.storage.run_directory import Lock, RunDir


@dataclass(frozen=True, slots=True)
class Doubt:
    """A submission in doubt. rundir: of the batch that has it, which may be another one than was asked for."""

    rundir: RunDir
    snapshot: Snapshot
    entry: Entry
    record: Record


def settle(rundir: RunDir, name: str, adopt: str | None, environment: Mapping[str, str]) -> str:
    """Settle the submission in doubt of the job `name`, and return what was done, for people.

    adopt: the id of its generation, or None to release the job. Raises BatchrunnerError; then nothing has changed.
    """
    doubt = find(rundir, name, environment)
    with Lock(doubt.rundir, wall_time(), print_warning) as lock:
        doubt = _in_directory(doubt.rundir, doubt.entry.job.fingerprint, name)
        if adopt is not None:
            _require_unused(doubt, adopt, environment)
            status = _ask(doubt, adopt, environment)
            move, message = Move.ADOPT, f"generation {adopt} ({status.phase}) is adopted"
        else:
            move, message = (
                Move.RELEASE,
                "the submission is released: the next run submits the job again, at its price",
            )
        record = doubt.record
        if record.state is State.SUBMITTING:
            record = advance(record, Move.DOUBT, error=LOST)
        if adopt is not None:
            record = advance(record, move, generation_id=adopt, accepted_at=wall_time())
        else:
            record = advance(record, move)
        asyncio.run(_store(doubt.rundir, record, environment, lock.lease.problem))
    return f"{name}: {message}. To continue: {_continuation(doubt.snapshot.run)}"


def _continuation(run: Run) -> str:
    """Return the command that continues a batch, with the options of its last run."""
    manifest = {"path": run.manifest_path}
    return command({"settings": json.loads(run.settings_json), "provider": run.provider, "manifest": manifest})


def _status_command(rundir: RunDir) -> str:
    return f"batchrunner status {shell_line([str(rundir.path)])}"


def find(rundir: RunDir, name: str, environment: Mapping[str, str]) -> Doubt:
    """Return the submission in doubt of a job: in `rundir`, or in another batch of the account. Raises UsageError."""
    snapshot = _read(rundir)
    entry = _entry(snapshot, name, rundir)
    record = snapshot.records[entry.job.fingerprint]
    if record.state in (State.IN_DOUBT, State.SUBMITTING):
        return Doubt(rundir, snapshot, entry, record)
    other = _elsewhere(rundir, entry.job.fingerprint, environment) if record.state is State.PENDING else None
    if other is None:
        raise UsageError(
            f"{name} is not in doubt: it is {record.state.replace('_', ' ')}",
            f"Nothing was changed. To see the jobs in doubt: {_status_command(rundir)}",
        )
    return _in_directory(RunDir(other), entry.job.fingerprint, name)


def _in_directory(rundir: RunDir, fingerprint: str, name: str) -> Doubt:
    snapshot = _read(rundir)
    record = snapshot.records.get(fingerprint)
    if record is None or record.state not in (State.IN_DOUBT, State.SUBMITTING):
        raise UsageError(f"{name} is not in doubt any more in {rundir.path}", "Nothing was changed.")
    entry = next((entry for entry in snapshot.entries if entry.job.fingerprint == fingerprint), None)
    return Doubt(rundir, snapshot, entry or Entry(0, name, record.job), record)


def _read(rundir: RunDir) -> Snapshot:
    require_trusted(rundir)
    snapshot = journal.read(rundir.journal)
    if snapshot is None:
        raise UsageError(f"{rundir.path} holds no batch", "Name a run directory (output/<name>) or a manifest.")
    return snapshot


def _entry(snapshot: Snapshot, name: str, rundir: RunDir) -> Entry:
    by_id = {entry.id: entry for entry in snapshot.entries}
    if name in by_id:
        return by_id[name]
    guess = nearest(name, by_id)
    hint = f"Did you mean {guess}?" if guess else f"To list the jobs: {_status_command(rundir)} --json"
    raise UsageError(f"the batch in {rundir.path} has no job {name}", hint)


def _account_key(rundir: RunDir, environment: Mapping[str, str]) -> str:
    """Return the account in which the index has the batch, or that of the environment."""
    mark = journals.mark_of(rundir.path)
    if mark is not None:
        with suppress(LocalFault), index.viewed(state_folder(environment)) as connection:
            batch = transactions.batch_row(connection, mark.journal_id)
            if batch is not None:
                return batch.account
    settings = resolve_settings({}, environment, {})
    return account_of(address_of(environment), settings.account).key


def _elsewhere(rundir: RunDir, fingerprint: str, environment: Mapping[str, str]) -> Path | None:
    """Return the run directory of another batch of the account that has the job in doubt."""
    mark = journals.mark_of(rundir.path)
    own = BatchRow(mark.journal_id if mark else "", _account_key(rundir, environment), str(rundir.path), "", "")
    with suppress(LocalFault), index.viewed(state_folder(environment)) as connection:
        for row, batch in transactions.others(connection, own, [fingerprint]).get(fingerprint, ()):
            if row.state in ("in_doubt", "submitting", "claimed"):
                return Path(batch.directory)
    return None


def _require_unused(doubt: Doubt, generation_id: str, environment: Mapping[str, str]) -> None:
    """Refuse an id that any job of this batch or of the account has. Raises UsageError."""
    hint = "Nothing was changed. Look for the generation whose time and inputs fit this job."
    for record in doubt.snapshot.records.values():
        if any(attempt.generation_id == generation_id for attempt in record.attempts):
            raise UsageError(f"generation {generation_id} belongs to job {record.job.key} of this batch", hint)
    account = _account_key(doubt.rundir, environment)
    with suppress(LocalFault), index.viewed(state_folder(environment)) as connection:
        batch = transactions.owner_of(connection, account, generation_id)
        if batch is not None:
            raise UsageError(
                f"generation {generation_id} belongs to a job of the batch {batch.name} ({batch.directory})", hint
            )


def _ask(doubt: Doubt, generation_id: str, environment: Mapping[str, str]) -> GenerationStatus:
    """Return what the service says of the generation. Raises UsageError if it does not know it or does not answer."""
    endpoint = read_endpoint(resolve_settings({"provider": doubt.snapshot.run.provider}, environment, {}), environment)
    if endpoint is None:
        raise UsageError(
            "the embedded sandbox is not running, so no generation can be adopted",
            "Run the batch again: it searches the sandbox's log. Nothing was changed.",
        )
    try:
        return asyncio.run(_status(endpoint, generation_id, environment))
    except CallError as error:
        known = "the service does not know it" if error.kind == "unknown_generation" else error.message
        raise UsageError(f"generation {generation_id} cannot be adopted: {known}", "Nothing was changed.") from error


async def _status(endpoint: Endpoint, generation_id: str, environment: Mapping[str, str]) -> GenerationStatus:
    proxies = read_proxies(environment)
    with ThreadPoolExecutor(max_workers=1) as executor:
        async with registry.connect(endpoint, LoopClock(), executor, proxies=proxies) as provider:
            return await provider.status(generation_id)


async def _store(rundir: RunDir, record: Record, environment: Mapping[str, str], guard: Guard) -> None:
    with (
        ThreadPoolExecutor(max_workers=1) as executor,
        closing(Journal(rundir.journal, executor, Witness(rundir.witness, Disk()), guard=guard)) as opened,
    ):
        await opened.save(record)
        mark = opened.mark
    with suppress(LocalFault, UsageError, OSError):  # the next run brings the index in line with the journal
        _update_index(rundir, record, mark.journal_id, mark.sequence, environment)


def _update_index(rundir: RunDir, record: Record, batch_id: str, sequence: int, environment: Mapping[str, str]) -> None:
    """Let other batches know at once."""
    state = state_folder(environment)
    if not any(state.glob("index-*.db")):
        return
    with closing(index.Index(state)) as opened:
        batch = opened.read(partial(transactions.batch_row, batch_id=batch_id))
        if batch is not None:
            jobs, submissions = rows_of(batch, [record], lambda _: None)
            gone = [] if jobs else [record.job.fingerprint]
            work: list[index.Transaction] = [
                partial(transactions.remove, batch=batch, fingerprints=gone),
                partial(transactions.store, jobs=jobs, submissions=submissions),
                partial(transactions.put_batch, batch=batch._replace(sequence=sequence)),
            ]
            opened.write(work, durable=True)
