"""The disk space guard: a job is submitted only if its clip can be stored."""

import resource
from pathlib import Path
from typing import NamedTuple

import pytest

from batchrunner.events import JobMoved
from batchrunner.job import Move, Result, State
from batchrunner.journal.journal import LOG_BYTES
from batchrunner.storage import durable_files
from batchrunner.storage.disk_space import DiskSpaceGuard
from batchrunner.storage.run_directory import RunDir
from tests.conftest import NOW, make_record

CLIP_BYTES = 5_000_000
RESULT = Result(CLIP_BYTES, "ab" * 32, 480, 480, 2.0)


class Hand:
    """A clock that is set by the test."""

    time_s = 0.0

    def now(self) -> float:
        return NOW + self.time_s

    def monotonic(self) -> float:
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError

    async def wait(self, event: object, until: float | None) -> None:
        raise NotImplementedError


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The free space of the disk, which a test changes."""
    left = [0]
    monkeypatch.setattr(durable_files, "free_bytes", lambda _: left[0] + LOG_BYTES)
    return left


def test_a_submission_needs_space_for_all_paid_clips(free: list[int]) -> None:
    known = [make_record("a", State.SUCCEEDED, result=RESULT), make_record("b")]
    free[0] = 3 * (CLIP_BYTES + 32 * 1024)
    assert DiskSpaceGuard(Path(), Hand(), known).lacks(3) == ""
    lack = DiskSpaceGuard(Path(), Hand(), known).lacks(4)
    assert "15.1 MB left" in lack
    assert "20.1 MB" in lack
    assert "too little for the clips" in lack


def test_the_size_of_clips_is_learned_from_downloads(free: list[int]) -> None:
    guard = DiskSpaceGuard(Path(), Hand(), [])
    free[0] = 3 * CLIP_BYTES
    assert guard.lacks(10) == ""
    move = JobMoved(NOW, ("a",), Move.DELIVER, make_record("a", State.SUCCEEDED, result=RESULT))
    guard.on_event(move)
    assert guard.lacks(1) == ""
    assert guard.lacks(2), "one was delivered since the disk was asked"


def test_the_disk_is_asked_again_after_a_second(free: list[int]) -> None:
    clock = Hand()
    guard = DiskSpaceGuard(Path(), clock, [])
    assert guard.lacks(1)
    free[0] = 1 << 30
    assert guard.lacks(1)
    clock.time_s = 1.0
    assert guard.lacks(1) == ""


def test_the_logs_reserve_is_not_free_before_the_log_uses_it(tmp_path: Path, free: list[int]) -> None:
    """A run that ends releases it, and the next one reserves it again; else each start would pay for one more clip."""
    known = [make_record("a", State.SUCCEEDED, result=RESULT)]
    log = RunDir(tmp_path).journal.with_name("journal.db-wal")
    log.parent.mkdir()
    one = CLIP_BYTES + 32 * 1024
    for log_bytes in (0, LOG_BYTES // 2, LOG_BYTES, 2 * LOG_BYTES):
        log.write_bytes(b"x" * log_bytes)
        free[0] = one - min(log_bytes, LOG_BYTES) - 1
        assert DiskSpaceGuard(tmp_path, Hand(), known).lacks(1), log_bytes
        free[0] += 1
        assert DiskSpaceGuard(tmp_path, Hand(), known).lacks(1) == "", log_bytes


class FileSystem(NamedTuple):
    """The result of `os.statvfs`."""

    f_blocks: int = 1 << 30
    f_bavail: int = 1 << 29
    f_frsize: int = 4096
    f_files: int = 1 << 20
    f_favail: int = 1 << 19


@pytest.mark.parametrize(
    ("volume", "expected"),
    [
        (FileSystem(), ""),
        (FileSystem(f_blocks=0, f_bavail=0), ""),  # the file system does not know its size
        (FileSystem(f_blocks=0, f_bavail=0, f_files=0, f_favail=0), ""),
        (FileSystem(f_bavail=0), "the disk has 0 bytes left"),
        (FileSystem(f_favail=0), "room for 0 more files (inodes)"),
        (FileSystem(f_favail=15), "room for 15 more files (inodes)"),
        (FileSystem(f_favail=16), ""),
        (FileSystem(f_files=0, f_favail=0), ""),  # inodes are created on demand
    ],
)
def test_full_file_systems_are_recognised(monkeypatch: pytest.MonkeyPatch, volume: FileSystem, expected: str) -> None:
    monkeypatch.setattr("os.statvfs", lambda _: volume)
    lack = DiskSpaceGuard(Path(), Hand(), []).lacks(2)
    assert expected in lack
    assert bool(lack) == bool(expected)


def test_a_file_size_limit_counts_as_missing_space(monkeypatch: pytest.MonkeyPatch, free: list[int]) -> None:
    free[0] = 1 << 40
    known = [make_record("a", State.SUCCEEDED, result=RESULT)]
    for limit_bytes, enough in ((CLIP_BYTES - 1, False), (CLIP_BYTES, True), (resource.RLIM_INFINITY, True)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=limit_bytes: (soft, resource.RLIM_INFINITY))
        lack = DiskSpaceGuard(Path(), Hand(), known).lacks(1)
        assert ("ulimit -f" in lack) == (not enough), lack


def test_the_file_size_limit_is_asked_again_after_a_second(monkeypatch: pytest.MonkeyPatch, free: list[int]) -> None:
    free[0] = 1 << 40
    asked = []

    def limit(kind: int) -> tuple[int, int]:
        asked.append(kind)
        return 1, 1

    monkeypatch.setattr(resource, "getrlimit", limit)
    clock = Hand()
    guard = DiskSpaceGuard(Path(), clock, [])
    for clock.time_s in (0.0, 0.5, 0.9, 1.0):
        assert "ulimit -f" in guard.lacks(1)
    assert len(asked) == 2
