"""A process that claims jobs of one account as fast as it can, and prints what it got: for tests with real processes.

Arguments: the state folder, the run directory, the number of jobs, the account's slots.
"""

import asyncio
import sys
from pathlib import Path

from batchrunner.account.base import Granted
from batchrunner.account.limits import Limits
from tests.account.batches import Process, jobs


async def main(state: Path, directory: Path, count: int, slots: int) -> None:
    process = await Process(state, directory, jobs(count), Limits(concurrency=slots)).start()
    sys.stdout.write("started\n")
    sys.stdout.flush()
    sys.stdin.readline()
    for job in process.jobs:
        if isinstance(await process.submit(job, f"gen-{directory.name}-{job.key}"), Granted):
            sys.stdout.write(f"{job.key}\n")
            sys.stdout.flush()
    sys.stdin.readline()
    process.die()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
