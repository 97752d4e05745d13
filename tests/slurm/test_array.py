"""The example of an array of shards, on a real Slurm: shards are requeued and cancelled, and nothing is paid twice."""

import json
import os
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

from batchrunner.job import State
from batchrunner.journal import journal
from batchrunner.storage.run_directory import RunDir
from tests.conftest import ROOT
from tests.slurm.conftest import SLOTS, Cluster
from tests.soak.batch import Batch, make_batch
from tests.soak.processes import Service, call, wait_for

SCRIPT = ROOT / "examples" / "slurm" / "shards.sbatch"
JOBS = 16


def prepare(folder: Path, service: Service) -> Batch:
    """The folder of a user: manifest, environment, virtual environment, and the script."""
    batch = make_batch(folder, JOBS, dict(service.environment()), name="batch", concurrency=8)
    variables = {**service.environment(), "BATCHRUNNER_STATE": str(folder / "state"), "NO_COLOR": "1"}
    (folder / "batchrunner.env").write_text("".join(f"{name}='{value}'\n" for name, value in variables.items()))
    (folder / ".venv").symlink_to(sys.prefix)
    shutil.copy(SCRIPT, folder)
    return batch


def shard_of(folder: Path, number: int) -> RunDir:
    """Return the run directory of a shard."""
    return RunDir(folder / "output" / "batch" / f"shard-{number}-of-{SLOTS}")


def pid_of(folder: Path, number: int) -> int:
    """Return the process that runs a shard; 0 if none does."""
    try:
        pid = int((shard_of(folder, number).internal_dir / "lock").read_text().split()[1])
        os.kill(pid, 0)
    except (OSError, IndexError):
        return 0
    return pid


def kill_between_submissions(folder: Path, number: int) -> None:
    """Kill a shard that has begun and has no open submission: one that is cut off is in doubt, and ends it with 1."""
    pid = pid_of(folder, number)

    def killed() -> bool:
        os.kill(pid, signal.SIGSTOP)
        snapshot = journal.read(shard_of(folder, number).journal)
        states = {record.state for record in snapshot.records.values()} if snapshot is not None else set()
        is_ready = State.IN_FLIGHT in states and State.SUBMITTING not in states
        os.kill(pid, signal.SIGKILL if is_ready else signal.SIGCONT)
        return is_ready

    wait_for(killed, f"shard {number} is between two submissions", poll_s=0.05)


def reaches(cluster: Cluster, task: str, state: str) -> None:
    """Wait until a task of an array is in this state."""
    wait_for(lambda: set(cluster.states(task).values()) == {state}, f"{task} is {state}", poll_s=0.1)


def logs(folder: Path) -> str:
    return "\n".join(f"== {path.name}\n{path.read_text()}" for path in sorted(folder.glob("shard-*.log")))


def test_an_array_whose_shards_are_killed_requeued_and_cancelled_pays_for_every_job_once(
    tmp_path: Path, cluster: Cluster
) -> None:
    with Service(tmp_path, "--duration", "1s", "--capacity", "8") as service:
        folder = tmp_path / "batch"
        prepare(folder, service)
        job = cluster.call("sbatch", "--parsable", "shards.sbatch", cwd=folder)
        try:
            wait_for(lambda: len(service.accepted()) >= SLOTS and all(pid_of(folder, n) for n in (2, 3, 4)), "a start")
            kill_between_submissions(folder, 2)
            reaches(cluster, f"{job}_1", "FAILED")
            for task in (1, 2):  # a task that has failed, and one that runs
                cluster.call("scontrol", "requeue", f"{job}_{task}")
                reaches(cluster, f"{job}_{task}", "PENDING")
                # Not two minutes later. In the same second, Slurm would refuse the task: its credential was revoked.
                cluster.call("scontrol", "update", f"JobId={job}_{task}", "StartTime=now+2")
            cluster.call("scancel", f"{job}_3")
            reaches(cluster, f"{job}_3", "CANCELLED")
            again = ("sbatch", "--parsable", "--array=3", "--export=ALL,SHARD=4/4", "shards.sbatch")
            last = cluster.call(*again, cwd=folder)
            wait_for(lambda: cluster.call("squeue", "-h") == "", "the end of the array", poll_s=0.2)
            states = cluster.states(job)
            assert states == dict.fromkeys("012", "COMPLETED") | {"3": "CANCELLED"}
            assert cluster.states(last) == {"3": "COMPLETED"}
        except (AssertionError, TimeoutError) as error:
            raise AssertionError(f"{error}\n{logs(folder)}\n{cluster.logs()}") from error
        finally:
            cluster.call("scancel", "--user", os.environ.get("USER", "root"))
        paid = Counter(event["fingerprint"] for event in service.accepted())
        assert len(paid) == JOBS
        assert set(paid.values()) == {1}
        output = folder / "output" / "batch"
        merged = call("report", "--merge", output, output, cwd=folder)
        assert merged.returncode == 0, merged.stderr
        report = json.loads((output / "report.json").read_bytes())
        assert {job["state"] for job in report["jobs"]} == {"succeeded"}
        assert len(report["jobs"]) == report["totals"]["generations"] == JOBS
