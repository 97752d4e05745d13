"""The kind of file system that a folder is on."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from batchrunner.storage.mounts import lacks, network_type

MOUNTS = """\
22 1 8:1 / / rw - ext4 /dev/sda1 rw
30 22 0:40 / /home rw,relatime shared:1 - nfs4 server:/home rw
31 30 8:2 / /home/me/my\\040disk rw - xfs /dev/sdb rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/home/me", "nfs4"), ("/home/me/my disk/state", ""), ("/homes", ""), ("/", ""), ("/var/lib", "")],
)
def test_the_innermost_mount_of_a_path_counts(tmp_path: Path, path: str, kind: str) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS)
    assert network_type(Path(path), tmp_path / "mountinfo") == kind


def test_a_system_that_does_not_list_mounts_has_no_answer(tmp_path: Path) -> None:
    assert network_type(Path("/home"), tmp_path / "missing") == ""


def test_a_local_disk_lacks_nothing_and_no_probe_is_left(tmp_path: Path) -> None:
    assert lacks(tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_byte_range_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    assert lacks(tmp_path) == "byte-range locks (fcntl)"
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_exclusive_creation_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, flags, *more: real(path, flags & ~os.O_EXCL, *more))
    assert lacks(tmp_path) == "exclusive creation of files (O_EXCL)"
