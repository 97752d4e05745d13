"""The run directory: where things lie in it, and the lock that lets one process at a time work there.

::

    output/<name>/<id>.mp4                    results
    output/<name>/report.json, report.html, results.csv
    output/<name>/.batchrunner.witness        how far the journal had come
    output/<name>/.batchrunner/journal.db     the journal
                              /lock           held while a run lasts; says by whom
                              /lease.<number> the same on a file system that cannot lock
                              /parts/         downloads that are not complete yet
                              /kept/          results whose id now means another job
                              /set_aside/     downloads that failed their check; never delivered, never deleted
                              /posters/       small pictures for the report; made again where they are missing
                              /sandbox/       the embedded sandbox's memory (provider: sandbox)

Rule: the lock is the kernel's (flock), so it dies with its process: there is no stale lock to clean up after a kill or
a power cut, and the file itself is never removed. Where somebody removes it, or the tool's own room with it, the run
directory itself is locked still. On a file system without locks, a lease takes its place (`batchrunner.storage.lease`).
"""

import fcntl
import os
import socket
import stat
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from batchrunner.clock import pause
from batchrunner.errors import BatchLocked, UsageError
from batchrunner.formatting import printable, rfc3339
from batchrunner.storage import durable_files, lease
from batchrunner.storage.durable_files import Disk

_TRIES, _BETWEEN_TRIES_S = 8, 0.025


@dataclass(frozen=True, slots=True)
class RunDir:
    """The paths below one run directory."""

    path: Path

    @property
    def room(self) -> Path:
        """The tool's own room."""
        return self.path / ".batchrunner"

    @property
    def witness(self) -> Path:
        """The journal's witness: beside the tool's room, so that it is still there where that is removed."""
        return self.path / ".batchrunner.witness"

    @property
    def journal(self) -> Path:
        """The journal's file."""
        return self.room / "journal.db"

    @property
    def lock(self) -> Path:
        """The lock's file."""
        return self.room / "lock"

    @property
    def parts(self) -> Path:
        """Partial downloads."""
        return self.room / "parts"

    @property
    def kept(self) -> Path:
        """Results that lost their name to another job."""
        return self.room / "kept"

    @property
    def set_aside(self) -> Path:
        """Downloads that failed their check."""
        return self.room / "set_aside"

    @property
    def posters(self) -> Path:
        """Small pictures of clips and inputs, for the report."""
        return self.room / "posters"

    @property
    def sandbox(self) -> Path:
        """The embedded sandbox's state."""
        return self.room / "sandbox"

    def check(self) -> None:
        """Refuse a room in which a link, a device or a pipe stands in for something of the tool's own.

        Writing there would write somewhere else. The run directory itself may be a link. Raises UsageError.
        """
        folders = (self.room, self.parts, self.kept, self.set_aside, self.posters, self.sandbox)
        journals = (self.journal.with_name(self.journal.name + end) for end in ("", "-wal", "-shm"))
        files = (self.lock, self.witness, *journals)
        for path in (*folders, *files):
            try:
                mode = path.lstat().st_mode
            except OSError:
                continue  # nothing there yet, or a trouble that will be told where it is met
            if not (stat.S_ISDIR(mode) if path in folders else stat.S_ISREG(mode)):
                what = "a symbolic link" if stat.S_ISLNK(mode) else "not what stands there in a run directory"
                raise UsageError(
                    f"the run directory {self.path} cannot be used: {path} is {what}",
                    "Remove it. To keep a batch elsewhere, name the place with --output. Nothing was submitted.",
                )

    def holder(self) -> str | None:
        """Who runs this batch just now, in words; None where nobody does."""
        with suppress(OSError):
            if held := lease.look(self.room, lease.myself(0.0)):
                return held[0]
        for path, flags in ((self.lock, os.O_NOFOLLOW | os.O_NONBLOCK), (self.path, os.O_DIRECTORY)):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
            except OSError:
                continue
            try:
                if not _taken(descriptor, fcntl.LOCK_SH):
                    return self._note() or "a process"
            except OSError:
                continue  # it cannot be locked, so nobody holds a lock on it
            finally:
                os.close(descriptor)
        return None

    def _note(self) -> str:
        """What the holder of the lock wrote there, as it can be shown."""
        try:
            with durable_files.open_plain(self.lock) as file:
                return printable(file.read(200).decode("utf-8", "replace").strip())
        except OSError:
            return ""

    def make(self) -> None:
        """Create what is missing, durably. Raises UsageError where that cannot be done."""
        self.check()
        try:
            new = [folder for folder in (self.room, *self.room.parents) if not folder.exists()]
            for folder in (self.parts, self.kept, self.set_aside):
                folder.mkdir(parents=True, exist_ok=True)
            for folder in new:  # a journal that is flushed in a folder that is not would be lost with it
                Disk().flush_folder(folder.parent)
        except OSError as error:
            if error.errno in durable_files.FULL:
                raise durable_files.fault(error, f"the run directory {self.path} could not be made") from error
            raise UsageError(
                f"the run directory {self.path} cannot be used: {error.strerror or error}",
                "Choose another with --output, or make this one writable. Nothing was submitted.",
            ) from error


