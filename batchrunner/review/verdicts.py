"""``review.jsonl``: the verdicts on the clips of a run directory, one JSON object a line, append-only.

::

    {"id": "a.t2", "take": 2, "fingerprint": "sha256:…", "sha256": "…", "verdict": "reject", "reasons": ["hands"],
     "rating": 2, "note": "", "at": "2026-11-22T21:55:00.123Z", "by": "ann"}

A line counts only for the clip whose SHA-256 it names. Of several lines for one clip, the last one counts. A line is on
the disk when `VerdictLog.append` returns. Lines are never changed or removed. Several processes may write: the lock
``.batchrunner/review.lock`` admits one of them at a time, for the time of one line. A torn last line and foreign lines
do not count, and the next line begins after them. Readers take no lock.
"""

import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from batchrunner.clock import pause
from batchrunner.errors import BatchLocked, UsageError
from batchrunner.formatting import count_text
from batchrunner.storage import durable_files
from batchrunner.storage.durable_files import Disk
from batchrunner.storage.line_file import append_line
from batchrunner.storage.run_directory import RunDir

ACCEPT, REJECT, NONE = VERDICTS = ("accept", "reject", "none")
QUALITY, ON_CLIP = AUTOMATIC = ("quality", "on_clip")  # `by` of verdicts that no person gave
LOWEST_RATING, HIGHEST_RATING = 1, 5

_TRIES, _BETWEEN_TRIES_S = 500, 0.02  # a writer has the lock for one flush of the disk
_NOTHING_STORED = "Nothing was stored. The verdicts in the file are unchanged."


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verdict on one clip.

    id, take, fingerprint: of the clip's row in the report. sha256: of the clip, in hex. verdict: one of VERDICTS;
    ``none`` withdraws an earlier one. rating: LOWEST_RATING to HIGHEST_RATING, or None. at: RFC 3339. by: a person's
    name, or one of AUTOMATIC.
    """

    id: str
    take: int
    fingerprint: str
    sha256: str
    verdict: str
    reasons: tuple[str, ...] = ()
    rating: int | None = None
    note: str = ""
    at: str = ""
    by: str = ""

    @property
    def is_automatic(self) -> bool:
        """Whether a check or a hook gave it."""
        return self.by in AUTOMATIC


def load(
    run_dir: Path, clips: Mapping[str, str] | None = None, warn: Callable[[str], None] | None = None
) -> dict[str, Verdict]:
    """Return the verdict of each row of the report, by the row's id.

    clips: the SHA-256 of each row's clip, by id. With it, only verdicts on these clips count. Without it, the last line
    of an id counts, and the caller has to compare its sha256. warn: receives one sentence if the file has lines that
    do not count. Raises LocalFault if the file cannot be read; a missing file has no verdicts.
    """
    lines = VerdictLines(run_dir)
    lines.refresh()
    if warn is not None and lines.warning:
        warn(lines.warning)
    return dict(lines.by_id) if clips is None else lines.on(clips)


class VerdictLines:
    """The lines of ``review.jsonl``. `refresh` reads only the lines that are new since the last call.

    by_id: the last line of each id. by_clip: the last line of each id and SHA-256.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = RunDir(run_dir).review
        self._forget()

    def _forget(self) -> None:
        self.by_id: dict[str, Verdict] = {}
        self.by_clip: dict[tuple[str, str], Verdict] = {}
        self._inode = 0
        self._read_bytes = self._lines = self._foreign = self._first_foreign = 0

    @property
    def warning(self) -> str:
        """A sentence on the lines that do not count, or ""."""
        if not self._foreign:
            return ""
        if self._foreign == 1:
            return f"{self.path}: line {self._first_foreign} is not a verdict and does not count"
        which = f"{count_text(self._foreign, 'line')}, the first of them line {self._first_foreign},"
        return f"{self.path}: {which} are not verdicts and do not count"

    def on(self, clips: Mapping[str, str]) -> dict[str, Verdict]:
        """Return the verdicts on these clips, by id. clips: their SHA-256, by id."""
        found = ((name, self.by_clip.get((name, sha256.lower()))) for name, sha256 in clips.items())
        return {name: verdict for name, verdict in found if verdict is not None}

    def refresh(self) -> bool:
        """Read the new lines, and return whether there were any. Raises LocalFault."""
        try:
            content = self._new_content()
        except OSError as error:
            raise durable_files.fault(error, f"the verdicts in {self.path} could not be read") from error
        *lines, remainder = content.split(b"\n")
        for line in lines:
            self._lines += 1
            if line.strip() and not self._take(line):
                self._first_foreign = self._first_foreign or self._lines
                self._foreign += 1
        self._read_bytes += len(content) - len(remainder)
        self._take(remainder)  # complete although its line end is missing, or torn: it is read again
        return bool(content)

    def _new_content(self) -> bytes:
        try:
            with durable_files.open_plain(self.path) as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._read_bytes:
                    self._forget()
                    self._inode = status.st_ino
                file.seek(self._read_bytes)
                return file.read()
        except FileNotFoundError:
            self._forget()
            return b""

    def _take(self, line: bytes) -> bool:
        verdict = _verdict(line)
        if verdict is not None:
            self.by_id[verdict.id] = self.by_clip[verdict.id, verdict.sha256] = verdict
        return verdict is not None


