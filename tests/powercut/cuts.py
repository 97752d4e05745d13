"""A recorded run, the moments at which the power may fail, and the runs that continue from there.

The service has no power cut. What it had accepted at a moment is read from the same record, because its ledger is a
file like any other.
"""

import asyncio
import hashlib
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

from batchrunner import sandbox
from batchrunner.job import State
from batchrunner.journal import journal
from batchrunner.sandbox import SandboxConfig
from batchrunner.sandbox.server import Sandbox
from tests import preload
from tests.powercut.disk import Cut, Disk, Found, found, put
from tests.powercut.record import Act, Kind, parse
from tests.soak.batch import Batch, make_batch
from tests.soak.oracle import Figures, check_batch
from tests.soak.processes import Service

FAULTS = "service: {render: tiny, spread: 0}\nfaults: [{on: download, kind: truncated, rate: 0.3, each: 1}]\n"
_POSTERS = ".batchrunner/posters"  # written by unrecorded processes; made again if missing


Files = dict[str, bytes | None]  # of a run directory, by relative path; a folder is None


@dataclass(frozen=True, slots=True)
class Left:
    """The state after a cut: the run directory's files, and the service's ledger."""

    files: Files
    ledger: bytes


@dataclass(frozen=True, slots=True)
class Recording:
    """The operations of a run and its service.

    folder: of the batch; `world` in it was recorded. before: the files before it.
    """

    folder: Path
    before: Mapping[str, Found]
    acts: Sequence[Act]

    @property
    def output(self) -> str:
        return str(self.folder / "world" / "out")

    @property
    def ledger(self) -> str:
        return str(self.folder / "world" / "service" / "ledger.jsonl")


@dataclass(frozen=True, slots=True)
class Moment:
    """The power fails after `acts` acts; `cut` and `seed` decide what is left."""

    acts: int
    cut: Cut
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.acts}:{self.cut}:{self.seed}"


@dataclass(slots=True)
class Outcome:
    """The result of all continued runs. wrong: errors by moment, so that one moment can be repeated."""

    figures: Figures = field(default_factory=Figures)
    moments: int = 0

    def add(self, moment: Moment, figures: Figures) -> None:
        figures.wrong = [f"--moment {moment}: {complaint}" for complaint in figures.wrong]
        self.figures.add(figures)
        self.moments += 1


def record(folder: Path, jobs: int, start: tuple[Path, Left] | None = None, concurrency: int = 3) -> Recording:
    """Record a batch of the given number of jobs to its end, and check that the record is complete.

    start: continue the batch in this folder from what a cut left.
    """
    world, log = folder / "world", folder / "acts.log"
    if start:
        _set_out(*start, folder, world)
    world.mkdir(parents=True, exist_ok=True)
    faults = folder / "faults.yaml"
    faults.write_text(FAULTS)
    before = found(world)
    more = preload.environment(world, log=log)
    with Service(world, "--duration", "300ms", "--capacity", "4", "--faults", str(faults), **more) as service:
        address = {**service.environment(), **more}
        if start:
            batch = Batch(folder, address, world / "out")
            concurrency += len(_doubtful(start[1]))
        else:
            batch = make_batch(folder, jobs, address, output=world / "out", concurrency=concurrency)
        status = batch.run("--concurrency", str(concurrency))
        assert status == 0 or (start and status == 1), batch.log()
    recording = Recording(folder, before, list(parse(log.read_bytes())))
    differences = _differences(recording)
    assert not differences, f"the record does not explain {differences}"
    return recording


def _set_out(origin: Path, left: Left, folder: Path, world: Path) -> None:
    """Copy the batch of `origin` into a new folder, with run directory and service in `world` as a cut left them."""
    world.mkdir(parents=True)
    for name in ("batch.yaml", "clip.mp4", "picture.png"):
        shutil.copyfile(origin / name, folder / name)
    if left.files:
        put(left.files, world / "out")
    for name in ("inputs", "results"):
        shutil.copytree(origin / "world" / "service" / name, world / "service" / name)
    (world / "service" / "ledger.jsonl").write_bytes(left.ledger)


def _doubtful(left: Left) -> set[str]:
    """Return the request ids of submissions whose fate the journal does not know: active ones, and those in doubt."""
    files = {name: data for name, data in left.files.items() if name.startswith(".batchrunner/journal.db")}
    with tempfile.TemporaryDirectory() as temporary:  # reading a journal leaves an index beside it
        put({".batchrunner": None, **files}, Path(temporary) / "out")
        snapshot = journal.read(Path(temporary) / "out" / ".batchrunner" / "journal.db")
    doubtful = {State.SUBMITTING, State.IN_DOUBT}
    records = snapshot.records.values() if snapshot else ()
    return {record.last.request_id for record in records if record.state in doubtful}


