"""The two programs as processes: `Service`, the sandbox, and `command`, the batchrunner of this environment."""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from tests.soak import forks

DEADLINE_S = 120.0  # for operations that take seconds; only a failing test waits so long
_ANSWER_S = 10.0
_STARTING = threading.Lock()  # two lanes would start two servers of forked runs


def command() -> list[str]:
    """Return the installed command: the script beside this interpreter, or its entry point without a script."""
    script = Path(sys.executable).with_name("batchrunner")
    return [str(script)] if script.exists() else [sys.executable, "-c", "from batchrunner.cli import main; main()"]


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without batchrunner's variables, and with `more`.

    Bytecode is kept, as for a user: hundreds of starts that compile the package again would measure the compiler.
    SSL_CERT_FILE is omitted, because loading a system's authorities takes a fifth of the CPU time of a short run.
    """
    foreign = ("BATCHRUNNER_", "AIMLAPI_", "AIML_", "PYTHONDONTWRITEBYTECODE", "SSL_CERT_FILE")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**plain, "NO_COLOR": "1", **more}


def call(*arguments: str | Path, cwd: Path, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run the command to its end, forked where that is possible (`Command`). more: further environment."""
    variables = environment(**more)
    server = _server_for(variables)
    if not server:
        return execute(*arguments, cwd=cwd, **more)
    argv = [*command(), *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = server.start(argv, cwd, variables, output.fileno(), errors.fileno())
        try:
            status = process.wait(DEADLINE_S)
        finally:
            process.kill()
        for file in (output, errors):
            file.seek(0)
        return subprocess.CompletedProcess(argv, status, output.read(), errors.read())


def fork_on_terminal(
    terminal: int, arguments: Sequence[str], cwd: Path, variables: Mapping[str, str]
) -> forks.ForkedProcess | None:
    """Start the command, forked, on a terminal; return None where it has to be executed. variables: its environment."""
    server = _server_for(variables)
    return server.start([*command(), *arguments], cwd, variables, terminal, terminal) if server else None


def execute(*arguments: str | Path, cwd: Path, **more: str) -> "subprocess.CompletedProcess[str]":
    """Execute the command to its end. more: further environment."""
    return subprocess.run(
        [*command(), *map(str, arguments)],
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def wait_for(condition: Callable[[], Any], what: str, *, poll_s: float = 0.02) -> Any:
    """Poll until `condition()` is true, and return its value.

    On time-out raise TimeoutError with the condition's name.
    """
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(poll_s)
    raise TimeoutError(f"{what}: not within {DEADLINE_S:.0f} s")


def _server_for(variables: Mapping[str, str]) -> forks.Forks | None:
    """Return the server of forked runs whose interpreter starts like that of a run with these variables, or None."""
    with _STARTING:
        server = _server(variables.get("LD_PRELOAD"))
    return server if server and server.can_start(variables) else None


@cache
def _server(preload: str | None) -> forks.Forks | None:
    """Return the server of forked runs, or None where runs have to be executed. preload: a library to start it with."""
    if not forks.available() or Path(command()[0]).name != "batchrunner":
        return None
    server = forks.Forks(environment(**({"LD_PRELOAD": preload} if preload else {})))
    atexit.register(server.close)
    return server


def _hears_interrupts() -> None:
    """Restore SIGINT, which a background shell ignores for the tests and for the processes that they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Command:
    """A run of the command that can be signalled. A context manager that kills the run at the end.

    Its output is appended to `log`, so that no pipe can fill up. forked: it is a fork of a process that has loaded the
    package (`tests.soak.forks`), where the system and its environment allow that. Otherwise it is executed.
    """

    def __init__(self, arguments: list[str | Path], cwd: Path, log: Path, *, forked: bool = False, **more: str) -> None:
        self._log: IO[bytes] = log.open("ab")
        self.log = log
        self._from = log.stat().st_size
        self.process: subprocess.Popen[bytes] | forks.ForkedProcess
        argv = [*command(), *map(str, arguments)]
        server = _server_for(environment(**more)) if forked else None
        if server:
            self.process = server.start(argv, cwd, environment(**more), *[self._log.fileno()] * 2)
            return
        try:
            self.process = subprocess.Popen(
                argv,
                cwd=cwd,
                env=environment(**more),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                preexec_fn=_hears_interrupts,  # noqa: PLW1509 (no threads here that could hold a lock)
                start_new_session=True,  # a Ctrl-C at the terminal is for the test, which ends its processes
            )
        except OSError:
            self._log.close()
            raise

    @property
    def output(self) -> str:
        """Return the output of this run so far."""
        return self.log.read_bytes()[self._from :].decode()

    def ended_within(self, seconds: float) -> bool:
        """Wait for its end at most this long; return whether it has ended."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self, deadline_s: float = DEADLINE_S) -> int:
        """Wait for its end and return its status."""
        return self.process.wait(deadline_s)

    def says(self, text: str) -> None:
        """Wait until it has printed `text`. Raise if it ends before that."""

        def said() -> bool:
            ended = self.process.poll() is not None
            if text in self.output:
                return True
            assert not ended, f"ended without printing {text!r}: {self.output}"
            return False

        wait_for(said, f"the command says {text!r}")

    def signal_group(self, number: signal.Signals) -> None:
        """Signal it and all its children, as a terminal does for Ctrl-C."""
        os.killpg(self.process.pid, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._log.close()


def plain_clips(folder: Path) -> tuple[str, str]:
    """Return an option for a service whose clips are plain, all with different bytes: that takes a tenth of the CPU."""
    faults = folder / "plain-clips.yaml"
    faults.write_text("service: {render: tiny}\n")
    return "--faults", str(faults)


class Service:
    """A sandbox process with a state directory that can be killed and started again at the same address."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        self._folder = folder
        self._options = options
        self._environment = environment
        self._process: Command | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and return when it listens."""
        state = self._folder / "service"
        arguments: list[str | Path] = ["sandbox", "--port", str(self.port), "--state", state, *self._options]
        log = self._folder / "service.log"
        self._process = Command(arguments, self._folder, log, forked=True, **self._environment)
        self._process.says("its ledger")
        line = next(line for line in self._process.output.splitlines() if "listening on" in line)
        self.port = int(line.rpartition(":")[2])

    def kill(self) -> None:
        """Send SIGKILL."""
        assert self._process is not None
        self._process.process.kill()
        self._process.__exit__(None, None, None)
        self._process = None

    def ledger(self) -> list[dict[str, Any]]:
        """Return every event so far, from the service's ledger."""
        with urllib.request.urlopen(f"{self.url}/sandbox/ledger", timeout=_ANSWER_S) as reply:
            return [json.loads(line) for line in reply.read().splitlines()]

    def accepted(self) -> list[dict[str, Any]]:
        """Return the ids of paid generations."""
        return [event for event in self.ledger() if event["event"] == "accepted"]

    def environment(self) -> Mapping[str, str]:
        """Return the environment of a run that uses it."""
        folders = {"XDG_STATE_HOME": str(self._folder / "state"), "XDG_CONFIG_HOME": str(self._folder / "config")}
        return {"AIMLAPI_BASE_URL": self.url, "AIMLAPI_KEY": "soak", **folders}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.kill()
