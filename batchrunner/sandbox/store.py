"""The state that a sandbox keeps across restarts: ledger, inputs, results. Plain blocking files.

A line is written to the operating system before its event is answered, so a killed process loses nothing that it
accepted. A torn last line was never answered and is dropped. A file gets its name only when it is complete.

    <state_dir>/lock              locked while a sandbox lives; the kernel releases it with the process
    <state_dir>/ledger.jsonl      one event a line, appended
    <state_dir>/inputs/<sha256>   bytes of data URIs
    <state_dir>/links/<uuid>      JSON: the links of inputs that are not fetched yet, for the owner only.
                                  A fetched input is named by its content (sha256:...)
    <state_dir>/results/<uuid>.mp4
"""

import errno
import fcntl
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from importlib import resources
from pathlib import Path
from typing import IO, Any

KEPT = "sha256:"  # in the ledger and in links: an input whose content is kept; its digest follows
STAND_INS = {"video": "standin.mp4", "image": "standin.jpg"}


class Store:
    """One state directory, open for appending. Raises OSError if it cannot be used."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("inputs", "results"):
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "links").mkdir(mode=0o700, exist_ok=True)
        self._path = root / "ledger.jsonl"
        with ExitStack() as undo:
            self._lock = undo.enter_context(_locked(root / "lock"))
            self._path.touch()
            _drop_torn_line(self._path)
            self._file = self._path.open("a", encoding="utf-8")
            undo.pop_all()

    def append(self, event: dict[str, Any]) -> None:
        """Write one event, flushed to the operating system."""
        self._file.write(json.dumps(event, separators=(",", ":")) + "\n")
        self._file.flush()

    def events(self) -> Iterator[dict[str, Any]]:
        """Every event, oldest first."""
        with self._path.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)

    def text(self) -> str:
        """Return the text of the ledger."""
        return self._path.read_text("utf-8")

    def keep_input(self, sha256: str, data: bytes) -> None:
        """Keep the bytes of a data URI."""
        path = self.root / "inputs" / sha256
        if not path.exists():
            _write_whole(path, data)

    def partial_input(self, name: str) -> Path:
        """Return the path of an input while it is fetched."""
        return self.root / "inputs" / f"{name}.part"

    def adopt_input(self, partial: Path, sha256: str) -> Path:
        """Give a fetched input its name. Return its path."""
        return partial.replace(self.root / "inputs" / sha256)

    def keep_links(self, generation: str, links: Mapping[str, str]) -> None:
        """Keep the links of a generation's inputs, in place of those before."""
        path = self.root / "links" / generation
        _write_whole(path, json.dumps(dict(links)).encode())

    def links(self, generation: str) -> dict[str, str]:
        """Return the links of a generation's inputs."""
        path = self.root / "links" / generation
        return dict(json.loads(path.read_bytes())) if path.exists() else {}

    def forget_links(self, generation: str) -> None:
        """Remove the links of a generation that has ended: they may be signed."""
        (self.root / "links" / generation).unlink(missing_ok=True)

    def input(self, kind: str, name: str) -> Path:
        """The file of an input as the ledger names it (`validation.Input.name`): kept, or the bundled stand-in."""
        if name != "stand-in":
            return self.root / "inputs" / name.removeprefix(KEPT)
        path = self.root / "inputs" / STAND_INS[kind]
        if not path.exists():
            # Copied out of the package: workers need a path, and a package may be a zip.
            _write_whole(path, (resources.files("batchrunner.sandbox") / "media" / STAND_INS[kind]).read_bytes())
        return path

    def result(self, name: str) -> Path:
        """Return the path of the result `name`, which may not exist yet."""
        return self.root / "results" / name

    def finished(self, name: str) -> Path | None:
        """Return the result `name` if a killed sandbox already made it, or None."""
        path = self.result(name)
        return path if path.is_file() else None

    def keep_result(self, name: str, rendered: bytes | Path) -> bytes:
        """Put a rendered clip, bytes or a file to be moved, under its name. Returns its bytes."""
        path = self.result(name)
        if isinstance(rendered, bytes):
            _write_whole(path, rendered)
            return rendered
        rendered.replace(path)
        return path.read_bytes()

    def close(self) -> None:
        """Close the ledger and release the lock."""
        with suppress(OSError):  # an event of a full disk: its call has failed already
            self._file.close()
        self._lock.close()


def _locked(path: Path) -> IO[str]:
    """Open and lock the lock file. Raises OSError if another sandbox has it."""
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno in {errno.EAGAIN, errno.EACCES}:
            raise OSError("another sandbox is using it") from None
        raise
    return file


def _write_whole(path: Path, data: bytes) -> None:
    # Threads may write equal inputs at the same time, so each writes its own file.
    temporary = path.with_name(f"{path.name}.{threading.get_ident()}.part")
    temporary.write_bytes(data)
    temporary.replace(path)


def _drop_torn_line(path: Path) -> None:
    with path.open("r+b") as file:
        data = file.read()
        file.truncate(data.rfind(b"\n") + 1)
