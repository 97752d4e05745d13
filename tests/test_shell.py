"""What a process owes the shell: signals are heard, whatever becomes of what they raise."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

from batchrunner import shell


@pytest.fixture(autouse=True)
def _interrupts_raise() -> Iterator[None]:
    """Also where the tests were started by a shell that lets them ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_signal_whose_exception_is_lost_is_noted() -> None:
    with shell.heard() as found:
        with suppress(KeyboardInterrupt):  # as Python does while it cleans up
            os.kill(os.getpid(), signal.SIGINT)
        assert found.numbers == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_from_some_moment_on_it_is_only_noted() -> None:
    with shell.heard() as found:
        found.unwinds = False
        for number in shell.SIGNALS:
            os.kill(os.getpid(), number)
    assert found.numbers == [signal.SIGINT, signal.SIGTERM]


def test_what_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with shell.heard() as found:
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert found.numbers == []


def test_what_a_module_makes_of_an_interruption_is_one() -> None:
    def load(number: int | None) -> None:
        with shell.heard(), suppress(KeyboardInterrupt):
            if number is not None:
                with suppress(KeyboardInterrupt):
                    os.kill(os.getpid(), number)
            raise ImportError("cannot initialise module strings")

    with pytest.raises(SystemExit) as caught:
        load(signal.SIGINT)
    assert caught.value.code == 130
    with pytest.raises(ImportError):
        load(None)


@pytest.mark.parametrize(("handler", "status"), [("default_int_handler", -signal.SIGINT), ("SIG_IGN", 0)])
def test_while_the_command_is_loaded_an_interruption_is_quiet(handler: str, status: int) -> None:
    program = f"""
import builtins, os, signal, sys
signal.signal(signal.SIGINT, signal.{handler})
load = builtins.__import__
def interrupted(name, *rest):
    if name == "batchrunner.cli":
        os.kill(os.getpid(), signal.SIGINT)
    return load(name, *rest)
from batchrunner.__main__ import main
builtins.__import__ = interrupted
sys.argv = ["batchrunner", "--version"]
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, "")
