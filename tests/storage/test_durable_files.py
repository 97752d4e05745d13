"""Durable files: content is flushed before it is named, and a full disk is reported as such."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchrunner.errors import ExitStatus
from batchrunner.storage import durable_files
from batchrunner.storage.durable_files import Disk


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of flushed files in order, with the relevant calls between them."""
    names: list[str] = []
    fsync, replace = os.fsync, os.replace

    def record(descriptor: int) -> None:
        names.append("fsync " + Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        names.append(f"rename {Path(source).name} {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(os, "replace", renamed)
    return names


def test_a_flushed_file_is_on_the_disk(tmp_path: Path, synced: list[str]) -> None:
    files = Disk()
    with files.open(tmp_path / "a", "wb") as file:
        file.write(b"content")
        files.flush(file)
        assert (tmp_path / "a").read_bytes() == b"content", "data in Python's buffer is not flushed"
    assert synced == ["fsync a"]
    with files.open(tmp_path / "a", "ab") as file:
        file.write(b" more")
    assert (tmp_path / "a").read_bytes() == b"content more"


def test_a_rename_flushes_both_folders_after_it(tmp_path: Path, synced: list[str]) -> None:
    for name in ("from", "to"):
        (tmp_path / name).mkdir()
    (tmp_path / "from" / "a").write_bytes(b"new")
    (tmp_path / "to" / "b").write_bytes(b"old")
    Disk().rename(tmp_path / "from" / "a", tmp_path / "to" / "b")
    assert (tmp_path / "to" / "b").read_bytes() == b"new"
    assert synced[0] == "rename a b"
    assert sorted(synced[1:]) == ["fsync from", "fsync to"]


def test_content_is_on_the_disk_before_its_file_has_a_name(tmp_path: Path, synced: list[str]) -> None:
    names = [(tmp_path / f"{number}.part", tmp_path / f"{number}.mp4") for number in range(3)]
    for source, _ in names:
        source.write_bytes(source.name.encode())
    Disk().publish(names)
    assert [target.read_bytes() for _, target in names] == [b"0.part", b"1.part", b"2.part"]
    assert synced == [
        *(f"fsync {number}.part" for number in range(3)),
        *(f"rename {number}.part {number}.mp4" for number in range(3)),
        f"fsync {tmp_path.name}",
    ]


def test_a_second_name_is_a_hard_link(tmp_path: Path, synced: list[str]) -> None:
    (tmp_path / "a").write_bytes(b"content")
    Disk().duplicate(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").samefile(tmp_path / "b")
    assert synced == ["rename b.new b", f"fsync {tmp_path.name}"]


def test_without_hard_links_a_second_name_is_a_flushed_copy(
    tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    (tmp_path / "a").write_bytes(b"content")
    Disk().duplicate(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"content"
    assert not (tmp_path / "a").samefile(tmp_path / "b")
    assert synced == ["fsync b.new", "rename b.new b", f"fsync {tmp_path.name}"]


def test_repeated_copies_leave_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b.new").write_bytes(b"left by a crash")
    Disk().duplicate(tmp_path / "a", tmp_path / "b")
    Disk().duplicate(tmp_path / "a", tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert (tmp_path / "b").read_bytes() == b"content"


def test_removing_a_missing_file_is_no_error(tmp_path: Path) -> None:
    Disk().remove(tmp_path / "never")


@pytest.mark.parametrize(
    ("number", "kind", "expected"),
    [
        (errno.ENOSPC, "disk_full", "the disk is full"),
        (errno.EDQUOT, "disk_full", "the disk is full"),
        (errno.EFBIG, "disk_full", "a file has reached the size limit"),
        (errno.EACCES, "disk_error", "Permission denied"),
        (errno.EIO, "disk_error", "Input/output error"),
    ],
)
def test_an_error_has_a_kind_and_a_message(number: int, kind: str, expected: str) -> None:
    fault = durable_files.fault(OSError(number, os.strerror(number)), "a clip could not be stored")
    assert fault.kind == kind
    assert fault.message == f"a clip could not be stored: {expected}"
    assert fault.hint
    assert fault.exit_status is ExitStatus.NEEDS_ACTION


# Files written in one call


def test_a_created_file_has_exactly_this_content(tmp_path: Path) -> None:
    path = tmp_path / "a.part"
    Disk().create(path, b"long" * 1000)
    assert path.read_bytes() == b"long" * 1000
    Disk().create(path, b"short")
    assert path.read_bytes() == b"short"


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:3]))
    Disk().create(tmp_path / "a.part", b"0123456789")
    assert (tmp_path / "a.part").read_bytes() == b"0123456789"


def test_nothing_is_created_through_a_link_or_into_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"kept")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(OSError, match=r"."):
            Disk().create(tmp_path / name, b"new")
    assert (tmp_path / "elsewhere").read_bytes() == b"kept"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/null")])
def test_only_a_regular_file_is_published(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a.part")
    with pytest.raises(OSError, match=r"."):
        Disk().publish([(tmp_path / "a.part", tmp_path / "a.mp4")])
    assert not (tmp_path / "a.mp4").exists()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EBADF])
def test_a_folder_that_cannot_be_flushed_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """CIFS, drvfs and some FUSE file systems refuse it. For a file, no error is ignored."""

    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    Disk().flush_folder(tmp_path)
    with (tmp_path / "a").open("wb") as file, pytest.raises(OSError):
        Disk().flush(file)


def test_a_folder_that_cannot_be_read_is_not_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    Disk().flush_folder(tmp_path)


def test_an_io_error_of_a_folder_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        Disk().flush_folder(tmp_path)


def test_advice_that_the_system_refuses_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    (tmp_path / "a").write_bytes(b"content")
    Disk().publish([(tmp_path / "a", tmp_path / "b")])
    with (tmp_path / "b").open("ab") as file:
        Disk().start_writeback(file, 0, 7)
    assert (tmp_path / "b").read_bytes() == b"content"


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system has no such advice")
@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 0), (2, 2), (5, 5)])
def test_writeback_starts_for_several_files_before_the_first_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, expected: int
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *_: calls.append("start"))
    monkeypatch.setattr(os, "fsync", lambda _: calls.append("flush"))
    paths = [tmp_path / str(number) for number in range(count)]
    for path in paths:
        path.write_bytes(b"content")
    Disk().flush_all(paths)
    assert calls == ["start"] * expected + ["flush"] * count


def test_a_file_above_the_size_limit_is_an_error_and_not_a_signal(tmp_path: Path) -> None:
    """SIGXFSZ would end the process. The limit is permanent, so this runs in a separate process."""
    program = """
import resource, sys
from pathlib import Path
from batchrunner.storage import durable_files as disk
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    disk.Disk().create(Path(sys.argv[1]), b"x" * 8192)
except OSError as error:
    print(disk.fault(error, "a clip could not be stored").kind)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "a")], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"disk_full\n"), done.stderr
