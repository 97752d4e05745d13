"""Check whether a run would find nothing to do. If so, no run starts, and journal, clips and reports stay unchanged.

Rule: this check only skips runs without effect. Any difference (another setting, a clip of another size, reports of
another run) starts a run, which checks everything.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from stat import S_ISREG

from batchrunner.app.outlines import outline_of
from batchrunner.app.setup import Setup, run_of
from batchrunner.events import Listener, Noticed, RunFinished, RunStarted
from batchrunner.formatting import rfc3339
from batchrunner.gc_pause import gc_paused
from batchrunner.job import Run, State
from batchrunner.journal import migrate
from batchrunner.journal.summary import Counts, count, delivered, lists
from batchrunner.journal.witness import Mark, Witness
from batchrunner.plan.resume import take_up
from batchrunner.plan.selection import unmatched_notices
from batchrunner.report.build import SCHEMA_VERSION
from batchrunner.report.text import headline
from batchrunner.settings import Settings
from batchrunner.storage.durable_files import Disk
from batchrunner.storage.run_directory import REPORTS, RunDir

_HEAD_BYTES = 64 * 1024  # of report.json; contains all keys before the jobs
# Settings of the display, the date of the price list, chosen jobs: they have no effect on a batch without open jobs.
_DISPLAY_SETTINGS = {"quiet", "log_format", "no_progress", "price_list", "only"}


@gc_paused()
def nothing_to_do(setup: Setup, service: str) -> Counts | None:
    """Return the batch if a run would leave it unchanged, otherwise None. The run directory is locked.

    service: the service that owns the generations (`endpoint.service_name`). Raises JournalError.
    """
    settings, entries, path = setup.settings, setup.batch.entries, setup.rundir.journal
    # These concern every run. A bucket is compared with the journal.
    if settings.junit or settings.metrics_file or settings.notify or settings.on_clip or settings.deliver:
        return None
    seen = _witnessed(setup.rundir)
    counts = count(path) if seen is not None else None
    if (
        counts is None
        or counts.mark != seen
        or not _is_over(counts, settings)
        or not _same(counts.run, run_of(setup, service, "", 0.0))
    ):
        return None
    if sum(counts.states.values()) != len(entries) or not lists(path, entries):
        return None
    if not _clips_exist(setup.rundir.path, delivered(path), counts):
        return None
    hurried = setup.sandbox is not None and setup.sandbox.speed != 1
    is_current = _reports_exist(setup.rundir.path, counts.run, hurried=hurried) and not _reviewed_since(setup.rundir)
    return counts if is_current and not _has_quoted_charges(setup.rundir, counts) else None


def announce(setup: Setup, counts: Counts, version: str, now: float, listener: Listener) -> int:
    """Announce a run without work at `now` (wall time, s). Returns the exit status of the last run."""
    run, report = counts.run, outline_of(counts, setup.rundir, version)
    files = tuple(str(setup.rundir.path / name) for name in REPORTS)
    listener(RunStarted(now, run.name, run.provider, str(setup.rundir.path), run.concurrency, counts.jobs))
    failed = [record for _, record in counts.listed]
    for notice in (*setup.warnings, *unmatched_notices(failed, setup.settings.retry_failed)):
        listener(Noticed(now, (), notice))
    message = "nothing to do: the batch is complete and its report is up to date"
    listener(Noticed(now, (), message, routine=True))
    status = run.exit_status or 0
    listener(RunFinished(now, status, counts.jobs, files, headline(report), report))
    return status


def _witnessed(rundir: RunDir) -> Mark | None:
    """Return the witness's mark of the journal; None if there is none, or if a run would upgrade the journal."""
    try:
        return None if migrate.is_behind(rundir.journal) else Witness(rundir.witness, Disk()).read()
    except OSError:
        return None


def _is_over(counts: Counts, settings: Settings) -> bool:
    """Return whether the last run ended by itself and left only succeeded jobs and failures that are not retried."""
    if counts.run.finished_at is None or counts.run.exit_status not in (0, 1) or counts.is_open:
        return False
    if counts.plain or counts.earlier or any(record.state is not State.FAILED for _, record in counts.listed):
        return False
    known = {record.job.fingerprint: record for _, record in counts.listed}
    again = settings.in_doubt == "resubmit"
    _, changed = take_up(
        known, [entry for entry, _ in counts.listed], retry_failed=settings.retry_failed, resubmit_in_doubt=again
    )
    return not changed


def _same(run: Run, wanted: Run) -> bool:
    """Return whether a run was started with the same manifest and settings as `wanted`."""
    return _comparable(run) == _comparable(wanted)


def _comparable(run: Run) -> tuple[Run, Mapping[str, object]]:
    unfinished = replace(run, finished_at=None, exit_status=None, stopped="", stop_kind="")
    bare = replace(unfinished, run_id="", started_at=0.0, settings_json="{}")
    return bare, {name: value for name, value in json.loads(run.settings_json).items() if name not in _DISPLAY_SETTINGS}


def _clips_exist(root: Path, files: Sequence[tuple[str, str, int]], counts: Counts) -> bool:
    """Return whether each result exists under its name with its size, as `delivery.Store.settle` requires.

    files: those that the journal has (`summary.delivered`).
    """
    failed = {record.job.fingerprint for _, record in counts.listed}
    number = total_bytes = 0
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)  # looking names up relative to the run directory is faster
    try:
        for name, fingerprint, size_bytes in files:
            if fingerprint not in failed:
                status = os.lstat(name, dir_fd=folder)  # a Path for each file would double the time
                if status.st_size != size_bytes or not S_ISREG(status.st_mode):
                    return False
                number += 1
                total_bytes += size_bytes
    except OSError:
        return False
    finally:
        os.close(folder)
    return (number, total_bytes) == (counts.states[State.SUCCEEDED], counts.size_bytes)


def _has_quoted_charges(rundir: RunDir, counts: Counts) -> bool:
    """Return whether a run may settle charges that are only quoted so far. The last run has asked for them."""
    return bool(counts.charges) and outline_of(counts, rundir, "")["money"]["settle_command"] is not None


def _reviewed_since(rundir: RunDir) -> bool:
    """Return whether the verdicts changed after the reports were written."""
    try:
        return rundir.review.lstat().st_mtime >= (rundir.path / REPORTS[0]).stat().st_mtime
    except FileNotFoundError:
        return False


def _reports_exist(root: Path, run: Run, *, hurried: bool) -> bool:
    """Return whether the reports exist, were written since `run` began, and contain its end.

    hurried: the run's clock was ahead of the file system's. Then no report may be older than report.json, which
    contains the run's id and is written first.
    """
    assert run.finished_at is not None
    try:
        written = [(root / name).stat().st_mtime for name in REPORTS]
        with (root / REPORTS[0]).open(encoding="utf-8", errors="replace") as file:
            head = file.read(_HEAD_BYTES).replace('": ', '":')
    except OSError:
        return False
    version = f'"schema_version":{SCHEMA_VERSION},'  # a report of an older version is written again
    expected = (version, f'"run_id":"{run.run_id}"', f'"finished_at":"{rfc3339(run.finished_at)}"')
    return min(written) >= (written[0] if hurried else run.started_at) and all(text in head for text in expected)
