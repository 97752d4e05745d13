"""A lock on a file system that cannot lock: a file that names its owner, and counts.

::

    .batchrunner/lease.<number>     host, machine, boot, process, its start, its pid namespace; or ``released``

Rules: whoever wants the run directory creates the file with the next number, which one process alone can do (O_EXCL),
and has it if no higher number stands beside it then. The highest number is never removed, so no number is taken twice.
An owner is gone where its process has ended on this machine, or where this machine has started anew since; an owner on
another machine, or in another container, may be alive: only a person can say that it is gone. Deciding when a lease is
needed does not belong here (`batchrunner.storage.run_directory`).
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
    """Who holds a lease. machine, boot, namespace: "" where the system does not tell. process: when it was started."""

    host: str
    machine: str
    boot: str
    namespace: str
    pid: int
    process: str
    since: str

    def words(self) -> str:
        """For people."""
        return printable(f"pid {self.pid} on {self.host} since {self.since}")

    def is_gone(self, here: "Owner") -> bool:
        """Whether the process has certainly ended. here: this process."""
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
    """Somebody else holds the lease. who: in words. path: of its file."""

    def __init__(self, who: str, path: Path) -> None:
        super().__init__(who)
        self.who = who
        self.path = path


def myself(now: float) -> Owner:
    """This process. now: wall time."""
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


def look(room: Path, here: Owner) -> tuple[str, Path] | None:
    """Who holds the lease of `room` in words, and its file; None where nobody does."""
    numbers = _numbers(room)
    if not numbers:
        return None
    path = room / f"lease.{max(numbers)}"
    content = _read(path)
    if content is None or content == _RELEASED:
        return None
    owner = _owner(content)
    if owner is None:
        return "a process that has not written its name", path
    return None if owner.is_gone(here) else (owner.words(), path)


def take(room: Path, here: Owner) -> Path:
    """Take the lease of `room`, and return its file. Raises Taken, OSError."""
    for _ in range(_TRIES):
        if held := look(room, here):
            raise Taken(*held)
        number = max(_numbers(room), default=0) + 1
        path = room / f"lease.{number}"
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
        others = _numbers(room) - {number}
        if any(other > number for other in others):  # this number was free again: somebody went past it
            path.unlink(missing_ok=True)
            continue
        for other in others:
            (room / f"lease.{other}").unlink(missing_ok=True)
        return path
    raise OSError(errno.EBUSY, "others take the lease again and again", str(room))


def release(path: Path) -> None:
    """Give a lease back. Its file stays, for its number."""
    with suppress(OSError):  # where the disk is gone, the next process finds that this one has ended
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.write(descriptor, _RELEASED)
        finally:
            os.close(descriptor)


def _numbers(room: Path) -> set[int]:
    try:
        return {int(found[1]) for name in os.listdir(room) if (found := _NAME.fullmatch(name))}  # noqa: PTH208 (only names are wanted)
    except FileNotFoundError:
        return set()


def _read(path: Path) -> bytes | None:
    """The content; None where the file is not there."""
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
    """When the process was started, in the system's own words; None where there is none. "" where it is not told."""
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
