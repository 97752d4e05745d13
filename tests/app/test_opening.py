"""The opening of a run: with many jobs it keeps the event loop free, and what it writes is what a small run writes."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from batchrunner.app.environment import real_environment
from batchrunner.app.runner import drive
from batchrunner.app.setup import Setup
from batchrunner.clock import LoopClock
from batchrunner.engine.chunks import CHUNK
from batchrunner.engine.loop import Engine
from batchrunner.events import EventBus
from batchrunner.job import Entry
from batchrunner.journal import journal
from batchrunner.manifest import Batch
from batchrunner.plan.endings import StopReason
from batchrunner.progress.progress import make_progress
from batchrunner.providers.endpoint import Endpoint
from batchrunner.settings import resolve
from batchrunner.storage.run_directory import RunDir
from batchrunner.workers import spec as worker_specs
from batchrunner.workers.engines import open_workers
from tests.conftest import make_job
from tests.providers.dummy import LISTING, Connector


class CountingLoop(asyncio.SelectorEventLoop):
    """An event loop that counts the Python calls of each of its callbacks, until `stop_counting`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = [0]
        self._counts = True

    def call_soon(self, callback: Callable[..., object], *arguments: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]  # typed with a variadic generic
        return super().call_soon(self._counted, callback, *arguments, context=context)

    def _counted(self, callback: Callable[..., Any], *arguments: Any) -> None:
        self.calls.append(0)
        if self._counts:
            sys.setprofile(self._count)  # of this thread only
        try:
            callback(*arguments)
        finally:
            sys.setprofile(None)

    def _count(self, _frame: object, event: str, _argument: object) -> None:
        self.calls[-1] += event == "call"

    def stop_counting(self) -> None:
        sys.setprofile(None)
        self._counts = False


def opened(folder: Path, jobs: int, *, to_the_end: bool = False, **flags: str) -> int:
    """Open a run that submits nothing. Return the largest number of Python calls in one callback of the event loop.

    to_the_end: count in the whole run; otherwise only in the opening. flags: settings.
    """
    entries = tuple(Entry(number, f"job-{number}", make_job(f"{number}")) for number in range(jobs))
    batch = Batch("many", folder / "many.yaml", "0" * 64, {}, entries, ())
    setup = Setup(batch, resolve({"no_progress": True, **flags}, {}, {}), RunDir(folder / f"{jobs}"))
    setup.rundir.make()

    async def main() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)

        def stop(engine: Engine) -> None:
            if not to_the_end:
                loop.stop_counting()
                engine.stop(StopReason("interrupted", "measured"))

        bus = EventBus(pytest.fail)
        shown = StringIO()
        bus.subscribe(make_progress(stream=shown, quiet=False, plain=True), shows_notices=True)
        local = worker_specs.parse(setup.settings.workers)
        with open_workers(local, pytest.fail) as workers, real_environment(LoopClock(), workers) as outside:
            complete = replace(outside, connect=Connector(LISTING))
            control: Any = (stop, lambda: None)
            assert await drive(setup, Endpoint("http://127.0.0.1:9", "k" * 20), bus, complete, control)
        assert f"0 of {jobs:,} jobs succeeded" in shown.getvalue()
        return max(loop.calls)

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        most = runner.run(main())
    snapshot = journal.read(setup.rundir.journal)
    assert snapshot is not None
    assert [entry.id for entry in snapshot.entries] == [entry.id for entry in entries]
    assert snapshot.records.keys() == {entry.job.fingerprint for entry in entries}
    return most


@pytest.mark.parametrize("runs", [1, 2], ids=["new", "continued"])
def test_no_callback_of_the_opening_makes_a_call_for_each_job(tmp_path: Path, runs: int) -> None:
    opened(tmp_path, 3)  # imports modules
    few = many = 0
    for _ in range(runs):
        few, many = opened(tmp_path, 10), opened(tmp_path, 400)
    assert many < few + 200, "400 jobs make hundreds of calls more than 10 jobs in one callback"


def test_no_callback_of_a_run_grows_with_the_number_of_jobs(tmp_path: Path) -> None:
    """No job has a price, so each one is admitted to the queue, skipped, and listed at the end."""
    opened(tmp_path, 3, to_the_end=True, max_cost="1USD")  # imports modules
    few, many = (opened(tmp_path, jobs, to_the_end=True, max_cost="1USD") for jobs in (2 * CHUNK, 5 * CHUNK))
    assert many < 1.2 * few, f"the longest callback makes {few:,} calls with 1,000 jobs, {many:,} with 2,500"
