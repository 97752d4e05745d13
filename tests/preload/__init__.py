"""A C library that is loaded before the system's: it records a process's file operations and makes some fail.

`built` compiles it; `Faults` switches faults on and off while processes run. Linux only.
"""

import errno
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from enum import IntFlag
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

SOURCE = Path(__file__).with_name("preload.c")


class Calls(IntFlag):
    """The operations that fail, as in preload.c."""

    WRITE = 1
    FLUSH = 2
    READ = 4
    NAME = 8
    ALL = WRITE | FLUSH | READ | NAME


def available() -> str:
    """Return why the library cannot be used here; "" if it can."""
    if not sys.platform.startswith("linux"):
        return "only Linux loads a library before the system's"
    return "" if shutil.which("cc") else "there is no C compiler (Debian: apt-get install gcc libc6-dev)"


needed = pytest.mark.skipif(bool(available()), reason=f"NOT TESTED: {available()}")


@cache
def built() -> Path:
    """Return the compiled library. It is kept beside the interpreter's other caches, named by its source's hash."""
    import hashlib
    import tempfile

    name = f"batchrunner-preload-{os.getuid()}-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}.so"
    library = Path(tempfile.gettempdir()) / name
    if not library.exists():
        new = library.with_suffix(f".{os.getpid()}")
        command = ["cc", "-O1", "-Wall", "-shared", "-fPIC", "-o", str(new), str(SOURCE), "-ldl", "-lpthread"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        new.replace(library)
    return library


def environment(root: Path, *, log: Path | None = None, faults: "Faults | None" = None) -> dict[str, str]:
    """Return the environment that makes a process use it. root: an existing folder. log: the file to record in."""
    more = {"LD_PRELOAD": str(built()), "PRELOAD_ROOT": str(root)}
    if log is not None:
        more["PRELOAD_LOG"] = str(log)
    if faults is not None:
        more["PRELOAD_FAULT"] = str(faults.path)
    return more


class Faults:
    """A switch of faults for all processes that have it. A context manager; `set` and `clear` work at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clear()

    def set(self, calls: Calls, error: int = errno.EIO, rate: float = 1.0) -> None:
        """Make such calls fail with `error` from now on. rate: the share of them, 0 to 1."""
        self._write(bytes([calls, error, round(255 * rate)]))

    def clear(self) -> None:
        """Make nothing fail from now on."""
        self._write(bytes(3))

    def _write(self, state: bytes) -> None:
        with suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with self.path.open("r+b") as file:  # in place: the processes read these same bytes
            file.write(state.ljust(8, b"\0"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()
