"""The counted report of a batch, from its journal and its verdicts, for commands that print the closing block only."""

from batchrunner.journal.summary import Counts, clips
from batchrunner.report.build import Report
from batchrunner.report.summary import outline
from batchrunner.review.verdicts import VerdictLines
from batchrunner.storage.run_directory import RunDir


def outline_of(counts: Counts, rundir: RunDir, version: str) -> Report:
    """Return the counted report of the batch in `rundir`. version: of this program. Raises JournalError, LocalFault."""
    lines = VerdictLines(rundir.path)
    lines.refresh()
    return outline(counts, version, clips(rundir.journal, lines.by_id), lines.by_clip)
