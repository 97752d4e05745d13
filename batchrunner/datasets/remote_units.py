"""Units of a data set that a cluster's workers write, at paths that they share with this machine.

A worker writes a unit under a name of its own and then gives it its final name, so a task that runs twice leaves one
complete file. What a worker cannot write, this machine writes.
"""

import os
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from batchrunner.datasets.formats import MediaRefused, Unit
from batchrunner.datasets.hashing_file import HashingFile
from batchrunner.workers.engines import Workers

Written = tuple[str, int]  # SHA-256 and bytes
_Sent = tuple[Unit, bool, "Future[Written | None] | None"]


def write_unit(write: Callable[[BinaryIO], None], folder: str, target: str) -> Written | None:
    """Write a file of a data set in any process. Return its SHA-256 and size, or None if that failed.

    folder: for the growing file. target: its final name.
    """
    growing = Path(folder, uuid.uuid4().hex)
    try:
        with growing.open("xb") as file:
            sink = HashingFile(file, lambda _: None)
            write(sink)  # type: ignore[arg-type]  # a raw file that only takes bytes
            file.flush()
            os.fsync(file.fileno())
        growing.replace(target)
    except (OSError, MediaRefused):
        with suppress(OSError):
            growing.unlink(missing_ok=True)
        return None
    return sink.sha256, sink.size_bytes


def through(
    workers: Workers,
    folder: Path,
    units: Iterable[Unit],
    is_complete: Callable[[Unit], bool],
    place: Callable[[Unit], Path],
) -> Generator[tuple[Unit, bool, Written | None], None, None]:
    """Let workers write units. Yield each unit, in order, whether it was complete, and what a worker wrote or None.

    folder: for growing files. place: makes the place of a unit's file free, and returns it.
    """
    pending: deque[_Sent] = deque()
    try:
        for unit in units:
            if is_complete(unit):
                pending.append((unit, True, None))
            elif workers.remote is None or not unit.is_portable:
                pending.append((unit, False, None))
            else:
                folder.mkdir(exist_ok=True)
                arguments = (unit.write, str(folder), str(place(unit)))
                pending.append((unit, False, workers.remote.submit(write_unit, *arguments)))
            while len(pending) > (0 if workers.remote is None else 2 * workers.width):
                yield _settled(pending.popleft())
        while pending:
            yield _settled(pending.popleft())
    finally:  # after this, no worker gives a file its final name
        for _, _, future in pending:
            if future is not None:
                future.exception()


def _settled(sent: _Sent) -> tuple[Unit, bool, Written | None]:
    unit, was_complete, future = sent
    if future is None:
        return unit, was_complete, None
    found = future.result() if future.exception() is None else None
    return unit, False, found
