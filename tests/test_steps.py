"""The steps: storing the id of an accepted submission on a disk that refuses is tried again, and ends."""

import asyncio
from unittest.mock import Mock

import pytest

from batchrunner.clock import LoopClock
from batchrunner.errors import LocalFault
from batchrunner.events import Event, Noticed
from batchrunner.job import Move, Record, State
from batchrunner.ports import Policy
from batchrunner.steps import Steps
from tests.conftest import NOW, make_record


class Slept(LoopClock):
    """A clock that a sleep moves on at once, while its wall time is set back further and further."""

    def __init__(self) -> None:
        super().__init__()
        self.at_s = 0.0

    def now(self) -> float:
        return NOW - 60 * self.at_s

    def monotonic(self) -> float:
        return self.at_s

    async def sleep(self, seconds: float) -> None:
        self.at_s += seconds


class Refusing:
    """A journal on a full disk that takes a record after so many refusals."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals

    async def save(self, record: Record) -> None:
        self.refusals -= 1
        if self.refusals >= 0:
            raise LocalFault("disk_full", "the disk is full", "Make room.")


def stores(clock: Slept, refusals: int) -> tuple[Record, list[str]]:
    """The record after an acceptance was stored, and the notices meanwhile."""
    told: list[Event] = []
    parts = Mock(clock=clock, journal=Refusing(refusals), announce=told.append, ids=lambda fingerprint: (fingerprint,))
    record = make_record("a", State.SUBMITTING)
    policy = Policy(concurrency=1, poll_interval_s=10.0)
    steps = Steps(parts, policy, "run", {record.job.fingerprint: record}, Mock(), Mock())
    asyncio.run(steps._accepted(record.job.fingerprint, Move.ACCEPT, "gen:1", None))
    return steps.records[record.job.fingerprint], [event.message for event in told if isinstance(event, Noticed)]


def test_an_id_is_stored_as_soon_as_the_disk_takes_it() -> None:
    clock = Slept()
    record, told = stores(clock, refusals=3)
    assert clock.at_s == 1 + 2 + 4
    assert (record.state, record.generation_id) == (State.IN_FLIGHT, "gen:1")
    assert len(told) == 3
    assert all("gen:1 was accepted and is not recorded yet" in message for message in told)


def test_a_disk_that_never_takes_it_ends_the_trying_after_about_a_minute() -> None:
    clock = Slept()
    with pytest.raises(
        LocalFault, match="generation gen:1 was accepted and is not recorded yet: note it down"
    ) as caught:
        stores(clock, refusals=1000)
    assert caught.value.kind == "disk_full"
    assert 60 < clock.at_s < 65
