"""The references of a batch's clips: each one is measured once, in a worker process, when a clip needs it.

`References.fields_of` returns what the decode check of a clip needs in addition. Safe to use from several threads: the
threads that wait for decoders call it. A reference that cannot be measured is unknown, and its clips are not compared.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from batchrunner.job import Job

_MOST_KEPT = 32  # signatures of 75 kB

Run = Callable[[str, Sequence[Mapping[str, Any]]], Sequence[Any]]  # `decoder_pool.Decoders.run_all`


class References:
    """Measures reference clips on demand. jobs: of the batch. run: runs a task in a worker process."""

    def __init__(self, jobs: Iterable[Job], run: Run) -> None:
        self._run = run
        self._paths: dict[str, str] = {}
        for job in jobs:
            video = next((item for item in job.inputs.values() if item.kind == "video"), None)
            if video is not None and video.path is not None:
                self._paths[job.key] = str(video.path)
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Mapping[str, Any] | None] = OrderedDict()

    def fields_of(self, key: str) -> Mapping[str, Any]:
        """Return the further fields of the task ``clip`` for the job with this key. Blocks."""
        path = self._paths.get(key)
        return {"quality": True, "reference": None if path is None else self._signature(path)}

    def _signature(self, path: str) -> Mapping[str, Any] | None:
        with self._lock:
            if path in self._known:
                self._known.move_to_end(path)
                return self._known[path]
        # Two threads may measure one reference at the same time: that costs time only.
        [outcome] = self._run("reference", [{"path": path}])
        found = outcome if isinstance(outcome, Mapping) else None
        with self._lock:
            self._known[path] = found
            while len(self._known) > _MOST_KEPT:
                self._known.popitem(last=False)
        return found
