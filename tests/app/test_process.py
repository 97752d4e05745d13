"""The process and its shell: signals are handled even if the exception that they raise is lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Any

import pytest

from batchrunner.app import process
from tests.conftest import MEDIA, ROOT, made_once


@pytest.fixture(autouse=True)
def _interrupts_raise() -> Iterator[None]:
    """Restore SIGINT, which a shell may have ignored for the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_signal_whose_exception_is_lost_is_recorded() -> None:
    with process.record_signals() as found:
        with suppress(KeyboardInterrupt):  # as Python does during cleanup
            os.kill(os.getpid(), signal.SIGINT)
        assert found.numbers == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_late_signal_is_only_recorded() -> None:
    with process.record_signals() as found:
        found.unwinds = False
        for number in process.SIGNALS:
            os.kill(os.getpid(), number)
    assert found.numbers == [signal.SIGINT, signal.SIGTERM]


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with process.record_signals() as found:
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert found.numbers == []


def test_an_exception_that_wraps_an_interruption_is_an_interruption() -> None:
    def load(number: int | None) -> None:
        with process.record_signals(), suppress(KeyboardInterrupt):
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
def test_an_interruption_during_loading_prints_nothing(handler: str, status: int) -> None:
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


PROGRAM = [sys.executable, "-m", "batchrunner"]

# Closed and full streams

ENDS = """
import sys
from batchrunner import cli
cli._command = lambda: (print("x" * 100), sys.stderr.write("y"), 3)[-1]
cli.main()
"""


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_full_stdout_does_not_change_the_exit_status(stream: str) -> None:
    """Python flushes stdout at exit; if that fails, it sets the exit status to 120."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone, open("/dev/full", "wb") as full:  # noqa: PTH123 (a device)
        for taken in (gone, full):
            other = {"stdout": "stderr", "stderr": "stdout"}[stream]
            streams: Any = {stream: taken, other: subprocess.DEVNULL}
            environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
            done = subprocess.run([sys.executable, "-c", ENDS], check=False, env=environment, **streams)
            assert done.returncode == 3


@pytest.mark.parametrize(
    ("arguments", "status"), [(["run", "missing.yaml"], 2), (["nonsense"], 2), (["validate", "missing.yaml"], 2)]
)
def test_a_full_stderr_does_not_change_the_exit_status(arguments: list[str], status: int) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123 (a device)
        done = subprocess.run([*PROGRAM, *arguments], check=False, stdout=full, stderr=full)
    assert done.returncode == status


# Locales

# Runs commands one after the other: an interpreter takes its locale at its start. Prints the status of each.
SEVERAL = """
import os, sys
from batchrunner.__main__ import main
words = iter(sys.argv[1:])
while arguments := list(iter(lambda: next(words, ";"), ";")):
    sys.argv = ["batchrunner", *arguments]
    try:
        main()
    except SystemExit as end:
        os.write(1, b"\\0%d\\0" % end.code)
"""
_LOCALES = {"de_DE.ISO-8859-1": "iso-8859-1", "zh_CN.GBK": "gbk", "C": "utf-8", "C.UTF-8": "utf-8"}


@pytest.fixture(scope="module")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with locales that not every machine has."""
    return made_once(tmp_path_factory, "locales", _make_locales)


def _make_locales(folder: Path) -> None:
    for name in _LOCALES:
        language, _, charset = name.partition(".")
        if language != "C":
            arguments = ["localedef", "-i", language, "-f", charset, str(folder / name)]
            if not shutil.which("localedef") or subprocess.run(arguments, check=False, capture_output=True).returncode:
                pytest.skip(f"NOT TESTED: {name} cannot be made here; install localedef and its charmaps")


@pytest.mark.parametrize("name", _LOCALES)
def test_any_locale_reads_utf_8_and_escapes_what_it_cannot_print(tmp_path: Path, locales: Path, name: str) -> None:
    environment = {
        variable: value for variable, value in os.environ.items() if not variable.startswith(("LC_", "LANG", "PYTHON"))
    }
    environment |= {"LOCPATH": str(locales), "LC_ALL": name, "PYTHONPATH": str(ROOT)}

    (tmp_path / "clips").mkdir()
    shutil.copy(MEDIA / "bunny.mp4", tmp_path / "clips" / "🎬ü.mp4")
    shutil.copy(MEDIA / "hopper.jpg", tmp_path / "clips" / "中.jpg")
    (tmp_path / "é.yaml").write_text("- {video: clips/🎬é.mp4, image: clips/中.jpg}\n", "utf-8")
    commands = ["init clips -o ü.yaml", "validate ü.yaml", "plan ü.yaml --provider sandbox"]
    commands += ["validate é.yaml", "validate é.yaml --format json"]
    command = [sys.executable, "-c", SEVERAL, *" ; ".join(commands).split()]
    done = subprocess.run(command, cwd=tmp_path, check=False, stdout=PIPE, stderr=STDOUT, env=environment)
    assert b"Traceback" not in done.stdout, done.stdout
    *output, end = done.stdout.decode(_LOCALES[name]).split("\0")
    assert end == ""
    texts, statuses = output[::2], list(map(int, output[1::2]))
    assert (statuses, "1 job" in texts[2]) == ([0, 0, 0, 2, 2], True), texts
    assert "🎬ü" in (tmp_path / "ü.yaml").read_text("utf-8")
    shown = "🎬é" if _LOCALES[name] == "utf-8" else "\\ud83c\\udfac"
    assert "no such file" in texts[3]
    assert shown in texts[3]
    assert "🎬é" in str(json.loads(texts[4])), "escapes are those of JSON"


@pytest.mark.parametrize(("library", "status"), [("obstore", 2), ("other", -signal.SIGABRT)])
def test_a_thread_that_is_late_does_not_change_the_exit_status(library: str, status: int) -> None:
    script = f"""
import atexit, os, sys, types
from batchrunner.__main__ import main
atexit.register(os.abort)  # runs last, as the library does while the interpreter is taken down
sys.modules["{library}"] = types.ModuleType("{library}")
sys.argv[1:] = ["validate", "missing.yaml"]
from batchrunner import cli
command = cli.main
cli.main = lambda: (atexit.register(print, "handlers run"), command())
main()
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, "handlers run" in ended.stdout) == (status, True), ended.stderr


def test_a_signal_after_the_end_of_the_command_changes_neither_output_nor_status() -> None:
    script = """
import atexit, os, signal, sys, time
from batchrunner.__main__ import main
atexit.register(time.sleep, 60)
atexit.register(os.kill, os.getpid(), signal.SIGINT)  # runs first
sys.argv[1:] = ["validate", "missing.yaml"]
main()
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)
    assert ended.returncode == 2
    assert "no such file" in ended.stderr
    assert "Traceback" not in ended.stderr
