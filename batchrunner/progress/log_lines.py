"""Choose the lines of the text log of a run: every important change once. Pure.

An outage gives one line when it starts and one when it ends, for all kinds of calls and all jobs. Lines that repeat for
other jobs are printed a few times and then counted. A heartbeat line follows every few minutes.
"""

from batchrunner.events import Alive, CallHealthChanged, CapChanged, Event, RunFinished, RunStarted
from batchrunner.formatting import length_text
from batchrunner.progress.model import Model
from batchrunner.progress.phrases import Level, Line, begins, describe, pulse

PULSE_EVERY_S = 300.0
_FOLD_OVER_S = 300.0
_REPEATS_SHOWN = 3


class Narrator:
    """Turn events into lines. `model` must have processed an event before."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._folds: dict[str, _Fold] = {}
        self._pulse = Pulse()
        self._outage: tuple[str, float] | None = None  # status and start of the reported outage
        self._cap_shown = 0

    def take(self, event: Event) -> list[Line]:
        """Return the lines to print now."""
        lines: list[Line] = []
        line = self._line(event)
        if line is not None and self._is_news(event.at, line):
            lines.append(line)
        ended = isinstance(event, RunFinished)
        if ended or isinstance(event, Alive):
            lines = self._unfold(event.at, everything=ended) + lines
        if self._pulse.is_due(event):
            lines.append(Line(Level.INFO, pulse(self._model)))
        return lines

    def _line(self, event: Event) -> Line | None:
        if isinstance(event, RunStarted):
            self._cap_shown = event.concurrency
        if isinstance(event, CallHealthChanged):
            return self._call_health(event)
        if isinstance(event, CapChanged):
            # The cap rises in many small steps: report only falls and the return to the limit.
            shown, self._cap_shown = self._cap_shown, event.cap
            return describe(event) if event.cap < shown or event.cap == event.limit else None
        return describe(event)

    def _call_health(self, event: CallHealthChanged) -> Line | None:
        outage = self._outage
        if not self._model.closed:
            self._outage = None
            lasted = outage and f"the service answers again, after {length_text(event.at - outage[1])}"
            return Line(Level.INFO, lasted, f"fine after {outage[0]}") if outage and lasted else None
        worse = event.status == "paused" and outage is not None and outage[0] != "paused"
        if event.call not in self._model.closed or (outage is not None and not worse):
            return None
        self._outage = (event.status, outage[1] if outage else event.at)
        level = Level.ERROR if event.status == "paused" else Level.WARNING
        return Line(level, begins(event.call, event.status, event.reason), event.status)

    def _is_news(self, at: float, line: Line) -> bool:
        if not line.key:
            return True
        fold = self._folds.setdefault(line.key, _Fold(at))
        fold.times += 1
        fold.last = line
        return fold.times <= _REPEATS_SHOWN

    def _unfold(self, at: float, *, everything: bool) -> list[Line]:
        """Return the counts of suppressed lines after their interval."""
        over = [key for key, fold in self._folds.items() if everything or at - fold.since >= _FOLD_OVER_S]
        folds = [self._folds.pop(key) for key in over]
        return [
            Line(fold.last.level, f"{fold.times - _REPEATS_SHOWN:,} more like this: {fold.last.text}")
            for fold in folds
            if fold.times > _REPEATS_SHOWN
        ]


class Pulse:
    """When the next heartbeat is due: every few minutes of a run, also if the wall clock is set back."""

    def __init__(self) -> None:
        self._last: float | None = None

    def is_due(self, event: Event) -> bool:
        """Return whether a heartbeat is due at this event. Call it for every event."""
        if isinstance(event, RunStarted):
            self._last = event.at
        if isinstance(event, RunFinished):
            self._last = None
        if not isinstance(event, Alive) or self._last is None or 0 <= event.at - self._last < PULSE_EVERY_S:
            return False
        self._last = event.at
        return True


class _Fold:
    """Equal lines since a point in time."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.times = 0
        self.last = Line(Level.INFO, "")
