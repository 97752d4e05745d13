"""The display of a run: a live screen on a terminal, lines elsewhere, and a summary at the end.

`make_progress` selects a view. The run passes its events to a `Progress`. Rules: a progress only listens, and a
terminal that goes away does not affect the run. It starts no thread and reads no clock: events bring the time. The pure
modules `model`, `phrases`, `log_lines`, `screen` and `json_lines` define the contents; `batchrunner.report` defines the
summary.
"""

from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from batchrunner.events import Event
from batchrunner.progress.model import Model

if TYPE_CHECKING:
    from batchrunner.progress.views import View

__all__ = ["Progress", "make_progress"]


class Progress:
    """Shows the events of a run: call it with each event.

    A context manager, because a view must restore the terminal.
    """

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
        """Restore the terminal."""
        self._view.close()

    def __call__(self, event: Event) -> None:
        """Show `event` if the view has a line for it. Ignores errors of the terminal."""
        self._model.take(event)
        self._view.show(event)


def make_progress(*, stream: TextIO, quiet: bool, plain: bool, log_format: str = "text") -> Progress:
    """Return the progress for `stream`: a screen if it is a terminal that can show one, otherwise lines.

    quiet: show only events that need a person. plain: lines even on a terminal. log_format: ``json`` for one object per
    event. NO_COLOR and FORCE_COLOR work as in rich.
    """
    from batchrunner.progress import views

    model = Model()
    if log_format == "json":
        return Progress(model, views.JsonLines(model, stream, quiet=quiet))
    if quiet or plain or not views.takes_screen(stream):
        return Progress(model, views.Lines(model, stream, quiet=quiet))
    return Progress(model, views.Live(model, views.console_on(stream)))
