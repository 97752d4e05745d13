"""SIGINT, SIGTERM and SIGHUP during a run: the first asks for a clean stop, the second ends the process."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from batchrunner.engine.loop import Engine
from batchrunner.errors import ExitStatus
from batchrunner.plan.endings import StopReason

# A closed terminal (SIGHUP) ends a run as a service manager does, unless nohup shields it.
EXIT_STATUSES = {
    signal.SIGINT: ExitStatus.SIGINT,
    signal.SIGTERM: ExitStatus.SIGTERM,
    signal.SIGHUP: ExitStatus.SIGTERM,
}


class RunSignals:
    """The signals of one run. Create it inside the event loop.

    on_first_stop: called after each signal that asks for a stop. leave_terminal: restores the terminal before the
    process ends at once.
    """

    def __init__(self, on_first_stop: Callable[[], None], leave_terminal: Callable[[], None]) -> None:
        self._on_first_stop = on_first_stop
        self._leave_terminal = leave_terminal
        self._received: list[signal.Signals] = []
        self._engine: Engine | None = None

    def listen(self) -> None:
        """Handle signals in the event loop from now on."""
        for number in handled_signals():
            asyncio.get_running_loop().add_signal_handler(number, self.receive, number)

    def receive(self, number: signal.Signals) -> None:
        """Ask the run to stop. A second signal ends the process."""
        self._received.append(number)
        if len(self._received) > 1:
            self._exit_now(EXIT_STATUSES[self._received[0]])
        self._exit_on_next(EXIT_STATUSES[number])
        if self._engine is not None:
            self._close(self._engine, number)
        self._on_first_stop()

    def attach(self, engine: Engine) -> None:
        """Stop this engine when a signal arrives. A signal can arrive before the engine exists."""
        self._engine = engine
        for number in self._received:
            self._close(engine, number)

    def exit_status(self) -> ExitStatus | None:
        """Return the exit status of the first signal, None if there was none."""
        return EXIT_STATUSES[self._received[0]] if self._received else None

    @staticmethod
    def _close(engine: Engine, number: signal.Signals) -> None:
        engine.close(StopReason("interrupted", f"{number.name} received"))

    def _exit_on_next(self, status: ExitStatus) -> None:
        """End the process at the next signal, even if the event loop or a thread is blocked."""
        for number in handled_signals():
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, lambda *_: self._exit_now(status))

    def _exit_now(self, status: ExitStatus) -> NoReturn:
        """Restore the terminal and end the process like SIGKILL does. The journal loses nothing."""
        for number in handled_signals():
            signal.signal(number, signal.SIG_DFL)  # if the terminal blocks, one more signal ends the process
        self._leave_terminal()
        os._exit(status)


def handled_signals() -> list[signal.Signals]:
    """Return the signals that end a run. A signal that the parent process ignores stays ignored."""
    return [number for number in EXIT_STATUSES if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def restored_handlers() -> Iterator[None]:
    """Restore the signal handlers after the run."""
    before = {number: signal.getsignal(number) for number in handled_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
