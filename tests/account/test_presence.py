"""The lock that shows that a process runs a batch, and ends with the process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from batchrunner.account.presence import Presence, is_running

HOLD = (
    "import sys, pathlib\n"
    "from batchrunner.account.presence import Presence\n"
    "with Presence(pathlib.Path(sys.argv[1]), 'a'):\n"
    "    print('locked', flush=True)\n"
    "    sys.stdin.read()\n"
)


def test_a_batch_runs_while_the_lock_is_open(tmp_path: Path) -> None:
    assert not is_running(tmp_path, "a")
    with Presence(tmp_path, "a"):
        assert is_running(tmp_path, "a")
        assert not is_running(tmp_path, "b")
    assert not is_running(tmp_path, "a")


def test_a_killed_process_runs_nothing_any_more(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        assert is_running(tmp_path, "a")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not is_running(tmp_path, "a")


def test_a_lock_that_cannot_be_asked_counts_as_taken(tmp_path: Path) -> None:
    (tmp_path / "running").mkdir()
    (tmp_path / "running" / "a").symlink_to(tmp_path / "elsewhere")
    assert is_running(tmp_path, "a")
