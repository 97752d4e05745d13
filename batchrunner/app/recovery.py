"""The way on where the journal is lost, damaged, or older than what was done: ``run --recover``.

Rules: what the journal lacks may be paid for, so a recovery holds in doubt every job of which nothing certain is known.
A recovery always makes the journal anew, and writes nothing to the earlier file: some damage shows only in
a write.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from batchrunner.app.signs import require_no_signs, signs
from batchrunner.errors import BatchrunnerError, JournalError
from batchrunner.job import Attempt, Entry, PlacedFile, Record, Result, Run, State
from batchrunner.journal import salvage
from batchrunner.journal.journal import Journal
from batchrunner.journal.witness import Mark, Witness
from batchrunner.storage import durable_files
from batchrunner.storage.durable_files import Disk
from batchrunner.storage.run_directory import RunDir
from batchrunner.transfer.downloader import file_sha256

_MOST_REPORT_BYTES = 1 << 30


def open_journal(
    rundir: RunDir, entries: Sequence[Entry], executor: Executor, files: Disk, recover: Callable[[], Run] | None
) -> Journal:
    """Open the journal of a run directory that is locked, or make its first one.

    recover: None to refuse where the journal may lack what was done; else a run to record in a journal that is made
    anew and knows of none. Raises UsageError, JournalError, LocalFault.
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
        salvage.replace_with(path, *_known(rundir, entries, recover))
    journal = Journal(path, executor, witness, recover=recover is not None)
    try:
        if recover is None and not journal.has_run():
            require_no_signs(rundir, entries, has_journal=True)
    except BatchrunnerError:
        journal.close()
        raise
    return journal


def _known(rundir: RunDir, entries: Sequence[Entry], recover: Callable[[], Run]) -> tuple[salvage.Remains, Mark | None]:
    """What the journal holds, with its mark where this is all of it; else what can be read, and what a report tells."""
    path = rundir.journal
    try:
        return salvage.whole(path)
    except JournalError as error:
        if not error.recoverable or not path.is_file():
            raise
    read = salvage.readable(path, {entry.job.fingerprint: entry.job for entry in entries})
    reported = _reported_remains(rundir, entries, recover())
    remains = salvage.Remains(
        read.runs or reported.runs, reported.records | read.records, reported.files | read.files, read.timeline_events
    )
    return remains, None


def _reported_remains(rundir: RunDir, entries: Sequence[Entry], run: Run) -> salvage.Remains:
    """What a report tells of these jobs: clips that stand there as it recorded them, and generations in flight."""
    remains = salvage.Remains(runs=[run])
    reported = _report_jobs(rundir.path / "report.json")
    for entry in entries:
        row = reported.get(entry.job.fingerprint)
        generation_id = row.get("generation_id") if row else None
        if row is None or not isinstance(generation_id, str) or entry.job.fingerprint in remains.records:
            continue
        attempt = Attempt(1, f"report.{entry.job.key}.1", 0.0, generation_id, "accepted")
        record = Record(entry.job, State.IN_FLIGHT, (attempt,))
        if row.get("state") == "in_flight":
            remains.records[entry.job.fingerprint] = record
        elif row.get("state") == "succeeded" and row.get("file") == entry.file:
            result = _stands(rundir.path / entry.file, row)
            if result is not None:
                done = Record(entry.job, State.SUCCEEDED, (attempt,), None, result).with_attempt(outcome="succeeded")
                remains.records[entry.job.fingerprint] = done
                placed = PlacedFile(entry.job.fingerprint, result.sha256, result.size_bytes)
                remains.files[entry.file] = placed
    return remains


def _report_jobs(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """The rows of report.json by fingerprint; none where it is not there, or no report."""
    try:
        with durable_files.open_plain(path) as file:
            jobs = json.loads(file.read(_MOST_REPORT_BYTES))["jobs"]
        return {str(job["fingerprint"]): job for job in jobs}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


def _stands(path: Path, row: Mapping[str, Any]) -> Result | None:
    """The clip at `path`, if it is the one that this row of a report tells of."""
    try:
        size_bytes = path.lstat().st_size
        with durable_files.open_plain(path):  # not through a link
            sha256 = file_sha256(path)
    except OSError:
        return None
    if (size_bytes, sha256) != (row.get("bytes"), row.get("sha256")):
        return None
    return Result(size_bytes, sha256)
