"""The run directory: its paths, and the lock that admits one process at a time.

::

    output/<name>/<id>.mp4                    results
    output/<name>/report.json, report.html, results.csv
    output/<name>/review.jsonl                verdicts (`batchrunner.review.verdicts`)
    output/<name>/.batchrunner.witness        a copy of the journal's last position
    output/<name>/.batchrunner.retakes        takes that --retake has added (`batchrunner.app.takes`)
    output/<name>/.batchrunner/journal.db     the journal
                              /lock           locked during a run; names the owner
                              /review.lock    locked while a verdict is written
                              /on_clip.jsonl  clips for which the hook has decided
                              /lease.<number> the run's owner and heartbeat (`batchrunner.storage.lease`)
                              /parts/         partial downloads
                              /kept/          results whose id now means another job
                              /set_aside/     downloads that failed their check; never delivered, never deleted
                              /posters/       small pictures for the report; missing ones are made again
                              /sandbox/       the embedded sandbox's state (provider: sandbox)

The kernel holds the lock (flock) and releases it when the process ends, so a kill or a power cut leaves no stale lock.
The lock file is never removed. The run directory itself is locked too, in case somebody removes the file. Hosts that
share a folder may not share its locks, so a run also takes a lease (`batchrunner.storage.lease`).
"""

import fcntl
import os
import socket
import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from types import TracebackType
from typing import Self

from batchrunner.clock import monotonic_time, pause
from batchrunner.errors import BatchLocked, UsageError
from batchrunner.formatting import printable, rfc3339, shell_line
from batchrunner.storage import durable_files, lease
from batchrunner.storage.durable_files import Disk
from batchrunner.storage.lease_owner import Owner, myself

REPORTS = ("report.json", "report.html", "results.csv")
_TRIES, _BETWEEN_TRIES_S = 8, 0.025


@dataclass(frozen=True, slots=True)
class RunDir:
    """The paths below one run directory."""

    path: Path

    @property
    def internal_dir(self) -> Path:
        """The folder for internal files."""
        return self.path / ".batchrunner"

    @property
    def witness(self) -> Path:
        """The journal's witness. It is outside the folder for internal files, so it survives if that is removed."""
        return self.path / ".batchrunner.witness"

    @property
    def retakes(self) -> Path:
        """The takes that --retake has added. It is outside the folder for internal files, as the witness is."""
        return self.path / ".batchrunner.retakes"

    @property
    def journal(self) -> Path:
        """The journal's file."""
        return self.internal_dir / "journal.db"

    @property
    def lock(self) -> Path:
        """The lock's file."""
        return self.internal_dir / "lock"

    @property
    def review(self) -> Path:
        """The verdicts on clips."""
        return self.path / "review.jsonl"

    @property
    def review_lock(self) -> Path:
        """The lock of the verdicts' file."""
        return self.internal_dir / "review.lock"

    @property
    def hook_outcomes(self) -> Path:
        """The clips for which the hook has decided (`batchrunner.review.hook`)."""
        return self.internal_dir / "on_clip.jsonl"

    @property
    def partial_dir(self) -> Path:
        """Partial downloads."""
        return self.internal_dir / "parts"

    @property
    def kept(self) -> Path:
        """Results whose name now belongs to another job."""
        return self.internal_dir / "kept"

    @property
    def rejected_dir(self) -> Path:
        """Downloads that failed their check."""
        return self.internal_dir / "set_aside"

    @property
    def posters(self) -> Path:
        """Small pictures of clips and inputs, for the report."""
        return self.internal_dir / "posters"

    @property
    def sandbox(self) -> Path:
        """The embedded sandbox's state."""
        return self.internal_dir / "sandbox"

    def check(self) -> None:
        """Refuse links, devices and pipes in place of internal files, because a write would go elsewhere.

        The run directory itself may be a link. Raises UsageError.
        """
        folders = (self.internal_dir, self.partial_dir, self.kept, self.rejected_dir, self.posters, self.sandbox)
        journals = (self.journal.with_name(self.journal.name + end) for end in ("", "-wal", "-shm"))
        files = (self.lock, self.witness, self.retakes, self.review, self.review_lock, self.hook_outcomes, *journals)
        for path in (*folders, *files):
            try:
                mode = path.lstat().st_mode
            except OSError:
                continue  # missing, or an error that a later step reports
            if not (stat.S_ISDIR(mode) if path in folders else stat.S_ISREG(mode)):
                what = "a symbolic link" if stat.S_ISLNK(mode) else "not what stands there in a run directory"
                raise UsageError(
                    f"the run directory {self.path} cannot be used: {path} is {what}",
                    "Remove it. To keep a batch elsewhere, name the place with --output. Nothing was submitted.",
                )

    def holder(self) -> str | None:
        """Return a description of the process that runs this batch, or None.

        A process on another host counts as long as its lease stands, because only time shows whether it has ended.
        """
        lock = ""
        for path, flags in ((self.lock, os.O_NOFOLLOW | os.O_NONBLOCK), (self.path, os.O_DIRECTORY)):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
            except OSError:
                continue
            try:
                if not _taken(descriptor, fcntl.LOCK_SH):
                    return self._note() or "a process"
                lock = lock or _identity(descriptor)
            except OSError:
                continue  # the file system has no locks
            finally:
                os.close(descriptor)
        with suppress(OSError):
            return lease.holder(self.internal_dir, myself(0.0, lock))
        return None

    def _note(self) -> str:
        """Return the owner's note in the lock file, as printable text."""
        try:
            with durable_files.open_plain(self.lock) as file:
                return printable(file.read(200).decode("utf-8", "replace").strip())
        except OSError:
            return ""

    def make(self) -> None:
        """Create the missing folders durably. Raises UsageError or LocalFault."""
        self.check()
        try:
            new = [folder for folder in (self.internal_dir, *self.internal_dir.parents) if not folder.exists()]
            for folder in (self.partial_dir, self.kept, self.rejected_dir):
                folder.mkdir(parents=True, exist_ok=True)
            for folder in new:  # or a power cut may lose the folder with the journal
                Disk().flush_folder(folder.parent)
        except OSError as error:
            if error.errno in durable_files.FULL:
                raise durable_files.fault(error, f"the run directory {self.path} could not be made") from error
            raise UsageError(
                f"the run directory {self.path} cannot be used: {error.strerror or error}",
                "Choose another with --output, or make this one writable. Nothing was submitted.",
            ) from error


