"""Choose the lines of the text log of a run: every important change once. Pure.

An outage gives one line when it starts and one when it ends, for all kinds of calls and all jobs. A line that repeats,
for the run or for other jobs, is printed once and then counted; a hint is printed once. A heartbeat line follows every
few minutes.
"""

from collections.abc import Callable, Mapping
from typing import Any

from batchrunner.events import Alive, CallHealthChanged, CapChanged, Event, RunEnding, RunFinished, RunStarted
from batchrunner.formatting import length_text, short_names
from batchrunner.progress.model import Model
from batchrunner.progress.phrases import DESCRIPTIONS, Level, Line, begins, describe, pulse

PULSE_EVERY_S = 300.0
_FOLD_OVER_S = 300.0
_GENERATION_MOST = 24  # characters of the service's id of a generation, on a terminal
_FOLDS_KEPT = 1000
_HINTS_KEPT = 1000
_OF_THE_RUN = (Alive, RunStarted, RunEnding, RunFinished)  # events at which lines are due that describe no event


class Narrator:
    """Turn events into lines. `model` must have processed an event before.

    short: returns a short form of some ids; without it, ids are written whole.
    """

    def __init__(self, model: Model, short: Callable[[], Mapping[str, str]] | None = None) -> None:
        self._model = model
        self._short = short
        self._folds: dict[str, _Fold] = {}
        self._hints: set[str] = set()
        self._pulse = Pulse()
        self._outage: tuple[str, float] | None = None  # status and start of the reported outage
        self._cap_shown = 0
        self._descriptions: Mapping[type, Callable[..., Line | None]] = {
            **DESCRIPTIONS,
            RunStarted: self._start,
            CallHealthChanged: self._call_health,
            CapChanged: self._cap,
        }

    def take(self, event: Event) -> list[Line]:
        """Return the lines to print now."""
        line = self._line(event) if self._short is None else self._short_line(event, self._short())
        lines = [self._with_new_hint(line)] if line is not None and self._is_news(event.at, line) else []
        if type(event) not in _OF_THE_RUN:
            return lines
        ended = isinstance(event, RunFinished)
        if ended or isinstance(event, Alive):
            lines = self._unfold(event.at, everything=ended) + lines
        if self._pulse.is_due(event):
            lines.append(Line(Level.INFO, pulse(self._model)))
        return lines

    def _short_line(self, event: Any, short: Mapping[str, str]) -> Line | None:
        """Return the line for `event` with short ids."""
        ids, record = getattr(event, "ids", ()), getattr(event, "record", None)
        if isinstance(ids, tuple) and ids:
            event = event._replace(ids=tuple(short.get(name, name) for name in ids))
        line = self._line(event)
        name = record.generation_id if record is not None else None
        if line is None or not name:
            return line
        return line._replace(text=line.text.replace(name, short_names([name], _GENERATION_MOST).get(name, name)))

    def _with_new_hint(self, line: Line) -> Line:
        """Keep the hint only if it was not printed before."""
        if not line.hint:
            return line
        if line.hint in self._hints:
            return line._replace(hint="")
        if len(self._hints) < _HINTS_KEPT:
            self._hints.add(line.hint)
        return line

    def _line(self, event: Event) -> Line | None:
        make = self._descriptions.get(type(event))
        return make and make(event)

    def _start(self, event: RunStarted) -> Line | None:
        self._cap_shown = event.concurrency
        return describe(event)

    def _cap(self, event: CapChanged) -> Line | None:
        """Describe falls and the return to the limit: the cap rises in many small steps."""
        shown, self._cap_shown = self._cap_shown, event.cap
        return describe(event) if event.cap < shown or event.cap == event.limit else None

    def _call_health(self, event: CallHealthChanged) -> Line | None:
        outage = self._outage
        if not self._model.closed:
            self._outage = None
            if outage is None:
                return None
            answering = "bucket" if event.call == "deliver" else "service"
            text = f"the {answering} answers again, after {length_text(event.at - outage[1])}"
            return Line(Level.INFO, text, mark="succeeded")
        worse = event.status == "paused" and outage is not None and outage[0] != "paused"
        if event.call not in self._model.closed or (outage is not None and not worse):
            return None
        self._outage = (event.status, outage[1] if outage else event.at)
        level = Level.ERROR if event.status == "paused" else Level.WARNING
        return Line(level, begins(event.call, event.status, event.reason), mark="warning")

    def _is_news(self, at: float, line: Line) -> bool:
        if not line.key:
            return True
        fold = self._folds.get(line.key)
        if fold is None:
            if len(self._folds) >= _FOLDS_KEPT:
                del self._folds[next(iter(self._folds))]
            self._folds[line.key] = _Fold(at)
            return True
        fold.times += 1
        fold.last = line
        return False

    def _unfold(self, at: float, *, everything: bool) -> list[Line]:
        """Return the counts of suppressed lines after their interval."""
        lines = []
        for fold in self._folds.values():
            if everything or at - fold.since >= _FOLD_OVER_S:
                if fold.times:
                    lines.append(fold.last._replace(text=f"{fold.times:,} more like this: {fold.last.text}", hint=""))
                fold.since, fold.times = at, 0
        return lines


class Pulse:
    """When the next heartbeat is due: every few minutes of a run, also if the wall clock is set back."""

    def __init__(self) -> None:
        self._last: float | None = None

    def is_due(self, event: Event) -> bool:
        """Return whether a heartbeat is due at this event. Call it for every event."""
        if isinstance(event, RunStarted):
            self._last = event.at
        if isinstance(event, RunEnding | RunFinished):
            self._last = None
        if not isinstance(event, Alive) or self._last is None or 0 <= event.at - self._last < PULSE_EVERY_S:
            return False
        self._last = event.at
        return True


class _Fold:
    """Equal lines that were not printed since a point in time."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.times = 0
        self.last = Line(Level.INFO, "")
