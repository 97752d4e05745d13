"""Check disk space before a submission: for the clips in flight and one more.

A job is submitted only if its clip fits. Otherwise a run on a full disk would pay for clips that wait at the service
until their links expire. Space that the journal's log will still need is not free: the log is merged at the end of a
run and grows again in the next. Free inodes and the size limit of files (``ulimit -f``) are checked too.
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from batchrunner.clock import Clock
from batchrunner.events import Event, JobMoved
from batchrunner.formatting import size_text
from batchrunner.job import Record
from batchrunner.journal.journal import LOG_BYTES
from batchrunner.plan.endings import NO_REASON, StopReason
from batchrunner.storage import durable_files
from batchrunner.storage.run_directory import RunDir

_LIKELY_BYTES = 1 << 20  # of a clip, if no size is known
_BESIDE_BYTES = 32 * 1024  # a clip's rows in the journal, its posters, its part of the report
_INODES_A_CLIP = 4  # the clip, its sidecar while it is downloaded, two posters
_INODES_BESIDE = 8  # the reports as they are written, the journal's own files
_ASK_EVERY_S = 1.0


class DiskSpaceGuard:
    """Guards the disk space of one run directory. records: the jobs' records when a run starts."""

    def __init__(self, folder: Path, clock: Clock, records: Iterable[Record]) -> None:
        self._folder = folder
        self._journal = RunDir(folder).journal
        self._clock = clock
        self._largest_bytes = max((record.result.size_bytes for record in records if record.result), default=0)
        self._free_bytes: int | None = 0
        self._free_inodes: int | None = 0
        self._limit_bytes: int | None = None  # of a file
        self._asked_at = float("-inf")  # monotonic, s

    def on_event(self, event: Event) -> None:
        """Record the size of a delivered clip. Subscribe this to the run's events."""
        if type(event) is JobMoved and event.record.result is not None:
            size_bytes = event.record.result.size_bytes
            self._largest_bytes = max(self._largest_bytes, size_bytes)
            if self._free_bytes is not None:
                self._free_bytes = max(0, self._free_bytes - size_bytes)  # until the next question to the disk

    def lacks(self, clips: int) -> StopReason:
        """Return why the disk lacks space for `clips` more clips, or NO_REASON. The disk is asked once a second."""
        now = self._clock.monotonic()
        if now - self._asked_at >= _ASK_EVERY_S:
            try:
                self._free_inodes, self._free_bytes = (
                    durable_files.free_inodes(self._folder),
                    durable_files.free_bytes(self._folder),
                )
            except OSError as error:
                message = f"the disk of {self._folder} does not report its free space: {error.strerror}"
                return StopReason("disk_error", message)
            self._asked_at, self._limit_bytes = now, durable_files.largest_file_bytes()
            if self._free_bytes is not None:
                self._free_bytes = max(0, self._free_bytes - self._log_to_come_bytes())
        clip_bytes = self._largest_bytes or _LIKELY_BYTES
        wanted_bytes = clips * (clip_bytes + _BESIDE_BYTES)
        reason = self._lacking_inodes(clips) or self._over_limit(clip_bytes)
        if not reason and self._free_bytes is not None and self._free_bytes < wanted_bytes:
            left = f"{size_text(self._free_bytes)} left, besides the journal's space"
            message = f"the disk has {left}: too little for the clips in flight and one more"
            reason = StopReason("disk_full", f"{message} ({size_text(wanted_bytes)})")
        return reason

    def _lacking_inodes(self, clips: int) -> StopReason:
        if self._free_inodes is None or self._free_inodes >= clips * _INODES_A_CLIP + _INODES_BESIDE:
            return NO_REASON
        reason = (
            f"the file system has room for {self._free_inodes:,} more files (inodes): too few for the clips in flight"
        )
        return StopReason("inodes", f"{reason} and one more")

    def _over_limit(self, clip_bytes: int) -> StopReason:
        limit_bytes = self._limit_bytes
        if limit_bytes is None:
            return NO_REASON
        largest_bytes = max(clip_bytes, _size(self._journal) + LOG_BYTES)
        if largest_bytes <= limit_bytes:
            return NO_REASON
        reason = f"files may have {size_text(limit_bytes)} at most (ulimit -f): too little for one of"
        return StopReason("file_limit", f"{reason} {size_text(largest_bytes)}")

    def _log_to_come_bytes(self) -> int:
        """Return how many bytes the journal's log will still need."""
        return max(0, LOG_BYTES - _size(self._journal.with_name(f"{self._journal.name}-wal")))


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
