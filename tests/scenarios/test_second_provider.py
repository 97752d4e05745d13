"""A batch of another provider with another model, through the real engine: kills, lost replies, refusals.

The provider and its model are in `tests.providers.dummy`. Nothing of the package is replaced.
"""

import asyncio
import csv
import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from batchrunner import manifest
from batchrunner.app.environment import Environment
from batchrunner.app.runner import drive
from batchrunner.app.setup import Setup
from batchrunner.app.verify import verify
from batchrunner.clock import LoopClock
from batchrunner.job import Entry, State, count_states
from batchrunner.journal import journal
from batchrunner.media.decoder_pool import Here
from batchrunner.providers.base import Capabilities
from batchrunner.providers.endpoint import Endpoint
from batchrunner.sandbox.clips import marks
from batchrunner.settings import resolve
from batchrunner.storage.run_directory import RunDir
from batchrunner.transfer.delivery import OpenStore, Store
from batchrunner.transfer.downloader import Checks
from batchrunner.workers.engines import Workers
from tests.providers.dummy import LISTING, SILENT, Connector, Studio, offered
from tests.scenarios.damage import NO_FAILURE, JournalFiles
from tests.scenarios.world import (
    EPOCH,
    Died,
    JournalExecutor,
    Loop,
    Mortal,
    MortalExecutor,
    SimDisk,
    in_virtual_time,
    strict_bus,
)
from tests.transfer.memory_store import Bucket, MemoryStore

# A simulated process that dies leaves connections open, as a real one leaves them to the system.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")

MOST_RUNS = 30
STILLS = [f"https://example.com/still-{number}.png" for number in range(12)]
MANIFEST = {
    "model": "studio/still-motion",
    "defaults": {"resolution": "480p"},
    "jobs": [
        {"id": "both", "still": STILLS[0], "motion": "https://example.com/walk.mp4", "loop": True},
        {"id": "again", "still": STILLS[0], "motion": "https://example.com/walk.mp4", "loop": True},
    ],
    "matrix": [{"still": STILLS, "shift": ["none", "left", "right"], "seconds": [5]}],
}


@dataclass
class Simulation:
    """A studio, a run directory and one process after another. in_flight: active submissions at a death."""

    loop: Loop
    folder: Path
    studio: Studio
    capabilities: Capabilities
    rng: Random
    url: str = ""
    in_flight: int = 0
    deaths: int = 0
    entries: Sequence[Entry] = field(default_factory=tuple)
    open_store: OpenStore = Store

    @property
    def rundir(self) -> RunDir:
        return RunDir(self.folder / "run")

    async def run(self, *, die: bool, **flags: object) -> int | None:
        """Run one process. Return its exit status, or None if it died."""
        mortal = Mortal()
        if die and self.rng.random() < 0.5:
            mortal.die_at = int(self.rng.expovariate(1 / 150)) + 1
        elif die:
            mortal.die_at_turn = int(self.rng.expovariate(1 / 2000)) + 1
        files = JournalFiles(self.rundir, self.rng)
        disk, executor = SimDisk(mortal, self.rng), MortalExecutor(mortal, self.rng)
        outside = Environment(
            LoopClock(EPOCH),
            executor,
            JournalExecutor(mortal, self.rng, files, NO_FAILURE),
            disk,
            self.rng,
            Checks(Here(), executor),
            connect=Connector(self.capabilities),
            open_store=self.open_store,
        )
        self.rundir.make()
        control: Any = (lambda _: None, lambda: None)
        endpoint = Endpoint(self.url, self.studio.key)
        process = asyncio.ensure_future(drive(self._setup(**flags), endpoint, strict_bus(), outside, control))
        mortal.at_death, mortal.on_death = files.freeze, process.cancel
        self.loop.mortal = mortal
        status = None
        with suppress(Died, asyncio.CancelledError):
            status = await process
        self.loop.mortal = None
        if mortal.dead:
            await self._bury()
            files.thaw()
            disk.cut_power()
            self._count_in_flight()
        return status

    def _setup(self, **flags: object) -> Setup:
        path = self.folder / "batch.yaml"
        path.write_text(json.dumps(MANIFEST))
        batch = manifest.load(path)
        self.entries = batch.entries
        settings = resolve({"concurrency": 4, "output": str(self.rundir.path), **flags}, {}, {})
        return Setup(batch, settings, self.rundir)

    async def _bury(self) -> None:
        """Cancel the tasks that the dead process left in the loop."""
        names = {task: getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()}
        left = [task for task, name in names.items() if "Engine." in name]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _count_in_flight(self) -> None:
        self.deaths += 1
        snapshot = journal.read(self.rundir.journal)
        self.in_flight += count_states(snapshot.records.values())[State.SUBMITTING] if snapshot else 0

    async def until_over(self, deaths: int, **flags: object) -> int:
        """Run processes until one ends normally; the first ones die."""
        for number in range(MOST_RUNS):
            status = await self.run(die=number < deaths, **flags)
            if status in {0, 1}:
                return status
            await asyncio.sleep(self.rng.choice([1.0, 600.0]))
        raise AssertionError("the batch does not come to an end")

    @property
    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.rundir.path / "report.json").read_bytes())
        return report

    def paid(self) -> Counter[str]:
        """Return the undamaged generations of each order."""
        return Counter(render.order for render in self.studio.renders if not render.is_broken)

    def check_clips(self) -> None:
        """Each delivered clip belongs to its own job."""
        snapshot = journal.read(self.rundir.journal)
        assert snapshot is not None
        assert [item for item in verify(self.rundir, snapshot, Workers(Here())) if item.kind] == []
        for row in self.report["jobs"]:
            if row["state"] == "succeeded":
                label = marks.read((self.rundir.path / row["file"]).read_bytes())
                assert label is not None
                order = json.loads(label["fingerprint"])
                assert order["picture"]["href"] == row["request"]["still"]
                assert order["options"]["shift"] == row["request"]["shift"]


