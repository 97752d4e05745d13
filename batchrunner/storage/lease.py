"""A lease: a lock for file systems that cannot lock. It is a numbered file that names its owner.

::

    .batchrunner/lease.<number>     host, machine, boot, process, its start, its pid namespace; or ``released``

A process takes the lease by creating the file with the next number (O_EXCL, so only one process can). It has the lease
if no higher number exists then. The highest number is never removed, so no number is used twice. An owner has ended if
its process has ended on this machine, or if this machine has restarted since. An owner on another machine or in another
container may be alive; only a person can decide that. `batchrunner.storage.run_directory` decides when to use a lease.
"""

import errno
import json
import os
import re
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from batchrunner.formatting import printable, rfc3339
from batchrunner.storage import durable_files

_NAME = re.compile(r"lease\.(\d{1,9})")
_MOST_BYTES = 4096
_TRIES = 8
_RELEASED = b"released\n"


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner of a lease. machine, boot, namespace: "" if unknown. process: its start time."""

    host: str
    machine: str
    boot: str
    namespace: str
    pid: int
    process: str
    since: str

    def text(self) -> str:
        """Return a description for people."""
        return printable(f"pid {self.pid} on {self.host} since {self.since}")

    def is_gone(self, here: "Owner") -> bool:
        """Return whether the process has certainly ended. here: this process."""
        same_machine = self.host == here.host and self.machine == here.machine
        if not same_machine or (self.boot != here.boot and not self.machine):
            return False
        if self.boot != here.boot:
            return True
        if self.namespace != here.namespace:
            return False
        started = _started(self.pid)
        return started is None or (bool(self.process) and started != self.process)


class Taken(Exception):
    """Another process has the lease. who: a description. path: the lease's file."""

    def __init__(self, who: str, path: Path) -> None:
        super().__init__(who)
        self.who = who
        self.path = path


def myself(now: float) -> Owner:
    """Return this process as an owner. now: wall time."""
    namespace = ""
    with suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return Owner(
        host=socket.gethostname(),
        machine=_text("/etc/machine-id"),
        boot=_text("/proc/sys/kernel/random/boot_id"),
        namespace=namespace,
        pid=os.getpid(),
        process=_started(os.getpid()) or "",
        since=rfc3339(now),
    )


def holder(folder: Path, here: Owner) -> tuple[str, Path] | None:
    """Return the owner of the lease of `folder` as text, and the lease's file, or None."""
    numbers = _numbers(folder)
    if not numbers:
        return None
    path = folder / f"lease.{max(numbers)}"
    content = _read(path)
    if content is None or content == _RELEASED:
        return None
    owner = _owner(content)
    if owner is None:
        return "a process that has not written its name", path
    return None if owner.is_gone(here) else (owner.text(), path)


def take(folder: Path, here: Owner) -> Path:
    """Take the lease of `folder`, and return its file. Raises Taken, OSError."""
    for _ in range(_TRIES):
        if found := holder(folder, here):
            raise Taken(*found)
        number = max(_numbers(folder), default=0) + 1
        path = folder / f"lease.{number}"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            continue
        try:
            os.write(descriptor, json.dumps(asdict(here)).encode() + b"\n")
            with suppress(OSError):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        others = _numbers(folder) - {number}
        if any(other > number for other in others):  # another process took a higher number
            path.unlink(missing_ok=True)
            continue
        for other in others:
            (folder / f"lease.{other}").unlink(missing_ok=True)
        return path
    raise OSError(errno.EBUSY, "other processes keep taking the lease", str(folder))


def release(path: Path) -> None:
    """Release a lease. Its file remains, because its number must not be used again."""
    with suppress(OSError):  # without the disk, the next process sees that this one has ended
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.write(descriptor, _RELEASED)
        finally:
            os.close(descriptor)


def _numbers(folder: Path) -> set[int]:
    try:
        return {int(found[1]) for name in os.listdir(folder) if (found := _NAME.fullmatch(name))}  # noqa: PTH208 (only names are wanted)
    except FileNotFoundError:
        return set()


def _read(path: Path) -> bytes | None:
    """Return the content, or None if the file is missing."""
    try:
        with durable_files.open_plain(path) as file:
            return file.read(_MOST_BYTES)
    except FileNotFoundError:
        return None


def _owner(content: bytes) -> Owner | None:
    try:
        owner = Owner(**json.loads(content))
    except (ValueError, TypeError):
        return None
    return owner if isinstance(owner.pid, int) else None


def _started(pid: int) -> str | None:
    """Return the start time of a process as the system writes it, None if there is no such process, "" if unknown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        return text.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return ""


def _text(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text("utf-8", "replace").strip()
    return ""
