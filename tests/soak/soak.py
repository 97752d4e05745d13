"""Runs that are stopped at random moments, started again until their batch is done, and judged.

Rule: a seed decides the moments, as far as the machine's own timing lets it; how many stops there are is exact.
"""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

from batchrunner import journal
from batchrunner.job import State, count_states
from tests.soak.batch import Batch, make_batch
from tests.soak.judge import Figures, in_the_air, judge
from tests.soak.processes import Command, Service, wait_for

CLEAN = {signal.SIGINT: 130, signal.SIGTERM: 143}
STARTED = "at most"  # in the first line that a run prints
_STOPS_A_BATCH = 25
# Plain clips, no two of the same bytes: rendering is not what is tried here, and would be most of the work.
# Late answers: or a kill would hardly ever meet a submission.
_SERVICE = "service: {render: tiny}\nslow: [{reply: 100ms}]"
_DURATION = "2s"  # of a generation: so slow that a batch outlives as many stops as it is to meet
_LATEST_S = 0.9  # a run is stopped between its beginning and this moment, each as likely as the other
_AT_THE_START = 0.1  # of the kills, this share meets an interpreter that still imports
_ENDS_S = 60.0  # a clean stop takes less


@dataclass(frozen=True, slots=True)
class Plan:
    """How a soak goes. stop: the signal. stops: how often it hits, in all. jobs, concurrency: of each batch.

    lanes: batches at a time.
    """

    stop: signal.Signals = signal.SIGKILL
    stops: int = 100
    jobs: int = 60
    concurrency: int = 8
    seed: int = 1
    lanes: int = 1


def soak(plan: Plan, folder: Path) -> Figures:
    """Stop runs until the signal has hit `plan.stops` of them, let every batch end, and return the figures of all."""
    started = time.monotonic()
    total = Figures()
    shares = [len(range(lane, plan.stops, plan.lanes)) for lane in range(plan.lanes)]
    with ThreadPoolExecutor(plan.lanes) as lanes:
        works = [lanes.submit(_lane, plan, share, folder / f"lane-{lane}") for lane, share in enumerate(shares)]
        for work in works:
            total.add(work.result())
    total.seconds = time.monotonic() - started
    return total


def _lane(plan: Plan, stops: int, folder: Path) -> Figures:
    """One batch after the other, until there were so many stops."""
    figures = Figures()
    rng = Random(f"{plan.seed} {folder.name}")
    while figures.stops < stops:
        place = folder / f"batch-{figures.batches}"
        place.mkdir(parents=True)
        told = place / "service.yaml"
        told.write_text(_SERVICE)
        with Service(place, "--duration", _DURATION, "--capacity", "16", "--faults", str(told)) as service:
            batch = make_batch(place, plan.jobs, dict(service.environment()), concurrency=plan.concurrency)
            figures.add(_live(plan, min(_STOPS_A_BATCH, stops - figures.stops), batch, service, rng))
    return figures


def _live(plan: Plan, stops: int, batch: Batch, service: Service, rng: Random) -> Figures:
    """A batch that is stopped so often, or until it is done."""
    runs = hits = 0
    status: int | None = None
    in_air: set[str] = set()
    wrong: list[str] = []
    while hits < stops and status is None:
        runs += 1
        with batch.start(*_slots(plan, batch)) as command:
            if plan.stop in CLEAN or rng.random() > _AT_THE_START:
                _holds_the_lock(batch, command)
            if command.ended_within(rng.uniform(0.0, _LATEST_S)):
                status = command.end()
                break
            command.process.send_signal(plan.stop)
            ended = command.end(_ENDS_S)
            status = _done(batch)
            if status is not None:  # it was done before the signal came, and may have met it on its way out
                break
            hits += 1
            in_air |= in_the_air(batch)
            wrong += _stopped_wrongly(plan.stop, ended, batch, command)
    if status is None:
        runs += 1
        status = batch.run(*_slots(plan, batch))
    figures = judge(batch, service.ledger(), in_air)
    figures.runs, figures.stops = runs, hits
    expected = 1 if figures.doubts else 0
    if status != expected:
        wrong.append(f"the last run ended with {status} instead of {expected}: {batch.folder / 'run.log'}")
    figures.wrong += wrong
    return figures


def _holds_the_lock(batch: Batch, command: Command) -> None:
    """Wait until the run has begun: before, there is nothing to lose, however slow the machine."""
    lock, mine = batch.output / ".batchrunner" / "lock", f"pid {command.process.pid} "
    wait_for(
        lambda: (lock.exists() and lock.read_text().startswith(mine)) or command.process.poll() is not None,
        "the run takes its lock",
    )


def _done(batch: Batch) -> int | None:
    """The status with which the latest run has ended the batch; None where there is more to do.

    A kill may fall between the journal's last word and the report: then the report is what is left to do.
    """
    held = journal.read(batch.journal)
    if held is None or held.run.exit_status not in {0, 1}:
        return None
    try:
        told = batch.report()["run_id"]
    except FileNotFoundError:
        return None
    return held.run.exit_status if told == held.run.run_id else None


def _stopped_wrongly(stop: signal.Signals, ended: int, batch: Batch, command: Command) -> list[str]:
    """What is wrong about how a run ended after the signal."""
    if stop not in CLEAN:
        return [] if ended == -stop else [f"{stop.name}: ended with {ended}: {command.output}"]
    wrong = [] if ended == CLEAN[stop] else [f"{stop.name}: ended with {ended}: {command.output}"]
    held = journal.read(batch.journal)
    if held is None:
        return wrong
    states = count_states(held.records.values())
    if states[State.SUBMITTING] or states[State.IN_DOUBT]:
        wrong.append(f"{stop.name}: a clean stop left jobs in doubt: {states}")
    if batch.report()["exit_status"] != CLEAN[stop]:
        wrong.append(f"{stop.name}: the report says {batch.report()['exit_status']}")
    return wrong


def _slots(plan: Plan, batch: Batch) -> tuple[str, str]:
    """The option that leaves `plan.concurrency` slots free of doubts: each holds one for an hour, and nobody waits."""
    held = journal.read(batch.journal)
    states = count_states(held.records.values()) if held else {}
    doubts = states.get(State.SUBMITTING, 0) + states.get(State.IN_DOUBT, 0)
    return "--concurrency", str(plan.concurrency + doubts)
