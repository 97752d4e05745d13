"""batchrunner until its first screen is drawn: first_screen.py REPORT PARTS COMMAND...

Writes the CPU seconds of the process up to then to the file REPORT, and ends. PARTS: as for without.py.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import without


def main() -> None:
    report, sys.argv = Path(sys.argv[1]), [sys.argv[0], *sys.argv[2:]]
    from batchrunner.events import RunStarted
    from batchrunner.progress.progress import Progress

    show = Progress.__call__

    def shown(progress: Progress, event: Any) -> None:
        show(progress, event)
        if isinstance(event, RunStarted):
            report.write_text(str(time.process_time()))
            os._exit(0)

    without.put(Progress, "__call__", shown)
    without.main()


if __name__ == "__main__":
    main()
