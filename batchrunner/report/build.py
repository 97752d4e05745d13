"""What the journal knows, as the report tells it: report.json's content as a dict. Pure.

Rules: the keys the contract names are there, under its names and in its order; what is more is additional. One row an
entry, in manifest order; what was paid is counted once a job, however many entries it is delivered under. Whoever did
not succeed says why, and what to do.
"""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from batchrunner.errors import Problem
from batchrunner.forecast import Forecast
from batchrunner.job import Attempt, Happening, Job, Media, Record, Run, Snapshot, State
from batchrunner.money import Spend, spend_of
from batchrunner.prices import AS_OF, CREDITS_PER_USD, Prices
from batchrunner.text import rfc3339

SCHEMA_VERSION = 1

Report = dict[str, Any]

_SHOWN = ("succeeded", "failed", "in_doubt", "in_flight", "pending")  # the contract's order
_SETTLE = (
    "Look for the request id at the service, and wait: it may still turn up there. To submit the job again, run the "
    "same command with --in-doubt resubmit: if the first submission was accepted after all, that pays twice."
)
_WHY: Mapping[str, Problem] = {
    "pending": Problem("not_submitted", "was not submitted before the run ended", "Run the same command again."),
    "in_flight": Problem(
        "not_finished",
        "the service has it, and had not finished it before the run ended",
        "Run the same command again: it is looked up and fetched, not paid for again.",
    ),
    "in_doubt": Problem("in_doubt", "the submission may or may not have been accepted by the service", _SETTLE),
    "failed": Problem(
        "failed", "failed, and no reason is known", "Run the same command with --retry-failed to submit it again."
    ),
}
_WHY_OPEN: Mapping[str, Problem] = {
    "pending": Problem(
        "not_submitted", "has not been submitted yet", "If no run is under way, run the same command again."
    ),
    "in_flight": Problem(
        "not_finished",
        "has been submitted and is not finished yet",
        "If no run is under way, run the same command again: nothing that was accepted is paid for again.",
    ),
}


def build(snapshot: Snapshot, version: str) -> Report:
    """The report on `snapshot`, ready for JSON, checked by report.schema.json. version: this program's.

    Sizes are in bytes, times RFC 3339 in UTC, lengths in seconds, unknown values None.
    """
    run = snapshot.run
    settings: Report = json.loads(run.settings_json)
    prices = Prices(settings.get("prices") or {}, settings.get("assume_length_s"))
    forecast = Forecast(snapshot.records.values())
    jobs: list[Report] = []
    named: dict[str, Record] = {}
    for entry in snapshot.entries:
        record = snapshot.records.get(entry.job.fingerprint, Record(entry.job))
        named[entry.job.fingerprint] = record
        row = _job(entry.job, record, run, entry.file)
        expected = {"estimate": _estimate(entry.job, prices), "times": _times(record, forecast)}
        jobs.append({"id": entry.id, **row, **expected, "priority": entry.priority, "tags": dict(entry.tags)})
    return {
        "schema_version": SCHEMA_VERSION,
        "batchrunner_version": version,
        "name": run.name,
        "provider": run.provider,
        "service": run.service,
        "manifest": {"path": run.manifest_path, "sha256": run.manifest_sha256},
        "run_id": run.run_id,
        "concurrency": run.concurrency,
        "started_at": _time(run.started_at),
        "finished_at": _time(run.finished_at),
        "exit_status": run.exit_status,
        "stopped": run.stopped or None,
        "settings": settings,
        "totals": _totals(jobs, named.values()),
        "money": _money(snapshot.records.values(), settings),
        "runs": [_run(each) for each in snapshot.runs or (run,)],
        "happenings": [_happening(each) for each in snapshot.happenings],
        "jobs": jobs,
        "earlier_jobs": [
            _job(record.job, record, run, None)
            for fingerprint, record in snapshot.records.items()
            if fingerprint not in named and _shown(record, run) in ("succeeded", "in_doubt", "in_flight")
        ],
    }


def _totals(jobs: list[Report], records: Iterable[Record]) -> Report:
    """Rows are counted by entry, and so are files; what the service was asked and paid for is counted by job."""
    attempts = [attempt for record in records for attempt in record.attempts]
    return {
        "jobs": len(jobs),
        **{state: sum(job["state"] == state for job in jobs) for state in _SHOWN},
        "bytes": sum(job["bytes"] or 0 for job in jobs),
        # A failed generation is billed nothing: the hold is rolled back (fact sheet, 1.6).
        "credits": _number(sum(_number(each.credits) or 0 for each in attempts if each.outcome != "failed")),
        "generations": sum(attempt.generation_id is not None for attempt in attempts),
        "polls": sum(attempt.polls for attempt in attempts),
    }


def _money(records: Iterable[Record], settings: Report) -> Report:
    """What the whole batch cost and may cost, jobs of earlier manifests included: what the budget bounds."""
    total = sum((spend_of(record) for record in records), Spend())
    return {
        "spent": _number(total.spent) or 0,
        "reserved": _number(total.reserved) or 0,
        "worst_case": _number(total.worst) or 0,
        "unpriced": total.unpriced,
        "generations": total.generations,
        "budget_credits": _number(settings.get("max_credits")),
        "budget_generations": settings.get("max_generations"),
        "credits_per_usd": CREDITS_PER_USD,
        "prices_as_of": AS_OF,
    }


