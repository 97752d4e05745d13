"""Checks a batch that was killed and disconnected, from the service's ledger, the run directory and `verify`.

It counts before it judges, so that the figures of a failed batch are printed as well.
"""

import hashlib
import json
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchrunner.job import REUSED, State
from batchrunner.journal import journal
from batchrunner.report.writer import build, to_json
from batchrunner.sandbox.clips import marks
from tests.soak.batch import Batch

Events = list[dict[str, Any]]
_LATEST = """
SELECT request_id, max(number) FROM jobs CROSS JOIN attempts USING (job)
WHERE state IN (SELECT value FROM json_each(?)) GROUP BY job
"""


@dataclass
class Figures:
    """The figures of one batch, or of many.

    active: submissions that were journalled and unanswered at a kill or cut, summed up. accepted_active: those of them
    that the service accepted. adopted: those that the service's log settled. in_doubt: jobs still in doubt at the end.
    wrong: messages about broken promises.
    """

    batches: int = 0
    stops: int = 0
    runs: int = 0
    jobs: int = 0
    accepted: int = 0
    paid_twice: int = 0
    active: int = 0
    accepted_active: int = 0
    adopted: int = 0
    in_doubt: int = 0
    lost: int = 0
    bad_files: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def add(self, other: "Figures") -> None:
        """Add the figures of another batch."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def table(self, stop: str) -> str:
        """Return the figures as text. stop: what stopped the runs, e.g. ``SIGKILL``."""
        rows = {
            f"{stop}s": self.stops,
            "runs": self.runs,
            "batches": self.batches,
            "jobs": self.jobs,
            "accepted by the service": self.accepted,
            "paid twice": self.paid_twice,
            "active submissions at a stop": self.active,
            "  of which the service accepted": self.accepted_active,
            "  of which adopted through the log": self.adopted,
            "jobs in doubt at the end": self.in_doubt,
            "lost (accepted, no file, no reason)": self.lost,
            "bad files": self.bad_files,
            "seconds": round(self.seconds),
        }
        lines = [f"{name:<38}{number:>8,}" for name, number in rows.items()]
        return "\n".join([*lines, *(f"WRONG: {complaint}" for complaint in self.wrong)])


def submitting(batch: Batch) -> set[str]:
    """Return the request ids that the journal has in `submitting`, which a kill leaves in doubt."""
    return latest_requests(batch.journal, State.SUBMITTING)


def latest_requests(path: Path, *states: State) -> set[str]:
    """Return the latest request ids of a journal's jobs in these states.

    A query, because tests poll it: to read and check the whole journal took most of their own CPU time.
    """

    def found(connection: sqlite3.Connection) -> set[str]:
        return {request_id for request_id, _ in connection.execute(_LATEST, [json.dumps(states)])}

    return journal.view(path, found) or set()


def check_batch(batch: Batch, ledger: Events, active: set[str], *, logs: bool = True) -> Figures:
    """Return the figures of a batch whose last run has ended, with its errors. logs: the service offered its log."""
    report = batch.report()
    accepted = [event for event in ledger if event["event"] == "accepted"]
    sent = {event["client_request_id"] for event in accepted}
    rows = report["jobs"]
    figures = Figures(batches=1, jobs=len(rows), accepted=len(accepted), active=len(active))
    figures.accepted_active = len(sent & active)
    figures.adopted = sum(
        attempt["generation_id"] is not None and attempt["request_id"] in active
        for row in rows
        for attempt in row["attempts"]
    )
    figures.in_doubt = sum(row["state"] == "in_doubt" for row in rows)
    counts = Counter(event["fingerprint"] for event in accepted)
    figures.paid_twice = sum(count > 1 for count in counts.values())
    figures.wrong += [f"paid {count} times for {content}" for content, count in counts.items() if count > 1]
    lost = [*_lost(accepted, rows, logs=logs)]
    figures.lost = len(lost)
    bad_files = [*_bad_files(batch, ledger, rows)]
    figures.bad_files = len(bad_files)
    figures.wrong += [*lost, *bad_files, *_untrue(batch, report, accepted), *_forbidden_output(batch)]
    if figures.in_doubt > len(active):
        figures.wrong.append(f"{figures.in_doubt} jobs in doubt, and only {len(active)} submissions were active")
    return figures


def _lost(accepted: Events, rows: Events, *, logs: bool) -> Any:
    """Yield accepted generations that have neither a file nor a reason."""
    known = {attempt["generation_id"]: row for row in rows for attempt in row["attempts"]}
    doubted = {
        attempt["request_id"]: row for row in rows if row["state"] == "in_doubt" for attempt in row["attempts"][-1:]
    }
    for event in accepted:
        row = known.get(event["generation_id"])
        if row is None and event["client_request_id"] in doubted:
            if logs:
                yield f"{doubted[event['client_request_id']]['id']} is in doubt, and the service's log has it"
        elif row is None:
            yield f"generation {event['generation_id']} is unknown to the report"
        elif row["state"] != "succeeded" and not (row["error"] and row["error"]["message"] and row["error"]["hint"]):
            yield f"{row['id']} is {row['state']} without a reason"


def _bad_files(batch: Batch, ledger: Events, rows: Events) -> Any:
    """Yield files that differ from the service's clips, do not decode or have no row, and rows without their file."""
    completed = {event["generation_id"]: event["sha256"] for event in ledger if event["event"] == "completed"}
    delivered = {row["file"]: row for row in rows if row["state"] == "succeeded"}
    orders = batch.orders()
    for name, content in batch.clips():
        digest = hashlib.sha256(content).hexdigest()
        row = delivered.pop(name, None)
        if row is None:
            yield f"{name} belongs to no job that succeeded"
        elif (marks.read(content) or {}).get("fingerprint") != orders[row["id"]]:
            yield f"{name} is another job's clip"
        elif digest != row["sha256"] or digest != completed.get(row["generation_id"]):
            yield f"{name} is not what the report says, or not what the service made"
    yield from (f"{name} is not there" for name in delivered)
    status, complaint = batch.verify()
    if status:
        yield f"verify says {status}: {complaint}"


def _untrue(batch: Batch, report: dict[str, Any], accepted: Events) -> Any:
    """Yield differences between report, journal and ledger."""
    snapshot = journal.read(batch.journal)
    assert snapshot is not None
    if json.loads(to_json(build(snapshot, report["batchrunner_version"]))) != report:
        yield "report.json is not what the journal says"
    states = Counter(row["state"] for row in report["jobs"])
    for state in ("succeeded", "failed", "in_doubt", "in_flight", "pending"):
        if report["totals"][state] != states[state]:
            yield f"totals say {report['totals'][state]} {state}, the rows {states[state]}"
    attempts = [attempt for row in report["jobs"] for attempt in row["attempts"] if attempt["generation_id"]]
    reported = {attempt["generation_id"] for attempt in attempts}
    paid = {event["generation_id"] for event in accepted}
    if not reported <= paid:
        yield f"the report names generations that the service never accepted: {reported - paid}"
    own = {attempt["generation_id"] for attempt in attempts if not attempt["request_id"].startswith(REUSED)}
    if report["totals"]["generations"] != len(own):
        yield f"totals say {report['totals']['generations']} generations, the rows {len(own)}"


def _forbidden_output(batch: Batch) -> Any:
    """Yield output that no run may print."""
    for complaint in ("Traceback", "a defect in batchrunner", "Exception ignored", "never retrieved", "soak-secret"):
        if complaint in batch.log():
            yield f"a run printed {complaint!r}: {batch.folder / 'run.log'}"
