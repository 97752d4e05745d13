"""Events to a terminal: a live bar where there is one, plain lines with their time everywhere else.

Rules: it only listens, and a terminal that goes away never disturbs the run. It starts no thread and reads no clock:
it draws when an event comes, at most ten times a second by the events' own time. All words from outside pass
`printable`, so that a service's message cannot move the cursor. Which lines are shown is one threshold on their weight.
"""

from collections.abc import Callable, Mapping
from enum import IntEnum
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TextIO

from batchrunner.errors import Problem
from batchrunner.events import (
    CallFailed,
    CapChanged,
    Event,
    JobMoved,
    Noticed,
    RunFinished,
    RunStarted,
    Stopping,
    WeatherChanged,
)
from batchrunner.job import TRANSITIONS, Move, Record, State
from batchrunner.text import count_text, length_text, printable, rfc3339, size_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

_DRAW_EVERY_S = 0.1
_MESSAGE_MOST = 500
_NAMES_MOST = 3
_FROM = {move: state for state, move in TRANSITIONS}  # each move leaves one state only
_DONE = (State.SUCCEEDED, State.FAILED, State.IN_DOUBT)
_WORDS = {
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.IN_DOUBT: "in doubt",
    State.IN_FLIGHT: "in flight",
    State.PENDING: "waiting",
}


class Weight(IntEnum):
    """How much a line matters: what is shown of it depends on the mode."""

    ROUTINE = 1  # plain lines only
    NOTICE = 2  # above the bar too
    PROBLEM = 3  # a person may have to act: also with --quiet


_STYLES = {Weight.ROUTINE: "", Weight.NOTICE: "", Weight.PROBLEM: "bold red"}


class Line(NamedTuple):
    """What is said of an event."""

    weight: Weight
    text: str


def make_progress(*, stream: TextIO, quiet: bool, plain: bool) -> "Progress":
    """The progress for `stream`: a bar if it is a terminal that can show one, else lines.

    quiet: only problems. plain: lines also on a terminal. NO_COLOR and FORCE_COLOR are honoured as rich does.
    """
    console = _console(stream)
    live = not quiet and not plain and stream.isatty() and not console.is_dumb_terminal
    least = Weight.PROBLEM if quiet else Weight.NOTICE if live else Weight.ROUTINE
    return Progress(console, least, _bar(console) if live else None)


