"""How a run is put into words: events as lines, and the phrases that screen, heartbeat and summary share. Pure.

Rule: all words from outside pass `printable` and `redacted` here, so that a service's message cannot move the cursor
and no link's secret is shown.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import IntEnum
from typing import NamedTuple

from batchrunner.errors import Problem
from batchrunner.events import CallFailed, CapChanged, Event, JobMoved, Noticed, RunFinished, RunStarted, Stopping
from batchrunner.formatting import count_text, length_text, printable, redacted, size_text
from batchrunner.job import Move, Record, State
from batchrunner.plan.prices import INFERRED, usd
from batchrunner.progress.model import Model, OpenBreaker

_MESSAGE_MOST = 500
_NAME_MOST = 100
_NAMES_MOST = 3
_STATES = {
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.IN_DOUBT: "in doubt",
    State.IN_FLIGHT: "in flight",
    State.PENDING: "waiting",
}
# Half an hour: batchrunner.engine.ports.Policy.doubt_s.
HELD_BY_DOUBTS = "submissions in doubt hold every slot, for half an hour at most; --in-doubt resubmit settles them"
_CALLS = {"submit": "submissions", "poll": "polls", "download": "downloads"}


class Level(IntEnum):
    """How much a line matters."""

    INFO = 1
    WARNING = 2
    ERROR = 3  # a person has to act


class Line(NamedTuple):
    """What is said of an event. key: equal ones say the same of other jobs, and are folded; "" for never."""

    level: Level
    text: str
    key: str = ""


def describe(event: Event) -> Line | None:
    """What is said of `event` in one line, without its time; None where there is nothing to say of it alone."""
    told = _TOLD.get(type(event))
    return told and told(event)


def safe(text: str, most: int = _MESSAGE_MOST) -> str:
    """Words from outside, made harmless."""
    return printable(redacted(text), most)


def names(ids: tuple[str, ...]) -> str:
    """The ids of a job, the first few of them."""
    if not ids:
        return "a job of an earlier manifest"
    more = f" and {len(ids) - _NAMES_MOST} more" if len(ids) > _NAMES_MOST else ""
    return ", ".join(printable(each, _NAME_MOST) for each in ids[:_NAMES_MOST]) + more


def counts(states: Mapping[State, int]) -> str:
    """``2 succeeded, 1 in flight``; what is being submitted counts as in flight."""
    shown = {**states, State.IN_FLIGHT: states.get(State.IN_FLIGHT, 0) + states.get(State.SUBMITTING, 0)}
    told = [f"{shown[state]:,} {word}" for state, word in _STATES.items() if shown.get(state)]
    return ", ".join(told) or "nothing to do"


def pulse(model: Model) -> str:
    """Where a run stands, in one line: ``41 of 500 done, 8 in flight, 2 failed, about 3 h 5 min to go``."""
    told = [f"{model.done:,} of {model.jobs:,} done", f"{model.in_flight:,} in flight"]
    told += [
        f"{model.states[state]:,} {_STATES[state]}" for state in (State.FAILED, State.IN_DOUBT) if model.states[state]
    ]
    left_s = model.left_s()
    if model.stopping:
        told.append("stopping")
    elif model.closed:
        told.append(incident(model.closed, model.at))
    elif model.waits_for_doubts:
        told.append(HELD_BY_DOUBTS)
    elif left_s is not None:
        told.append(f"about {lasting(left_s)} to go")
    return ", ".join(told)


def incident(closed: Mapping[str, OpenBreaker], now: float) -> str:
    """Which calls are held back, and why: ``polls down since 23:10 (12 min 3 s), next try in 40 s: …``."""
    first = min(closed.values(), key=lambda each: each.since)
    calls = " and ".join(_CALLS[call] for call in _CALLS if call in closed)
    next_at = min((each.next_at for each in closed.values() if each.next_at is not None), default=None)
    again = "" if next_at is None or next_at <= now else f", next try in {lasting(next_at - now)}"
    since = f"since {clock_time(first.since)} ({lasting(now - first.since)})"
    return f"{calls} {first.word} {since}{again}: {safe(first.reason)}"


def begins(call: str, word: str, reason: str) -> str:
    """What is said when calls are held back."""
    return f"{_CALLS[call]} {word}: {safe(reason)}"


def cost(model: Model) -> str:
    """What was spent and is expected: ``$4.10 spent, about $49.02 in all (inferred); 8.2 of 98.0 M credits``."""
    word = ""
    if model.started is not None:
        word = _basis(model.started)
    unknown = f"; {count_text(model.unpriced, 'generation')} of unknown price" if model.unpriced else ""
    spend = model.spend
    if model.finished or not model.expected_credits:
        held = f", {money(spend.reserved)} held" if spend.reserved else ""
        return f"{money(spend.spent)} spent{held}; {_millions(spend.spent)} M credits{unknown}"
    expected = f"about {money(model.expected_credits)} in all{word}"
    figures = f"{_millions(spend.spent)} of {_millions(model.expected_credits)} M credits"
    return f"{money(spend.spent)} spent, {expected}; {figures}{unknown}"


def money(credits_: float) -> str:
    """Credits in US dollars."""
    return f"${usd(credits_):,.2f}"


def _basis(event: RunStarted) -> str:
    """How sure the prices are, in brackets."""
    if event.provider == "sandbox":
        return " (sandbox money)"
    if any(basis.startswith(INFERRED) for basis in event.bases):
        return " (inferred)"
    return " (your prices)" if event.bases else ""


def _millions(credits_: float) -> str:
    return f"{credits_ / 1e6:,.1f}"


def lasting(seconds: float) -> str:
    """A length of time that is still growing, or shrinking: in whole seconds, so that it is calm to look at."""
    return f"{max(0, int(seconds))} s" if seconds < 60 else length_text(int(seconds))


def clock_time(at: float) -> str:
    """The local time of day, for people who look at a clock: ``23:10``."""
    return f"{datetime.fromtimestamp(at, UTC).astimezone():%H:%M}"


def reason_of(problem: Problem | None) -> str:
    """A problem and its hint in one line."""
    if problem is None:
        return "no reason is known"
    hint = f" ({safe(problem.hint)})" if problem.hint else ""
    return f"{safe(problem.message)}{hint}"


def _start(event: RunStarted) -> Line:
    jobs = count_text(sum(event.states.values()), "job")
    to_do = f"{safe(event.name)}: {jobs} on {safe(event.provider)} ({counts(event.states)})"
    return Line(Level.INFO, f"{to_do}, at most {event.concurrency} in flight, into {printable(event.run_dir)}")


def _moved(event: JobMoved) -> Line | None:
    told = _MOVES.get(event.move)
    if told is None:
        return None
    key = ""
    if event.record.error is not None:
        key = f"{event.move} {event.record.error.kind} {event.record.error.message}"
    return Line(told[0], f"{names(event.ids)}: {told[1](event.record)}", key)


def _call_failed(event: CallFailed) -> Line:
    again = f"again in {length_text(event.retry_in_s)}"
    if event.most and event.failures:
        again += f" (failure {event.failures} of {event.most})"
    text = f"{names(event.ids)}: {event.call} failed: {reason_of(event.problem)}; {again}"
    return Line(Level.WARNING, text, f"{event.call} {event.problem.kind} {event.problem.message}")


def _noticed(event: Noticed) -> Line:
    about = f"{names(event.ids)}: " if event.ids else ""  # else it is about the run
    level = Level.ERROR if event.urgent else Level.INFO if event.routine else Level.WARNING
    return Line(level, f"{about}{safe(event.message)}", event.message if event.ids else "")


def _cap(event: CapChanged) -> Line:
    return Line(Level.INFO, f"at most {event.cap} of {event.limit} in flight from here on", "cap")


def _finished(event: RunFinished) -> Line:
    return Line(Level.ERROR if event.exit_status else Level.INFO, safe(event.summary))


def _delivered(record: Record) -> str:
    result = record.result
    if result is None:
        return "succeeded"
    facts = [size_text(result.size_bytes)]
    if result.width_px and result.height_px:
        facts.append(f"{result.width_px}x{result.height_px}")
    if result.duration_s:
        facts.append(length_text(result.duration_s))
    warnings = "".join(f"; {safe(warning)}" for warning in result.warnings)
    return f"succeeded: {', '.join(facts)}{warnings}"


def _released(record: Record) -> str:
    """As the user asked, or because of what the service's log shows."""
    if record.error is None:
        return "will be submitted again in spite of the doubt, as asked"
    return f"will be submitted again: {reason_of(record.error)}"


