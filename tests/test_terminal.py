"""The command on a pseudo-terminal at several sizes, while it is resized, and after Ctrl-C.

pyte emulates the terminal. The runs are rehearsals. Some have long generations and end by Ctrl-C; the others take no
time.
"""

import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyte
import pytest

from tests.conftest import MEDIA, ROOT
from tests.soak.processes import fork_on_terminal

PATIENCE_S = 60
SLOW = "service: {duration: 20h, spread: 0, render: tiny, capacity: 4}\n"
QUICK = "service: {duration: 10s, spread: 0, render: tiny, capacity: 4}\n"


class Terminal:
    """A command on a terminal of the given columns and lines. forked: if possible (`tests.soak.forks`)."""

    def __init__(
        self, folder: Path, columns: int, lines: int, *arguments: str, forked: bool = True, **environment: str
    ) -> None:
        self.screen: Any = pyte.Screen(columns, lines)
        self._stream: Any = pyte.ByteStream(self.screen)
        self.raw = b""
        self._master, self._slave = os.openpty()
        self._set_size(columns, lines)
        foreign = ("BATCHRUNNER_", "NO_", "FORCE_", "COLUMNS", "LINES")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        clean |= {"TERM": "xterm-256color", **environment}
        started = fork_on_terminal(self._slave, arguments, folder, clean) if forked else None
        self.process = started or self._executed(arguments, folder, clean)

    def _executed(self, arguments: tuple[str, ...], folder: Path, clean: dict[str, str]) -> subprocess.Popen[bytes]:
        ours = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"  # so that Ctrl-C is a signal
        ours += "\nimport signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # ignored in the background
        code = f"{ours}\nfrom batchrunner.cli import main; main()"
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            cwd=folder,
            env={**clean, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        for descriptor in (self._master, self._slave):
            os.close(descriptor)

    @property
    def shown(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display]

    def until(self, seen: Callable[[list[str]], bool]) -> list[str]:
        """Read until `seen` returns true for the screen."""
        while not seen(self.shown):
            ready, _, _ = select.select([self._master], [], [], PATIENCE_S)
            assert ready, self.shown
            self._take()
        return self.shown

    def end(self) -> int:
        """Read to the end and return the exit status."""
        while self.process.poll() is None:
            if select.select([self._master], [], [], 0.05)[0]:
                self._take()
        while select.select([self._master], [], [], 0)[0]:
            self._take()
        return self.process.wait()

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def resize(self, columns: int, lines: int) -> None:
        self._set_size(columns, lines)
        self.screen.resize(lines, columns)
        # When a terminal is resized, it wraps old output in its own way, so that no position stays the same.
        self._stream.feed(b"\x1b[H" + b"stale\r\n" * (lines - 1))

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _take(self) -> None:
        read = os.read(self._master, 65536)
        self.raw += read
        self._stream.feed(read)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    jobs = "".join(
        f"  - {{id: hero-{n}, video: {MEDIA}/bunny.mp4, image: {MEDIA}/hopper.jpg, num_inference_steps: {n + 1}}}\n"
        for n in range(6)
    )
    (tmp_path / "night.yaml").write_text(f"name: night\nprovider: sandbox\npoll_interval: 30s\njobs:\n{jobs}")
    (tmp_path / "slow.yaml").write_text(SLOW)
    (tmp_path / "quick.yaml").write_text(QUICK)
    return tmp_path


def run(faults: str, *more: str) -> tuple[str, ...]:
    return ("run", "night.yaml", "--fast", "--faults", faults, *more)


def generating(shown: list[str]) -> bool:
    return any("4 in flight, 2 waiting" in line for line in shown) and any("generating" in line for line in shown)


@pytest.mark.parametrize(("columns", "lines"), [(120, 40), (80, 24), (40, 15)])
def test_the_screen_fits_every_size_and_ctrl_c_ends_the_run(folder: Path, columns: int, lines: int) -> None:
    with Terminal(folder, columns, lines, *run("slow.yaml")) as terminal:
        shown = terminal.until(generating)
        assert shown[0].startswith("night on sandbox")
        assert shown[1].endswith(" 0 of 6")
        assert [line.split()[0] for line in shown[2:6]] == ["jobs", "finish", "cost", "service"]
        assert sum("hero-" in line and "generating" in line for line in shown) >= 1
        assert terminal.screen.cursor.hidden
        terminal.press(b"\x03")
        assert terminal.end() == 130
        assert not terminal.screen.cursor.hidden
        left = terminal.shown
        assert not any(line.startswith(("jobs ", "finish ")) for line in left), "the screen is removed at the end"
        assert any(line.startswith("continue") for line in left)
        assert any("report" in line for line in left)


def test_the_screen_follows_the_window(folder: Path) -> None:
    with Terminal(folder, 100, 30, *run("slow.yaml")) as terminal:
        terminal.until(generating)
        for columns, lines in ((40, 15), (120, 40), (60, 10), (30, 5)):
            terminal.resize(columns, lines)
            bar = re.compile(rf"^[╍─]{{{columns - 7}}} 0 of 6$")
            shown = terminal.until(lambda seen, bar=bar: len(seen) > 1 and bool(bar.match(seen[1])))  # type: ignore[misc]  # a default
            assert shown[0].startswith("night on sandbox")
            assert not any("stale" in line for line in shown), "nothing is left of earlier frames"
        terminal.press(b"\x03")
        assert terminal.end() == 130


def test_the_final_lines_stay_on_the_terminal(folder: Path) -> None:
    with Terminal(folder, 100, 30, *run("quick.yaml"), forked=False) as terminal:
        assert terminal.end() == 0, terminal.shown
        assert terminal.shown[0].startswith("✓ night (sandbox): 6 of 6 jobs succeeded")
        assert any(line.startswith("report ") and line.endswith("report.html") for line in terminal.shown)
        assert b"\x1b[?1049h" not in terminal.raw, "earlier output is still on the terminal"


def test_no_color_sends_no_colour(folder: Path) -> None:
    with Terminal(folder, 80, 24, *run("quick.yaml"), NO_COLOR="1") as terminal:
        assert terminal.end() == 0
        assert not re.search(rb"\x1b\[[0-9;]*3[0-9]m", terminal.raw)
        assert "━" in terminal.raw.decode()


def test_a_dumb_terminal_gets_lines(folder: Path) -> None:
    with Terminal(folder, 80, 24, *run("quick.yaml"), TERM="dumb") as terminal:
        assert terminal.end() == 0
        assert b"\x1b" not in terminal.raw
        assert terminal.raw.count(b": accepted: ") == 6


def test_status_watches_another_processs_run(folder: Path) -> None:
    with Terminal(folder, 100, 30, *run("slow.yaml")) as terminal:
        terminal.until(generating)
        with Terminal(folder, 60, 20, "status", "output/night", "--watch") as watcher:
            shown = watcher.until(lambda seen: any("generating" in line for line in seen))
            assert shown[0].startswith("night on sandbox")
            watcher.press(b"\x03")
            assert watcher.end() == 130
            assert b"Traceback" not in watcher.raw
            assert not watcher.screen.cursor.hidden
        with Terminal(folder, 60, 20, "status", "output/night", "--watch") as watcher:
            watcher.until(lambda seen: any("generating" in line for line in seen))
            terminal.press(b"\x03")
            assert terminal.end() == 130
            assert watcher.end() == 0
            assert any(line.startswith("continue") for line in watcher.shown)
