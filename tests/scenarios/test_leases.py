"""A run whose lease another host takes over: it stops, stores nothing more, and the other one continues its work."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from batchrunner.errors import ExitStatus
from batchrunner.events import Noticed
from batchrunner.sandbox import Fault
from batchrunner.storage.lease import EXPIRES_S, Lease, Taking
from batchrunner.storage.lease_owner import Owner, myself
from batchrunner.storage.run_directory import RunDir
from tests.scenarios.test_stories import Simulation, entries, play
from tests.scenarios.world import EPOCH

HERE = myself(EPOCH)


def taken(sim: Simulation, owner: Owner, *, elapsed_s: float = 0.0) -> Lease:
    """Take the lease for a process that observes it for `elapsed_s` of its own clock. The simulation's clock stands."""
    RunDir(sim.folder / "run").make()
    now = [0.0]
    taking = Taking(RunDir(sim.folder / "run").internal_dir, owner, lambda: now[0], sim.clock.monotonic)
    while not isinstance(step := taking.step(), Lease):
        now[0] += step
    assert now[0] >= elapsed_s
    return step


def commits(folder: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / "run" / ".batchrunner" / "journal.db")) as connection:
        return connection.execute("SELECT * FROM mark").fetchall()


@pytest.mark.parametrize("at_s", [0.02, 0.05, 20.0, 61.0, 65.0])
@pytest.mark.parametrize("kind", ["", "lost_reply"])
def test_the_other_host_continues_and_nothing_is_paid_twice(tmp_path: Path, at_s: float, kind: str) -> None:
    async def story(sim: Simulation) -> None:
        sim.lease = taken(sim, replace(HERE, host="ash", boot="ash", token="ash"))
        later: list[Lease] = []
        before: list[object] = []

        def take_over() -> None:
            birch = replace(HERE, host="birch", boot="birch", token="birch")
            later.append(taken(sim, birch, elapsed_s=EXPIRES_S))
            before.append(commits(tmp_path))

        sim.loop.call_later(at_s, take_over)
        assert await sim.run(entries("a", "b", "c", "d", "e")) == ExitStatus.NEEDS_ACTION
        assert commits(tmp_path) == before[0], "a run that has lost its lease stores nothing"
        messages = [event.message for event in sim.events if isinstance(event, Noticed)]
        assert any("another run has taken over the run directory" in message for message in messages)
        accepted = sim.accepted()
        sim.lease = later[0]
        assert await sim.run(entries("a", "b", "c", "d", "e")) == ExitStatus.OK
        assert set(sim.accepted().values()) == {1}
        assert len(accepted) <= len(sim.accepted()) == 5

    faults = [Fault(on="submit", kind=kind, first=2)] if kind else []
    play(tmp_path, story, *faults)
