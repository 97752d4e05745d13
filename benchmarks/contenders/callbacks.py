"""batchrunner, with its event loop watched: callbacks.py REPORT PARTS COMMAND...

Writes the longest callback of each phase of a run to the file REPORT, as JSON: its CPU time and its wall time in ms.
The phases are the opening (until the engine runs), the run, and the end. PARTS: as for without.py.
"""

import asyncio
import atexit
import json
import sys
import time
from pathlib import Path
from typing import Any

import without

PHASES = ("opening", "run", "end")


class Watch:
    """The longest callbacks so far. A callback belongs to the phase in which it begins."""

    def __init__(self) -> None:
        self.phase = PHASES[0]
        self.longest = dict.fromkeys(PHASES, (0.0, 0.0))

    def wrapped(self, run_callback: Any) -> Any:
        """Return `asyncio.Handle._run`, timed."""

        def timed(handle: Any) -> None:
            phase, began_s, cpu_s = self.phase, time.perf_counter(), time.thread_time()
            try:
                run_callback(handle)
            finally:
                took = 1000 * (time.thread_time() - cpu_s), 1000 * (time.perf_counter() - began_s)
                self.longest[phase] = max(self.longest[phase], took)

        return timed

    def driven(self, run_engine: Any) -> Any:
        """Return `Engine.run`, which changes the phase."""

        async def run(*arguments: Any) -> None:
            self.phase = "run"
            try:
                await run_engine(*arguments)
            finally:
                self.phase = "end"

        return run


def main() -> None:
    report, sys.argv = Path(sys.argv[1]), [sys.argv[0], *sys.argv[2:]]
    from batchrunner.engine.loop import Engine

    watch = Watch()
    without.put(asyncio.Handle, "_run", watch.wrapped(asyncio.Handle._run))  # noqa: SLF001 (there is no public name)
    without.put(Engine, "run", watch.driven(Engine.run))
    atexit.register(lambda: report.write_text(json.dumps(watch.longest)))
    without.main()


if __name__ == "__main__":
    main()
