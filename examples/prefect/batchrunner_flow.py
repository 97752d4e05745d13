"""A Prefect 3 flow that runs a batch in four shards. A shard that stopped as planned is tried again in ten minutes.

The workers need batchrunner on their path, AIMLAPI_KEY in their environment, and the folder /srv/clips, on one machine
or shared. Run it with: python batchrunner_flow.py
"""

import subprocess

from prefect import flow, task

MANIFEST, FOLDER, SHARDS = "batch.yaml", "/srv/clips", 4


class StatusError(Exception):
    """A shard that did not succeed. status: of batchrunner."""

    def __init__(self, number: int, status: int) -> None:
        super().__init__(f"shard {number} ended with status {status}; see its report.html")
        self.status = status


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


def may_retry(_task: object, _task_run: object, state: object) -> bool:
    """Return whether a failed task is tried again."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StatusError) and action_of(error.status) == "retry"


def alert(_task: object, _task_run: object, state: object) -> None:
    """Tell a person. It is called after the last try. Replace it by the notifier that you use."""
    print("batchrunner needs a person:", state.message)


@task(retries=50, retry_delay_seconds=600, retry_condition_fn=may_retry, on_failure=[alert])
def shard(number: int) -> None:
    """Run one shard."""
    status = run(number)
    if action_of(status) != "ok":
        raise StatusError(number, status)


@flow
def batchrunner() -> None:
    """Run all shards."""
    shard.map(list(range(1, SHARDS + 1))).result()


if __name__ == "__main__":
    batchrunner()
