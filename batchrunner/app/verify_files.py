"""Check files against a list of their hashes: a report.json, or SHA256SUMS. The journal is not needed.

Rules: nothing is written. A list is untrusted: a path that leads outside its folder is refused and never read. Memory
does not grow with the size of files; of each file, only the name is kept.
"""

import hashlib
import io
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from batchrunner.datasets import sums, tar
from batchrunner.errors import LocalFault
from batchrunner.formatting import printable
from batchrunner.media.decoder import CheckLimit
from batchrunner.media.decoder_pool import one, pool
from batchrunner.report import reader
from batchrunner.storage import durable_files
from batchrunner.storage.beneath import Folder, IsLink
from batchrunner.workers.engines import Workers

MISSING, ALTERED, EXTRA, UNREADABLE = "missing", "altered", "extra", "unreadable"
REFUSED, INVALID, UNDECODABLE, UNFINISHED = "refused", "invalid", "undecodable", "unfinished"
_CHUNK_BYTES = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEY = re.compile(r"[0-9a-f]{64}")  # of a WebDataset sample


@dataclass(frozen=True, slots=True)
class Finding:
    """A checked file. kind: of its problem, one of the names above, or "". message: the problem.

    clips: how many clips were decoded.
    """

    name: str
    kind: str = ""
    message: str = ""
    clips: int = 0


@dataclass(frozen=True, slots=True)
class Expected:
    """A file of the list. size_bytes: None if the list has none. problem: why the entry cannot be used, or "".

    address: of its copy in a bucket, or "".
    """

    name: str
    sha256: str = ""
    size_bytes: int | None = None
    problem: str = ""
    address: str = ""


CheckCopy = Callable[[Expected], Finding]


class _UnsafeMember(ValueError):
    """A tar has a member that leads outside, or that is no plain file."""


@dataclass(frozen=True)
class Check:
    """Checks single files below a folder. deep: decode the clips too. workers: do it.

    outputs_only: only generated clips of a data set are decoded. check_copy: checks the copy of a clip that is only in
    a bucket. Threads share it.
    """

    folder: Folder
    workers: Workers
    deep: bool = False
    outputs_only: bool = False
    check_copy: CheckCopy | None = None
    stopped: threading.Event = field(default_factory=threading.Event)

    def one(self, expected: Expected) -> Finding:
        """Compare one file with the list. Raises UsageError for a copy in a bucket that the user does not allow."""
        if expected.problem:
            return Finding(expected.name, INVALID, f"the list cannot be used here: {expected.problem}")
        if why := sums.outside(expected.name):
            return Finding(expected.name, REFUSED, f"refused, and not read: {why}")
        place = (os.path.abspath(self.folder.path), expected.name, expected.sha256, expected.size_bytes)  # noqa: PTH100 (a link stays)
        clips = self.workers.confirm(clips_of_good_file, *place, self.deep, self.outputs_only)
        if clips is not None:
            return Finding(expected.name, clips=clips)
        try:
            with self.folder.open(sums.components(expected.name)) as file:
                difference = self._difference(file, expected)
                return Finding(expected.name, ALTERED, difference) if difference else self._decode(file, expected.name)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and expected.address and self.check_copy is not None:
                return self.check_copy(expected)
            return Finding(expected.name, *_problem(error))

    def _difference(self, file: BinaryIO, expected: Expected) -> str:
        size_bytes = file.seek(0, os.SEEK_END)
        if expected.size_bytes not in {None, size_bytes}:
            return f"altered: it has {size_bytes:,} bytes instead of {expected.size_bytes:,}"
        digest = hashlib.sha256()
        file.seek(0)
        while (chunk := file.read(_CHUNK_BYTES)) and not self.stopped.is_set():
            digest.update(chunk)
        return "" if digest.hexdigest() == expected.sha256 else "altered: its content has changed: the SHA-256 differs"

    def _decode(self, file: BinaryIO, name: str) -> Finding:
        """Decode the clips in a file whose hash is right."""
        clips, label = 0, ""
        if not self.deep:
            return Finding(name)
        try:
            for item in self._clips(file, name):
                clips += 1
                label = item.pop("label", "")
                one(self.workers.decoders, "clip", item)
                label = ""
        except _UnsafeMember as error:
            return Finding(name, REFUSED, f"refused: {error}", clips)
        except CheckLimit as error:
            kind, message = UNFINISHED, f"could not be checked to its end: {error}"
        except LocalFault as error:
            kind, message = UNREADABLE, error.message
        except ValueError as error:
            kind, message = UNDECODABLE, f"is damaged, and has the SHA-256 of the list: {error}"
        else:
            return Finding(name, clips=clips)
        return Finding(name, kind, f"{label}: {message}" if label else message, clips)

    def _clips(self, file: BinaryIO, name: str) -> Iterator[dict[str, Any]]:
        """Yield a task for each clip in a file: the file itself, or files in a tar."""
        path, size_bytes = str(self.folder.path.joinpath(*sums.components(name))), file.seek(0, os.SEEK_END)
        if name.lower().endswith(".tar"):
            for member in tar.members(file, size_bytes):
                if member.problem:
                    raise _UnsafeMember(f"{printable(member.name, 200)}: do not unpack this tar: {member.problem}")
                if is_sample_clip(member.name):
                    place = {"start_bytes": member.start_bytes, "size_bytes": member.size_bytes}
                    yield {"label": member.name, "path": path, **place}
        elif name.lower().endswith(".mp4") and (not self.outputs_only or is_output_clip(name)):
            yield {"path": path, "size_bytes": size_bytes}


