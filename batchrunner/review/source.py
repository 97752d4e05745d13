"""Reads the batch for the review page: its journal and its verdicts when they change, and makes missing posters.

Rules: the journal is opened for reading only, and the run's lock is never taken, so a run is not disturbed. All methods
block. Each has a thread of its own, which calls it again and again.
"""

import json
from collections.abc import Callable

from batchrunner.gc_pause import gc_paused
from batchrunner.job import Snapshot
from batchrunner.journal import journal, reader
from batchrunner.journal.witness import Mark
from batchrunner.media import decoder_pool, posters
from batchrunner.report import build
from batchrunner.review.board import ByClip
from batchrunner.review.bucket_clips import BucketClips, Fetch
from batchrunner.review.catalogue import Catalogue, catalogue
from batchrunner.review.clips import Source
from batchrunner.review.verdicts import VerdictLines
from batchrunner.storage.run_directory import RunDir


class BatchSource:
    """The batch in a run directory. version: of this program. fetch: copies a clip that only a bucket has, or None."""

    def __init__(self, rundir: RunDir, version: str, fetch: Fetch | None = None) -> None:
        self.rundir = rundir
        self._version = version
        self._bucket = BucketClips(fetch) if fetch else None
        self._lines = VerdictLines(rundir.path)
        self._mark: Mark | None = None
        self._snapshot: Snapshot | None = None

    def read(self) -> Catalogue | None:
        """Return the batch, or None if it has not changed since the last call. Raises JournalError, OSError."""
        found = journal.view(self.rundir.journal, reader.mark)
        if found is None or found[0] == self._mark:
            return None
        snapshot = journal.view(self.rundir.journal, reader.snapshot)
        if snapshot is None:
            return None
        self._mark, self._snapshot = found[0], snapshot
        with gc_paused():
            return catalogue(snapshot, self.rundir.path, self._version)

    def head(self) -> build.Report:
        """Return the head of the report on the batch. It has been read."""
        assert self._snapshot is not None
        run = self._snapshot.run
        return build.head(run, json.loads(run.settings_json), self._version, None)

    def local(self, source: Source) -> Source:
        """Return a source whose file is on this machine, if the batch has it at all. Raises OSError."""
        return self._bucket.local(source) if self._bucket else source

    def close(self) -> None:
        """Remove the copies of clips that only a bucket has."""
        if self._bucket:
            self._bucket.close()

    def read_verdicts(self) -> ByClip | None:
        """Return all verdicts, or None if there is no new line since the last call. Raises LocalFault."""
        return dict(self._lines.by_clip) if self._lines.refresh() else None

    def make_posters(self, enough: Callable[[], bool]) -> None:
        """Make missing pictures of an ended run. A run that goes on makes its own. enough: polled; True stops."""
        if self._snapshot is not None and self._snapshot.run.finished_at is not None:
            posters.make_missing(self.rundir, self._snapshot, decoder_pool.pool(), enough=enough)