def _generation(record: Record) -> str:
    return f"generation {printable(record.generation_id or 'without an id')}"


_TOLD: Mapping[type, Callable[..., Line | None]] = {
    RunStarted: _start,
    JobMoved: _moved,
    CallFailed: _call_failed,
    CapChanged: _cap,
    Noticed: _noticed,
    Stopping: lambda event: Line(Level.ERROR, f"stopping: {safe(event.reason)}"),
    RunFinished: _finished,
}

# What is said of each move. INTEND is not: its outcome follows. Nor is REFUSE: CallFailed tells of it.
_MOVES: Mapping[Move, tuple[Level, Callable[[Record], str]]] = {
    Move.ACCEPT: (Level.INFO, lambda record: f"accepted: {_generation(record)}"),
    Move.ADOPT: (Level.INFO, lambda record: f"was accepted after all: {_generation(record)}"),
    Move.DOUBT: (Level.WARNING, lambda record: f"in doubt: {reason_of(record.error)}"),
    Move.RELEASE: (Level.WARNING, _released),
    Move.CLEAR: (Level.INFO, lambda record: f"will be submitted again: {reason_of(record.error)}"),
    Move.DELIVER: (Level.INFO, _delivered),
    Move.FAIL: (Level.WARNING, lambda record: f"failed: {reason_of(record.error)}"),
    Move.GIVE_UP: (Level.WARNING, lambda record: f"failed: {reason_of(record.error)}"),
    Move.RETRY: (Level.INFO, lambda _: "failed before and will be submitted again"),
    Move.RECHECK: (Level.INFO, lambda record: f"asked for again: {_generation(record)}"),
    Move.FILE_MISSING: (Level.WARNING, lambda _: "its file is gone or was changed: it is fetched again, at no charge"),
}
