"""What is seen of a run while it lasts, and the last words on it: a live screen on a terminal, lines elsewhere.

`make_progress` chooses a view; a `Progress` is what the run announces its events to. Rules: it only listens, and a
terminal that goes away never disturbs the run. It starts no thread and reads no clock: time comes with the events.
What is shown is decided in the pure files beside this one (`model`, `words`, `narrator`, `screen`, `jsonlog`),
and the last words by `batchrunner.report`.
"""

from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from batchrunner.events import Event
from batchrunner.progress.model import Model

if TYPE_CHECKING:
    from batchrunner.progress.views import View

__all__ = ["Progress", "make_progress"]


class Progress:
    """Shows events as they come: call it with each. A context manager, so that the terminal is left as it was."""

    def __init__(self, model: Model, view: "View") -> None:
        self._model = model
        self._view = view

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._view.close()

    def __call__(self, event: Event) -> None:
        """Show `event`, if it is worth it. Never raises for what becomes of the terminal."""
        self._model.take(event)
        self._view.show(event)


def make_progress(*, stream: TextIO, quiet: bool, plain: bool, log_format: str = "text") -> Progress:
    """The progress for `stream`: a screen if it is a terminal that can show one, else lines.

    quiet: only what needs a person. plain: lines also on a terminal. log_format: ``json`` for one object an event.
    NO_COLOR and FORCE_COLOR are honoured as rich does.
    """
    from batchrunner.progress import views

    model = Model()
    if log_format == "json":
        return Progress(model, views.JsonLines(model, stream, quiet=quiet))
    if quiet or plain or not views.takes_screen(stream):
        return Progress(model, views.Lines(model, views.line_printer(stream), quiet=quiet))
    return Progress(model, views.Live(model, views.console_on(stream)))
