"""Read the files of a manifest: the manifest itself, its tables, and the matches of its patterns.

The code checks that a path is a regular file before it opens it, and checks the size before it reads. It writes
nothing.
"""

import difflib
import fnmatch
import glob as globbing
import hashlib
import itertools
import os
import posixpath
import re
import stat
from collections.abc import Iterable, Sequence
from io import BufferedReader
from pathlib import Path
from typing import IO, Final

from batchrunner.errors import UsageError
from batchrunner.manifest import expand
from batchrunner.storage.paths import expanded

MAX_BYTES: Final = 256 << 20
MAX_TABLE_BYTES: Final = 4 << 30
_MAX_QUOTED_BYTES = 32 << 20
_MAX_FOLDERS = 200
_MANIFESTS = (".yaml", ".yml", ".csv", ".tsv", ".jsonl", ".ndjson")


def read(path: Path) -> bytes:
    """Return the manifest's bytes. Raises UsageError."""
    try:
        _require_regular(path, str(path), MAX_BYTES)
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(path), error) from None


def read_stream(stream: IO[bytes]) -> bytes:
    """Read a manifest from a stream until the end. Raises UsageError."""
    try:
        data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read standard input: {error}") from None
    if len(data) > MAX_BYTES:
        raise UsageError(f"standard input is larger than {MAX_BYTES >> 20} MiB", "is it a manifest?")
    return data


def open_table(path: Path, shown: str) -> BufferedReader:
    """Open the table at `path` for reading. Raises UsageError, which names the table `shown`."""
    try:
        _require_regular(path, shown, MAX_TABLE_BYTES)
        return path.open("rb")
    except (OSError, ValueError) as error:
        raise _unreadable(path, shown, error) from None


class HashedFile:
    """A file whose lines are hashed while they are read, so that the hash is that of the lines.

    size_bytes: of what was read.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def readline(self, most_bytes: int) -> bytes:
        """Return the next line, or at most `most_bytes` of it."""
        data = self._file.readline(most_bytes)
        self.size_bytes += len(data)
        self._digest.update(data)
        return data

    def sha256(self) -> str:
        """Read to the end and return the hex digest of the whole file."""
        while data := self._file.read(1 << 20):
            self.size_bytes += len(data)
            self._digest.update(data)
        return self._digest.hexdigest()


def sha256(path: Path) -> str:
    """Return the hex digest of a table's bytes. Raises UsageError."""
    with open_table(path, str(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def for_quoting(path: Path) -> bytes:
    """Return a table's bytes for quoting lines in diagnostics; empty if the table is very large or unreadable."""
    try:
        return path.read_bytes() if path.stat().st_size <= _MAX_QUOTED_BYTES else b""
    except OSError:
        return b""


def is_inside(path: Path, folder: Path) -> bool:
    """Return True if the file at `path` is in `folder` or below it. Links are followed in both paths."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def folder_of(name: str, base: Path) -> str:
    """Return the folder that paths in a table are relative to, itself relative to `base`.

    The path is normalized, unless a link changes the meaning of ``..`` in it: then it keeps its form and ends with a
    slash.
    """
    folder = posixpath.dirname(name)
    real = os.path.realpath(base / folder)
    if real != os.path.normpath(Path(os.path.realpath(base)) / folder):
        return f"{folder}/"
    return posixpath.normpath(folder) if folder not in ("", ".") else ""


def beside(manifest: Path, name: str) -> Path:
    """Return the path of a table that the manifest names, in the same form as the manifest's own path."""
    return Path(name) if str(manifest) == "-" else manifest.parent / name


def glob(pattern: str, base: Path) -> list[str]:
    """Return the paths that match `pattern`, relative to `base` unless it is absolute; at most MAX_ROWS + 1."""
    if pattern.count("/") > _MAX_FOLDERS:
        return []  # deeper than the search can follow
    pattern = expanded(pattern)
    if os.path.lexists(base / pattern):
        return [pattern]  # a file whose name contains wildcards
    pattern = re.sub(r"(?<![^/])(\*\*/+)+", "**/", pattern)  # equivalent; repeated ** make the search slow
    found = globbing.iglob(pattern, root_dir=base, recursive=True)  # noqa: PTH207 (Path.glob refuses absolute patterns)
    return list(itertools.islice(found, expand.MAX_ROWS + 1))


def matching(pattern: str, paths: Iterable[str]) -> list[str]:
    """Return those of `paths` that `glob` would return for `pattern` if they existed. Pure."""
    if pattern.count("/") > _MAX_FOLDERS:
        return []
    pattern = expanded(pattern)
    steps = re.sub(r"(?<![^/])(\*\*/+)+", "**/", pattern).split("/")
    return [path for path in paths if path == pattern or _matches(path.split("/"), steps)]


def _matches(names: Sequence[str], steps: Sequence[str]) -> bool:
    """Return whether the names of a path match the steps of a pattern. Wildcards match no hidden name."""
    reached = _skipped({0}, steps)  # the steps that the names so far lead to
    for name in names:
        further = set[int]()
        for at in reached - {len(steps)}:
            step = steps[at]
            hidden = name.startswith(".") and not step.startswith(".")
            if step == "**" and not hidden:
                further.add(at)
            elif name == step or (not hidden and fnmatch.fnmatchcase(name, step)):
                further.add(at + 1)
        reached = _skipped(further, steps)
    return len(steps) in reached


def _skipped(reached: set[int], steps: Sequence[str]) -> set[int]:
    """Return the steps that are reached without a further name: ``**`` also matches no folder."""
    found = set(reached)
    for first in reached:
        for at in range(first, len(steps)):
            if steps[at] != "**":
                break
            found.add(at + 1)
    return found


def _require_regular(path: Path, shown: str, most_bytes: int) -> None:
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise UsageError(f"{shown} is a directory", _manifests_in(path))
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{shown} is not a regular file")
    if status.st_size > most_bytes:
        raise UsageError(f"{shown} is larger than {most_bytes >> 20} MiB", "is it a manifest?")


def _unreadable(path: Path, shown: str, error: OSError | ValueError) -> UsageError:
    if isinstance(error, FileNotFoundError):
        return UsageError(f"no such file: {shown}", _similar(path, shown))
    return UsageError(f"cannot read {shown}: {getattr(error, 'strerror', None) or error}")


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.suffix in _MANIFESTS)
    except OSError:
        return []


def _manifests_in(path: Path) -> str:
    names = _names_in(path)
    return f"name a file, such as {path / names[0]}" if names else "name a file"


def _similar(path: Path, shown: str) -> str:
    close = difflib.get_close_matches(path.name, _names_in(path.parent), n=1, cutoff=0.6)
    return f"did you mean {Path(shown).parent / close[0]}?" if close else ""
