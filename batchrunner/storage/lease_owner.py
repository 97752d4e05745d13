"""The owner of a lease: a process on a host, and what shows that it has ended.

A host is known by its name and the id of the machine (``/etc/machine-id``), one run of its kernel by the boot id, and a
container by its pid namespace. Containers can have equal names and ids of an image, on one machine or on several.
"""

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from batchrunner.formatting import printable, rfc3339

_MACHINE = "pid:[4026531836]"  # a constant of Linux: processes in it are not in a container


@dataclass(frozen=True, slots=True)
class Owner:
    """The owner of a lease. machine, boot, namespace: "" if unknown. process: its start time.

    token: random; "" in the leases of earlier versions, which have no heartbeat. lock: device and inode of the lock
    file, if the process has locked it; for a process that looks for a lease, if the lock is free or its own.
    """

    host: str
    machine: str
    boot: str
    namespace: str
    pid: int
    process: str
    since: str
    token: str = ""
    lock: str = ""

    def text(self) -> str:
        """Return a description for people."""
        return printable(f"pid {self.pid} on {self.host} since {self.since}")

    def is_gone(self, here: "Owner") -> bool:
        """Return whether the process has certainly ended. here: this process."""
        if self._has_left_lock(here):
            return True
        if self.is_here(here):
            started = _started(self.pid)
            return started is None or (bool(self.process) and started != self.process)
        return self._was_restarted(here)

    def is_here(self, here: "Owner") -> bool:
        """Return whether this process can see that one, so that no heartbeat has to be observed."""
        ours = (here.host, here.machine, here.boot, here.namespace)
        # A container without a boot id can be on any machine. A system without namespaces has no containers.
        return (self.host, self.machine, self.boot, self.namespace) == ours and bool(self.boot or not self.namespace)

    def _has_left_lock(self, here: "Owner") -> bool:
        """Return whether it had the kernel's lock of a file that is free now, in the same run of the same kernel."""
        return bool(self.boot and self.lock) and (self.boot, self.lock) == (here.boot, here.lock)

    def _was_restarted(self, here: "Owner") -> bool:
        """Return whether this is the same machine after a restart. For a container that cannot be known."""
        ours = (here.host, here.machine, here.namespace)
        is_known = bool(self.machine and self.boot and here.boot) and self.boot != here.boot
        return is_known and (self.host, self.machine, self.namespace) == ours and here.namespace == _MACHINE


def myself(now: float, lock: str = "") -> Owner:
    """Return this process as an owner. now: wall time. lock: as in `Owner`."""
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
        token=os.urandom(8).hex(),
        lock=lock,
    )


def owner_of(content: bytes) -> Owner | None:
    """Return the owner that a lease names, or None if it names none."""
    try:
        owner = Owner(**json.loads(content.partition(b"\n")[0]))
    except (ValueError, TypeError):
        return None
    texts = (
        owner.host,
        owner.machine,
        owner.boot,
        owner.namespace,
        owner.process,
        owner.since,
        owner.token,
        owner.lock,
    )
    return owner if isinstance(owner.pid, int) and all(isinstance(text, str) for text in texts) else None


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