class VerdictLog:
    """Appends verdicts to ``review.jsonl``. Use as a context manager, from any thread.

    The lock is taken for each line, so several logs may be open. On a file system without locks, there is none.
    Raises UsageError if the run directory cannot be used.
    """

    def __init__(self, run_dir: Path) -> None:
        self._rundir = RunDir(run_dir)
        self._lines = VerdictLines(run_dir)
        self._threads = threading.Lock()
        self._lock = -1
        self._is_name_durable = False

    def __enter__(self) -> Self:
        self._rundir.check()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._lock = os.open(self._rundir.review_lock, flags, 0o666)
        except OSError as error:
            if error.errno in durable_files.FULL:
                raise durable_files.fault(error, f"{self._rundir.review_lock} could not be created") from error
            raise UsageError(
                f"the verdicts of {self._rundir.path} cannot be written: {error.strerror}",
                f"{_NOTHING_STORED} Name a run directory that you may write to.",
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)
        self._lock = -1

    def append(self, verdict: Verdict) -> None:
        """Append a verdict. It is on the disk when this returns.

        Raises LocalFault if it could not be stored, BatchLocked if another process keeps the lock.
        """
        with self._exclusive():
            self._append(verdict)

    def propose(self, verdict: Verdict) -> bool:
        """Append an automatic rejection, unless a person has given a verdict on the clip.

        The reasons of an earlier automatic rejection are kept. Without a new reason, nothing is appended. Return
        whether a line was appended. Raises as `append`.
        """
        with self._exclusive():
            self._lines.refresh()
            earlier = self._lines.by_clip.get((verdict.id, verdict.sha256))
            if earlier is not None:
                new = [reason for reason in verdict.reasons if reason not in earlier.reasons]
                if not earlier.is_automatic or (earlier.verdict == verdict.verdict and not new):
                    return False
                verdict = replace(verdict, reasons=(*earlier.reasons, *new))
            self._append(verdict)
            return True

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._threads:
            self._take_lock()
            try:
                yield
            finally:
                with suppress(OSError):
                    fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _take_lock(self) -> None:
        for _ in range(_TRIES):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pause(_BETWEEN_TRIES_S)
            except OSError:  # the file system has no locks
                return
            else:
                return
        raise BatchLocked(
            f"another process keeps the lock {self._rundir.review_lock}",
            f"{_NOTHING_STORED} End that process, then try again.",
        )

    def _append(self, verdict: Verdict) -> None:
        path = self._rundir.review
        try:
            append_line(path, _line(verdict))
            if not self._is_name_durable:
                Disk().flush_folder(path.parent)
                self._is_name_durable = True
        except OSError as error:
            raise durable_files.fault(error, f"the verdict on {verdict.id} could not be stored in {path}") from error


def _line(verdict: Verdict) -> bytes:
    """Return the line of a verdict. Lone surrogates are escaped, because UTF-8 lacks them."""
    text = json.dumps(asdict(verdict), ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _verdict(line: bytes) -> Verdict | None:
    """Return the verdict in a line, or None. Unknown keys are ignored, and optional keys may be absent."""
    try:
        stored: dict[str, Any] = json.loads(line)
        values = {name: stored[name] for name in Verdict.__slots__ if name in stored}
        verdict = Verdict(**{"take": 1, "fingerprint": "", **values})
        verdict = replace(verdict, sha256=verdict.sha256.lower(), reasons=tuple(verdict.reasons))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    texts = (verdict.id, verdict.fingerprint, verdict.note, verdict.at, verdict.by, *verdict.reasons)
    numbers = (verdict.take, verdict.rating or 0)
    is_valid = (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
        and isinstance(stored.get("reasons", []), list)
        and verdict.verdict in VERDICTS
        and verdict.id != ""
    )
    return verdict if is_valid else None
