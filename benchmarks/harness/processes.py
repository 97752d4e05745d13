"""Contenders as processes: start, wait, and the SIGKILL that takes all of them at once. Linux only (/proc).

Everything a contender starts inherits a marker in its environment; only processes that carry it are ever killed, each
by its id. The first process dies first, so that none can note the death of its children: as in a power cut.
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
    """A contender under way. argv runs in `cwd`, with `environment` and no other settings of the caller's shell."""

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
        """Its exit status, or None."""
        return self._process.poll()

    def wait(self, until: float) -> int | None:
        """Its exit status, or None where it has not ended by `until` (monotonic, s)."""
        while (status := self.ended()) is None and time.monotonic() < until:
            time.sleep(_LOOK_S)
        return status

    def kill(self) -> None:
        """SIGKILL it and everything it started, until nothing is left."""
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
            except OSError:  # another user's, or gone
                continue
        return found


def environment(root: Path, url: str) -> dict[str, str]:
    """What a contender sees: the service, a key, and a home of its own, so that nothing is written elsewhere."""
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