def _console(stream: TextIO) -> "Console":
    from rich.console import Console

    class Listener(Console):
        """A console whose reader may leave: rich would end the program and silence its standard output."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Listener(file=stream, highlight=False)


def _bar(console: "Console") -> "Bar":
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.fields[counts]}"))
    return Bar(*columns, console=console, auto_refresh=False, redirect_stdout=False, get_time=lambda: 0.0)


class Progress:
    """Shows events as they come: call it with each. A context manager, so that a bar leaves the terminal as it was."""

    def __init__(self, console: "Console", least: Weight, bar: "Bar | None") -> None:
        self._console = console
        self._least = least
        self._bar = bar
        self._states: dict[State, int] = {}
        self._started_at = 0.0
        self._drawn_at = float("-inf")
        self._broken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def __call__(self, event: Event) -> None:
        """Show `event`, if it is worth it. Never raises for what becomes of the terminal."""
        self._count(event)
        if self._bar is not None:
            self._draw(event, self._bar)
        line = describe(event)
        if line is not None and line.weight >= self._least:
            self._print(event.at, line)

    def _count(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._started_at = event.at
        if isinstance(event, RunStarted | RunFinished):
            self._states = dict(event.states)
        elif isinstance(event, JobMoved) and event.ids:
            left = _FROM[event.move]
            self._states[left] = max(0, self._states.get(left, 0) - 1)
            self._states[event.record.state] = self._states.get(event.record.state, 0) + 1

    def _print(self, at: float, line: Line) -> None:
        from rich.text import Text

        encoding = self._console.encoding
        words = line.text if self._bar is not None else f"{rfc3339(at)} {line.text}"
        words = words.encode(encoding, "backslashreplace").decode(encoding)
        self._write(lambda: self._console.print(Text(words, _STYLES[line.weight]), soft_wrap=True))

    def _draw(self, event: Event, bar: "Bar") -> None:
        if isinstance(event, RunStarted) and not bar.tasks:
            bar.add_task("", total=sum(self._states.values()), counts=_counts(self._states))
            self._write(bar.start)
        soon = abs(event.at - self._drawn_at) < _DRAW_EVERY_S
        if not bar.tasks or (soon and not isinstance(event, RunFinished)):
            return
        self._drawn_at = event.at
        done = sum(self._states.get(state, 0) for state in _DONE)
        words = f"{_counts(self._states)}  {length_text(event.at - self._started_at)}"
        bar.update(bar.tasks[0].id, completed=done, total=sum(self._states.values()), counts=words)
        self._write(bar.refresh)
        if isinstance(event, RunFinished):
            self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._broken = False  # also where nothing more can be drawn: rich gives back what it has redirected
            self._write(self._bar.stop)

    def _write(self, action: Callable[[], Any]) -> None:
        """Let rich write. A terminal that is gone is no reason to disturb the run: from then on nothing is shown."""
        if not self._broken:
            try:
                action()
            except (OSError, ValueError):  # a closed file raises ValueError
                self._broken = True


def describe(event: Event) -> Line | None:  # noqa: PLR0911 (one line an event is the clearest form)
    """What is said of `event` in one line, without its time; None for nothing."""
    match event:
        case RunStarted():
            return Line(Weight.NOTICE, _start(event))
        case JobMoved():
            said = _MOVES.get(event.move)
            return said and Line(said[0], f"{_names(event.ids)}: {said[1](event.record)}")
        case CallFailed():
            wait = f"again in {length_text(event.retry_in_s)}"
            return Line(Weight.NOTICE, f"{_names(event.ids)}: {event.call} failed: {_words(event.problem)}; {wait}")
        case WeatherChanged():
            return Line(Weight.NOTICE, _weather(event))
        case CapChanged():
            return Line(Weight.NOTICE, f"at most {event.cap} of {event.limit} in flight from here on")
        case Noticed():
            about = f"{_names(event.ids)}: " if event.ids else ""  # else it is about the run
            return Line(Weight.NOTICE, f"{about}{_safe(event.message)}")
        case Stopping():
            return Line(Weight.PROBLEM, f"stopping: {_safe(event.reason)}")
        case RunFinished():
            weight = Weight.PROBLEM if event.exit_status else Weight.NOTICE
            files = "".join(f" {printable(path)}" for path in event.reports)
            return Line(weight, f"{_safe(event.summary)}{files}")
    return None


def _weather(event: WeatherChanged) -> str:
    if event.next_at is None:
        return f"{event.call}: works again"
    return f"{event.call}: {event.word}: {_safe(event.reason)}; one tries again at {rfc3339(event.next_at)}"


def _start(event: RunStarted) -> str:
    jobs = count_text(sum(event.states.values()), "job")
    to_do = f"{_safe(event.name)}: {jobs} on {_safe(event.provider)} ({_counts(event.states)})"
    return f"{to_do}, at most {event.concurrency} in flight, into {printable(event.run_dir)}"


def _delivered(record: Record) -> str:
    result = record.result
    if result is None:
        return "succeeded"
    facts = [size_text(result.size_bytes)]
    if result.width_px and result.height_px:
        facts.append(f"{result.width_px}x{result.height_px}")
    if result.duration_s:
        facts.append(length_text(result.duration_s))
    warnings = "".join(f"; {_safe(warning)}" for warning in result.warnings)
    return f"succeeded: {', '.join(facts)}{warnings}"


def _generation(record: Record) -> str:
    return f"generation {printable(record.generation_id or 'without an id')}"


# What is said of each move. INTEND is not: its outcome follows. Nor is REFUSE: CallFailed tells of it.
_MOVES: Mapping[Move, tuple[Weight, Callable[[Record], str]]] = {
    Move.ACCEPT: (Weight.ROUTINE, lambda record: f"accepted: {_generation(record)}"),
    Move.ADOPT: (Weight.NOTICE, lambda record: f"was accepted after all: {_generation(record)}"),
    Move.DOUBT: (Weight.PROBLEM, lambda record: f"in doubt: {_words(record.error)}"),
    Move.RELEASE: (Weight.NOTICE, lambda _: "will be submitted again in spite of the doubt, as asked"),
    Move.DELIVER: (Weight.ROUTINE, _delivered),
    Move.SPOIL: (Weight.PROBLEM, lambda record: f"failed: {_words(record.error)}"),
    Move.GIVE_UP: (Weight.PROBLEM, lambda record: f"failed: {_words(record.error)}"),
    Move.RETRY: (Weight.NOTICE, lambda _: "failed before and will be submitted again"),
    Move.RECHECK: (Weight.NOTICE, lambda record: f"asked for again: {_generation(record)}"),
    Move.LOSE: (Weight.NOTICE, lambda _: "its file is gone: it will be fetched again"),
}


def _words(problem: Problem | None) -> str:
    if problem is None:
        return "no reason is known"
    hint = f" ({_safe(problem.hint)})" if problem.hint else ""
    return f"{_safe(problem.message)}{hint}"


def _names(ids: tuple[str, ...]) -> str:
    if not ids:
        return "a job of an earlier manifest"
    more = f" and {len(ids) - _NAMES_MOST} more" if len(ids) > _NAMES_MOST else ""
    return ", ".join(printable(each, 100) for each in ids[:_NAMES_MOST]) + more


def _safe(text: str) -> str:
    return printable(text, _MESSAGE_MOST)


def _counts(states: Mapping[State, int]) -> str:
    """``2 succeeded, 1 in flight``; what is being submitted counts as in flight."""
    shown = {**states, State.IN_FLIGHT: states.get(State.IN_FLIGHT, 0) + states.get(State.SUBMITTING, 0)}
    return (
        ", ".join(f"{shown[state]:,} {word}" for state, word in _WORDS.items() if shown.get(state)) or "nothing to do"
    )
