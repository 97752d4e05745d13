"""Dask's workers as Slurm jobs, without Slurm: a stand-in for ``sbatch`` keeps the script."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchrunner.errors import UsageError
from batchrunner.workers.engines import open_workers
from batchrunner.workers.spec import parse
from tests.soak.processes import wait_for

KEY = "sk-test-key-that-must-not-travel-4713"
SBATCH = """#!/bin/sh
cp "$1" "{folder}/script.part" && mv "{folder}/script.part" "{folder}/script"
echo Submitted batch job 7
"""
# It starts the workers, prints the process id of the scheduler, and waits to be killed.
PROGRAM = """
import sys
from pathlib import Path
from batchrunner.workers.dask_cluster import start_slurm
jobs = start_slurm(1)
scheduler = jobs._client.cluster.scheduler.process.pid
print(scheduler, flush=True)
sys.stdin.read()
"""


def test_without_slurm_the_command_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(UsageError, match="there is no sbatch here") as caught, open_workers(parse("slurm:2")):
        pass
    assert "Nothing was submitted" in caught.value.hint


def test_neither_jobs_nor_the_scheduler_inherit_the_key_and_both_end_with_the_run(tmp_path: Path) -> None:
    (sbatch := tmp_path / "sbatch").write_text(SBATCH.format(folder=tmp_path))
    sbatch.chmod(0o755)
    variables = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "AIMLAPI_KEY": KEY, "HOME": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=variables, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as run:
        assert run.stdout is not None
        scheduler = Path("/proc", run.stdout.readline().decode().strip())
        wait_for((tmp_path / "script").exists, "a job")
        if sys.platform == "linux":
            assert KEY.encode() not in (scheduler / "environ").read_bytes()
        run.kill()
    if sys.platform == "linux":
        wait_for(lambda: not scheduler.exists(), "the end of the scheduler")
    script = (tmp_path / "script").read_text()
    [exported] = [line.partition("=")[2] for line in script.splitlines() if line.startswith("#SBATCH --export=")]
    assert set(exported.split(",")) >= {"PATH", "HOME"}
    assert "KEY" not in exported
    assert KEY not in script
    assert f"{sys.executable} -m distributed.cli.dask_worker tcp://" in script
    assert "--death-timeout 60" in script, "a job without its scheduler ends"
