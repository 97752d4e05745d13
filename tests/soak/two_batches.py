"""Two batches of one account that run at the same time, have jobs in common, and are killed at random moments.

Whatever is killed, no job may be paid for twice, the account's cap must hold, and every clip must be delivered in both.
"""

import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from batchrunner.job import State, count_states
from batchrunner.journal import journal
from tests.soak.batch import Batch, make_batch
from tests.soak.oracle import Figures, _bad_files, _forbidden_output, _untrue, submitting
from tests.soak.processes import Service
from tests.soak.soak import _DURATION, _ENDS_S, _EXECUTED, _LATEST_S, _SERVICE, _STOPS_A_BATCH, Plan, _holds_the_lock

_CAP = 10  # of the account, besides the slots of jobs in doubt
_SLOTS_FREE_S = 2400.0
_ROUNDS = 6  # of final runs: a job that is held for the other batch is delivered in a later one


def soak_two(plan: Plan, folder: Path) -> Figures:
    """Kill runs of pairs of batches until `plan.stops` of them were hit, and return the figures of all."""
    started = time.monotonic()
    total = Figures()
    rng = Random(f"{plan.seed} two")
    while total.stops < plan.stops:
        share = min(_STOPS_A_BATCH, plan.stops - total.stops)
        total.add(_Pair(plan, share, folder / f"pair-{total.batches // 2}", rng).live())
    total.seconds = time.monotonic() - started
    return total


@dataclass
class _Pair:
    """Two batches against one service. hits, runs: of both."""

    plan: Plan
    stops: int
    place: Path
    rng: Random
    hits: int = 0
    runs: int = 0
    most_in_doubt: int = 0
    active: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    def live(self) -> Figures:
        self.place.mkdir(parents=True)
        faults = self.place / "service.yaml"
        faults.write_text(_SERVICE)
        with Service(self.place, "--duration", _DURATION, "--capacity", "32", "--faults", str(faults)) as service:
            address, count = dict(service.environment()), self.plan.jobs
            concurrency = self.plan.concurrency
            self.batches = [
                make_batch(self.place / "one", count, address, concurrency=concurrency, name="one"),
                make_batch(self.place / "two", count, address, concurrency=concurrency, name="two", first=count // 2),
            ]
            seeds = [self.rng.randrange(1 << 30) for _ in self.batches]
            with ThreadPoolExecutor(2) as lanes:
                pairs = zip(self.batches, seeds, strict=True)
                for work in [lanes.submit(self._kill, batch, Random(seed)) for batch, seed in pairs]:
                    work.result()
            for _ in range(_ROUNDS):
                statuses = [self._finish(batch) for batch in self.batches]
                self.runs += len(statuses)
                if set(statuses) == {0}:
                    break
            return self._figures(service.ledger(), statuses)

    def _finish(self, batch: Batch) -> int:
        """Run a batch to its end. Jobs in doubt may hold every slot for half an hour before it goes on."""
        with batch.start(*self._options(batch), forked=True) as command:
            try:
                return command.end(_SLOTS_FREE_S)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"the run does not end:\n{command.output}") from None

    def _kill(self, batch: Batch, rng: Random) -> None:
        """Start and kill runs of one batch until it has ended, or the pair has met its share of kills."""
        while self.hits < self.stops:
            self.runs += 1
            with batch.start(*self._options(batch), forked=rng.random() >= _EXECUTED) as command:
                _holds_the_lock(batch, command)
                if command.ended_within(rng.uniform(0.0, 2 * _LATEST_S)):
                    if command.end(_ENDS_S) in (0, 1):
                        return
                    self.wrong.append(f"a run ended by itself: {command.output}")
                    return
                command.process.kill()
                command.end(_ENDS_S)
            self.hits += 1
            self.active |= submitting(batch)

    def _options(self, batch: Batch) -> tuple[str, str]:
        """Write the account's cap, and return the options of a run. Each job in doubt holds a slot of both limits."""
        in_doubt = [_in_doubt(other) for other in self.batches]
        self.most_in_doubt = max(self.most_in_doubt, sum(in_doubt))
        config = self.place / "config" / "batchrunner" / "config.yaml"
        config.parent.mkdir(parents=True, exist_ok=True)
        new = config.with_name(f"{batch.folder.name}.new")
        new.write_text(f"accounts: {{default: {{concurrency: {_CAP + sum(in_doubt)}}}}}\n")
        new.replace(config)
        return "--concurrency", str(self.plan.concurrency + in_doubt[self.batches.index(batch)])

    def _figures(self, ledger: list[dict[str, Any]], statuses: list[int]) -> Figures:
        accepted = [event for event in ledger if event["event"] == "accepted"]
        figures = Figures(batches=2, stops=self.hits, runs=self.runs, accepted=len(accepted), active=len(self.active))
        figures.accepted_active = len({event["client_request_id"] for event in accepted} & self.active)
        counts = Counter(event["fingerprint"] for event in accepted)
        figures.paid_twice = sum(count > 1 for count in counts.values())
        figures.wrong += self.wrong
        figures.wrong += [f"paid {count} times for {content}" for content, count in counts.items() if count > 1]
        reports = [batch.report() for batch in self.batches]
        rows = [row for report in reports for row in report["jobs"]]
        attempts = [attempt for row in rows for attempt in row["attempts"]]
        known = {attempt["generation_id"] for attempt in attempts} | {attempt["request_id"] for attempt in attempts}
        figures.jobs = len(rows)
        figures.in_doubt = sum(row["state"] == "in_doubt" for row in rows)
        unknown = [event for event in accepted if not known & {event["generation_id"], event["client_request_id"]}]
        figures.lost = len(unknown)
        figures.wrong += [f"generation {event['generation_id']} is unknown to both reports" for event in unknown]
        undelivered = [row["id"] for row in rows if row["state"] not in ("succeeded", "in_doubt") and not _waits(row)]
        figures.wrong += [f"{name} is not delivered" for name in undelivered]
        most = most_in_flight(ledger)
        if most > _CAP + self.most_in_doubt:
            figures.wrong.append(f"{most} in flight, cap {_CAP} and {self.most_in_doubt} in doubt")
        if figures.in_doubt == 0 and set(statuses) != {0}:
            figures.wrong.append(f"the last runs ended with {statuses}")
        for batch, report in zip(self.batches, reports, strict=True):
            bad_files = [*_bad_files(batch, ledger, report["jobs"])]
            figures.bad_files += len(bad_files)
            figures.wrong += [*bad_files, *_untrue(batch, report, accepted), *_forbidden_output(batch)]
        return figures


def _waits(row: dict[str, Any]) -> bool:
    """Whether a job waits for a submission of the other batch that is in doubt."""
    return row["error"] is not None and row["error"]["kind"] == "held_in_doubt_elsewhere"


def _in_doubt(batch: Batch) -> int:
    snapshot = journal.read(batch.journal)
    states = count_states(snapshot.records.values()) if snapshot else {}
    return states.get(State.SUBMITTING, 0) + states.get(State.IN_DOUBT, 0)


def most_in_flight(ledger: list[dict[str, Any]]) -> int:
    """Return the most generations that were in flight at once, by the service's ledger."""
    ends = {event["generation_id"]: event["at"] for event in ledger if event["event"] in {"completed", "failed"}}
    begins = {event["generation_id"]: event["at"] for event in ledger if event["event"] == "accepted"}
    changes = [(at, 1) for at in begins.values()] + [(ends[name], -1) for name in begins if name in ends]
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most
