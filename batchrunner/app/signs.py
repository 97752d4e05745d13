"""What shows that a run was in a run directory, where no journal tells of one.

Rule: a run directory with such a sign is never taken for a fresh one, as a fresh start could pay for every job again.
"""

import os
from collections.abc import Iterable

from batchrunner.errors import UsageError
from batchrunner.job import Entry
from batchrunner.journal import journal
from batchrunner.storage.run_directory import RunDir

_REPORTS = ("report.json", "report.html", "results.csv")
_MOST_NAMED = 3


def require_trusted(rundir: RunDir, entries: Iterable[Entry] = ()) -> None:
    """Refuse what a run would refuse, for commands that only look. Raises UsageError, JournalError, LocalFault."""
    if os.path.lexists(rundir.journal):
        journal.require_current(rundir.journal, rundir.witness)
    else:
        require_no_signs(rundir, entries)


def signs(rundir: RunDir, entries: Iterable[Entry], *, has_journal: bool = False) -> list[str]:
    """What shows that a run was here: names in the run directory. has_journal: what belongs to one does not count."""
    room = rundir.internal_dir.name
    own = [] if has_journal else [rundir.witness.name, f"{room}/journal.db-wal", f"{room}/journal.db.recovered"]
    found = [name for name in (*own, *_REPORTS) if os.path.lexists(rundir.path / name)]
    return found + [entry.file for entry in entries if os.path.lexists(rundir.path / entry.file)]


def require_no_signs(rundir: RunDir, entries: Iterable[Entry], *, has_journal: bool = False) -> None:
    """Refuse to take a run directory for a fresh one where something shows that a run was here. Raises UsageError."""
    found = signs(rundir, entries, has_journal=has_journal)
    if not found:
        return
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    raise UsageError(
        f"{rundir.path} holds no journal that knows what was paid for, but files of an earlier run: "
        f"{', '.join(found[:_MOST_NAMED])}{more}",
        "Nothing was submitted: a fresh start could pay for every job again. Bring .batchrunner back as the last run "
        "left it. Where it is lost, run with --recover: every job is then held in doubt, and looked for in the "
        "service's log. If you placed these files there yourself and no run was here, move them away, or choose "
        "another run directory with --output.",
    )
