"""The run directory and its lock: one process at a time, and no lock outlives its process."""

import errno
import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from batchrunner.errors import BatchLocked, ExitStatus, LocalFault, UsageError
from batchrunner.storage.durable_files import Disk
from batchrunner.storage.lease_owner import myself
from batchrunner.storage.run_directory import Anchor, Lock, RunDir
from tests.conftest import NOW

HOLD = """
import sys
from pathlib import Path
from batchrunner.storage.run_directory import Anchor, Lock, RunDir
with Lock(RunDir(Path(sys.argv[1])), 0.0):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def rundir(tmp_path: Path) -> RunDir:
    created = RunDir(tmp_path / "out" / "night")
    created.make()
    return created


def held_elsewhere(rundir: RunDir) -> "subprocess.Popen[bytes]":
    arguments = [sys.executable, "-c", HOLD, str(rundir.path)]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_private_files_are_in_the_private_folder(rundir: RunDir) -> None:
    for path in (rundir.journal, rundir.lock, rundir.partial_dir, rundir.kept, rundir.sandbox):
        assert path.parent == rundir.internal_dir
    assert rundir.internal_dir == rundir.path / ".batchrunner"
    assert rundir.partial_dir.is_dir()
    assert rundir.kept.is_dir()


def test_making_it_twice_changes_nothing(rundir: RunDir) -> None:
    (rundir.partial_dir / "a.part").write_bytes(b"x")
    rundir.make()
    assert (rundir.partial_dir / "a.part").read_bytes() == b"x"


def test_new_folders_are_flushed_into_their_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a power cut removes the folder, and with it a journal whose every commit was flushed."""
    flushed: list[Path] = []
    monkeypatch.setattr(Disk, "flush_folder", lambda _, folder: flushed.append(folder))
    created = RunDir(tmp_path / "out" / "night")
    created.make()
    assert flushed == [tmp_path / "out" / "night", tmp_path / "out", tmp_path]
    created.make()
    assert len(flushed) == 3, "an existing folder needs no flush"


