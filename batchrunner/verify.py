"""Are the results still what the report says? Re-hashes and re-decodes every file of a run directory.

Rule: it only reads. What it finds wrong is a line for people; what to do about it is `run`'s business.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from batchrunner import disk
from batchrunner.downloader import file_sha256, inspect
from batchrunner.job import Entry, Record, Result, Snapshot, State
from batchrunner.rundir import RunDir

_AGAIN = "move it away and run the batch again: it is fetched again, at no charge"


def verify(rundir: RunDir, held: Snapshot) -> Iterator[tuple[str, str | None]]:
    """Each delivered file's name with what is wrong with it, or None where nothing is."""
    told = _report_rows(rundir, held)
    for entry in held.entries:
        record = held.records[entry.job.fingerprint]
        if record.state is State.SUCCEEDED:
            yield entry.file, _complaint(rundir, entry, record, told)


def _complaint(rundir: RunDir, entry: Entry, record: Record, told: dict[str, Any] | None) -> str | None:
    try:
        _check(rundir.path / entry.file, record.result)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except ValueError as error:
        return str(error)
    if told is not None and record.result is not None and told.get(entry.id) not in {None, record.result.sha256}:
        return "report.json says another SHA-256 than the journal; write it again with: batchrunner report"
    return None


def _check(path: Path, result: Result | None) -> None:
    """Raises ValueError that says how the file differs from what was recorded, OSError where it cannot be read."""
    if result is None:
        raise ValueError("the journal holds no size and checksum for it")
    size_bytes = path.stat().st_size
    if size_bytes != result.size_bytes:
        raise ValueError(f"{size_bytes} bytes instead of {result.size_bytes}; {_AGAIN}")
    if file_sha256(path) != result.sha256:
        raise ValueError(f"its content is not what was recorded: the SHA-256 differs; {_AGAIN}")
    inspect(path, size_bytes)


def _report_rows(rundir: RunDir, held: Snapshot) -> dict[str, Any] | None:
    """SHA-256 by id as report.json has it, None where it is older than the result; "" for all in one that is no report.

    None altogether where there is no report: a run that was killed.
    """
    try:
        with disk.open_plain(rundir.path / "report.json") as file:
            report = json.loads(file.read())
        return {job["id"]: job["sha256"] for job in report["jobs"]}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {entry.id: "" for entry in held.entries}
