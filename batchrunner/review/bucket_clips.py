"""The clips of a batch that only a bucket has: copies that are made when the page asks for them.

The copies are in a temporary folder, which ends with the server. Only the latest ones are kept.
"""

import errno
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from batchrunner.errors import CallError, UsageError
from batchrunner.review.clips import Source

_MOST_COPIES = 50

Fetch = Callable[[str, str, Path], None]  # address, SHA-256 and a new file; `storage.objects.blocking.ObjectReader`


class OnlyInBucket(OSError):
    """A clip is only in a bucket and cannot be read there. message: why, and the next step."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EIO, message)
        self.message = message


class BucketClips:
    """Copies of objects. fetch: writes an object to a new file. Threads share it."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._folder: TemporaryDirectory[str] | None = None
        self._copies: OrderedDict[str, Path] = OrderedDict()
        self._lock = threading.Lock()
        self._fetching: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def local(self, source: Source) -> Source:
        """Return a source whose file is on this machine. Blocks. Raises OnlyInBucket, OSError."""
        if not source.address or source.path.exists():
            return source
        with self._lock:
            fetching = self._fetching[source.sha256]
        with fetching:
            return replace(source, path=self._copy_of(source), root=self._root())

    def close(self) -> None:
        """Remove all copies."""
        with self._lock:
            if self._folder is not None:
                self._folder.cleanup()

    def _root(self) -> Path:
        with self._lock:
            if self._folder is None:
                self._folder = TemporaryDirectory(prefix="batchrunner-review-")
            return Path(self._folder.name)

    def _copy_of(self, source: Source) -> Path:
        path = self._root() / f"{source.sha256}.mp4"
        if source.sha256 not in self._copies:
            partial = path.with_suffix(".part")
            try:
                self._fetch(source.address, source.sha256, partial)
            except (CallError, UsageError) as error:
                partial.unlink(missing_ok=True)
                text = f"Only a bucket has this clip: {error.message}. {error.hint}".rstrip()
                raise OnlyInBucket(text) from None
            partial.rename(path)
        with self._lock:
            self._copies[source.sha256] = path
            self._copies.move_to_end(source.sha256)
            while len(self._copies) > _MOST_COPIES:
                self._copies.popitem(last=False)[1].unlink(missing_ok=True)
        return path