@pytest.mark.parametrize("place", ["out", "out/night", "out/night/.batchrunner"])
def test_a_file_in_the_way_is_a_usage_error(tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")
    with pytest.raises(UsageError, match="cannot be used") as caught:
        RunDir(tmp_path / "out" / "night").make()
    assert "--output" in caught.value.hint
    assert path.read_text() == "in the way"


def test_a_second_run_is_refused_and_names_the_holder(rundir: RunDir) -> None:
    with Lock(rundir, NOW):
        with pytest.raises(BatchLocked) as caught, Lock(rundir, NOW + 5):
            pytest.fail("two runs at once")
        assert f"pid {os.getpid()} on " in caught.value.message
        assert "2027-01-15T08:00:00.000Z" in caught.value.message
        assert caught.value.exit_status is ExitStatus.LOCKED
        assert "batchrunner status" in caught.value.hint
        assert f"pid {os.getpid()}" in rundir.lock.read_text(), "the refused run must not touch the holder's entry"


def test_the_lock_is_free_after_its_end_and_after_an_exception(rundir: RunDir) -> None:
    with pytest.raises(ZeroDivisionError), Lock(rundir, NOW):
        raise ZeroDivisionError
    with Lock(rundir, NOW):
        pass
    assert rundir.lock.exists(), "the file is never removed: a waiting process may have it open"


def test_removing_the_lock_file_does_not_admit_a_second_run(rundir: RunDir) -> None:
    with Lock(rundir, NOW):
        rundir.lock.unlink()
        for _ in range(2):  # the first one creates the file again
            assert rundir.holder() is not None
            with pytest.raises(BatchLocked), Lock(rundir, NOW + 5):
                pytest.fail("two runs at once")
    assert rundir.holder() is None
    with Lock(rundir, NOW):
        pass


def test_moving_the_private_folder_does_not_admit_a_second_run(rundir: RunDir) -> None:
    with Lock(rundir, NOW):
        rundir.internal_dir.rename(rundir.path / "moved")
        rundir.make()
        assert rundir.holder() == "a process"
        with pytest.raises(BatchLocked), Lock(rundir, NOW + 5):
            pytest.fail("two runs at once")


def test_a_reader_does_not_block_a_run(rundir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lock(rundir, NOW):
        pass
    looking = os.open(rundir.lock, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr("batchrunner.storage.run_directory.pause", lambda _: os.close(looking))
    with Lock(rundir, NOW):
        pass


def test_reading_a_lock_that_is_a_pipe_does_not_wait(rundir: RunDir) -> None:
    os.mkfifo(rundir.lock)
    assert rundir.holder() is None


def test_the_content_of_the_lock_is_shown_without_control_characters(rundir: RunDir) -> None:
    with Lock(rundir, NOW):
        rundir.lock.write_text("pid 1\x1b[31m")
        holder = rundir.holder()
        assert holder is not None
        assert "\x1b" not in holder


def test_a_folder_that_cannot_be_locked_is_no_obstacle(rundir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = fcntl.flock

    def on_a_network(descriptor: int, kind: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "not on this file system")
        lock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", on_a_network)
    with Lock(rundir, NOW), pytest.raises(BatchLocked), Lock(rundir, NOW + 5):
        pytest.fail("two runs at once")


def test_the_lock_works_between_processes_and_ends_with_a_killed_one(rundir: RunDir) -> None:
    process = held_elsewhere(rundir)
    try:
        with pytest.raises(BatchLocked, match=f"pid {process.pid} "), Lock(rundir, NOW):
            pytest.fail("two processes at once")
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    with Lock(rundir, NOW):
        assert f"pid {os.getpid()} " in rundir.lock.read_text()
        assert str(process.pid) not in rundir.lock.read_text().split()


def test_a_child_does_not_inherit_the_lock(rundir: RunDir) -> None:
    with Lock(rundir, NOW):
        child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        with Lock(rundir, NOW):
            pass
    finally:
        child.communicate()


def test_a_lock_that_cannot_be_opened_is_an_error(rundir: RunDir) -> None:
    rundir.lock.mkdir()
    with pytest.raises(UsageError, match="cannot be opened"), Lock(rundir, NOW):
        pytest.fail("locked a directory")


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def without_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that cannot lock whole files: Lustre, or NFS without its lock service."""

    def refuse(descriptor: int, kind: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("without_flock")
def test_without_locks_a_lease_excludes_a_second_run(rundir: RunDir) -> None:
    assert rundir.holder() is None
    with Lock(rundir, NOW) as lock:
        assert "cannot lock files" in lock.notice
        assert f"pid {os.getpid()} on " in str(rundir.holder())
        with pytest.raises(BatchLocked, match=f"pid {os.getpid()} on ") as caught, Lock(rundir, NOW + 5):
            pytest.fail("two runs at once")
        assert "start this command again when it has ended" in caught.value.hint
    assert rundir.holder() is None
    with Lock(rundir, NOW):
        pass


def test_a_lease_also_counts_on_a_file_system_with_locks(rundir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same folder may be mounted with locks on one machine and without on another."""
    with monkeypatch.context() as context:
        context.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSYS, "no locks")))
        first = Lock(rundir, NOW)
        first.__enter__()
    with pytest.raises(BatchLocked, match=f"pid {os.getpid()} on "), Lock(rundir, NOW + 5):
        pytest.fail("two runs at once")
    first.__exit__(None, None, None)
    with Lock(rundir, NOW) as lock:
        assert lock.notice == ""


@pytest.mark.usefixtures("without_flock")
def test_without_any_lock_no_journal_is_written(rundir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with pytest.raises(UsageError, match="cannot lock files") as caught, Lock(rundir, NOW):
        pytest.fail("SQLite would fail, or damage the journal")
    assert "--output" in caught.value.hint
    assert not list(rundir.internal_dir.glob("lease.*"))


def on_another_host(rundir: RunDir, **fields: Any) -> Path:
    """Put the lease of a process on another host, whose locks are not shared."""
    owner = replace(myself(NOW), host="elsewhere", boot="other", **fields)
    path = rundir.internal_dir / "lease.5"
    path.write_text(f"{json.dumps(asdict(owner))}\nbeat 0000000007\n")
    return path


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Virtual time for the wait for a lease."""
    waited: list[float] = []
    monkeypatch.setattr("batchrunner.storage.run_directory.pause", waited.append)
    monkeypatch.setattr("batchrunner.storage.run_directory.monotonic_time", lambda: 100.0 + sum(waited))
    return waited


def test_a_run_on_another_host_that_is_alive_keeps_a_second_one_out(rundir: RunDir, pauses: list[float]) -> None:
    path = on_another_host(rundir)
    messages: list[str] = []

    def beat(message: str) -> None:
        messages.append(message)
        path.write_text(path.read_text().replace("007", "008"))

    with pytest.raises(BatchLocked, match="on elsewhere since") as caught, Lock(rundir, NOW, beat):
        pytest.fail("two runs at once")
    assert caught.value.exit_status == 4
    assert sum(pauses) < 20, "it need not wait for a minute"
    assert len(messages) == 1
    assert "waits up to 60 s" in messages[0]
    assert "elsewhere" not in rundir.lock.read_text(), "the note is of the owner"
    assert str(os.getpid()) not in rundir.lock.read_text()


def test_a_run_on_another_host_that_is_gone_is_replaced_after_a_minute(rundir: RunDir, pauses: list[float]) -> None:
    on_another_host(rundir)
    assert "on elsewhere since" in str(rundir.holder())
    with Lock(rundir, NOW) as lock:
        assert 60 <= sum(pauses) < 75
        assert lock.lease.problem(intent=True) is None
    assert rundir.holder() is None


def test_a_lease_of_an_earlier_version_is_left_to_a_person(rundir: RunDir, pauses: list[float]) -> None:
    path = on_another_host(rundir, token="")
    with pytest.raises(BatchLocked) as caught, Lock(rundir, NOW):
        pytest.fail("two runs at once")
    assert f"remove {path}" in caught.value.hint
    assert pauses == []


def test_a_lease_that_cannot_be_written_is_a_fault_of_the_disk(rundir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: object, flags: int, *more: int, **options: int) -> int:
        if str(path).startswith("lease."):
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(path, flags, *more, **options)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(LocalFault, match="no lease could be written") as caught, Lock(rundir, NOW):
        pytest.fail("without a lease")
    assert caught.value.exit_status == ExitStatus.NEEDS_ACTION


def test_an_anchor_detects_a_moved_replaced_or_removed_directory(tmp_path: Path) -> None:
    rundir = RunDir(tmp_path / "run")
    rundir.make()
    with Anchor(rundir) as anchor:
        assert (anchor.lost(), anchor.place()) == ("", rundir.path)
        moved = rundir.path.rename(tmp_path / "moved")
        assert "moved or removed" in anchor.lost()
        if Path("/proc/self/fd").exists():
            assert anchor.place() == moved
        rundir.make()
        assert "another stands in its place" in anchor.lost()
        assert anchor.place() != rundir.path
        shutil.rmtree(moved)
        assert anchor.place() is None


def test_an_anchor_detects_missing_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rundir = RunDir(tmp_path / "run")
    rundir.make()
    with Anchor(rundir) as anchor:
        monkeypatch.setattr(os, "access", lambda path, _: Path(path) != rundir.internal_dir)
        assert "can be written to no longer" in anchor.lost()
