"""Runs that are stopped at random moments, started again until their batch is done, and checked.

A seed selects the moments, as far as the machine's own timing allows; the number of stops is exact.
"""

import errno
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from batchrunner.job import State, count_states
from batchrunner.journal import journal
from tests import preload
from tests.soak.batch import Batch, make_batch
from tests.soak.liar import Liar
from tests.soak.oracle import Figures, check_batch, latest_requests, submitting
from tests.soak.processes import Command, Service, wait_for

CLEAN = {signal.SIGINT: 130, signal.SIGTERM: 143}
STARTED = "at most"  # in the first line that a run prints
_STOPS_A_BATCH = 25
# Plain clips, all with different bytes, because rendering is not tested here and would take most of the time. Answers
# are late, because otherwise a kill would rarely meet a submission.
_SERVICE = "service: {render: tiny}\nslow: [{reply: 100ms}]"
_DURATION = "2s"  # of a generation: so slow that a batch outlives all of its stops
_POLL_INTERVAL = "300ms"  # polls would take most of the CPU time otherwise
_LATEST_S = 0.9  # a run is stopped at a uniformly random moment between its start and this time
# The share of runs that are executed. The others are forked from a loaded process, which takes a tenth of the CPU.
# A kill of an executed run may come while the interpreter still imports.
_EXECUTED = 0.1
_AIMED = 0.2  # the share of kills that wait for an active submission: by chance, a slice may meet none
_POLL_S = 0.01
_ENDS_S = 60.0  # a clean stop takes less
_LIES = 0.2  # the share of calls with a lie, if the service lies
_GIVES_UP = {2, 3, 5}  # statuses of a run whose disk fails


@dataclass(frozen=True, slots=True)
class Plan:
    """The parameters of a soak.

    stop: the signal. stops: how often it is sent, in all. jobs, concurrency: of each batch.

    lanes: batches at a time. lies: the service lies (`tests.soak.liar`). disk: it fails for a while in every run.
    """

    stop: signal.Signals = signal.SIGKILL
    stops: int = 100
    jobs: int = 90
    concurrency: int = 8
    seed: int = 1
    lanes: int = 1
    lies: bool = False
    disk: bool = False


def soak(plan: Plan, folder: Path) -> Figures:
    """Stop runs until the signal has ended `plan.stops` of them, let every batch end, and return the figures of all."""
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
    """Run one batch after the other until there were enough stops."""
    figures = Figures()
    rng = Random(f"{plan.seed} {folder.name}")
    while figures.stops < stops:
        place = folder / f"batch-{figures.batches}"
        place.mkdir(parents=True)
        faults_file = place / "service.yaml"
        faults_file.write_text(_SERVICE)
        with ExitStack() as stack:
            service = Service(place, "--duration", _DURATION, "--capacity", "16", "--faults", str(faults_file))
            stack.enter_context(service)
            address = dict(service.environment())
            faults = None
            if plan.lies:
                liar = stack.enter_context(Liar(service.url, rng.randrange(1 << 30), _LIES))
                address["AIMLAPI_BASE_URL"] = liar.url
            if plan.disk:
                (place / "out").mkdir()
                faults = stack.enter_context(preload.Faults(place / "fault"))
                address |= preload.environment(place / "out", faults=faults)
            batch = make_batch(place, plan.jobs, address, concurrency=plan.concurrency, poll_interval=_POLL_INTERVAL)
            share = min(_STOPS_A_BATCH, stops - figures.stops)
            figures.add(_Life(plan, share, batch, service, rng, faults).live())
    return figures


