"""Whether the disk has room for what is bought: the clips that are paid for and not stored yet, and one more.

Rules: a job is submitted only where its clip will find room. A run on a disk that fills up would otherwise go on paying
for clips that wait at the service, where their links come to an end. Room that the journal's log has not taken yet is
not free: at the end of a run the log is folded in and its room given back, and the next run's log takes it again. Free
inodes and the size limit of files (``ulimit -f``) are room too.
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from batchrunner.clock import Clock
from batchrunner.events import Event, JobMoved, Listener
from batchrunner.formatting import size_text
from batchrunner.job import Record
from batchrunner.journal.journal import LOG_BYTES
from batchrunner.storage import durable_files
from batchrunner.storage.run_directory import RunDir

_LIKELY_BYTES = 1 << 20  # of a clip, where none is known
_BESIDE_BYTES = 32 * 1024  # a clip's rows in the journal, its posters, its part of the report
_INODES_A_CLIP = 4  # the clip, its sidecar while it is downloaded, two posters
_INODES_BESIDE = 8  # the reports as they are written, the journal's own files
_ASK_EVERY_S = 1.0


class DiskSpaceGuard:
    """The disk of one run directory. records: what is known of clips when a run starts."""

    def __init__(self, folder: Path, clock: Clock, records: Iterable[Record]) -> None:
        self._folder = folder
        self._journal = RunDir(folder).journal
        self._clock = clock
        self._largest_bytes = max((each.result.size_bytes for each in records if each.result), default=0)
        self._free_bytes: int | None = 0
        self._free_inodes: int | None = 0
        self._asked_at = float("-inf")  # monotonic, s

    def beside(self, listener: Listener) -> Listener:
        """A listener that hands every event on, and learns how large clips are."""

        def listen(event: Event) -> None:
            listener(event)
            if isinstance(event, JobMoved) and event.record.result is not None:
                size_bytes = event.record.result.size_bytes
                self._largest_bytes = max(self._largest_bytes, size_bytes)
                if self._free_bytes is not None:
                    self._free_bytes -= size_bytes  # until the disk is asked again

        return listen

    def lacks(self, clips: int) -> str:
        """Why so many more clips may find no room, in words; "" where they will. As of a second ago."""
        now = self._clock.monotonic()
        if now - self._asked_at >= _ASK_EVERY_S:
            try:
                self._free_inodes, self._free_bytes = (
                    durable_files.free_inodes(self._folder),
                    durable_files.free_bytes(self._folder),
                )
            except OSError as error:
                return f"the disk of {self._folder} does not tell its room: {error.strerror}; run again to continue"
            self._asked_at = now
            if self._free_bytes is not None:
                self._free_bytes = max(0, self._free_bytes - self._log_to_come_bytes())
        clip_bytes = self._largest_bytes or _LIKELY_BYTES
        wanted_bytes = clips * (clip_bytes + _BESIDE_BYTES)
        told = self._lacking_inodes(clips) or self._over_limit(clip_bytes)
        if not told and self._free_bytes is not None and self._free_bytes < wanted_bytes:
            told = f"the disk has {size_text(self._free_bytes)} left: too little for the clips in flight and one more"
            told = f"{told} ({size_text(wanted_bytes)}); make room"
        return f"{told} and run again to continue" if told else ""

    def _lacking_inodes(self, clips: int) -> str:
        if self._free_inodes is None or self._free_inodes >= clips * _INODES_A_CLIP + _INODES_BESIDE:
            return ""
        told = (
            f"the file system has room for {self._free_inodes:,} more files (inodes): too few for the clips in flight"
        )
        return f"{told} and one more; remove files"

    def _over_limit(self, clip_bytes: int) -> str:
        limit_bytes = durable_files.largest_file_bytes()
        if limit_bytes is None:
            return ""
        largest_bytes = max(clip_bytes, _size(self._journal) + LOG_BYTES)
        if largest_bytes <= limit_bytes:
            return ""
        told = f"files may have {size_text(limit_bytes)} at most (ulimit -f): too little for one of"
        return f"{told} {size_text(largest_bytes)}; raise the limit"

    def _log_to_come_bytes(self) -> int:
        """What the journal's log will still take of the free room."""
        return max(0, LOG_BYTES - _size(self._journal.with_name(f"{self._journal.name}-wal")))


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
