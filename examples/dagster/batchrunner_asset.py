"""A Dagster asset with a partition for each of four shards. A shard that stopped as planned is tried again later.

The workers need batchrunner on their path, AIMLAPI_KEY in their environment, and the folder /srv/clips, on one machine
or shared. Run it with: dagster dev -f batchrunner_asset.py
"""

import subprocess

from dagster import (
    AssetExecutionContext,
    Definitions,
    Failure,
    RetryRequested,
    RunFailureSensorContext,
    StaticPartitionsDefinition,
    asset,
    run_failure_sensor,
)

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


@asset(partitions_def=StaticPartitionsDefinition([str(number + 1) for number in range(SHARDS)]))
def clips(context: AssetExecutionContext) -> None:
    """The clips of one shard."""
    number = int(context.partition_key)
    status = run(number)
    action = action_of(status)
    if action == "retry":
        raise RetryRequested(max_retries=50, seconds_to_wait=600)
    if action == "alert":
        message = f"shard {number} ended with status {status}; see its report.html"
        raise Failure(message, allow_retries=False)


@run_failure_sensor
def alert(context: RunFailureSensorContext) -> None:
    """Tell a person. Replace it by the notifier that you use."""
    print("batchrunner needs a person:", context.failure_event.message)


defs = Definitions(assets=[clips], sensors=[alert])
