"""The kind of file system that a folder is on, as Linux lists its mounts. Other systems do not say."""

import os
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "glusterfs", "fuse.sshfs"}


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
