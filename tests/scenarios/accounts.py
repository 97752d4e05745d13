"""Several batches on one account, in virtual time: processes that run at the same time, die, move and lose the index.

`AccountWorld` has one service, one state folder and one process for each batch that is started. A process that dies
keeps no lock and stores nothing more. `AccountScenario` draws everything from a seed.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from batchrunner import sandbox
from batchrunner.account.limits import DEFAULT, Limits
from batchrunner.app.account import Shared
from batchrunner.app.environment import Environment
from batchrunner.app.runner import drive
from batchrunner.app.setup import Setup
from batchrunner.clock import LoopClock
from batchrunner.engine.loop import Engine
from batchrunner.errors import BatchrunnerError, ServiceFault
from batchrunner.events import Event
from batchrunner.job import Entry
from batchrunner.manifest import Batch
from batchrunner.manifest.shards import Shard, divide, split
from batchrunner.media.decoder_pool import Here
from batchrunner.providers import registry
from batchrunner.providers.base import GenerationStatus, Provider
from batchrunner.providers.endpoint import Endpoint
from batchrunner.sandbox import SandboxConfig
from batchrunner.settings import resolve
from batchrunner.storage.run_directory import RunDir
from batchrunner.transfer.downloader import Checks
from tests.scenarios.scenario import _job, _render
from tests.scenarios.world import EPOCH, Died, Loop, Mortal, MortalExecutor, SimDisk, in_virtual_time, strict_bus

PRICE = 390_000  # credits of a job at 480p: what the sandbox charges for its stand-in of 3.75 s
DURATION_S = 60.0
MAX_VIRTUAL_S = 20 * 86_400.0
_QUIET = SandboxConfig(seed=1, capacity=64, queue_wait_s=0.0, duration_s=DURATION_S, spread=0.0)


@dataclass
class Process:
    """A simulated process that runs one batch. status: None while it runs, and after a death."""

    mortal: Mortal
    task: "asyncio.Future[int]"
    events: list[Event]
    engines: list[Engine] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)  # why it did not begin

    def die(self) -> None:
        """SIGKILL."""
        if not self.task.done():
            self.mortal.die()

    async def ended(self) -> int | None:
        """Wait for the end and return the exit status; None for a process that died or was refused."""
        try:
            return await self.task
        except (Died, asyncio.CancelledError):
            await self._bury()
            return None
        except BatchrunnerError as error:
            self.refusals.append(error.message)
            return None

    async def _bury(self) -> None:
        """Cancel the tasks of the dead process."""
        tasks = [task for task in asyncio.all_tasks() if self._owns(task)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _owns(self, task: "asyncio.Task[Any]") -> bool:
        frame = getattr(task.get_coro(), "cr_frame", None)
        owner = frame.f_locals.get("self") if frame else None
        return any(owner is engine for engine in self.engines)


class Forgetful:
    """A provider whose service denies some generations."""

    def __init__(self, provider: Provider, forgotten: set[str]) -> None:
        self._provider = provider
        self._forgotten = forgotten

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    async def status(self, generation_id: str, inputs: Any = ()) -> GenerationStatus:
        if generation_id in self._forgotten:
            raise ServiceFault("unknown_generation", "there is no such generation", status=404)
        return await self._provider.status(generation_id, inputs)


@dataclass
class AccountWorld:
    """One service and one user with several batches. limits: of the account, as config.yaml has them."""

    folder: Path
    loop: Loop
    service: Any
    limits: Limits = field(default_factory=Limits)
    places: dict[str, Path] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(1_000_000)))
    lists_on_acceptance: bool = False
    forgotten: set[str] = field(default_factory=set)  # generations that the service denies

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def place(self, name: str) -> Path:
        return self.places.setdefault(name, self.folder / name)

    def start(
        self,
        name: str,
        entries: tuple[Entry, ...],
        *,
        die_at: int = 0,
        shard: Shard | None = None,
        recover: bool = False,
        **flags: object,
    ) -> Process:
        """Start a process that runs the batch in its run directory, or a shard of it in that of the shard."""
        number = next(self.numbers)
        mortal, rng = Mortal(die_at=die_at), Random(f"{name} {number}")
        executor = MortalExecutor(mortal, rng)
        checks = Checks(Here(), executor)
        shared = Shared(self.state, MortalExecutor(mortal, rng), {DEFAULT: self.limits})
        outside = Environment(
            LoopClock(EPOCH), executor, MortalExecutor(mortal, rng), SimDisk(mortal, rng), rng, checks, shared=shared
        )
        outside = replace(outside, connect=self._connect)
        batch = Batch(name, self.folder / f"{name}.yaml", "0" * 64, {}, entries, ())
        settings = resolve({"concurrency": 4, "assume_length": "3750ms", **flags}, {}, {})
        setup = Setup(batch, settings, RunDir(self.place(name)), recover=recover)
        if shard is not None:
            batch = replace(batch, entries=split(entries, shard)[0])
            folder = RunDir(self.place(name) / shard.folder)
            setup = replace(setup, batch=batch, settings=divide(settings, shard, {}), rundir=folder, shard=shard)
        setup.rundir.make()
        events: list[Event] = []
        engines: list[Engine] = []
        endpoint = Endpoint(self.service.url, "k", lists_on_acceptance=self.lists_on_acceptance)
        bus = strict_bus(events.append)
        control = (engines.append, lambda: None)
        task = asyncio.ensure_future(drive(setup, endpoint, bus, outside, control))
        mortal.on_death = task.cancel
        return Process(mortal, task, events, engines)

    @asynccontextmanager
    async def _connect(self, *arguments: Any, **more: Any) -> AsyncIterator[Any]:
        async with registry.connect(*arguments, **more) as provider:
            yield Forgetful(provider, self.forgotten)

    async def run(self, name: str, entries: tuple[Entry, ...], **flags: Any) -> int | None:
        """Run a batch to the end of its process."""
        return await self.start(name, entries, **flags).ended()

    def report(self, name: str) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.place(name) / "report.json").read_bytes())
        return loaded

    def states(self, name: str) -> dict[str, str]:
        return {row["id"]: row["state"] for row in self.report(name)["jobs"]}

    def accepted(self) -> list[dict[str, Any]]:
        return [event for event in self.service.ledger() if event["event"] == "accepted"]

    def paid_twice(self) -> dict[str, int]:
        """Return the contents of which more than one generation was made that did not fail."""
        failed = {event["generation_id"] for event in self.service.ledger() if event["event"] == "failed"}
        counts = Counter(event["fingerprint"] for event in self.accepted() if event["generation_id"] not in failed)
        return {content: count for content, count in counts.items() if count > 1}

    def most_in_flight(self) -> int:
        """Return the most generations that were in flight at once, by the service's ledger."""
        ends = {e["generation_id"]: e["at"] for e in self.service.ledger() if e["event"] in {"completed", "failed"}}
        changes = []
        for event in self.accepted():
            changes += [(event["at"], 1), (ends.get(event["generation_id"], float("inf")), -1)]
        running = most = 0
        for _, change in sorted(changes):
            running += change
            most = max(most, running)
        return most

    def most_charged_in_a_day(self) -> float:
        """Return the highest sum of prices of generations that were submitted on one UTC day and not failed."""
        failed = {event["generation_id"] for event in self.service.ledger() if event["event"] == "failed"}
        days: Counter[int] = Counter()
        for event in self.accepted():
            if event["generation_id"] not in failed:
                days[int(event["at"] // 86_400)] += PRICE
        return max(days.values(), default=0)


def play(folder: Path, story: Any, *faults: Any, limits: Limits | None = None, **config: Any) -> None:
    """Run `story(world)` against a new service."""

    async def main(loop: Loop) -> None:
        settings = replace(_QUIET, faults=faults, state_dir=folder / "sandbox", **config)
        service = await sandbox.start(settings, clock=LoopClock(EPOCH), render=_render)
        try:
            await story(AccountWorld(folder, loop, service, limits or Limits()))
        finally:
            await service.close()

    in_virtual_time(main)


def entries(*names: str) -> tuple[Entry, ...]:
    """Make entries. Equal names are equal jobs, in whatever batch."""
    return tuple(Entry(place, name, _job(f"https://example.com/{name}.mp4")) for place, name in enumerate(names))


async def next_day() -> None:
    """Wait a day. The loop cannot wait for a whole day at once."""
    for _ in range(2):
        await asyncio.sleep(43_200.0)


@dataclass
class AccountScenario:
    """Three batches with common jobs on one account, drawn from a seed: deaths, moves, a broken index, limits."""

    seed: int
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = self.rng = Random(f"account {self.seed}")
        pool = [f"clip-{number}" for number in range(rng.randint(3, 9))]
        self.batches = {
            name: entries(*rng.sample(pool, rng.randint(1, len(pool)))) for name in ("red", "green", "blue")
        }
        self.limits = Limits(
            concurrency=rng.choice([None, 1, 2, 3]),
            calls_per_s=rng.choice([None, None, 2.0]),
            credits_per_day=rng.choice([None, None, 3.0 * PRICE]),
        )
        self.deaths = rng.choice([0, 1, 3, 6])
        self.moves = rng.choice([0, 0, 1, 2])
        self.breaks = rng.choice([0, 0, 1, 2])
        self.logs = rng.random() < 0.8

    def simulate(self, folder: Path) -> AccountWorld:
        """Simulate it to the end and return the world."""
        worlds: list[AccountWorld] = []

        async def story(world: AccountWorld) -> None:
            worlds.append(world)
            world.lists_on_acceptance = self.logs  # then a submission that the log lacks was not accepted
            await asyncio.gather(*(self._live(world, name) for name in self.batches))
            for name in self.batches:  # a batch may wait for another one that ended after it
                for _ in range(5):
                    status = await world.run(name, self.batches[name])
                    self._note(world, f"{name} at the end: {status}")
                    if status == 3:
                        await next_day()
                    elif status == 0:
                        break
            await asyncio.sleep(2 * DURATION_S)

        play(
            folder,
            story,
            limits=self.limits,
            seed=self.seed,
            logs=self.logs,
            logs_in_flight=True,
        )
        return worlds[0]

    async def _live(self, world: AccountWorld, name: str) -> None:
        """Run one batch again and again until it has ended by itself."""
        await asyncio.sleep(self.rng.uniform(0.0, 90.0))
        in_doubt_runs = 0
        for _ in range(40):
            process = world.start(name, self.batches[name], die_at=self._die_at())
            if not process.mortal.die_at and self._takes("deaths"):
                world.loop.call_later(self.rng.uniform(0.0, 150.0), process.die)
            status = await process.ended()
            why = process.refusals
            self._note(world, f"{name}: {'died' if process.mortal.dead else status} {why}")
            in_doubt_runs += status == 1
            if status == 0 or (in_doubt_runs > 4 and not self.logs):
                return
            if self._takes("breaks"):
                self._note(world, f"index: {break_index(world.state, self.rng)}")
            if self._takes("moves"):
                moved = world.place(name).with_name(f"{name}-moved-{self.rng.randrange(1000)}")
                world.place(name).rename(moved)
                world.places[name] = moved
                self._note(world, f"{name} moved to {moved.name}")
            await asyncio.sleep(self.rng.choice([1.0, 60.0, 4000.0]) if status != 3 else 30_000.0)
            assert world.loop.time() < MAX_VIRTUAL_S, "the batches do not end"
        raise AssertionError(f"the batch {name} does not end")

    def _die_at(self) -> int:
        return int(self.rng.expovariate(1 / 80)) + 1 if self.rng.random() < 0.5 and self._takes("deaths") else 0

    def _takes(self, what: str) -> bool:
        left = getattr(self, what)
        if left <= 0 or self.rng.random() < 0.3:
            return False
        setattr(self, what, left - 1)
        return True

    def _note(self, world: AccountWorld, line: str) -> None:
        self.lines.append(f"{world.loop.time():10.1f}  {line}")

    def check(self, world: AccountWorld) -> None:
        """Check the promises for the account, by the service's ledger."""
        assert not world.paid_twice(), f"promise 1: paid twice: {world.paid_twice()}"
        if self.limits.concurrency is not None:
            most = world.most_in_flight()
            assert most <= self.limits.concurrency, f"promise 4: {most} in flight, cap {self.limits.concurrency}"
        if self.limits.credits_per_day is not None:
            spent = world.most_charged_in_a_day()
            assert spent <= self.limits.credits_per_day, f"promise 4: {spent} credits in a day"
        for name in self.batches:
            undelivered = {job: state for job, state in world.states(name).items() if state != "succeeded"}
            if not self.logs:  # then a submission whose process died stays in doubt, and is held everywhere
                undelivered = {job: state for job, state in undelivered.items() if state not in {"in_doubt", "pending"}}
            assert not undelivered, f"promise 2: {name}: {undelivered}"


def break_index(state: Path, rng: Random) -> str:
    """Remove or damage the index, whatever process has it open. Return what was done."""
    files: Sequence[Path] = sorted(state.glob("index-*.db*"))
    if not files:
        return "nothing"
    how = rng.choice(["removed", "emptied", "damaged", "log removed"])
    if how == "removed":
        lose_index(state)
        return how
    for path in files:
        if path.suffix == ".db" and how == "emptied":
            path.unlink()
            path.touch()
        elif path.suffix == ".db" and how == "damaged":
            content = bytearray(path.read_bytes())
            content[100:8192] = bytes(len(content[100:8192]))
            path.unlink()  # not in the inode that a process has mapped
            path.write_bytes(content)
        elif path.suffix == ".db-wal" and how == "log removed":
            path.unlink()
    return how


def lose_index(state: Path) -> None:
    """Remove the index and its log."""
    for path in state.glob("index-*.db*"):
        path.unlink()
