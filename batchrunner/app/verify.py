"""``verify``: hash and decode every result of a run directory again and compare it with the journal.

Rule: it only reads. `run` repairs what it finds. `batchrunner.app.verify_files` needs no journal.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from batchrunner.app.verify_copies import check_copy
from batchrunner.app.verify_files import (
    ALTERED,
    INVALID,
    MISSING,
    UNDECODABLE,
    UNFINISHED,
    UNREADABLE,
    Expected,
    Finding,
)
from batchrunner.errors import LocalFault
from batchrunner.job import Entry, Record, Result, Snapshot, State
from batchrunner.media.decoder import CheckLimit
from batchrunner.media.decoder_pool import one
from batchrunner.storage import durable_files
from batchrunner.storage.objects.address import ObjectAddress
from batchrunner.storage.objects.blocking import ObjectReader
from batchrunner.storage.run_directory import RunDir, RunDirectoryClips
from batchrunner.workers import tasks
from batchrunner.workers.engines import Workers

_AGAIN = "move it away and run the batch again: it is fetched again, at no charge"


class _Differs(ValueError):
    """A file is not what the journal recorded."""


def verify(
    rundir: RunDir, snapshot: Snapshot, workers: Workers, objects: ObjectReader | None = None
) -> Iterator[Finding]:
    """Check each delivered file, and its copy in the bucket. Checks several files at once.

    objects: reads the bucket; None to check the files only. Raises UsageError if the user does not allow the bucket.
    """
    copies = _Copies(snapshot, objects)
    reported = _report_rows(rundir, snapshot)
    records = [(entry, snapshot.records[entry.job.fingerprint]) for entry in snapshot.entries]
    delivered = [(entry, record) for entry, record in records if record.state is State.SUCCEEDED]
    with ThreadPoolExecutor(max_workers=workers.width, thread_name_prefix="verify") as threads:
        try:
            check_one = partial(_findings, rundir, reported, workers, copies)
            for found in threads.map(check_one, *zip(*delivered, strict=True)) if delivered else ():
                yield from found
        finally:  # if the caller stops early
            threads.shutdown(wait=False, cancel_futures=True)
            workers.decoders.stop()


class _Copies:
    """The confirmed copies of clips in the bucket to which the last run delivered."""

    def __init__(self, snapshot: Snapshot, objects: ObjectReader | None) -> None:
        prefix = json.loads(snapshot.run.settings_json).get("deliver") if objects else None
        self._prefix = ObjectAddress.parse(prefix) if prefix else None
        self._objects = objects
        records = snapshot.records
        if objects is not None and any(self.address(item, records[item.job.fingerprint]) for item in snapshot.entries):
            objects.require_allowed(str(prefix))

    def address(self, entry: Entry, record: Record) -> str:
        """Return the address of an entry's copy, or ""."""
        address = str(self._prefix.child(entry.file)) if self._prefix else ""
        confirmed = (record.result.objects if record.result else None) or {}
        return address if record.state is State.SUCCEEDED and address in confirmed else ""

    def check(self, address: str, result: Result, workers: Workers) -> Finding:
        """Read a copy back, compare it with the journal, and decode it. Raises UsageError."""
        assert self._objects is not None
        return check_copy(self._objects, workers.local, Expected(address, result.sha256, address=address))


def _findings(
    rundir: RunDir,
    reported: dict[str, Any] | None,
    workers: Workers,
    copies: _Copies,
    entry: Entry,
    record: Record,
) -> list[Finding]:
    """Check a file and its copy. A clip with a copy may have no file."""
    address = copies.address(entry, record)
    found = []
    if not address or RunDirectoryClips(rundir).exists(entry.file):
        found.append(_finding(rundir, reported, workers, entry, record))
    if address and record.result is not None:
        found.append(copies.check(address, record.result, workers))
    return found


def _finding(
    rundir: RunDir, reported: dict[str, Any] | None, workers: Workers, entry: Entry, record: Record
) -> Finding:
    try:
        if record.result is None or not workers.confirm(tasks.is_whole, *_place(rundir, entry.file, record.result)):
            size_bytes = _check(RunDirectoryClips(rundir), entry.file, record.result)
            one(workers.decoders, "clip", {"path": str(rundir.path / entry.file), "size_bytes": size_bytes})
    except (LocalFault, OSError, ValueError) as error:
        return Finding(entry.file, *_problem(error))
    if (
        reported is not None
        and record.result is not None
        and reported.get(entry.id) not in {None, record.result.sha256}
    ):
        again = "report.json has another SHA-256 than the journal; write it again with: batchrunner report"
        return Finding(entry.file, INVALID, again, clips=1)
    return Finding(entry.file, clips=1)


def _place(rundir: RunDir, name: str, result: Result) -> tuple[str, int, str]:
    """Return absolute path, size and SHA-256 of a clip."""
    return os.path.abspath(rundir.path / name), result.size_bytes, result.sha256  # noqa: PTH100 (a link stays)


def _problem(error: LocalFault | OSError | ValueError) -> tuple[str, str]:
    """Return kind and message of a failed check."""
    if isinstance(error, LocalFault):
        return UNREADABLE, error.message
    if isinstance(error, OSError):
        kind = MISSING if isinstance(error, FileNotFoundError) else UNREADABLE
        return kind, f"cannot be read: {error.strerror or error}"
    if isinstance(error, CheckLimit):
        return UNFINISHED, f"could not be checked to its end: {error}"
    return ALTERED if isinstance(error, _Differs) else UNDECODABLE, str(error)


def _check(clips: RunDirectoryClips, name: str, result: Result | None) -> int:
    """Compare a clip with its result and return its size in bytes.

    Raises _Differs with the difference, OSError if the clip cannot be read.
    """
    if result is None:
        raise _Differs("the journal has no size and checksum for it")
    with clips.open(name) as file:
        size_bytes = file.seek(0, os.SEEK_END)
        if size_bytes != result.size_bytes:
            raise _Differs(f"{size_bytes} bytes instead of {result.size_bytes}; {_AGAIN}")
        file.seek(0)
        if hashlib.file_digest(file, "sha256").hexdigest() != result.sha256:
            raise _Differs(f"its content has changed: the SHA-256 differs; {_AGAIN}")
    return size_bytes


def _report_rows(rundir: RunDir, snapshot: Snapshot) -> dict[str, Any] | None:
    """Return the SHA-256 of each id from report.json; None if there is no report, as after a killed run.

    A value is None if the report is older than the result. All values are "" if the file is not a report.
    """
    try:
        with durable_files.open_plain(rundir.path / "report.json") as file:
            report = json.loads(file.read())
        return {job["id"]: job["sha256"] for job in report["jobs"]}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {entry.id: "" for entry in snapshot.entries}
