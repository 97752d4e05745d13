"""The kind of file system that a folder is on, as Linux lists its mounts, and what it lacks. Others do not say."""

import fcntl
import os
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = {
    *("9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "orangefs", "panfs"),
    *("smb3", "smbfs", "virtiofs", "wekafs"),
    *(f"fuse.{name}" for name in ("ceph", "ceph-fuse", "glusterfs", "juicefs", "lustre", "moosefs", "sshfs")),
}


def network_type(path: Path, mounts: Path = _MOUNTS) -> str:
    """Return the type of the network file system of a path that is absolute; "" for a local or unknown one."""
    try:
        text = mounts.read_text("utf-8", "replace")
    except OSError:
        return ""
    place, best, kind = os.path.realpath(path), "", ""
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, types = left.split(" "), right.split(" ")
        if len(fields) > 4 and len(fields[4]) >= len(best):
            point = fields[4].replace("\\040", " ")
            if place == point or place.startswith(point.rstrip("/") + "/"):
                best, kind = point, types[0]
    return kind if kind in _NETWORK else ""


def lacks(folder: Path) -> str:
    """Return which operation of a run directory the file system does not have; "" if it has all. Raises OSError."""
    probe = folder / f".batchrunner-probe-{os.getpid()}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(probe, flags, 0o600)
    try:
        try:
            os.close(os.open(probe, flags, 0o600))
            return "exclusive creation of files (O_EXCL)"
        except FileExistsError:
            pass
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return "byte-range locks (fcntl)"
    finally:
        os.close(descriptor)
        probe.unlink(missing_ok=True)
    return ""
