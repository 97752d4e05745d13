"""Room on the disk: nothing is bought that could not be stored."""

from pathlib import Path

import pytest

from batchrunner import disk
from batchrunner.events import Event, JobMoved
from batchrunner.job import Move, Result, State
from batchrunner.room import Room
from tests.conftest import NOW, make_record

CLIP_BYTES = 5_000_000
RESULT = Result(CLIP_BYTES, "ab" * 32, 480, 480, 2.0)


class Hand:
    """A clock that is set by hand."""

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
    """What the disk has left, to be changed."""
    left = [0]
    monkeypatch.setattr(disk, "free_bytes", lambda _: left[0])
    return left


def test_there_must_be_room_for_all_that_is_bought(free: list[int]) -> None:
    known = [make_record("a", State.SUCCEEDED, result=RESULT), make_record("b")]
    free[0] = 3 * (CLIP_BYTES + 32 * 1024)
    assert Room(Path(), Hand(), known).lacks(3) == ""
    lack = Room(Path(), Hand(), known).lacks(4)
    assert "15.1 MB left" in lack
    assert "20.1 MB" in lack
    assert "make room" in lack


def test_how_large_clips_are_is_learned_while_they_come(free: list[int]) -> None:
    told: list[Event] = []
    room = Room(Path(), Hand(), [])
    free[0] = 3 * CLIP_BYTES
    assert room.lacks(10) == ""
    move = JobMoved(NOW, ("a",), Move.DELIVER, make_record("a", State.SUCCEEDED, result=RESULT))
    room.beside(told.append)(move)
    assert told == [move]
    assert room.lacks(1) == ""
    assert room.lacks(2), "one has landed since the disk was asked"


def test_the_disk_is_asked_again_after_a_second(free: list[int]) -> None:
    clock = Hand()
    room = Room(Path(), clock, [])
    assert room.lacks(1)
    free[0] = 1 << 30
    assert room.lacks(1)
    clock.time_s = 1.0
    assert room.lacks(1) == ""
