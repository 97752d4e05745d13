"""What a contender's run costs: wall time, CPU of all its processes, memory. Linux's own accounting."""

import contextlib
import os
import pty
import resource
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cost:
    """wall_s, and user and system time of the process with all that it started and waited for.

    peak_mib: of the largest single process among them. status: the exit status.
    """

    wall_s: float
    cpu_s: float
    peak_mib: float
    status: int


def measured(argv: list[str], cwd: Path, environment: Mapping[str, str], log: Path, *, terminal: bool = False) -> Cost:
    """Run a contender to its end. terminal: its output goes to one."""
    with _terminal() if terminal else log.open("wb") as out:
        began = time.monotonic()
        process = subprocess.Popen(argv, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)  # it is reaped: nobody else need wait for it
    return Cost(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, process.returncode)


def child_environment(**own: str) -> dict[str, str]:
    """The environment of a contender: this one with `own`, but for what changes how Python runs.

    Where bytecode is not kept, or every line is written by itself, that would be measured too.
    """
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON") or name == "PYTHONPATH"}
    return plain | own


def allow_files(number: int = 8192) -> None:
    """Let this process and all that it starts have so many files and sockets open, as far as the system does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = number if hard == resource.RLIM_INFINITY else min(number, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


@contextlib.contextmanager
def _terminal() -> Iterator[int]:
    """A terminal that somebody looks at."""
    ours, theirs = pty.openpty()
    reader = threading.Thread(target=_read_away, args=(ours,))
    reader.start()
    try:
        yield theirs
    finally:
        os.close(theirs)
        reader.join()
        os.close(ours)


def _read_away(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # the other side is closed
        while os.read(descriptor, 65536):
            pass
