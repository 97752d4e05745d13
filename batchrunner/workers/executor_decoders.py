"""`Decoders` on any `concurrent.futures.Executor`. An outcome that is not good is confirmed on this machine.

So a worker that lacks a file, a codec or memory, or that sees an older file, costs time and never a paid clip: only
this machine says that a clip is damaged.
"""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures import TimeoutError as NotYet
from typing import Any

from batchrunner.media.decoder import CheckLimit
from batchrunner.media.decoder_pool import Decoders, Outcome
from batchrunner.workers.tasks import DONE, FAILED, perform

_CHECK_EVERY_S = 0.25
_ENDED = "the check was stopped because the run ended"


class ExecutorDecoders:
    """See the module. here: decodes on this machine. notify: gets sentences for the user."""

    def __init__(self, executor: Executor, here: Decoders, notify: Callable[[str], None]) -> None:
        self._executor, self._here, self._notify = executor, here, notify
        self._lock = threading.Lock()
        self._stops = 0
        self._has_warned = False

    def ready(self) -> None:
        """Load a decoder on this machine, which confirms bad outcomes. Raises NoDecoder."""
        self._here.ready()

    def run_all(
        self, task: str, items: Sequence[Mapping[str, Any]], enough: Callable[[], bool] = lambda: False
    ) -> list[Outcome]:
        """Run a task for each item, all at once."""
        stops = self._stops

        def over() -> bool:
            return self._stops != stops or enough()

        complete = [_absolute(item) for item in items]
        futures = [None if over() else self._executor.submit(perform, task, item) for item in complete]
        return [self._outcome(task, item, future, over) for item, future in zip(complete, futures, strict=True)]

    def _outcome(
        self, task: str, item: Mapping[str, Any], future: "Future[dict[str, Any]] | None", over: Callable[[], bool]
    ) -> Outcome:
        while future is not None and not over():
            try:
                reply = future.result(_CHECK_EVERY_S)
            except NotYet:
                if not future.done():
                    continue
                reply = {FAILED: "it took too long there"}
            except RuntimeError as error:
                reply = {FAILED: str(error)}
            return reply[DONE] if DONE in reply else self._confirmed(task, item, str(reply.get(FAILED)), over)
        return CheckLimit(_ENDED)

    def _confirmed(self, task: str, item: Mapping[str, Any], why: str, over: Callable[[], bool]) -> Outcome:
        """Return the outcome of this machine."""
        outcome = self._here.run_all(task, [item], over)[0]
        if not isinstance(outcome, Exception) and not over():
            with self._lock:
                is_first, self._has_warned = not self._has_warned, True
            if is_first:
                path = item.get("path")
                self._notify(
                    f"a worker could not check {path}: {why}. It is whole on this machine, which checks such files "
                    "itself. Workers need this folder under the same path; further ones are not named"
                )
        return outcome

    def stop(self) -> None:
        """Wait no longer for tasks that run, and stop those of this machine."""
        self._stops += 1
        self._here.stop()


def _absolute(item: Mapping[str, Any]) -> dict[str, Any]:
    paths = {name: os.path.abspath(item[name]) for name in ("path", "folder") if name in item}  # noqa: PTH100 (a link stays)
    return {**item, **paths}
