"""Signs of an earlier run in a run directory without a journal.

Rule: a run directory with such a sign is never treated as new, because a new start could pay for every job again.
"""

import os
import stat
from collections.abc import Iterable
from io import TextIOWrapper
from pathlib import Path

from batchrunner.errors import UsageError
from batchrunner.job import Entry
from batchrunner.journal import journal
from batchrunner.report import reader
from batchrunner.storage import durable_files
from batchrunner.storage.run_directory import REPORTS, RunDir

_MOST_NAMED = 3


def require_trusted(rundir: RunDir, entries: Iterable[Entry] = ()) -> None:
    """Refuse a run directory that `run` would refuse, for read-only commands.

    Raises UsageError, JournalError, LocalFault.
    """
    if os.path.lexists(rundir.journal):
        journal.require_current(rundir.journal, rundir.witness)
    else:
        require_no_signs(rundir, entries)


def signs(rundir: RunDir, entries: Iterable[Entry], *, has_journal: bool = False) -> list[str]:
    """Return the names of files that an earlier run left. has_journal: ignore the files that belong to a journal."""
    folder_name = rundir.internal_dir.name
    journal_files = (
        []
        if has_journal
        else [rundir.witness.name, f"{folder_name}/journal.db-wal", f"{folder_name}/journal.db.recovered"]
    )
    found = [name for name in (*journal_files, *REPORTS) if os.path.lexists(rundir.path / name)]
    return found + _clips(str(rundir.path), entries)


def _clips(root: str, entries: Iterable[Entry]) -> list[str]:
    """Return the clips of these entries that exist. No name is looked up in a folder without any clip."""
    has_clips: dict[str, bool] = {}
    found: list[str] = []
    if not os.path.lexists(root):
        return found
    for entry in entries:
        name = entry.file
        folder = name.rpartition("/")[0]
        if folder not in has_clips:
            has_clips[folder] = _has_clips(os.path.join(root, folder))  # noqa: PTH118 (a Path would normalize it)
        if has_clips[folder] and os.path.lexists(f"{root}/{name}"):
            found.append(name)
    return found


def _has_clips(folder: str) -> bool:
    """Return whether a folder may have a file that ends in ``.mp4``; True if it cannot be listed."""
    try:
        with os.scandir(folder) as listed:
            return any(item.name[-4:].casefold() == ".mp4" for item in listed)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def is_merge(folder: Path) -> bool:
    """Return whether the reports in a folder are those of ``report --merge``. Raises OSError."""
    path = folder / "report.json"
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
        with durable_files.open_plain(path) as file, TextIOWrapper(file, "utf-8", "surrogateescape") as text:
            for key, _ in reader.pieces(text):
                if key in {"sources", "jobs"}:
                    return key == "sources"
    except (FileNotFoundError, ValueError):
        return False
    return False


def _is_readable_merge(folder: Path) -> bool:
    try:
        return is_merge(folder)
    except OSError:
        return False


def _instead_of_merge(folder: Path) -> str:
    from batchrunner.app import shards  # here, as most commands need no manifest's modules

    return shards.where_else(folder) or (
        "Name one of the run directories that it was made of: they are in the table of its report.html. To run a "
        "batch, choose another folder with --output. Nothing was submitted."
    )


def require_no_signs(rundir: RunDir, entries: Iterable[Entry], *, has_journal: bool = False) -> None:
    """Refuse a run directory without a journal if an earlier run left files in it. Raises UsageError."""
    found = signs(rundir, entries, has_journal=has_journal)
    if not found:
        return
    if set(found) <= set(REPORTS) and _is_readable_merge(rundir.path):
        raise UsageError(f"{rundir.path} has a merged report, and is no run directory", _instead_of_merge(rundir.path))
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    raise UsageError(
        f"{rundir.path} contains files of an earlier run, but no journal that records its payments: "
        f"{', '.join(found[:_MOST_NAMED])}{more}",
        "Nothing was submitted: a fresh start could pay for every job again. Restore .batchrunner as the last run "
        "left it. If it is lost, run with --recover: every job is then held in doubt, and searched for in the "
        "service's log. If you put these files there yourself and no run used this directory, move them away, or "
        "choose another run directory with --output.",
    )
