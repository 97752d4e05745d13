"""The setting `workers`: which engine runs the work on clips. Pure.

``threads[:N]``, ``processes[:N]``, ``dask://HOST:PORT`` or ``slurm[:N]``.
"""

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

Engine = Literal["threads", "processes", "dask", "slurm"]
THREADS: Engine = "threads"
PROCESSES: Engine = "processes"
DASK: Engine = "dask"
SLURM: Engine = "slurm"
DEFAULT = PROCESSES
FORMS = "threads, processes, dask://HOST:PORT or slurm; :N after the first two and slurm is their number"
MOST = 1024
_COUNTED = re.compile(r"(?P<engine>threads|processes|slurm)(:(?P<count>[0-9]{1,9}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """A parsed setting. count: of threads, processes or Slurm jobs, or None. address: of Dask's scheduler, or ""."""

    engine: Engine
    count: int | None = None
    address: str = ""

    @property
    def is_remote(self) -> bool:
        """Whether the workers are other machines' processes, or may be."""
        return self.engine in {DASK, SLURM}


def parse(text: str) -> WorkerSpec:
    """Parse the setting. Raises ValueError."""
    if text.startswith(f"{DASK}:") or text == DASK:
        return WorkerSpec(DASK, address=_address(text))
    found = _COUNTED.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} names no engine")
    count = None if found["count"] is None else int(found["count"])
    if count is not None and not 1 <= count <= MOST:
        raise ValueError(f"{text!r} has a number that is not from 1 to {MOST:,}")
    engines: dict[str, Engine] = {"threads": THREADS, "processes": PROCESSES, "slurm": SLURM}
    return WorkerSpec(engines[found["engine"]], count)


def _address(text: str) -> str:
    """Return ``tcp://HOST:PORT`` of a scheduler. Raises ValueError."""
    wrong = ValueError(f"{text!r} is not dask://HOST:PORT, such as dask://10.0.0.5:8786")
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise wrong from None
    if not url.hostname or port is None or not port or url.username is not None or url.path.strip("/") or url.query:
        raise wrong
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return f"tcp://{host}:{port}"
