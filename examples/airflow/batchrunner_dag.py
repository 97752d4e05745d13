"""An Airflow 3 DAG that runs a batch in four shards. A shard that stopped as planned is tried again in ten minutes.

Put the file into the folder of the DAGs. The workers need batchrunner on their path, AIMLAPI_KEY in their environment,
and the folder /srv/clips, on one machine or shared.
"""

import subprocess
from datetime import timedelta

from airflow.sdk import dag, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

MANIFEST, FOLDER, SHARDS = "batch.yaml", "/srv/clips", 4


def action_of(status: int) -> str:
    """Return what follows from an exit status of batchrunner: "ok", "retry" later, or "alert" a person.

    3: stopped as planned (deadline, budget); 4: another process has the shard. Above 128 and below 0: a signal.
    """
    if status == 0:
        return "ok"
    return "retry" if status in (3, 4) or status > 128 or status < 0 else "alert"


def run(number: int) -> int:
    """Run shard `number` of SHARDS and return the exit status. A second start continues the shard."""
    command = ["batchrunner", "run", MANIFEST, "--shard", f"{number}/{SHARDS}", "--quiet"]
    return subprocess.run(command, cwd=FOLDER, check=False).returncode


def alert(context: dict) -> None:
    """Tell a person. It is called after the last try. Replace it by the notifier that you use."""
    print("batchrunner needs a person:", context.get("exception"))


@task(retries=50, retry_delay=timedelta(minutes=10), on_failure_callback=alert)
def shard(number: int) -> None:
    """Run one shard."""
    status = run(number)
    action = action_of(status)
    if action == "retry":
        raise AirflowException(f"shard {number} ended with status {status}; it is tried again")
    if action == "alert":
        raise AirflowFailException(f"shard {number} ended with status {status}; see its report.html")


@dag(schedule=None, catchup=False)
def batchrunner() -> None:
    """Run all shards."""
    shard.expand(number=list(range(1, SHARDS + 1)))


batchrunner()
