"""The wording of a run: events as lines, and phrases that the screen, the heartbeat and the summary share. Pure.

All text from outside passes `printable` and `redacted` here. So a message of the service cannot move the cursor, and no
secret of a link is shown.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from typing import NamedTuple

from batchrunner.errors import Problem
from batchrunner.events import (
    CallFailed,
    CapChanged,
    Event,
    JobMoved,
    Noticed,
    Overrun,
    RunFinished,
    RunStarted,
    Stopping,
)
from batchrunner.formatting import count_text, length_text, printable, redacted, size_text
from batchrunner.job import Move, Record, State
from batchrunner.plan.prices import INFERRED, LISTED, usd
from batchrunner.progress.model import THROTTLED, Model, OpenBreaker

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
# Half an hour: batchrunner.engine.policy.Policy.doubt_s.
SLOTS_IN_DOUBT = (
    "submissions in doubt occupy every slot for at most half an hour; --in-doubt resubmit submits them again"
)
_CALLS = {"submit": "submissions", "poll": "polls", "download": "downloads", "deliver": "deliveries"}


class Level(IntEnum):
    """The importance of a line."""

    INFO = 1
    WARNING = 2
    ERROR = 3  # a person has to act


class Line(NamedTuple):
    """The text for an event.

    key: lines with the same key say the same, for the run or for other jobs, and are folded; "" for never. hint: what
    to do about it. mark: the field of `Marks` with the character for it, "" for none.
    """

    level: Level
    text: str
    key: str = ""
    hint: str = ""
    mark: str = ""

    @property
    def whole(self) -> str:
        """Text and hint."""
        return f"{self.text} ({self.hint})" if self.hint else self.text


def describe(event: Event) -> Line | None:
    """Describe `event` in one line without its time; None if it has no line of its own."""
    make = DESCRIPTIONS.get(type(event))
    return make and make(event)


def safe(text: str, most: int = _MESSAGE_MOST) -> str:
    """Make text from outside safe to print."""
    return printable(redacted(text), most)


def names(ids: Sequence[str]) -> str:
    """Return the first few ids of a job."""
    if not ids:
        return "a job of an earlier manifest"
    more = f" and {len(ids) - _NAMES_MOST} more" if len(ids) > _NAMES_MOST else ""
    return ", ".join([printable(name, _NAME_MOST) for name in ids[:_NAMES_MOST]]) + more


def counts(states: Mapping[State, int]) -> str:
    """Count the states: ``2 succeeded, 1 in flight``. Jobs that are being submitted count as in flight."""
    shown = {**states, State.IN_FLIGHT: states.get(State.IN_FLIGHT, 0) + states.get(State.SUBMITTING, 0)}
    items = [f"{shown[state]:,} {name}" for state, name in _STATES.items() if shown.get(state)]
    return ", ".join(items) or "nothing to do"


def pulse(model: Model) -> str:
    """Describe the progress of a run in one line: ``41 of 500 done, 8 in flight, 2 failed, about 3 h 5 min to go``."""
    items = [f"{model.done:,} of {model.jobs:,} done", f"{model.in_flight:,} in flight"]
    items += [
        f"{model.states[state]:,} {_STATES[state]}" for state in (State.FAILED, State.IN_DOUBT) if model.states[state]
    ]
    left_s = model.left_s()
    if model.stopping:
        items.append("stopping")
    elif model.closed:
        items.append(incident(model.closed, model.at))
    elif model.waits_for_in_doubt:
        items.append(SLOTS_IN_DOUBT)
    elif left_s is not None:
        items.append(f"about {lasting(left_s)} to go")
    return ", ".join(items)


def incident(closed: Mapping[str, OpenBreaker], now: float, *, clock: bool = False) -> str:
    """Describe the open circuit breakers: ``polls down for 12 min 3 s, next try in 40 s: …``.

    clock: name the local time of their start, too: ``since 23:10 (12 min 3 s)``. Files have UTC only.
    """
    first = min(closed.values(), key=lambda breaker: breaker.since)
    calls = " and ".join(_CALLS[call] for call in _CALLS if call in closed)
    next_at = min((breaker.next_at for breaker in closed.values() if breaker.next_at is not None), default=None)
    again = "" if next_at is None or next_at <= now else f", next try in {lasting(next_at - now)}"
    lasted = lasting(now - first.since)
    when = f"since {clock_time(first.since, now)} ({lasted})" if clock else f"for {lasted}"
    return f"{calls} {first.status} {when}{again}: {safe(first.reason)}"


def begins(call: str, status: str, reason: str) -> str:
    """Describe a circuit breaker that opens, and what it means for the jobs."""
    effect = "" if status == THROTTLED else "; jobs wait, and the run tries again by itself"
    return f"{_CALLS[call]} {status}: {safe(reason)}{effect}"


def cost(model: Model) -> str:
    """Describe the cost: ``$4.10 spent, $0.78 reserved, budget $50.00 (max_cost); about $49.02 in total (inferred)``.

    The budget is what the user allows; the total is a forecast.
    """
    items = [f"{money(model.spend.spent)} spent"]
    if model.spend.reserved:
        items.append(f"{money(model.spend.reserved)} reserved")
    if model.started is not None and model.started.budget.limit is not None:
        items.append(f"budget {money(model.started.budget.limit)} ({model.started.budget.setting})")
    notes = [", ".join(items)]
    if not model.finished and model.expected_credits:
        basis = _basis(model.started) if model.started is not None else ""
        notes.append(f"about {money(model.expected_credits)} in total{basis}")
    if model.unpriced:
        notes.append(f"{count_text(model.unpriced, 'generation')} of unknown price")
    return "; ".join(notes)


def money(credits_: float) -> str:
    """Convert credits to US dollars."""
    return f"${usd(credits_):,.2f}"


def _basis(event: RunStarted) -> str:
    """Return the source of the prices, in brackets."""
    if event.provider == "sandbox":
        return " (sandbox money)"
    if any(basis.startswith(INFERRED) for basis in event.bases):
        return " (inferred)"
    if any(basis.startswith(LISTED) for basis in event.bases):
        return " (the service's prices)"
    return " (your prices)" if event.bases else ""


def lasting(seconds: float) -> str:
    """Format a changing duration in whole seconds, which does not flicker."""
    return f"{max(0, int(seconds))} s" if seconds < 60 else length_text(int(seconds))


def clock_time(at: float, now: float) -> str:
    """Format the local time of day: ``23:10``; on another day than `now` also day and zone: ``Tue 1 Dec 02:10 CET``."""
    local, here = local_time(at), local_time(now)
    if (local.date(), local.utcoffset()) == (here.date(), here.utcoffset()):
        return f"{local:%H:%M}"
    return f"{day_text(local)} {local:%H:%M} {zone_text(local)}"


def local_time(at: float) -> datetime:
    """Return `at` (seconds since the epoch) in the local time zone."""
    return datetime.fromtimestamp(at, UTC).astimezone()


def day_text(local: datetime) -> str:
    """Format the day: ``Tue 1 Dec``."""
    return f"{local:%a} {local.day} {local:%b}"


def zone_text(local: datetime) -> str:
    """Return the name of the time zone, or the difference from UTC if it has no name: ``CET``, ``UTC+05:45``."""
    name = local.tzname() or ""
    return name if name.isalpha() else f"UTC{local.isoformat(timespec='minutes')[16:]}"


def _reason(problem: Problem | None) -> str:
    """Describe a problem without its hint."""
    return "no reason is known" if problem is None else safe(problem.message)


def _start(event: RunStarted) -> Line:
    jobs = count_text(sum(event.states.values()), "job")
    to_do = f"{safe(event.name)}: {jobs} on {safe(event.provider)} ({counts(event.states)})"
    return Line(Level.INFO, f"{to_do}, at most {event.concurrency} in flight, into {printable(event.run_dir)}")


def _moved(event: JobMoved) -> Line | None:
    level_and_text = _MOVES.get(event.move)
    if level_and_text is None:
        return None
    level, text_of = level_and_text
    mark = _MARKS.get(event.move) or ("warning" if level is Level.WARNING else "")
    text, error = f"{names(event.ids)}: {text_of(event.record)}", event.record.error
    if error is None:
        return Line(level, text, mark=mark)
    return Line(level, text, f"{event.move} {error.kind} {error.message}", safe(error.hint), mark)


def _call_failed(event: CallFailed) -> Line:
    again = f"again in {length_text(event.retry_in_s)}"
    if event.most and event.failures:
        again += f" (failure {event.failures} of {event.most})"
    text = f"{names(event.ids)}: {event.call} failed: {_reason(event.problem)}; {again}"
    key = f"{event.call} {event.problem.kind} {event.problem.message}"
    return Line(Level.WARNING, text, key, safe(event.problem.hint), "warning")


def _noticed(event: Noticed) -> Line:
    prefix = f"{names(event.ids)}: " if event.ids else ""  # otherwise it concerns the whole run
    level = Level.ERROR if event.urgent else Level.INFO if event.routine else Level.WARNING
    key = event.message if event.ids or not event.routine else ""
    return Line(level, f"{prefix}{safe(event.message)}", key, mark="" if event.routine else "warning")


def _cap(event: CapChanged) -> Line:
    return Line(Level.INFO, f"at most {event.cap} of {event.limit} in flight from now on")


def _overrun(event: Overrun) -> Line:
    text = f"{names(event.ids)}: {event.message}"
    level, key = (Level.ERROR, "over budget") if event.exceeds_budget else (Level.WARNING, "overrun")
    return Line(level, text, key, mark="warning")


def _finished(event: RunFinished) -> Line:
    return Line(Level.ERROR if event.exit_status else Level.INFO, safe(event.summary))


def _delivered(record: Record) -> str:
    result = record.result
    if result is None:
        return "succeeded"
    values = [size_text(result.size_bytes)]
    if result.width_px and result.height_px:
        values.append(f"{result.width_px}x{result.height_px}")
    if result.duration_s:
        values.append(length_text(result.duration_s))
    warnings = "".join(f"; {safe(warning)}" for warning in result.warnings)
    return f"succeeded: {', '.join(values)}{warnings}"


def _released(record: Record) -> str:
    """Describe a release: the user asked for it, or the service's log allows it."""
    if record.error is None:
        return "will be submitted again as requested, although the first submission is in doubt"
    return f"will be submitted again: {_reason(record.error)}"


