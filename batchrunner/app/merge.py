"""``report --merge DIR... OUT``: one report of several run directories, for shards and for batches of one project.

Rules: nothing in the directories is changed, and no run's lock is taken. A directory with a journal is read from its
journal, which knows more than an older report of a killed run; another one from its report.json, which is untrusted.
Everything that can be refused is refused before the first byte is written. Only an earlier merge is replaced.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from batchrunner.app.signs import is_merge
from batchrunner.app.status import no_batch, read_with_charges
from batchrunner.errors import UsageError
from batchrunner.formatting import printable
from batchrunner.job import Snapshot
from batchrunner.journal.rows import require_settings
from batchrunner.manifest import schema_fast
from batchrunner.media import posters
from batchrunner.report import gallery, reader, writer
from batchrunner.report.build import Report, build
from batchrunner.report.merge import Source, merge, missing_shards
from batchrunner.review.verdicts import VerdictLines
from batchrunner.storage import durable_files
from batchrunner.storage.run_directory import REPORTS, RunDir

_MOST_REPORT_BYTES = 2_000_000_000
_NOTHING_WRITTEN = "Nothing was written."
_WRITE_AGAIN = "Write it again with batchrunner report, on the machine that has .batchrunner of this run directory."
# Keys that earlier versions of the schema did not write.
_ROW_DEFAULTS: Mapping[str, Any] = {"quality": None, "verdict": None, "synthetic_marks": None, "object": None,
                                    "rendered_by": None, "parameters": {}}  # fmt: skip
_NO_COST = {"usd": 0, "settled_usd": 0, "quoted_usd": 0, "estimated_usd": 0}


@dataclass(frozen=True, slots=True)
class MergeInput:
    """A run directory to merge. snapshot: its journal's content; None if only its report.json is there."""

    rundir: RunDir
    source: Source
    snapshot: Snapshot | None


def read(folders: Sequence[Path], out: Path, environment: Mapping[str, str], version: str) -> list[MergeInput]:
    """Read the run directories for a report in `out`. version: of this program.

    Raises UsageError, JournalError, LocalFault.
    """
    return [_read(folder, _relative(folder, out), environment, version) for folder in folders]


def _relative(folder: Path, out: Path) -> str:
    return Path(os.path.relpath(os.path.realpath(folder), os.path.realpath(out))).as_posix()


def _read(folder: Path, shown: str, environment: Mapping[str, str], version: str) -> MergeInput:
    rundir = RunDir(folder)
    if not os.path.lexists(rundir.journal):
        report = _stored_report(folder / "report.json")
        if report is None:
            raise no_batch(rundir)
        return MergeInput(rundir, Source(report, shown), None)
    snapshot = read_with_charges(rundir, environment)
    lines = VerdictLines(folder)
    lines.refresh()
    return MergeInput(rundir, Source(build(snapshot, version, lines.by_clip), shown), snapshot)


def _stored_report(path: Path) -> Report | None:
    """Return the report at `path`, or None if there is none. Raises UsageError for one that cannot be used."""
    shown = printable(str(path))
    try:
        with durable_files.open_plain(path) as file:
            report = json.loads(file.read(_MOST_REPORT_BYTES))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{shown} cannot be read: {error.strerror or error}", _NOTHING_WRITTEN) from error
    except (ValueError, RecursionError) as error:
        raise _unusable(shown, f"it is not JSON ({printable(str(error), 100)})") from error
    if not isinstance(report, dict):
        raise _unusable(shown, "it is not a report")
    if "sources" in report:
        hint = f"Name the run directories that it was made of. {_NOTHING_WRITTEN}"
        raise UsageError(f"{shown} is a merged report", hint)
    try:
        reader.require_known("schema_version", report.get("schema_version"))
    except ValueError as error:
        raise UsageError(f"{shown}: {error}", _NOTHING_WRITTEN) from error
    if report.get("schema_version") != reader.NEWEST_VERSION:
        raise _unusable(shown, "an earlier version of batchrunner wrote it")
    if fault := _fault_of(report):
        raise _unusable(shown, fault)
    return _completed(report)


def _unusable(shown: str, why: str) -> UsageError:
    return UsageError(f"{shown} cannot be merged: {why}", f"{_WRITE_AGAIN} {_NOTHING_WRITTEN}")


@cache
def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(files("batchrunner.report").joinpath("report.schema.json").read_text("utf-8"))
    return schema


