"""A lease: it keeps a second run out of a run directory, also where locks are not shared between hosts.

::

    .batchrunner/lease.<number>     line 1: host, machine, boot, process, its start, its pid namespace, a random token
                                    line 2: the heartbeat, a counter; or the whole file is ``released``

A process takes the lease by creating the file with the next number (O_EXCL, so only one process can). The highest
number is never removed, so no number is used twice. The owner writes a new heartbeat every 10 s. A process that finds
the lease of another host observes it: a heartbeat that does not change for 60 s of the observer's own clock has expired
(`Taking`). So clocks of different hosts are never compared. An owner on this machine needs no wait: the system knows
whether it has ended.

An owner whose last heartbeat is older than 30 s (its host was suspended, or the disk refuses) may have lost the lease.
It then takes the next number before it writes an intent. Only one process can do that, so the lease is either renewed
or lost. `Lease.problem` is the question that a run asks before each intent.
"""

import errno
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from threading import Event, Lock, Thread
from typing import NamedTuple

from batchrunner.clock import monotonic_with_suspension
from batchrunner.errors import LocalFault
from batchrunner.plan.endings import LEASE_LOST
from batchrunner.storage import durable_files
from batchrunner.storage.lease_owner import Owner, owner_of

HEARTBEAT_S = 10.0
EXPIRES_S = 60.0  # of an unchanged heartbeat, by the observer's clock
OBSERVE_S = 5.0  # between two observations
SETTLE_S = 2.0  # after the lease of another host was taken over: a commit that had begun there can end
LATE_S = 30.0  # age of the last heartbeat at which the owner is not sure any more; half of EXPIRES_S

_NAME = re.compile(r"lease\.([1-9][0-9]*)")
_MOST_BYTES = 4096
_TRIES = 8
_RELEASED = b"released\n"
_NO_NAME = "a process that has not written its name"


class Taken(Exception):
    """Another process has the lease. who: a description. path: the lease's file. beats: whether it has a heartbeat."""

    def __init__(self, who: str, path: Path, *, beats: bool = True) -> None:
        super().__init__(who)
        self.who = who
        self.path = path
        self.beats = beats


class _Found(NamedTuple):
    """The lease of a folder that has an owner. owner: None if it has not written its name. content: of the file."""

    path: Path
    content: bytes
    owner: Owner | None

    @property
    def who(self) -> str:
        return self.owner.text() if self.owner else _NO_NAME


def _find(folder: Path, here: Owner) -> tuple[int, _Found | None]:
    """Return the highest number, 0 if there is none, and its lease if that has an owner. Raises OSError."""
    try:
        opened = _open_folder(folder)
    except FileNotFoundError:
        return 0, None
    try:
        number = max(_numbers_in(opened), default=0)
        content = _content(_open(opened, number, os.O_RDONLY)) if number else _RELEASED
    except FileNotFoundError:  # removed since
        content = _RELEASED
    finally:
        os.close(opened)
    owner = owner_of(content)
    if content == _RELEASED or (owner is not None and owner.is_gone(here)):
        return number, None
    return number, _Found(folder / f"lease.{number}", content, owner)


def holder(folder: Path, here: Owner) -> str | None:
    """Return the owner of the lease of `folder` as text, or None. It may have ended if it is on another host."""
    _, found = _find(folder, here)
    return found.who if found else None