def simulate(
    folder: Path, capabilities: Capabilities, seed: int, scenario: Callable[[Simulation], Any], **rates: Any
) -> None:
    async def main(loop: Loop) -> None:
        studio = Studio(LoopClock(EPOCH), Random(seed), lists=capabilities.find_submissions, **rates)
        simulation = Simulation(loop, folder, studio, capabilities, Random(f"{seed} process"))
        async with studio.open() as simulation.url:
            await scenario(simulation)

    with offered():
        in_virtual_time(main)


@pytest.mark.parametrize("seed", range(4))
def test_with_a_list_every_job_is_paid_once_and_delivered(tmp_path: Path, seed: int) -> None:
    async def scenario(simulation: Simulation) -> None:
        assert await simulation.until_over(deaths=5) == 0
        jobs = {entry.job.fingerprint for entry in simulation.entries}
        assert len(jobs) == 37
        assert sorted(simulation.paid().values()) == [1] * len(jobs)
        assert simulation.deaths > 0
        simulation.check_clips()
        states = Counter(row["state"] for row in simulation.report["jobs"])
        assert states == {"succeeded": 38}

    simulate(tmp_path, LISTING, seed, scenario, busy=0.1, cut=0.05, lost=0.1, broken=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_without_a_list_nothing_is_paid_twice_until_the_user_asks(tmp_path: Path, seed: int) -> None:
    async def scenario(simulation: Simulation) -> None:
        assert await simulation.until_over(deaths=5) == 1
        assert simulation.studio.lost_replies > 0
        assert max(simulation.paid().values()) == 1
        rows = simulation.report["jobs"]
        in_doubt = {row["fingerprint"] for row in rows if row["state"] == "in_doubt"}
        assert {row["state"] for row in rows} == {"succeeded", "in_doubt"}
        accepted_or_cut = simulation.studio.lost_replies + simulation.studio.cut_requests + simulation.in_flight
        assert 0 < len(in_doubt) <= accepted_or_cut
        assert not [path for _, path in simulation.studio.calls if path == "/renders"], "the list is never requested"
        simulation.check_clips()
        before = simulation.paid()
        simulation.studio.cut = simulation.studio.lost = 0.0
        assert await simulation.until_over(deaths=0, in_doubt="resubmit") == 0
        repeated = simulation.paid() - before
        assert sum(repeated.values()) == len(in_doubt)
        simulation.check_clips()

    simulate(tmp_path, SILENT, seed, scenario, busy=0.1, cut=0.03, lost=0.05)


def test_clips_may_be_kept_in_another_store(tmp_path: Path) -> None:
    async def scenario(simulation: Simulation) -> None:
        bucket = Bucket()
        simulation.open_store = bucket.open_store
        assert await simulation.until_over(deaths=5) == 0
        assert simulation.deaths > 0
        assert sorted(simulation.paid().values()) == [1] * 37
        store = MemoryStore(bucket)
        for row in simulation.report["jobs"]:
            with store.open(row["file"]) as file:
                label = marks.read(file.read())
            assert label is not None
            assert json.loads(label["fingerprint"])["picture"]["href"] == row["request"]["still"]
        assert list(simulation.rundir.path.glob("*.mp4")) == []

    simulate(tmp_path, LISTING, 2, scenario, lost=0.1)


def test_reports_name_the_inputs_of_the_model(tmp_path: Path) -> None:
    async def scenario(simulation: Simulation) -> None:
        assert await simulation.until_over(deaths=0) == 0
        with (simulation.rundir.path / "results.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows[0]["still"] == STILLS[0]
        assert rows[0]["motion"] == "https://example.com/walk.mp4"
        assert rows[2]["id"] == "still-0-still-s5-resolution480p-6b54e8bbe0"
        assert not rows[2]["motion"]
        page = (simulation.rundir.path / "report.html").read_text()
        assert "still-0.png" in page

    simulate(tmp_path, LISTING, 1, scenario)
