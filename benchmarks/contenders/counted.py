"""Count the calls of a Python program per file and thread: counted.py COUNTS SCRIPT ARGUMENTS...

COUNTS: the file to write, as JSON: thread, file and number. A call of a function that is not written in Python counts
for the file that calls it. The counts have no noise, other than the order in which tasks and threads run.
"""

import atexit
import collections
import json
import runpy
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

Counts = collections.Counter[str]
counts: dict[str, Counts] = collections.defaultdict(collections.Counter)


def count_thread(frame: FrameType, event: str, _: Any) -> None:
    """Start to count in a thread: its first event."""
    here = counts[threading.current_thread().name.rstrip("0123456789_")]

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event in ("call", "c_call"):
            here[frame.f_code.co_filename] += 1

    sys.setprofile(count)
    count(frame, event, _)


def main() -> None:
    target = Path(sys.argv[1]).absolute()
    sys.argv = sys.argv[2:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    atexit.register(lambda: target.write_text(json.dumps(counts)))
    threading.setprofile(count_thread)
    sys.setprofile(count_thread)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
