"""Dask's scheduler and workers as real processes on the loopback interface.

Without the packages of the extra ``dask`` these tests are skipped; with ``BATCHRUNNER_DASK=required`` (CI) they fail.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.required import not_tested

LONGEST_START_S = 60


def absent(why: str) -> NoReturn:
    """Skip with a message, or fail if Dask is required."""
    not_tested("Dask", "BATCHRUNNER_DASK", why)


@pytest.fixture(scope="session", autouse=True)
def _installed() -> None:
    for name in ("distributed", "dask_jobqueue"):
        if find_spec(name) is None:
            absent(f"{name} is not installed (pip install -e '.[dask]')")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class DaskProcesses:
    """A scheduler and its workers. They get no environment but what an interpreter needs."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")
        self.workers: list[subprocess.Popen[bytes]] = []

    @property
    def spec(self) -> str:
        return f"dask://127.0.0.1:{self.port}"

    def _start(self, program: str, *arguments: str) -> "subprocess.Popen[bytes]":
        variables = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        with (self.folder / f"{program}.log").open("ab") as log:
            command = [sys.executable, "-m", f"distributed.cli.dask_{program}", *arguments]
            return subprocess.Popen(command, env=variables, stdout=log, stderr=log, cwd=self.folder)

    def add_worker(self) -> None:
        address = f"tcp://127.0.0.1:{self.port}"
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(self.folder))
        self.workers.append(self._start("worker", address, *options))

    def restart_scheduler(self) -> None:
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")

    def wait_for_workers(self, count: int) -> None:
        from distributed import Client

        with Client(f"tcp://127.0.0.1:{self.port}", timeout=LONGEST_START_S, set_as_default=False) as client:
            client.wait_for_workers(count, timeout=LONGEST_START_S)

    def kill(self, process: "subprocess.Popen[bytes]") -> None:
        process.kill()
        process.wait()

    def stop(self) -> None:
        for process in (*self.workers, self.scheduler):
            self.kill(process)


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[Any]:
    """A scheduler with two workers, for tests that kill them."""
    (folder := tmp_path / "dask").mkdir()
    processes = DaskProcesses(folder)
    try:
        processes.add_worker()
        processes.add_worker()
        processes.wait_for_workers(2)
        yield processes
    finally:
        processes.stop()
