"""Contenders as processes: start, wait, and a SIGKILL for all of them. Linux only (/proc).

The processes of a contender inherit a marker in their environment. Only processes with the marker are killed, each by
its id. The first process is killed first, so it cannot record the death of its children. This is like a power failure.
"""

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

_MARKER = "PAYS_TWICE_CONTENDER"
_LOOK_S = 0.02


class Running:
    """A running contender. argv runs in `cwd` with `environment` and no other variables of the caller's shell."""

    def __init__(self, argv: list[str], cwd: Path, environment: Mapping[str, str], log: Path) -> None:
        self._marker = f"{_MARKER}={uuid.uuid4().hex}"
        name, _, value = self._marker.partition("=")
        with log.open("a") as out:
            self._process = subprocess.Popen(
                argv,
                cwd=cwd,
                env={**environment, name: value},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def ended(self) -> int | None:
        """Return its exit status, or None."""
        return self._process.poll()

    def wait(self, until: float) -> int | None:
        """Return its exit status, or None if it has not ended by `until` (monotonic, s)."""
        while (status := self.ended()) is None and time.monotonic() < until:
            time.sleep(_LOOK_S)
        return status

    def kill(self) -> None:
        """Send SIGKILL to it and all its processes until none is left."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        while marked := self._marked():
            for pid in marked:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(_LOOK_S / 10)

    def _marked(self) -> list[int]:
        wanted = self._marker.encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if wanted in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
            except OSError:  # of another user, or ended
                continue
        return found


def environment(root: Path, url: str) -> dict[str, str]:
    """Return the environment of a contender: the service, a key, and a home directory of its own."""
    home = root / "home"
    home.mkdir(exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "TMPDIR": str(home),
        "NO_PROXY": "127.0.0.1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "AIMLAPI_BASE_URL": url,
        "AIMLAPI_KEY": "sandbox",
    }
