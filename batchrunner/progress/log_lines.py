"""Which lines are told of a run where there is no screen: every change that matters, once. Pure.

Rules: an outage is told when it begins and when it ends, whichever calls and however many jobs meet it; lines that say
the same of other jobs are told a few times and then counted; and every few minutes a line says that all is going on.
"""

from batchrunner.events import Alive, CallHealthChanged, CapChanged, Event, RunFinished, RunStarted
from batchrunner.formatting import length_text
from batchrunner.progress.model import Model
from batchrunner.progress.phrases import Level, Line, begins, describe, pulse

PULSE_EVERY_S = 300.0
_FOLD_OVER_S = 300.0
_TOLD_EACH = 3


class Narrator:
    """Turns events into lines. `model` has taken each event in before."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._folds: dict[str, _Fold] = {}
        self._pulse = Pulse()
        self._outage: tuple[str, float] | None = None  # word and beginning of what was told
        self._cap_told = 0

    def take(self, event: Event) -> list[Line]:
        """What is to be told now."""
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
            self._cap_told = event.concurrency
        if isinstance(event, CallHealthChanged):
            return self._weather(event)
        if isinstance(event, CapChanged):
            # One by one it is crept up again: the way down and the arrival at the top are told.
            told, self._cap_told = self._cap_told, event.cap
            return describe(event) if event.cap < told or event.cap == event.limit else None
        return describe(event)

    def _weather(self, event: CallHealthChanged) -> Line | None:
        told = self._outage
        if not self._model.closed:
            self._outage = None
            lasted = told and f"the service answers again, after {length_text(event.at - told[1])}"
            return Line(Level.INFO, lasted, f"fine after {told[0]}") if told and lasted else None
        worse = event.status == "paused" and told is not None and told[0] != "paused"
        if event.call not in self._model.closed or (told is not None and not worse):
            return None
        self._outage = (event.status, told[1] if told else event.at)
        level = Level.ERROR if event.status == "paused" else Level.WARNING
        return Line(level, begins(event.call, event.status, event.reason), event.status)

    def _is_news(self, at: float, line: Line) -> bool:
        if not line.key:
            return True
        fold = self._folds.setdefault(line.key, _Fold(at))
        fold.times += 1
        fold.last = line
        return fold.times <= _TOLD_EACH

    def _unfold(self, at: float, *, everything: bool) -> list[Line]:
        """Tell of lines that were kept back, when their time is over."""
        over = [key for key, fold in self._folds.items() if everything or at - fold.since >= _FOLD_OVER_S]
        folds = [self._folds.pop(key) for key in over]
        return [
            Line(fold.last.level, f"{fold.times - _TOLD_EACH:,} more like this: {fold.last.text}")
            for fold in folds
            if fold.times > _TOLD_EACH
        ]


class Pulse:
    """When to say that all is going on: every few minutes from the start, also where the wall clock is set back."""

    def __init__(self) -> None:
        self._last: float | None = None

    def is_due(self, event: Event) -> bool:
        """Whether it is, at this event. It has to be asked at each."""
        if isinstance(event, RunStarted):
            self._last = event.at
        if not isinstance(event, Alive) or self._last is None or 0 <= event.at - self._last < PULSE_EVERY_S:
            return False
        self._last = event.at
        return True


class _Fold:
    """Equal lines since a moment."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.times = 0
        self.last = Line(Level.INFO, "")
