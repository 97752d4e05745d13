"""The log for machines: one JSON object an event, one a line, under stable keys. Pure.

KEYS names every event and its keys; docs/watching.md is made from it, and keys are only ever added. Transfers in
progress and the passing of time are no events here; a `heartbeat` stands in for them.
Rule: no secret gets in: every text passes `redacted`, and what is not named in KEYS is not written.
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
    RunFinished,
    RunStarted,
    Stopping,
)
from batchrunner.formatting import printable_json, redacted, rfc3339
from batchrunner.job import Move, Record
from batchrunner.progress.model import Model
from batchrunner.progress.phrases import Level, describe, incident, names, pulse

ALWAYS: Mapping[str, str] = {
    "ts": "when, RFC 3339 in UTC",
    "level": "`info`, `warning`, or `error` where a person has to act",
    "event": "what happened; the table below",
    "message": "the same in words, for people; its wording may change",
    "jobs": "the ids concerned; empty where it is about the whole run",
}
# What the lines for people leave out: it is told by what follows.
_UNTOLD = {Move.BEGIN_SUBMIT: "is about to be submitted", Move.REFUSE: "was not accepted"}

# By event: when it is written, and its own keys.
KEYS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "run_started": ("the batch is loaded", ("name", "provider", "run_dir", "concurrency", "states")),
    "job_moved": (
        "a job made a move (docs/states.md)",
        ("fingerprint", "move", "state", "attempt", "generation_id", "error"),
    ),
    "job_generating": ("the service began to work on it", ("fingerprint", "generation_id")),
    "call_failed": ("a call failed and is made again", ("call", "error", "retry_in_s", "failures", "max_failures")),
    "call_health_changed": ("how calls of one kind fare", ("call", "status", "reason", "next_at")),
    "cap_changed": ("the working cap moved", ("cap", "limit")),
    "noticed": ("something odd that stops nothing", ()),
    "stopping": ("nothing more is submitted", ("reason",)),
    "heartbeat": ("every five minutes", ("states", "remaining_s", "spent_credits")),
    "run_finished": ("the run has ended", ("exit_status", "states", "reports", "summary")),
}


def line(event: Event, model: Model) -> str | None:
    """The event as one line of JSON; None where it is none."""
    made = _FACTS.get(type(event))
    if made is None:
        return None
    name, facts = made(event)
    level, message = _told(event, model)
    ids = getattr(event, "ids", ())
    return _json(event.at, level, name, message, {"jobs": list(ids) if isinstance(ids, tuple) else [], **facts})


def heartbeat(at: float, model: Model) -> str:
    """All is going on."""
    left_s = model.left_s()
    facts: dict[str, Any] = {
        "jobs": [],
        "states": dict(model.states),
        "remaining_s": None if left_s is None else round(left_s),
        "spent_credits": model.spend.spent,
    }
    return _json(at, Level.INFO, "heartbeat", pulse(model), facts)


def level_of(event: Event, model: Model) -> Level:
    """How much an event matters."""
    return _told(event, model)[0]


def _told(event: Event, model: Model) -> tuple[Level, str]:
    if isinstance(event, CallHealthChanged):
        if event.next_at is None:
            return Level.INFO, f"{event.call}: works again"
        return Level.ERROR if event.status == "paused" else Level.WARNING, incident(model.closed, event.at)
    told = describe(event)
    if told is not None:
        return told.level, told.text
    word = _UNTOLD[event.move] if isinstance(event, JobMoved) else "the service began to work on it"
    return Level.INFO, f"{names(getattr(event, 'ids', ()))}: {word}"


def _json(at: float, level: Level, event: str, message: str, facts: Mapping[str, Any]) -> str:
    record = {"ts": rfc3339(at), "level": level.name.lower(), "event": event, "message": message, **facts}
    return printable_json(json.dumps(_clean(record), ensure_ascii=True, allow_nan=False))


def _clean(value: Any) -> Any:
    """`value` without what may be secret in the URLs of its texts."""
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
    facts = {
        "fingerprint": record.job.fingerprint,
        "move": str(event.move),
        "state": str(record.state),
        "attempt": record.last.number if record.attempts else None,
        "generation_id": record.generation_id,
        "error": _problem(record.error),
    }
    return "job_moved", facts


def _fields(name: str) -> Callable[[Any], tuple[str, dict[str, Any]]]:
    """An event whose keys are its own fields."""
    return lambda event: (name, {key: getattr(event, key) for key in KEYS[name][1]})


def _seen(event: JobSeen) -> tuple[str, dict[str, Any]]:
    facts = {"fingerprint": event.record.job.fingerprint, "generation_id": event.record.generation_id}
    return "job_generating", facts


def _call_failed(event: CallFailed) -> tuple[str, dict[str, Any]]:
    facts: dict[str, Any] = {"call": event.call, "error": _problem(event.problem)}
    facts |= {"retry_in_s": round(event.retry_in_s, 3), "failures": event.failures, "max_failures": event.most}
    return "call_failed", facts


def _weather(event: CallHealthChanged) -> tuple[str, dict[str, Any]]:
    next_at = None if event.next_at is None else rfc3339(event.next_at)
    return "call_health_changed", {
        "call": event.call,
        "status": event.status,
        "reason": event.reason,
        "next_at": next_at,
    }


_FACTS: Mapping[type, Callable[[Any], tuple[str, dict[str, Any]]]] = {
    RunStarted: _fields("run_started"),
    JobMoved: _moved,
    JobSeen: _seen,
    CallFailed: _call_failed,
    CallHealthChanged: _weather,
    CapChanged: _fields("cap_changed"),
    Noticed: _fields("noticed"),
    Stopping: _fields("stopping"),
    RunFinished: _fields("run_finished"),
}