def _problem(error: OSError) -> tuple[str, str]:
    """Return kind and message of a file that was not read."""
    if isinstance(error, IsLink):
        return REFUSED, "refused, and not read: its path leads through a symbolic link"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return MISSING, "missing"
    return UNREADABLE, f"cannot be read: {error.strerror or error}"


def clips_of_good_file(
    folder: str, name: str, sha256: str, size_bytes: int | None, deep: bool, outputs_only: bool
) -> int | None:
    """Check a file in any process. Return the number of decoded clips, or None if it is not good or not there."""
    try:
        with Folder(Path(folder)) as opened:
            finding = Check(opened, Workers(pool()), deep, outputs_only).one(Expected(name, sha256, size_bytes))
    except OSError:
        return None
    return None if finding.kind else finding.clips


def check_all(check: Check, expected: Iterable[Expected]) -> Iterator[Finding]:
    """Check files in the order of the list, several at once."""
    pending: deque[Future[Finding]] = deque()
    with ThreadPoolExecutor(max_workers=check.workers.width, thread_name_prefix="verify") as threads:
        try:
            for item in expected:
                pending.append(threads.submit(check.one, item))
                if len(pending) > 2 * check.workers.width:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:  # if the caller stops early
            check.stopped.set()
            threads.shutdown(wait=False, cancel_futures=True)
            if check.deep:
                check.workers.decoders.stop()


def with_extras(
    check: Check, expected: Iterable[Expected], is_wanted: Callable[[str], bool], source: str
) -> Iterator[Finding]:
    """Check files, then yield the files of the folder that the list does not name. source: the list's name."""
    known: set[str] = set()

    def noted() -> Iterator[Expected]:
        for item in expected:
            known.add("/".join(sums.components(item.name)))
            yield item

    yield from check_all(check, noted())
    try:
        for name in check.folder.names():
            if name not in known and is_wanted(name):
                yield Finding(name, EXTRA, f"extra: {source} does not name it")
    except OSError as error:
        yield Finding(str(error.filename or "."), UNREADABLE, f"cannot be read: {error.strerror or error}")


def read_sums(path: Path) -> Iterator[Expected]:
    """Yield the files of a SHA256SUMS. Raises OSError."""
    with durable_files.open_plain(path, follow=True) as file:
        for item in sums.read(_lines(file)):
            yield Expected(item.name, item.sha256, problem=item.problem)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file. Only the start of a line that is too long is kept."""
    while line := file.readline(sums.LONGEST_LINE + 2):
        piece = line
        while len(piece) > sums.LONGEST_LINE and not piece.endswith(b"\n"):
            piece = file.readline(sums.LONGEST_LINE + 2)
        yield line


def read_report(path: Path) -> Iterator[Expected]:
    """Yield the clips of a report.json. Raises ValueError if it is not a report, and OSError.

    A report that is damaged after its first row has a problem instead.
    """
    rows = 0
    with (
        durable_files.open_plain(path, follow=True) as file,
        io.TextIOWrapper(file, "utf-8-sig", "surrogateescape") as text,
    ):
        try:
            for key, value in reader.pieces(text):
                reader.require_known(key, value)
                if key == "jobs":
                    rows += 1
                    if (item := _expected(value)) is not None:
                        yield item
        except ValueError as error:
            if not rows:
                raise
            yield Expected(path.name, problem=f"it is damaged after {rows:,} rows: {error}")
    if not rows:
        raise ValueError("it has no jobs")


def _expected(row: Any) -> Expected | None:
    """Return what a row of the report says of its clip; None if it has no clip."""
    if not isinstance(row, dict):
        return Expected("a row of jobs", problem="it is not a mapping")
    name, sha256, size_bytes = row.get("file"), row.get("sha256"), row.get("bytes")
    if name is None:
        return None
    if not isinstance(name, str):
        return Expected(str(row.get("id"))[:200], problem="the name of its file is not text")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        return Expected(name, problem="it has no SHA-256 of this file")
    copy = row.get("object")
    address = copy.get("address") if isinstance(copy, dict) else None
    size_bytes = size_bytes if isinstance(size_bytes, int) else None
    return Expected(name, sha256, size_bytes, address=address if isinstance(address, str) else "")


def is_output_clip(name: str) -> bool:
    """Return whether a file of a data set is a generated clip, and not an input of one."""
    return Path(name).parent.name != "inputs"


def is_sample_clip(name: str) -> bool:
    """Return whether a file in a tar is a generated clip. An input of one is named ``<key>.<role>.mp4``."""
    key, _, suffix = Path(name).name.lower().partition(".")
    return suffix == "mp4" if _KEY.fullmatch(key) else suffix.endswith("mp4")


def is_clip_file(name: str) -> bool:
    """Return whether a file beside a report is a clip by its name."""
    return name.lower().endswith(".mp4")


def verify_report(
    path: Path, workers: Workers, *, deep: bool, check_copy: CheckCopy | None = None
) -> Iterator[Finding]:
    """Check the clips beside a report.json, and name the clips that it does not list.

    check_copy: checks a clip that is only in a bucket. Raises ValueError, OSError, UsageError.
    """
    with Folder(path.parent) as folder:
        check = Check(folder, workers, deep, check_copy=check_copy)
        yield from with_extras(check, read_report(path), is_clip_file, path.name)


def verify_sums(path: Path, workers: Workers, *, deep: bool, whole_folder: bool) -> Iterator[Finding]:
    """Check the files of a SHA256SUMS. whole_folder: name the files that it does not list, too. Raises OSError."""
    with Folder(path.parent) as folder:
        check = Check(folder, workers, deep, outputs_only=True)
        if whole_folder:
            yield from with_extras(check, read_sums(path), partial(_is_other, path.name), path.name)
        else:
            yield from check_all(check, read_sums(path))


def _is_other(own: str, name: str) -> bool:
    return name != own