class RunDirectoryClips:
    """The delivered clips of a run directory, for readers (`batchrunner.transfer.delivery.DeliveredClips`)."""

    def __init__(self, rundir: RunDir) -> None:
        self._root = rundir.path

    def exists(self, name: str) -> bool:
        """Return whether a plain file has this name. A link is not a clip."""
        try:
            return stat.S_ISREG((self._root / name).lstat().st_mode)
        except OSError:
            return False

    def size_bytes(self, name: str) -> int | None:
        """Return the size of the plain file with this name, or None."""
        try:
            status = (self._root / name).lstat()
        except OSError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def open(self, name: str) -> BufferedIOBase:
        """Open a clip for reading. Raises OSError."""
        return durable_files.open_plain(self._root / name)

    def url(self, name: str) -> str:
        """Return the ``file:`` URL of a clip."""
        return (self._root.absolute() / name).as_uri()


class Anchor:
    """Checks that the run directory is still in its place. Use as a context manager.

    It keeps the directory open, so a renamed directory is found again. Raises LocalFault if it cannot be opened.
    """

    def __init__(self, rundir: RunDir) -> None:
        self._rundir = rundir
        self._names = str(rundir.path), str(rundir.internal_dir)  # as text: read after each step of a job
        try:
            self._folder = os.open(rundir.path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        except OSError as error:
            raise durable_files.fault(error, f"the run directory {rundir.path} cannot be opened") from error
        self._status = os.fstat(self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._folder)

    def lost(self) -> str:
        """Return why nothing can be stored there, or ""."""
        (path, internal_dir), what = self._names, ""
        try:
            if not os.path.samestat(os.stat(path), self._status):  # noqa: PTH116 (a path object takes twice the time)
                what = "was moved away, and another stands in its place"
            elif not os.access(path, os.W_OK | os.X_OK) or not os.access(internal_dir, os.W_OK | os.X_OK):
                what = "was moved, removed, or can be written to no longer"
        except OSError:
            what = "was moved or removed, or can be reached no longer"
        return f"the run directory {path} {what}; bring it back and run again to continue" if what else ""

    def place(self) -> Path | None:
        """Return the directory's present path, or None if it is unknown."""
        for path in (self._rundir.path, Path(f"/proc/self/fd/{self._folder}")):
            try:
                found = path.readlink() if path.parent.name == "fd" else path
                if os.path.samestat(found.stat(), self._status):
                    return found
            except OSError:
                continue
        return None


class Lock:
    """Exclusive use of a run directory while the process lives. Use as a context manager.

    announce: called with a message before a wait for the lease of another host. lease: the lease, while it is entered.
    notice: a notice for the user, or "". Raises BatchLocked if another process has the directory, UsageError if
    it cannot be locked.
    """

    def __init__(self, rundir: RunDir, now: float, announce: Callable[[str], None] = lambda _: None) -> None:
        self.notice = ""
        self.lease: lease.Lease
        self._rundir = rundir
        self._now = now
        self._announce = announce
        self._descriptor = self._folder = -1
        self._opened = ExitStack()  # the lease and its heartbeat

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
        """Take the kernel's locks, if the file system has them, and the lease."""
        try:
            if not self._take():
                raise BatchLocked(
                    f"another process is running this batch: {self._rundir.holder() or 'unknown'}",
                    f"Nothing was done. Watch it with: batchrunner status {shell_line([str(self._rundir.path)])}",
                )
            lock, error = _identity(self._descriptor), None
        except OSError as refused:
            self._require_lockf(refused)
            lock, error = "", refused
        self._take_lease(myself(self._now, lock), error)
        if error is not None:
            self.notice = f"{self._cannot_lock(error)}: a lease in .batchrunner keeps a second run out instead"
        holder = f"pid {os.getpid()} on {socket.gethostname()} since {rfc3339(self._now)}\n"
        with suppress(OSError):  # the note needs disk space; the lock does not
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, holder.encode())

    def _cannot_lock(self, error: OSError) -> str:
        return f"the file system of {self._rundir.path} cannot lock files ({error.strerror or error})"

    def _require_lockf(self, error: OSError) -> None:
        """Refuse a file system that SQLite cannot lock: the journal could be damaged. Raises UsageError."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
        except OSError:
            hint = "Mount it with locks, or name a folder on another file system with --output. Nothing was submitted."
            raise UsageError(self._cannot_lock(error), hint) from error

    def _take_lease(self, here: Owner, error: OSError | None) -> None:
        """Take the lease. The lease of another host is observed until it changes or has expired."""
        taking = lease.Taking(self._rundir.internal_dir, here, monotonic_time)
        try:
            is_announced = False
            while not isinstance(step := taking.step(), lease.Lease):
                if not is_announced:
                    self._announce(
                        f"another host may be running this batch: {taking.waits_for}; this run waits up to "
                        f"{lease.EXPIRES_S:.0f} s to see whether it is alive"
                    )
                is_announced = True
                pause(step)
        except lease.Taken as taken:
            raise _locked_by_lease(taken) from error
        except OSError as refused:
            doing = f"no lease could be written in {self._rundir.internal_dir}"
            raise durable_files.fault(refused, doing) from refused
        self.lease = step
        self._opened.callback(self.lease.release)
        self._opened.callback(lease.Heartbeat(self.lease).stop)

    def _take(self) -> bool:
        """Take both locks. Try a few times, because `status` holds one of them for a moment."""
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
        self._opened.close()
        for descriptor in (self._descriptor, self._folder):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._folder = -1


def _locked_by_lease(taken: lease.Taken) -> BatchLocked:
    hint = "Nothing was done. The run continues there; start this command again when it has ended."
    if not taken.beats:
        hint = (
            "Nothing was done. An earlier version of batchrunner wrote its lease. If that process has ended for "
            f"certain (its machine or container is gone), remove {taken.path}"
        )
    return BatchLocked(f"another process is running this batch: {taken.who}", hint)


def _identity(descriptor: int) -> str:
    """Return what identifies an open file on this machine."""
    status = os.fstat(descriptor)
    return f"{status.st_dev}:{status.st_ino}"


def _taken(descriptor: int, kind: int) -> bool:
    """Take the kernel's lock on an open file. Return False if another process has it. Raises OSError."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