def _run(run: Run) -> Report:
    return {
        "run_id": run.run_id,
        "started_at": _time(run.started_at),
        "finished_at": _time(run.finished_at),
        "exit_status": run.exit_status,
        "stopped": run.stopped or None,
        "concurrency": run.concurrency,
        "manifest_sha256": run.manifest_sha256,
    }


def _happening(happening: Happening) -> Report:
    return {
        "at": _time(happening.at),
        "kind": happening.kind,
        "about": happening.about,
        "word": happening.word,
        "message": happening.message,
    }


def _estimate(job: Job, prices: Prices) -> Report:
    made = prices.estimate(job)
    return {"credits": _number(made.credits), "basis": made.basis, "billed_s": _number(made.seconds)}


def _times(record: Record, forecast: Forecast) -> Report:
    """How long the latest attempt took, part by part, and how long its kind takes as a rule: seconds."""
    last = record.last if record.attempts else Attempt(0, "", 0.0)
    ended_at = last.ended_at if record.state is State.SUCCEEDED else None
    return {
        "expected_s": _number(forecast.expected_s(record.job)),
        "queue_s": _between(last.accepted_at, last.generating_at),
        "generating_s": _between(last.generating_at, last.completed_at),
        "generation_s": _between(last.accepted_at, last.completed_at),
        "download_s": _between(last.completed_at, ended_at),
        "total_s": _between(record.attempts[0].submitted_at if record.attempts else None, ended_at),
    }


def _between(start: float | None, end: float | None) -> float | int | None:
    """Seconds from `start` to `end`; None where either is not known, or the wall clock was set back meanwhile."""
    return None if start is None or end is None or end < start else _number(end - start)


def _job(job: Job, record: Record, run: Run, file: str | None) -> Report:
    state = _shown(record, run)
    result = record.result if record.state is State.SUCCEEDED else None
    return {
        "fingerprint": job.fingerprint,
        "state": state,
        "request": {"model": job.model, "video": job.video.source, "image": job.image.source, **job.params},
        "generation_id": record.generation_id,
        "file": file if result else None,
        "bytes": result.size_bytes if result else None,
        "sha256": result.sha256 if result else None,
        "width_px": result.width_px if result else None,
        "height_px": result.height_px if result else None,
        "duration_s": result.duration_s if result else None,
        "warnings": list(result.warnings) if result else [],
        "inputs": {"video": _media(job.video), "image": _media(job.image)},
        "attempts": [_attempt(attempt) for attempt in record.attempts],
        "error": _error(state, record, run),
    }


def _shown(record: Record, run: Run) -> str:
    """The contract's word. A submission under way is in flight while the run lasts, and in doubt when it is over."""
    if record.state is State.SUBMITTING:
        return "in_flight" if run.finished_at is None else "in_doubt"
    return str(record.state)


def _error(state: str, record: Record, run: Run) -> Report | None:
    if state == "succeeded":
        return None
    usual = _WHY[state]
    if run.finished_at is None:
        usual = _WHY_OPEN.get(state, usual)
    elif run.stopped and state in ("pending", "in_flight"):
        usual = Problem(usual.kind, f"{usual.message}: {run.stopped}", usual.hint)
    error = record.error or usual
    hint = error.hint or usual.hint
    if state == "in_doubt" and "--in-doubt" not in hint:
        hint = f"{hint.rstrip()} {_SETTLE}"
    return _problem(Problem(error.kind, error.message or usual.message, hint, error.fault))


def _problem(problem: Problem) -> Report:
    return {"kind": problem.kind, "message": problem.message, "hint": problem.hint, "fault": problem.fault}


def _attempt(attempt: Attempt) -> Report:
    return {
        "number": attempt.number,
        "generation_id": attempt.generation_id,
        "request_id": attempt.request_id,
        "submitted_at": _time(attempt.submitted_at),
        "accepted_at": _time(attempt.accepted_at),
        "generating_at": _time(attempt.generating_at),
        "completed_at": _time(attempt.completed_at),
        "ended_at": _time(attempt.ended_at),
        "outcome": attempt.outcome,
        "credits": _number(attempt.credits),
        "estimate": _number(attempt.estimate),
        "polls": attempt.polls,
        "error": attempt.error and _problem(attempt.error),
    }


def _media(media: Media) -> Report:
    return {
        "source": media.source,
        "sha256": media.sha256,
        "bytes": media.size_bytes,
        "mime": media.mime,
        "width_px": media.width_px,
        "height_px": media.height_px,
        "duration_s": media.duration_s,
    }


def _time(at: float | None) -> str | None:
    return None if at is None else rfc3339(at)


def _number(value: float | None) -> float | int | None:
    """A number JSON can hold, to a thousandth: whole ones without a fraction, nothing for what is not finite."""
    if value is None or not math.isfinite(value):
        return None
    value = round(value, 3)
    return int(value) if value == int(value) else value
