"""Read a finished or running batch for a data set: from its journal, or from report.json where there is no journal.

Rules: nothing is written. A row has the keys of report.json in both cases. Names of files come from outside: a clip is
read only inside its run directory, and only if no symbolic link leads out of it.
"""

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from batchrunner.datasets.stored_reports import read_report
from batchrunner.journal.journal import read
from batchrunner.manifest.inputs import is_remote
from batchrunner.report import build
from batchrunner.review.verdicts import VerdictLines
from batchrunner.storage.paths import expanded
from batchrunner.storage.run_directory import RunDir

Row = Mapping[str, Any]
_ROWS = ("jobs", "earlier_jobs")


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch whose clips may become items.

    path: its run directory, links resolved. head: the keys of report.json without the rows. rows: the report's `jobs`.
    holder: the process that runs it, or None. fetched: copies of clips that are only in a bucket, by SHA-256. warning:
    a sentence on lines of review.jsonl that do not count, or "".
    """

    path: Path
    head: Row
    rows: Sequence[Row]
    holder: str | None = None
    warning: str = ""
    fetched: Mapping[str, Path] = field(default_factory=dict)

    def clip(self, row: Row) -> Path:
        """Return where the clip of a row is."""
        return self.fetched.get(row["sha256"]) or self.path / str(row["file"])

    def input_paths(self, row: Row, name: str, source: str) -> tuple[Path, ...]:
        """Return where a local input may be: where the run read it, or beside the manifest. () for a remote one."""
        job = getattr(row, "job", None)
        if job is not None:
            recorded = job.inputs[name].path
            return () if recorded is None else (_real(recorded), self._near(source))
        return () if is_remote(source) else (self._near(source),)

    def _near(self, source: str) -> Path:
        return _near(self.head["manifest"]["path"], source)


@lru_cache(maxsize=20_000)
def _near(manifest: str, source: str) -> Path:
    return _real(Path(manifest).parent / expanded(source))


@lru_cache(maxsize=20_000)
def _real(path: Path) -> Path:
    """Resolve links: an input may be one. Its content is compared with the recorded hash."""
    return Path(os.path.realpath(path))


def read_batch(rundir: RunDir, version: str) -> Batch | None:
    """Read the batch in a run directory, or return None if it has none. version: of this program.

    Raises UsageError, JournalError, LocalFault.
    """
    rundir = RunDir(Path(os.path.realpath(rundir.path)))
    holder = rundir.holder()  # before the journal, which then has the outcome
    lines = VerdictLines(rundir.path)
    if rundir.journal.exists():
        lines.refresh()
        snapshot = read(rundir.journal)
        report = None if snapshot is None else build.build(snapshot, version, lines.by_clip)
    else:
        report = read_report(rundir.path / "report.json")
    if report is None:
        return None
    head = {key: value for key, value in report.items() if key not in _ROWS}
    return Batch(rundir.path, head, report["jobs"], holder, lines.warning)


def clip_fault(batch: Batch, path: Path, size_bytes: int) -> str:
    """Return why the file at `path` cannot be the clip that was delivered, as far as its name and size tell, or ""."""
    if os.path.islink(path):  # noqa: PTH114 (it takes any name)
        return "is a symbolic link"
    if path not in batch.fetched.values() and not Path(os.path.realpath(path)).is_relative_to(batch.path):
        return "is outside the run directory"
    return file_fault(path, size_bytes)


def file_fault(path: Path, size_bytes: int) -> str:
    """Return why the file at `path` is not the recorded one, as far as its size tells, or ""."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"
    if stat.S_ISLNK(status.st_mode):
        return "is a symbolic link"
    if not stat.S_ISREG(status.st_mode):
        return "is not a plain file"
    return "" if status.st_size == size_bytes else f"has {status.st_size} bytes instead of {size_bytes}"