def _differences(recording: Recording) -> list[str]:
    """Return the files whose content differs from the record."""
    said = Disk.holding(recording.before).play(recording.acts).left(recording.output, Cut.ALL, Random(0))
    output = Path(recording.output)
    there = {str(path.relative_to(output)): path for path in [output, *output.rglob("*")]}
    names = [name for name in said.keys() | there.keys() if _stays(name)]
    return [
        name
        for name in names
        if name not in said or name not in there or (there[name].is_file() and there[name].read_bytes() != said[name])
    ]


def _stays(name: str) -> bool:
    """Return whether a cut can leave this file. The index of the write-ahead log exists in memory only."""
    return not name.endswith("-shm") and not name.startswith(_POSTERS)


def moments(recording: Recording, seed: int, most: int | None = None) -> list[Moment]:
    """Return the moments to try: after each act with an effect, in each way; or `most` of them."""
    rng = Random(seed)
    changing = [
        number for number, act in enumerate(recording.acts, 1) if act.kind is not Kind.FLUSH_BEGINS and _stays(act.path)
    ]
    every = [Moment(number, cut, rng.randrange(1 << 30)) for number in changing for cut in Cut]
    if most is None or most >= len(every):
        return every
    step = len(every) / most
    return [every[int(place * step + rng.random() * step)] for place in range(most)]


def distinct(recording: Recording, wanted: Sequence[Moment]) -> Iterator[tuple[Moment, Left]]:
    """Yield each moment with what it left, and skip states that an earlier moment left as well."""
    seen: set[bytes] = set()
    disk, done = Disk.holding(recording.before), 0
    for moment in sorted(wanted, key=lambda point: point.acts):
        disk.play(recording.acts[done : moment.acts])
        done = moment.acts
        files = disk.left(recording.output, moment.cut, Random(moment.seed))
        files = {name: content for name, content in files.items() if _stays(name)}
        ledger = disk.now(recording.ledger)
        whole = ledger[: ledger.rfind(b"\n") + 1]
        key = hashlib.sha256(repr((sorted(files.items(), key=str), whole)).encode()).digest()
        if key not in seen:
            seen.add(key)
            yield moment, Left(files, whole)


def play(recording: Recording, folder: Path, wanted: Sequence[Moment], lanes: int = 1) -> Outcome:
    """Continue a run from each of these moments and check it. Failures are kept in `folder`."""
    outcome = Outcome()
    started = time.monotonic()
    with Services() as services, ThreadPoolExecutor(lanes) as pool:

        def one(case: tuple[Moment, Left]) -> tuple[Moment, Figures]:
            moment, left = case
            place = folder / str(moment).replace(":", "-")
            figures = _continue(services, recording.folder, place, left)
            if not figures.wrong:
                shutil.rmtree(place)
            return moment, figures

        for moment, figures in pool.map(one, distinct(recording, wanted)):
            outcome.add(moment, figures)
    outcome.figures.seconds = time.monotonic() - started
    return outcome


def _continue(services: "Services", origin: Path, place: Path, left: Left) -> Figures:
    """Continue one run from what a cut left, to its end."""
    _set_out(origin, left, place, place / "world")
    with services.at(place / "world" / "service") as service:
        address = {"AIMLAPI_BASE_URL": service.url, "AIMLAPI_KEY": "powercut", "XDG_STATE_HOME": str(place / "state")}
        batch = Batch(place, address, place / "world" / "out")
        doubtful = _doubtful(left)
        status = batch.run("--concurrency", str(8 + len(doubtful)))
        if not (batch.output / "report.json").exists():
            return Figures(batches=1, wrong=[f"exit {status}: {batch.log()}"])
        figures = check_batch(batch, service.ledger(), doubtful)
    figures.runs = figures.stops = 1
    if status != (1 if figures.in_doubt else 0):
        figures.wrong.append(f"exit {status}: {batch.log()}")
    return figures


class Services:
    """Any number of sandboxes in a thread of this process. A context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sandboxes", daemon=True)

    @contextmanager
    def at(self, state: Path) -> Iterator[Sandbox]:
        """Start one that continues from the ledger in `state`."""
        config = SandboxConfig(
            state_dir=state, render="stub", duration_s=0.1, queue_wait_s=0.0, spread=0.0, capacity=8, speed=1.0
        )
        service = asyncio.run_coroutine_threadsafe(sandbox.start(config), self._loop).result()
        try:
            yield service
        finally:
            asyncio.run_coroutine_threadsafe(service.close(), self._loop).result()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
