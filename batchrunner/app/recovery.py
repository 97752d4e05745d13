"""``run --recover``: continue a batch whose journal is lost, damaged or outdated.

Rules: a job that the journal does not know may be paid for, so a recovery holds every uncertain job in doubt. A
recovery always writes a new journal and never writes to the old file, because some damage shows only on a write.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

from batchrunner.app.signs import require_no_signs, signs
from batchrunner.errors import BatchrunnerError, JournalError
from batchrunner.job import Attempt, Entry, Job, PlacedFile, Record, Result, Retake, Run, State
from batchrunner.journal import salvage
from batchrunner.journal.journal import Journal
from batchrunner.journal.statements import Guard
from batchrunner.journal.witness import Mark, Witness
from batchrunner.manifest.fingerprint import take_of
from batchrunner.manifest.takes import with_retakes
from batchrunner.storage import durable_files
from batchrunner.storage.durable_files import Disk
from batchrunner.storage.run_directory import RunDir
from batchrunner.transfer.downloader import file_sha256

_MOST_REPORT_BYTES = 1 << 30


def open_journal(
    rundir: RunDir,
    entries: Sequence[Entry],
    executor: Executor,
    files: Disk,
    recover: Callable[[], Run] | None,
    guard: Guard = lambda **_: None,
) -> Journal:
    """Open the journal of a locked run directory, or create its first one.

    recover: None to refuse a journal that may lack submissions; otherwise a function that returns the run to record in
    a new journal without runs. guard: as for `Journal`. Raises UsageError, JournalError, LocalFault.
    """
    path, witness = rundir.journal, Witness(rundir.witness, files)
    if recover is not None:
        salvage.finish(path)
    if not os.path.lexists(path):
        if recover is None:
            require_no_signs(rundir, entries)
        elif signs(rundir, entries):
            salvage.replace_with(path, _reported_remains(rundir, entries, recover()))
    elif recover is not None:
        salvage.replace_with(path, *_recovered(rundir, entries, recover))
    journal = Journal(path, executor, witness, recover=recover is not None, guard=guard)
    try:
        if recover is None and not journal.has_run():
            require_no_signs(rundir, entries, has_journal=True)
    except BatchrunnerError:
        journal.close()
        raise
    return journal


def _recovered(
    rundir: RunDir, entries: Sequence[Entry], recover: Callable[[], Run]
) -> tuple[salvage.Remains, Mark | None]:
    """Return the contents of the journal, with its mark if they are complete.

    Otherwise return the readable part of the journal and the facts in report.json.
    """
    path = rundir.journal
    try:
        return salvage.whole(path)
    except JournalError as error:
        if not error.recoverable or not path.is_file():
            raise
    reported = _reported_remains(rundir, entries, recover())

    def named(retakes: Sequence[Retake]) -> Mapping[str, Job]:
        return {entry.job.fingerprint: entry.job for entry in with_retakes(entries, (*reported.retakes, *retakes))}

    read = salvage.readable(path, named)
    remains = salvage.Remains(
        read.runs or reported.runs,
        reported.records | read.records,
        reported.files | read.files,
        read.timeline_events,
        [*reported.retakes, *read.retakes],
    )
    return remains, None


def _reported_remains(rundir: RunDir, entries: Sequence[Entry], run: Run) -> salvage.Remains:
    """Return the facts in report.json: clips with their checksum or in a bucket, and generations in flight."""
    reported = _report_jobs(rundir.path / "report.json")
    remains = salvage.Remains(runs=[run], retakes=_reported_retakes(entries, reported))
    for entry in with_retakes(entries, remains.retakes):
        row = reported.get(entry.job.fingerprint)
        generation_id = row.get("generation_id") if row else None
        if row is None or not isinstance(generation_id, str) or entry.job.fingerprint in remains.records:
            continue
        attempt = Attempt(1, f"report.{entry.job.key}.1", 0.0, generation_id, "accepted")
        record = Record(entry.job, State.IN_FLIGHT, (attempt,))
        if row.get("state") == "in_flight":
            remains.records[entry.job.fingerprint] = record
        elif row.get("state") == "succeeded" and row.get("file") == entry.file:
            file = _matching_clip(rundir.path / entry.file, row)
            result = _with_object(file, row)
            if result is not None:
                done = Record(entry.job, State.SUCCEEDED, (attempt,), None, result).with_attempt(outcome="succeeded")
                remains.records[entry.job.fingerprint] = done
            if file is not None:
                remains.files[entry.file] = PlacedFile(entry.job.fingerprint, file.sha256, file.size_bytes)
    return remains


def _reported_retakes(entries: Sequence[Entry], reported: Mapping[str, Mapping[str, Any]]) -> list[Retake]:
    """Return the takes with a generation that the manifest does not ask for: ``run --retake`` added them."""
    firsts = {entry.id: entry.job for entry in entries if entry.take == 1}
    known = {entry.job.fingerprint for entry in entries}
    retakes = []
    for name, row in reported.items():
        first, take = firsts.get(str(row.get("job"))), row.get("take")
        if first is None or name in known or not isinstance(take, int) or not isinstance(row.get("generation_id"), str):
            continue
        if take > 1 and take_of(first, take).fingerprint == name:
            retakes.append(Retake(first.fingerprint, take))
    return retakes


def _report_jobs(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """Return the rows of report.json by fingerprint. A missing or invalid report has none."""
    try:
        with durable_files.open_plain(path) as file:
            jobs = json.loads(file.read(_MOST_REPORT_BYTES))["jobs"]
        return {str(job["fingerprint"]): job for job in jobs}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


def _with_object(file: Result | None, row: Mapping[str, Any]) -> Result | None:
    """Return a clip with its copy in the bucket; None without either. A run compares the copy with the bucket."""
    found, sha256, size_bytes = row.get("object"), row.get("sha256"), row.get("bytes")
    values = (found.get("address"), found.get("etag"), sha256) if isinstance(found, dict) else (None,)
    if not all(isinstance(value, str) for value in values) or not isinstance(size_bytes, int):
        return file
    address, etag, digest = map(str, values)
    return replace(file or Result(size_bytes, digest), objects={address: etag})


def _matching_clip(path: Path, row: Mapping[str, Any]) -> Result | None:
    """Return the clip at `path` if its size and SHA-256 match this row of a report."""
    try:
        size_bytes = path.lstat().st_size
        with durable_files.open_plain(path):  # does not follow a symbolic link
            sha256 = file_sha256(path)
    except OSError:
        return None
    if (size_bytes, sha256) != (row.get("bytes"), row.get("sha256")):
        return None
    return Result(size_bytes, sha256)