class Lease:
    """A lease that this process has taken. The methods may be called from several threads.

    path: its file, from `Taking`. owner: this process. elapsed: seconds that include suspensions of the machine.
    since: when it was taken, by `elapsed`. taken: why the lease is lost for good, as far as that is known without
    reading the file; "" if it is not.
    """

    def __init__(self, path: Path, owner: Owner, elapsed: Callable[[], float], since: float) -> None:
        self.taken = ""
        self._where = path
        # The folder stays open: the lease is found again after the run directory was renamed.
        self._folder = _open_folder(path.parent)
        self._number = int(path.name.rpartition(".")[2])
        self._line = _line(owner)
        self._elapsed = elapsed
        self._beats = 0
        self._beaten_at = since
        self._error: OSError | None = None  # of the last heartbeat
        self._mutex = Lock()

    def beat(self) -> None:
        """Write the next heartbeat. A disk that refuses it is no fault yet."""
        with self._mutex:
            if self.taken:
                return
            now = self._elapsed()
            try:
                if now - self._beaten_at < LATE_S:
                    self._write_beat()
                else:
                    self._renew()
            except OSError as error:
                self._error = error
            else:
                self._beaten_at, self._error = now, None

    def problem(self, *, intent: bool) -> LocalFault | None:
        """Return why nothing may be stored, or None. It reads the file of the lease.

        intent: whether a submission is to follow. Without one, a doubt is no obstacle: only a lease that another
        process has taken is.
        """
        with self._mutex:
            error = None if self.taken else self._examine()
            if self.taken:
                return LocalFault(
                    LEASE_LOST, self.taken, "Nothing more is stored here. See the report of the other run."
                )
        if error is None or not intent:
            return None
        return durable_files.fault(error, f"the lease {self._where} could not be renewed")

    def release(self) -> None:
        """Release the lease. Its file remains, because its number must not be used again."""
        with self._mutex, suppress(OSError):  # without the disk, the next process observes that the heartbeat ended
            if not self.taken and self._is_own():
                descriptor = self._open(os.O_WRONLY | os.O_TRUNC)
                try:
                    os.write(descriptor, _RELEASED)
                finally:
                    os.close(descriptor)
        os.close(self._folder)

    def _examine(self) -> OSError | None:
        """Find out whether the lease is still this process's. Return why that is not sure."""
        try:
            now = self._elapsed()
            if now - self._beaten_at >= LATE_S or not self._is_own():
                self._renew()
                self._beaten_at = now
        except OSError as error:
            return self._error or error
        return None

    def _is_own(self) -> bool:
        """Return whether the file is this process's; False if it is missing. Raises OSError."""
        try:
            descriptor = self._open(os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            own = os.read(descriptor, len(self._line)) == self._line
        finally:
            os.close(descriptor)
        if not own:
            self._give_up()
        return own

    def _write_beat(self) -> None:
        if not self._is_own():
            self._renew()
            return
        descriptor = self._open(os.O_WRONLY)  # without O_CREAT: a file that was removed is not made again
        try:
            self._beats += 1
            os.pwrite(descriptor, _beat(self._beats), len(self._line))
        finally:
            os.close(descriptor)  # NFS writes it to the server now

    def _renew(self) -> None:
        """Take the next number, unless another process was here. Raises OSError."""
        if self.taken:
            return
        before, number = self._number, self._number + 1
        if not _create(self._folder, number, self._line + _beat(0), before):
            self._give_up()
        elif _numbers_in(self._folder) - {before, number}:
            _remove(self._folder, number)
            self._give_up()
        else:
            self._number, self._beats = number, 0
            _remove(self._folder, before)

    def _give_up(self) -> None:
        who = ""
        with suppress(OSError):
            owner = owner_of(_content(_open(self._folder, max(_numbers_in(self._folder)), os.O_RDONLY)))
            who = f": {owner.text()}" if owner else ""
        self.taken = f"another run has taken over the run directory, because this one did not answer for a minute{who}"

    def _open(self, flags: int) -> int:
        return _open(self._folder, self._number, flags)


class Taking:
    """Takes the lease of `folder`, in steps.

    monotonic: this process's clock, in seconds, for the observation of another lease. elapsed: as for `Lease`.
    waits_for: the owner whose lease is observed, as text; "" if none is.
    """

    def __init__(
        self,
        folder: Path,
        here: Owner,
        monotonic: Callable[[], float],
        elapsed: Callable[[], float] = monotonic_with_suspension,
    ) -> None:
        self._folder = folder
        self._here = here
        self._monotonic = monotonic
        self._elapsed = elapsed
        self._seen: tuple[Path, bytes] | None = None
        self._since = 0.0
        self._lease: Lease | None = None
        self.waits_for = ""

    def step(self) -> Lease | float:
        """Return the lease, or the seconds until the next step. Raises Taken, OSError."""
        if self._lease is not None:
            return self._lease
        for _ in range(_TRIES):
            number, found = _find(self._folder, self._here)
            if found is not None and not self._has_expired(found):
                return OBSERVE_S
            lease = self._create(number)
            if lease is not None and found is not None:
                self._lease = lease
                return SETTLE_S
            if lease is not None:
                return lease
        raise OSError(errno.EBUSY, "other processes keep taking the lease", str(self._folder))

    def _create(self, before: int) -> Lease | None:
        """Create the file with the number after `before`. None: another process has this or a later number."""
        number, since = before + 1, self._elapsed()
        folder = _open_folder(self._folder)
        try:
            if not _create(folder, number, _line(self._here) + _beat(0), before) or not _is_highest(folder, number):
                return None
            for other in _numbers_in(folder) - {number}:
                _remove(folder, other)
        finally:
            os.close(folder)
        return Lease(self._folder / f"lease.{number}", self._here, self._elapsed, since)

    def _has_expired(self, found: _Found) -> bool:
        """Return whether the lease has not changed for long enough. Raises Taken if its owner is alive."""
        owner, now = found.owner, self._monotonic()
        if owner is not None and (not owner.token or owner.is_here(self._here)):
            raise Taken(found.who, found.path, beats=bool(owner.token))
        if self._seen is None:
            self._seen, self._since, self.waits_for = (found.path, found.content), now, found.who
        elif self._seen != (found.path, found.content):
            raise Taken(found.who, found.path)
        return now - self._since >= EXPIRES_S


class Heartbeat:
    """Writes the heartbeat of a lease in a thread, until it is stopped."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self._over = Event()
        self._thread = Thread(target=self._work, name="lease", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write no more of them. A disk that does not answer is not waited for."""
        self._over.set()
        self._thread.join(HEARTBEAT_S)

    def _work(self) -> None:
        while not self._over.wait(HEARTBEAT_S):
            self._lease.beat()


# Files of a folder that is open


def _open_folder(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)


def _open(folder: int, number: int, flags: int) -> int:
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    return os.open(f"lease.{number}", flags, 0o644, dir_fd=folder)


def _create(folder: int, number: int, content: bytes, before: int) -> bool:
    """Create the file with this number. Return False if it exists. before: the highest number until now.

    On a full disk, the file before it gets a second name and a new content: neither needs space. Raises OSError.
    """
    try:
        descriptor = _open(folder, number, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in durable_files.FULL:
            raise
        return _rename_as(folder, number, content, before)
    try:
        os.write(descriptor, content)
        with suppress(OSError):
            os.fsync(descriptor)
    except OSError as error:
        _remove(folder, number)
        if error.errno not in durable_files.FULL:
            raise
        return _rename_as(folder, number, content, before)
    finally:
        os.close(descriptor)
    return True


def _rename_as(folder: int, number: int, content: bytes, before: int) -> bool:
    names = (f"lease.{before}", f"lease.{number}")
    try:
        os.link(*names, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        return False
    descriptor = _open(folder, number, os.O_WRONLY)
    try:
        if not _is_highest(folder, number):
            return True  # the caller finds the higher one, and its file keeps its content
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)
    return True


def _is_highest(folder: int, number: int) -> bool:
    """Return whether no process has a higher number. Otherwise remove this one."""
    is_highest = max(_numbers_in(folder), default=0) <= number
    if not is_highest:
        _remove(folder, number)
    return is_highest


def _remove(folder: int, number: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(f"lease.{number}", dir_fd=folder)


def _numbers_in(folder: int) -> set[int]:
    names = os.listdir(folder)
    return {int(found[1]) for name in names if (found := _NAME.fullmatch(name))}


def _line(owner: Owner) -> bytes:
    return json.dumps(asdict(owner)).encode() + b"\n"


def _beat(count: int) -> bytes:
    return b"beat %010d\n" % count


def _content(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, _MOST_BYTES)
    finally:
        os.close(descriptor)
