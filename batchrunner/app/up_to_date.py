"""Whether a run of a batch would find nothing to do. Then none is begun: journal, clips and reports stay as they are.

Rule: this only passes over what would come to the same. Whatever raises a doubt (another setting, a clip of another
size, reports of another run) is a reason for a run, which looks at everything and brings it in line.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from stat import S_ISREG

from batchrunner.app.setup import Setup, run_of
from batchrunner.events import Listener, Noticed, RunFinished, RunStarted
from batchrunner.formatting import rfc3339
from batchrunner.gc_pause import gc_paused
from batchrunner.job import Entry, Run, State
from batchrunner.journal.summary import Counts, Placed, count, lists, placed
from batchrunner.journal.witness import Witness
from batchrunner.plan.resume import take_up
from batchrunner.report.build import SCHEMA_VERSION
from batchrunner.report.summary import outline
from batchrunner.report.text import headline
from batchrunner.settings import Settings
from batchrunner.storage.durable_files import Disk

_REPORTS = ("report.json", "report.html", "results.csv")
_HEAD_BYTES = 64 * 1024  # of report.json, with all that stands before the jobs
_TELLING = {"quiet", "log_format", "no_progress"}  # settings of how a run is shown: they change nothing of a batch


@gc_paused()
def nothing_to_do(setup: Setup, service: str) -> Counts | None:
    """The batch as it stands, where a run would leave everything so; else None. The run directory is locked.

    service: whose generations these would be (`endpoint.service_name`). Raises JournalError.
    """
    settings, entries, path = setup.settings, setup.batch.entries, setup.rundir.journal
    if settings.junit or settings.metrics_file or settings.notify:  # these tell of every run
        return None
    try:
        seen = Witness(setup.rundir.witness, Disk()).read()
    except OSError:
        return None
    counts = count(path)
    if (
        counts is None
        or counts.mark != seen
        or not _is_over(counts, settings)
        or not _same(counts.run, run_of(setup, service, "", 0.0))
    ):
        return None
    if sum(counts.states.values()) != len(entries) or not lists(path, entries):
        return None
    if not _clips_stand(setup.rundir.path, entries, placed(path), counts):
        return None
    hurried = setup.sandbox is not None and setup.sandbox.speed != 1
    return counts if _reports_stand(setup.rundir.path, counts.run, hurried=hurried) else None


def announce(setup: Setup, counts: Counts, version: str, now: float, listener: Listener) -> int:
    """Announce a run that did nothing, `now` (wall time, s). Returns the exit status, which is that of the last run."""
    run, report = counts.run, outline(counts, version)
    files = tuple(str(setup.rundir.path / name) for name in _REPORTS)
    listener(RunStarted(now, run.name, run.provider, str(setup.rundir.path), run.concurrency, counts.jobs))
    for notice in setup.warnings:
        listener(Noticed(now, (), notice))
    expected = "nothing to do: what could be done is done, and the report tells of it"
    listener(Noticed(now, (), expected, routine=True))
    status = run.exit_status or 0
    listener(RunFinished(now, status, counts.jobs, files, headline(report), report))
    return status


def _is_over(counts: Counts, settings: Settings) -> bool:
    """Whether the last run ended by itself, and left what succeeded, or has failed and is not to be tried again."""
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
    """Whether a run was started with what one is to be started with now."""
    return _asked(run) == _asked(wanted)


def _asked(run: Run) -> tuple[Run, Mapping[str, object]]:
    begun = replace(run, finished_at=None, exit_status=None, stopped="", stop_kind="")
    bare = replace(begun, run_id="", started_at=0.0, settings_json="{}")
    return bare, {name: value for name, value in json.loads(run.settings_json).items() if name not in _TELLING}


def _clips_stand(root: Path, entries: tuple[Entry, ...], files: Mapping[str, Placed], counts: Counts) -> bool:
    """Whether what succeeded stands under its name, in its size: what `store.Store.settle` asks for."""
    failed = {record.job.fingerprint for _, record in counts.listed}
    size_bytes = 0
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)  # to look names up from here, and not from the root each time
    try:
        for entry in entries:
            if entry.job.fingerprint not in failed:
                name = entry.file
                found = files.get(name)
                if found is None or found[0] != entry.job.fingerprint:
                    return False
                status = os.lstat(name, dir_fd=folder)  # a Path each would take as long as all the rest
                if status.st_size != found[1] or not S_ISREG(status.st_mode):
                    return False
                size_bytes += found[1]
    except OSError:
        return False
    finally:
        os.close(folder)
    return size_bytes == counts.size_bytes


def _reports_stand(root: Path, run: Run, *, hurried: bool) -> bool:
    """Whether the reports are there, were written since `run` began, and tell of its end.

    hurried: the run's clock was ahead of the file system's. Then none may be older than report.json, which names the
    run and is written first.
    """
    assert run.finished_at is not None
    try:
        written = [(root / name).stat().st_mtime for name in _REPORTS]
        with (root / _REPORTS[0]).open(encoding="utf-8", errors="replace") as file:
            head = file.read(_HEAD_BYTES).replace('": ', '":')
    except OSError:
        return False
    version = f'"schema_version":{SCHEMA_VERSION},'  # a report of an older version is written again
    expected = (version, f'"run_id":"{run.run_id}"', f'"finished_at":"{rfc3339(run.finished_at)}"')
    return min(written) >= (written[0] if hurried else run.started_at) and all(text in head for text in expected)
