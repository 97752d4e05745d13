"""A real Slurm on the loopback interface: munged, slurmctld, and one slurmd with four slots, as the user of the tests.

These tests take half a minute, and run only with ``BATCHRUNNER_SLURM=required`` (CI). Without Slurm they fail then.
"""

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.soak.processes import environment, wait_for

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue", "sinfo")
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
SLOTS = 4
CONFIG = """\
ClusterName=loopback
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0
SlurmdParameters=config_overrides
KillWait=20
NodeName=node NodeHostname=localhost NodeAddr=127.0.0.1 CPUs={slots} State=UNKNOWN
PartitionName=all Nodes=node Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Cluster:
    """A running Slurm. folder: its configuration and logs."""

    folder: Path

    def call(self, *arguments: str, cwd: Path | None = None) -> str:
        """Run one of Slurm's commands and return its output."""
        done = subprocess.run(
            arguments, cwd=cwd, env=self.environment(), capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def environment(self) -> dict[str, str]:
        return environment(SLURM_CONF=str(self.folder / "slurm.conf"), PATH=f"{os.environ['PATH']}:{_SBIN}")

    def states(self, job: str) -> dict[str, str]:
        """Return the states of an array's tasks by their number."""
        lines = self.call("scontrol", "show", "job", "-o", job).splitlines()
        fields = [dict(field.partition("=")[::2] for field in line.split()) for line in lines]
        return {line["ArrayTaskId"]: line["JobState"] for line in fields}

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()}" for path in sorted(self.folder.glob("slurm*d.log")))


def _start(stack: ExitStack, folder: Path, *arguments: str) -> None:
    with (folder / f"{arguments[0]}.out.log").open("wb") as log:
        process = subprocess.Popen(
            arguments,
            env=Cluster(folder).environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    def end() -> None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(end)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if os.environ.get("BATCHRUNNER_SLURM") != "required":
        pytest.skip("NOT TESTED, Slurm: BATCHRUNNER_SLURM is not set")
    path = f"{os.environ['PATH']}:{_SBIN}"
    if missing := [name for name in PROGRAMS if shutil.which(name, path=path) is None]:
        pytest.fail(f"{', '.join(missing)} not found (Debian: apt-get install slurmctld slurmd slurm-client munge)")
    with ExitStack() as stack:
        # Paths of sockets are short, and munge wants folders that nobody else can write to.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", dir="/var/tmp")))
        folder.chmod(0o755)
        for name in ("munge", "state", "spool"):
            (folder / name).mkdir(mode=0o755)
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o600)
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        ports = [item.getsockname()[1] for item in sockets]
        for item in sockets:
            item.close()
        config = CONFIG.format(ports=ports, user=getpass.getuser(), folder=folder, slots=SLOTS)
        (folder / "slurm.conf").write_text(config)
        munge = [f"--{name}={folder}/munge/{name.partition('-')[0]}" for name in ("socket", "pid-file", "log-file")]
        key = [f"--key-file={folder}/munge.key", f"--seed-file={folder}/munge/seed"]
        _start(stack, folder, "munged", "--force", "--foreground", "--num-threads=2", *munge, *key)
        wait_for((folder / "munge" / "socket").exists, "munged")
        started = Cluster(folder)
        _start(stack, folder, "slurmctld", "-D", "-f", f"{folder}/slurm.conf")
        _start(stack, folder, "slurmd", "-D", "-N", "node", "-f", f"{folder}/slurm.conf")
        try:
            wait_for(lambda: _is_idle(started), "slurmd")
        except TimeoutError:
            pytest.fail(started.logs())
        yield started


def _is_idle(cluster: Cluster) -> bool:
    try:
        return cluster.call("sinfo", "-h", "-o", "%t") == "idle"
    except AssertionError:  # the controller is not up yet
        return False
