"""The JSON log: one object per event and line, with stable keys. Pure.

KEYS lists every event with its keys; docs/watching.md is generated from it. Keys are added, never removed. Download
progress and the passing of time are not logged; a `heartbeat` replaces them. No secret is written: every text passes
`redacted`, and only the keys in KEYS are written.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from batchrunner.errors import Problem
from batchrunner.events import (
    CallFailed,
    CallHealthChanged,
    CapChanged,
    Event,
    JobMoved,
    JobSeen,
    Noticed,
    Overrun,
    RunFinished,
    RunStarted,
    Stopping,
)
from batchrunner.formatting import printable_json, redacted, rfc3339
from batchrunner.job import Move, Record
from batchrunner.plan.prices import usd
from batchrunner.progress.model import Model
from batchrunner.progress.phrases import Level, describe, incident, names, pulse

ALWAYS: Mapping[str, str] = {
    "ts": "when, RFC 3339 in UTC",
    "level": "`info`, `warning`, or `error` if a person has to act",
    "event": "the event; see the table below",
    "message": "the event as text for people; the wording may change",
    "jobs": "the ids of the jobs; empty for an event of the whole run",
}
# Moves that the text log omits, because another line follows.
_OTHER_MOVES = {Move.BEGIN_SUBMIT: "is about to be submitted", Move.REFUSE: "was not accepted"}

# Each event: the time of its line, and its own keys.
KEYS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "run_started": ("the batch is loaded", ("name", "provider", "run_dir", "concurrency", "states")),
    "job_moved": (
        "a job made a move (docs/states.md)",
        ("fingerprint", "move", "state", "attempt", "generation_id", "error"),
    ),
    "job_generating": ("the service started to generate it", ("fingerprint", "generation_id")),
    "call_failed": ("a call failed and is repeated", ("call", "error", "retry_in_s", "failures", "max_failures")),
    "call_health_changed": ("the status of one kind of call changed", ("call", "status", "reason", "next_at")),
    "cap_changed": ("the working cap changed", ("cap", "limit")),
    "noticed": ("something unusual that does not stop the run", ()),
    "overrun": (
        "the service's quote or charge is above the estimate",
        (
            "fingerprint",
            "generation_id",
            "estimate_usd",
            "cost_usd",
            "batch_usd",
            "budget_usd",
            "budget_setting",
            "exceeds_budget",
        ),
    ),
    "stopping": ("no more jobs are submitted", ("reason",)),
    "heartbeat": (
        "every five minutes",
        ("states", "remaining_s", "spent_credits", "spent_usd", "reserved_usd", "budget_usd"),
    ),
    "run_finished": ("the run has ended", ("exit_status", "states", "reports", "summary")),
}


def line(event: Event, model: Model) -> str | None:
    """Return the event as one line of JSON; None if it is not logged."""
    fields_of = _FIELDS_OF.get(type(event))
    if fields_of is None:
        return None
    name, fields = fields_of(event)
    level, message = _level_and_message(event, model)
    ids = getattr(event, "ids", ())
    return _json(event.at, level, name, message, {"jobs": list(ids) if isinstance(ids, tuple) else [], **fields})


def heartbeat(at: float, model: Model) -> str:
    """Return the line that shows that the run continues."""
    left_s = model.left_s()
    fields: dict[str, Any] = {
        "jobs": [],
        "states": dict(model.states),
        "remaining_s": None if left_s is None else round(left_s),
        "spent_credits": model.spend.spent,
        "spent_usd": _usd(model.spend.spent),
        "reserved_usd": _usd(model.spend.reserved),
        "budget_usd": _usd(model.started.budget.limit if model.started else None),
    }
    return _json(at, Level.INFO, "heartbeat", pulse(model), fields)


def level_of(event: Event, model: Model) -> Level:
    """Return the level of an event."""
    return _level_and_message(event, model)[0]


def _level_and_message(event: Event, model: Model) -> tuple[Level, str]:
    if isinstance(event, CallHealthChanged):
        if event.next_at is None:
            return Level.INFO, f"{event.call}: works again"
        return Level.ERROR if event.status == "paused" else Level.WARNING, incident(model.closed, event.at)
    line = describe(event)
    if line is not None:
        return line.level, line.whole
    text = _OTHER_MOVES[event.move] if isinstance(event, JobMoved) else "the service started to generate it"
    return Level.INFO, f"{names(getattr(event, 'ids', ()))}: {text}"


def _json(at: float, level: Level, event: str, message: str, fields: Mapping[str, Any]) -> str:
    record = {"ts": rfc3339(at), "level": level.name.lower(), "event": event, "message": message, **fields}
    return printable_json(json.dumps(_clean(record), ensure_ascii=True, allow_nan=False))


def _clean(value: Any) -> Any:
    """Return `value` without possible secrets in the URLs of its texts."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {str(key): _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list | tuple) else value


def _problem(problem: Problem | None) -> dict[str, str] | None:
    if problem is None:
        return None
    return {"kind": problem.kind, "fault": problem.fault, "message": problem.message, "hint": problem.hint}


def _moved(event: JobMoved) -> tuple[str, dict[str, Any]]:
    record: Record = event.record
    fields = {
        "fingerprint": record.job.fingerprint,
        "move": str(event.move),
        "state": str(record.state),
        "attempt": record.last.number if record.attempts else None,
        "generation_id": record.generation_id,
        "error": _problem(record.error),
    }
    return "job_moved", fields


def _fields(name: str) -> Callable[[Any], tuple[str, dict[str, Any]]]:
    """Return a function for an event whose keys are its own fields."""
    return lambda event: (name, {key: getattr(event, key) for key in KEYS[name][1]})


def _seen(event: JobSeen) -> tuple[str, dict[str, Any]]:
    fields = {"fingerprint": event.record.job.fingerprint, "generation_id": event.record.generation_id}
    return "job_generating", fields


def _call_failed(event: CallFailed) -> tuple[str, dict[str, Any]]:
    fields: dict[str, Any] = {"call": event.call, "error": _problem(event.problem)}
    fields |= {"retry_in_s": round(event.retry_in_s, 3), "failures": event.failures, "max_failures": event.most}
    return "call_failed", fields


def _call_health(event: CallHealthChanged) -> tuple[str, dict[str, Any]]:
    next_at = None if event.next_at is None else rfc3339(event.next_at)
    return "call_health_changed", {
        "call": event.call,
        "status": event.status,
        "reason": event.reason,
        "next_at": next_at,
    }


def _overrun(event: Overrun) -> tuple[str, dict[str, Any]]:
    last, budget = event.record.last, event.budget
    return "overrun", {
        "fingerprint": event.record.job.fingerprint,
        "generation_id": event.record.generation_id,
        "estimate_usd": _usd(last.estimate),
        "cost_usd": _usd(last.charge),
        "batch_usd": _usd(event.worst_credits),
        "budget_usd": _usd(budget.limit),
        "budget_setting": budget.setting or None,
        "exceeds_budget": event.exceeds_budget,
    }


def _usd(credits_: float | None) -> float | None:
    return None if credits_ is None else round(usd(credits_), 6)


_FIELDS_OF: Mapping[type, Callable[[Any], tuple[str, dict[str, Any]]]] = {
    RunStarted: _fields("run_started"),
    JobMoved: _moved,
    JobSeen: _seen,
    CallFailed: _call_failed,
    CallHealthChanged: _call_health,
    CapChanged: _fields("cap_changed"),
    Noticed: _fields("noticed"),
    Overrun: _overrun,
    Stopping: _fields("stopping"),
    RunFinished: _fields("run_finished"),
}
