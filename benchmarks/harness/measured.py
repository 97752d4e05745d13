"""The cost of a contender's run: wall time, CPU of all its processes, memory. It uses Linux's accounting."""

import contextlib
import os
import pty
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost. wall_s, and the user and system time of the process and of all its waited-for children.

    peak_mib: of the largest single process. status: the exit status.
    """

    wall_s: float
    cpu_s: float
    peak_mib: float
    status: int


def measured(argv: list[str], cwd: Path, environment: Mapping[str, str], log: Path, *, terminal: bool = False) -> Cost:
    """Run a contender to its end. terminal: connect its output to a terminal."""
    # A state folder for this run alone: the clips of an earlier one would be delivered by copy.
    with tempfile.TemporaryDirectory() as state, _terminal() if terminal else log.open("wb") as out:
        environment = {**environment, "BATCHRUNNER_STATE": state}
        began = time.monotonic()
        process = subprocess.Popen(argv, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)  # the process is already reaped
    return Cost(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, process.returncode)


def settle() -> None:
    """Wait until files that were removed before no longer cost anything.

    ext4 does not use the inode of a removed file for a minute (RECENTCY_MIN in fs/ext4/ialloc.c), and searches past
    all of them for each new file. After the removal of some thousand files that took up to a fifth of a run's CPU.
    """
    os.sync()
    time.sleep(65)


def child_environment(**own: str) -> dict[str, str]:
    """Return the environment of a contender: the current one plus `own`, without variables that change how Python runs.

    Disabled bytecode or unbuffered output would change the measurement.
    """
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON") or name == "PYTHONPATH"}
    return plain | own


def allow_files(number: int = 8192) -> None:
    """Raise the limit of open files and sockets for this process and its children, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = number if hard == resource.RLIM_INFINITY else min(number, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


@contextlib.contextmanager
def _terminal() -> Iterator[int]:
    """Open a terminal whose output is read."""
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
