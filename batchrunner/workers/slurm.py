"""Dask workers as Slurm jobs, by dask-jobqueue, and a scheduler for them on this host.

Neither inherits this process's environment: jobs get the variables of `PASSED_ON` that are set, and the scheduler runs
in a process of its own with the same ones. Whoever reaches a Dask scheduler can run code in it, so it has no key.
"""

import asyncio
import json
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from batchrunner.clock import LoopClock
from batchrunner.errors import UsageError

PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
_DEFAULTS = {"cores": 2, "memory": "6 GiB"}  # for a configuration that has none
# It ends with this process, which holds its standard input.
_SCHEDULER = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(1)), daemon=True).start()
from distributed.cli.dask_spec import main
main(["--spec", sys.argv[1]])
"""
_CONFIGURATION = "Dask's configuration (jobqueue.slurm in ~/.config/dask/jobqueue.yaml)"


def clean_environment() -> dict[str, str]:
    """Return the variables for other processes, without secrets."""
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ}


def new_cluster(**overrides: Any) -> Any:
    """Return a `SLURMCluster` without workers. Dask's configuration has its queue, cores, memory and time.

    overrides: of its arguments. Raises UsageError if the configuration cannot be used.
    """
    import dask
    import dask_jobqueue

    found = dask.config.get("jobqueue.slurm", {})
    lacking = {name: value for name, value in _DEFAULTS.items() if not found.get(name)}
    exported = ",".join(clean_environment()) or "NONE"
    directives = [*(found.get("job-extra-directives") or ()), f"--export={exported}"]
    try:
        return dask_jobqueue.SLURMCluster(
            **{**lacking, "python": found.get("python") or sys.executable, **overrides},
            job_extra_directives=directives,
            scheduler_cls=_scheduler_class(),
        )
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"--workers slurm: {error}", f"Nothing was submitted. Correct {_CONFIGURATION}.") from None


def _scheduler_class() -> Any:
    """Return the class of the scheduler: a process without this process's environment."""
    from distributed.deploy.subprocess import Subprocess

    class CleanScheduler(Subprocess):  # type: ignore[misc]  # the library has no types
        """A scheduler in a process of its own. options: of `distributed.Scheduler`."""

        def __init__(self, **options: Any) -> None:
            folder = Path(tempfile.mkdtemp(prefix="batchrunner-dask-"))
            self._file = folder / "scheduler.json"
            plain = {name: value for name, value in options.items() if value is not None}
            self._options = {**plain, "scheduler_file": str(self._file), "dashboard": False}
            super().__init__()

        async def _start(self) -> None:
            options = json.dumps({"cls": "distributed.Scheduler", "opts": self._options})
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _SCHEDULER, options),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env=clean_environment(),
                start_new_session=True,
            )
            self.address = await self._address()

        async def _address(self) -> str:
            for _ in range(300):
                with suppress(OSError, ValueError):
                    return str(json.loads(self._file.read_text("utf-8"))["address"])
                if self.process.returncode is not None:
                    break
                await LoopClock().sleep(0.1)
            raise RuntimeError("the Dask scheduler does not start")

        async def close(self) -> None:
            await super().close()
            with suppress(OSError):
                self._file.unlink(missing_ok=True)
                self._file.parent.rmdir()

    return CleanScheduler
