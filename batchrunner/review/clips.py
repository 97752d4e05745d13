"""The files that the review page shows: opened safely, and sent with Range.

Rules: a file is served only if the journal names it. A result is opened below the run directory without following
links. A local input may be a link, as in a run, but its content must be the one that the journal names.
"""

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader, FileIO
from pathlib import Path, PurePosixPath

from batchrunner.storage import durable_files

CHUNK_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# Types that a browser shows as a picture or a clip. A file of another type is sent as bytes.
_TYPES: Mapping[str, str] = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/mp4",
    ".webm": "video/webm",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".avif": "image/avif",
    ".bmp": "image/bmp",
}


@dataclass(frozen=True, slots=True)
class Source:
    """A file to serve. root: it is below this folder and no link leads to it; None for an input, which may be a link.

    sha256, size_bytes: of its content as the journal has them. size_bytes None: not known. address: of its copy in a
    bucket, or "".
    """

    path: Path
    sha256: str
    size_bytes: int | None
    root: Path | None = None
    address: str = ""

    @property
    def content_type(self) -> str:
        """The type to send it with."""
        return _TYPES.get(self.path.suffix.lower(), "application/octet-stream")


@dataclass(frozen=True, slots=True)
class Slice:
    """What to send of a file: status, first byte and length."""

    status: int
    start: int
    length: int


class Changed(OSError):
    """The file is not the one that the journal names."""


@dataclass(slots=True)
class Digests:
    """SHA-256 of files, each read once until the file changes."""

    known: dict[tuple[int, int, int, int], str] = field(default_factory=dict)

    def of(self, file: BufferedReader) -> str:
        """Return the hex digest of an open file. Blocks."""
        status = os.fstat(file.fileno())
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if key not in self.known:
            file.seek(0)
            self.known[key] = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
        return self.known[key]


@contextmanager
def opened(source: Source) -> Iterator[BufferedReader]:
    """Open a file to serve. Raises OSError; Changed if its size is not that of the journal."""
    if source.root is None:
        file = durable_files.open_plain(source.path, follow=True)
    else:
        file = open_below(source.root, source.path.relative_to(source.root).as_posix())
    with file:
        if source.size_bytes is not None and os.fstat(file.fileno()).st_size != source.size_bytes:
            raise Changed(errno.ESTALE, "its size is not the one that the journal has", str(source.path))
        yield file


def require_unchanged(source: Source, digests: Digests) -> None:
    """Compare the content with the digest of the journal. Blocks. Raises OSError; Changed if they differ."""
    with opened(source) as file:
        if digests.of(file) != source.sha256:
            raise Changed(errno.ESTALE, "its content is not the one that the journal has", str(source.path))


def open_below(root: Path, name: str) -> BufferedReader:
    """Open a plain file below `root`. Raises OSError if a part of the name is a link, or leads out of `root`."""
    names = PurePosixPath(name).parts
    if not names or any(item in {"..", "/", "//"} for item in names):
        raise OSError(errno.EINVAL, "not a name below the run directory", name)
    folder = os.open(root, _FOLDER)
    try:
        for item in names[:-1]:
            inner = os.open(item, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        descriptor = os.open(names[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", name)
    return BufferedReader(FileIO(descriptor, "rb"))


def sliced(size_bytes: int, wanted: str | None, if_range: str | None, etag: str) -> Slice:
    """Return what to send for a Range header.

    A header that is malformed, names several ranges, or is out of date by If-Range is ignored (RFC 9110, 14.2).
    """
    whole = Slice(200, 0, size_bytes)
    match = _RANGE.fullmatch(wanted.strip()) if wanted else None
    if match is None or match[0] == "bytes=-" or (if_range is not None and if_range != etag):
        return whole
    if not match[1]:
        start, end = max(0, size_bytes - int(match[2])), size_bytes
    else:
        start = int(match[1])
        if match[2] and int(match[2]) < start:
            return whole
        end = min(int(match[2]) + 1, size_bytes) if match[2] else size_bytes
    return Slice(416, 0, 0) if start >= end else Slice(206, start, end - start)