class Anchor:
    """Whether the run directory is still where a run found it. Use as a context manager.

    It holds the directory open, so that one which was renamed is found again. Raises LocalFault where it cannot.
    """

    def __init__(self, rundir: RunDir) -> None:
        self._rundir = rundir
        try:
            self._folder = os.open(rundir.path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        except OSError as error:
            raise durable_files.fault(error, f"the run directory {rundir.path} cannot be opened") from error
        self._facts = os.fstat(self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._folder)

    def lost(self) -> str:
        """Why nothing more can be stored there, in words; "" where it can."""
        path, what = self._rundir.path, ""
        try:
            if not os.path.samestat(path.stat(), self._facts):
                what = "was moved away, and another stands in its place"
            elif not os.access(path, os.W_OK | os.X_OK) or not os.access(self._rundir.room, os.W_OK | os.X_OK):
                what = "was moved, removed, or can be written to no longer"
        except OSError:
            what = "was moved or removed, or can be reached no longer"
        return f"the run directory {path} {what}; bring it back and run again to continue" if what else ""

    def place(self) -> Path | None:
        """Where the directory is now; None where it is nowhere, or the system does not tell."""
        for path in (self._rundir.path, Path(f"/proc/self/fd/{self._folder}")):
            try:
                found = path.readlink() if path.parent.name == "fd" else path
                if os.path.samestat(found.stat(), self._facts):
                    return found
            except OSError:
                continue
        return None


class Lock:
    """Exclusive use of a run directory for as long as the process lives. Use as a context manager.

    notice: what a person should know of it; "" for nothing. Raises BatchLocked, at once, where another process holds
    the directory; UsageError where it cannot be locked at all.
    """

    def __init__(self, rundir: RunDir, now: float) -> None:
        self.notice = ""
        self._rundir = rundir
        self._now = now
        self._descriptor = self._folder = -1
        self._lease: Path | None = None

    def __enter__(self) -> Self:
        path, folder = self._rundir.lock, self._rundir.path
        with ExitStack() as undo:
            undo.callback(self._close)
            try:
                self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
                self._folder = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
            except OSError as error:
                hint = "Nothing was submitted."
                raise UsageError(f"the lock {path} cannot be opened: {error.strerror}", hint) from error
            self._lock()
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _lock(self) -> None:
        """Take the kernel's locks; a lease where the file system has none."""
        try:
            locked = self._take()
        except OSError as error:
            self._take_lease(error)
            return
        held = lease.look(self._rundir.room, lease.myself(self._now)) if locked else None
        if held is not None:
            raise _locked_by_lease(*held)
        if not locked:
            raise BatchLocked(
                f"another process is running this batch: {self._rundir.holder() or 'unknown'}",
                f"Nothing was done. Watch it with: batchrunner status {self._rundir.path}",
            )
        holder = f"pid {os.getpid()} on {socket.gethostname()} since {rfc3339(self._now)}\n"
        with suppress(OSError):  # a full disk takes no note; the lock holds all the same
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, holder.encode())

    def _take_lease(self, error: OSError) -> None:
        """The file system refused to lock. A journal without any locks could be damaged: that is refused."""
        where = f"the file system of {self._rundir.path} cannot lock files ({error.strerror or error})"
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which SQLite uses
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
            self._lease = lease.take(self._rundir.room, lease.myself(self._now))
        except lease.Taken as taken:
            raise _locked_by_lease(taken.who, taken.path) from error
        except OSError:
            hint = "Mount it with locks, or name a folder on another file system with --output. Nothing was submitted."
            raise UsageError(where, hint) from error
        self.notice = f"{where}: {self._lease.name} in .batchrunner keeps a second run out instead"

    def _take(self) -> bool:
        """Take both locks. Whoever looks at who runs holds one of them for a moment: it is tried a few times."""
        for _ in range(_TRIES):
            if _taken(self._descriptor, fcntl.LOCK_EX) and self._take_folder():
                return True
            pause(_BETWEEN_TRIES_S)
        return False

    def _take_folder(self) -> bool:
        try:
            return _taken(self._folder, fcntl.LOCK_EX)
        except OSError:  # a folder on NFS
            return True

    def _close(self) -> None:
        if self._lease is not None:
            lease.release(self._lease)
            self._lease = None
        for descriptor in (self._descriptor, self._folder):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._folder = -1


def _locked_by_lease(who: str, path: Path) -> BatchLocked:
    return BatchLocked(
        f"another process is running this batch: {who}",
        f"Nothing was done. If that process has ended for certain (its machine or container is gone), remove {path}",
    )


def _taken(descriptor: int, kind: int) -> bool:
    """Take the kernel's lock on what is open there; False where another process holds it. Raises OSError."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