def _fault_of(report: Report) -> str:
    """Return the first fault of a report of the newest version, or ""."""
    schema = _schema()
    if not schema_fast.compiled(schema, schema["$defs"])(report):
        from jsonschema import Draft202012Validator  # slow, and needed for a report with a fault only

        error = next(Draft202012Validator(schema).iter_errors(report), None)
        if error is not None:
            place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path)
            return f"{printable(place.removeprefix('.') or 'it', 100)}: {printable(error.message, 200)}"
    try:
        require_settings(report["settings"])
    except ValueError as error:
        return str(error)
    for row in report["jobs"]:
        name = row["file"]
        if name is not None and (Path(name).is_absolute() or ".." in Path(name).parts):
            return f"its file {printable(name, 100)} is not in the run directory"
    return ""


def _completed(report: Report) -> Report:
    """Return a report with the keys that earlier versions of its schema did not write."""
    for row in (*report["jobs"], *report["earlier_jobs"]):
        for key, value in _ROW_DEFAULTS.items():
            row.setdefault(key, value)
        row.setdefault("cost", _NO_COST)
        for attempt in row["attempts"]:
            attempt.setdefault("settled", None)
    return report


def require_target(out: Path, folders: Sequence[Path]) -> None:
    """Refuse a place that has other files than those of an earlier merge. Raises UsageError."""
    real, shown = Path(os.path.realpath(out)), printable(str(out))
    for folder in (real, *real.parents):
        if RunDir(folder).internal_dir.exists():
            which = "a run directory" if folder == real else f"inside the run directory {printable(str(folder))}"
            raise UsageError(f"{shown} is {which}", f"{_NOTHING_WRITTEN} Name another folder for the merged report.")
    if any(Path(os.path.realpath(folder)) == real for folder in folders):
        message = f"{shown} is one of the directories to merge: the last name is the folder of the merged report"
        raise UsageError(message, _NOTHING_WRITTEN)
    try:
        present = [name for name in REPORTS if os.path.lexists(out / name)]
        if os.path.lexists(out) and not out.is_dir():
            raise UsageError(f"{shown} is not a folder", _NOTHING_WRITTEN)
        if present and not is_merge(out):
            message = f"{shown} has {', '.join(present)} of something else, and only an earlier merge is replaced"
            raise UsageError(message, f"{_NOTHING_WRITTEN} Name another folder, or move these files away.")
    except OSError as error:
        raise UsageError(f"{shown} cannot be used: {error.strerror or error}", _NOTHING_WRITTEN) from error


def write(inputs: Sequence[MergeInput], out: Path) -> tuple[Report, tuple[Path, ...]]:
    """Write the merged report into `out` and return it with the paths of its files. Raises UsageError, LocalFault."""
    report = merge([item.source for item in inputs])
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise durable_files.fault(error, f"{out} could not be made") from error
    return report, writer.write_merged(report, _pictures(inputs, report, out), out)


def _pictures(inputs: Sequence[MergeInput], report: Report, out: Path) -> posters.Pictures:
    """Return the posters of the jobs with a card, and the paths of their reference clips."""
    shown = gallery.places([row["state"] for row in report["jobs"]])
    by_input: dict[int, set[str]] = {}
    for place in shown:
        row = report["jobs"][place]
        by_input.setdefault(row["source"], set()).add(row["id"])
    found = posters.Pictures()
    for number, ids in by_input.items():
        item = inputs[number]
        if item.snapshot is not None:
            entries = tuple(entry for entry in item.snapshot.entries if entry.id in ids)
            budget_bytes = posters.BUDGET_BYTES * len(ids) // len(shown)
            more = posters.pictures(item.rundir, replace(item.snapshot, entries=entries), out, budget_bytes)
            found = posters.Pictures({**found.posters, **more.posters}, {**found.clips, **more.clips})
    return found


def warnings_of(inputs: Sequence[MergeInput]) -> list[str]:
    """Return what the user should know about the directories, as text."""
    found = []
    if absent := missing_shards([item.source for item in inputs]):
        found.append(f"not in this report: {'shard' if len(absent) == 1 else 'shards'} {', '.join(absent)}")
    for item in inputs:
        if (holder := item.rundir.holder()) is not None:
            found.append(f"{item.rundir.path} is running ({holder}): the report shows it as it is now")
        elif item.source.report["finished_at"] is None:
            found.append(f"{item.rundir.path}: its last run was killed before it ended; run it again to continue")
        if any(place == ".." for place in Path(item.source.folder).parts):
            found.append(f"{item.rundir.path} is outside the folder of the report: verify checks its clips only there")
    return found