def _generation(record: Record) -> str:
    return f"generation {printable(record.generation_id or 'without an id')}"


DESCRIPTIONS: Mapping[type, Callable[..., Line | None]] = {
    RunStarted: _start,
    JobMoved: _moved,
    CallFailed: _call_failed,
    CapChanged: _cap,
    Noticed: _noticed,
    Overrun: _overrun,
    Stopping: lambda event: Line(Level.ERROR, f"stopping: {safe(event.reason)}", mark="warning"),
    RunFinished: _finished,
}

_MARKS = {Move.DELIVER: "succeeded", Move.FAIL: "failed", Move.GIVE_UP: "failed", Move.DOUBT: "in_doubt"}

# The text for each move. BEGIN_SUBMIT has none, because its outcome follows. REFUSE has none: CallFailed reports it.
_MOVES: Mapping[Move, tuple[Level, Callable[[Record], str]]] = {
    Move.ACCEPT: (Level.INFO, lambda record: f"accepted: {_generation(record)}"),
    Move.ADOPT: (Level.INFO, lambda record: f"was accepted after all: {_generation(record)}"),
    Move.DOUBT: (Level.WARNING, lambda record: f"in doubt: {_reason(record.error)}"),
    Move.RELEASE: (Level.WARNING, _released),
    Move.CLEAR: (Level.INFO, lambda record: f"will be submitted again: {_reason(record.error)}"),
    Move.DELIVER: (Level.INFO, _delivered),
    Move.FAIL: (Level.WARNING, lambda record: f"failed: {_reason(record.error)}"),
    Move.GIVE_UP: (Level.WARNING, lambda record: f"failed: {_reason(record.error)}"),
    Move.RETRY: (Level.INFO, lambda _: "failed before and will be submitted again"),
    Move.RECHECK: (Level.INFO, lambda record: f"asked for again: {_generation(record)}"),
    Move.REUSE: (Level.INFO, lambda record: f"is paid for in another batch: {_generation(record)}, at no charge"),
    Move.FILE_MISSING: (
        Level.WARNING,
        lambda _: "its file is missing or was changed: it is downloaded again at no charge",
    ),
}
