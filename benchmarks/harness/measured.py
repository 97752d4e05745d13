"""What a contender's run costs: wall time, CPU of all its processes, memory. Linux's own accounting of ended children."""

import os
import subprocess
import time
from collections.abc import Mapping
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


def measured(argv: list[str], cwd: Path, environment: Mapping[str, str], log: Path) -> Cost:
    """Run a contender to its end."""
    with log.open("w") as out:
        began = time.monotonic()
        process = subprocess.Popen(argv, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)  # it is reaped: nobody else need wait for it
    return Cost(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, process.returncode)