@dataclass(slots=True)
class _Life:
    """One batch, from its first run to its last. faults: the switch of its disk."""

    plan: Plan
    stops: int
    batch: Batch
    service: Service
    rng: Random
    faults: preload.Faults | None
    runs: int = 0
    hits: int = 0
    latest_s: float = _LATEST_S
    active: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def live(self) -> Figures:
        """Stop runs this often, or until the batch is done; then let it end, and check it."""
        status: int | None = None
        while self.hits < self.stops and status is None:
            status = self._run()
            assert self.runs < 8 * self.stops + 8, f"the batch does not end: {self.batch.folder / 'run.log'}"
        while status is None:
            self.runs += 1
            status = self.batch.run(*_slots(self.plan, self.batch), forked=self.rng.random() >= _EXECUTED)
        status = self._finish(status)
        figures = check_batch(self.batch, self.service.ledger(), self.active | _doubted(self.batch))
        figures.runs, figures.stops = self.runs, self.hits
        expected = 1 if figures.in_doubt else 0
        if status != expected:
            complaint = f"the last run ended with {status} instead of {expected}: {self.batch.folder / 'run.log'}"
            self.wrong.append(complaint)
        figures.wrong += self.wrong
        return figures

    def _finish(self, status: int) -> int:
        """Return the status of the ended batch, which is that of its last run."""
        return status

    def _run(self) -> int | None:
        """Start a run and stop it unless it ends before. Return the batch's status once it is done."""
        self.runs += 1
        executed = self.rng.random() < _EXECUTED
        with self.batch.start(*_slots(self.plan, self.batch), forked=not executed) as command:
            if self.plan.stop in CLEAN or not executed:
                _holds_the_lock(self.batch, command)
            if self._lasts(command):
                command.process.send_signal(self.plan.stop)
            ended = command.end(_ENDS_S)
            if self.faults:
                self.faults.clear()
            status = _done(self.batch)
            if status is not None:  # it was done before the signal, which may have come during its exit
                return status
            met = submitting(self.batch) - self.active
            self.active |= met
            if not met and self.plan.stop not in CLEAN:
                # On a busy machine runs start late: without this, no kill would meet a submission.
                self.latest_s = min(_LATEST_S * 4, self.latest_s * 1.15)
            if self.faults and ended in _GIVES_UP:  # by itself, because its disk failed
                return None
            self.hits += 1
            self.wrong += _stopped_wrongly(self.plan.stop, ended, self.batch, command)
        return None

    def _lasts(self, command: Command) -> bool:
        """Return whether the run is still active at the moment of its stop. Its disk may fail before that."""
        if self.faults:
            if command.ended_within(self.rng.uniform(0.0, 2 * self.latest_s)):
                return False
            calls = preload.Calls(self.rng.randrange(1, preload.Calls.ALL + 1))
            self.faults.set(calls, self.rng.choice([errno.EIO, errno.ENOSPC]), self.rng.choice([0.1, 1.0]))
            if command.ended_within(self.rng.uniform(0.0, self.latest_s / 2)):
                return False
            self.faults.clear()
        if self.plan.stop not in CLEAN and self.rng.random() < _AIMED:
            return self._submits(command)
        return not command.ended_within(self.rng.uniform(0.0, self.latest_s))

    def _submits(self, command: Command) -> bool:
        """Wait for an active submission, for a while, and return whether the run is still active."""
        end = time.monotonic() + 2 * self.latest_s
        while not command.ended_within(_POLL_S):
            if submitting(self.batch) - self.active or time.monotonic() > end:
                return True
        return False


def _holds_the_lock(batch: Batch, command: Command) -> None:
    """Wait until the run has started: before that there is nothing to lose, however slow the machine is."""
    lock, mine = batch.output / ".batchrunner" / "lock", f"pid {command.process.pid} "
    wait_for(
        lambda: (lock.exists() and lock.read_text().startswith(mine)) or command.process.poll() is not None,
        "the run takes its lock",
    )


def _done(batch: Batch) -> int | None:
    """Return the status with which the latest run has ended the batch; None if work is left.

    A kill may come between the journal's last commit and the report: then the report is the remaining work.
    """
    snapshot = journal.read(batch.journal)
    if snapshot is None or snapshot.run.exit_status not in {0, 1}:
        return None
    try:
        run_id = batch.report()["run_id"]
    except FileNotFoundError:
        return None
    return snapshot.run.exit_status if run_id == snapshot.run.run_id else None


def _stopped_wrongly(stop: signal.Signals, ended: int, batch: Batch, command: Command) -> list[str]:
    """Return the error in how a run ended after the signal, or ""."""
    if stop not in CLEAN:
        return [] if ended == -stop else [f"{stop.name}: ended with {ended}: {command.output}"]
    wrong = [] if ended == CLEAN[stop] else [f"{stop.name}: ended with {ended}: {command.output}"]
    snapshot = journal.read(batch.journal)
    if snapshot is None:
        return wrong
    states = count_states(snapshot.records.values())
    if states[State.SUBMITTING] or states[State.IN_DOUBT]:
        wrong.append(f"{stop.name}: a clean stop left jobs in doubt: {states}")
    if batch.report()["exit_status"] != CLEAN[stop]:
        wrong.append(f"{stop.name}: the report says {batch.report()['exit_status']}")
    return wrong


def _doubted(batch: Batch) -> set[str]:
    """Return the request ids of submissions in doubt in the journal: a lying service leaves some without a stop."""
    return latest_requests(batch.journal, State.IN_DOUBT)


def _slots(plan: Plan, batch: Batch) -> tuple[str, str]:
    """Return the option that leaves `plan.concurrency` slots free: each job in doubt occupies one for an hour."""
    in_doubt = latest_requests(batch.journal, State.SUBMITTING, State.IN_DOUBT)
    return "--concurrency", str(plan.concurrency + len(in_doubt))
