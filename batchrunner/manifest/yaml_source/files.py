"""The files that a manifest is made of: itself, its tables, and what its patterns match. Only reads.

Rule: what is not a regular file is refused before it is opened, and what is too large before it is read.
"""

import difflib
import glob as globbing
import hashlib
import itertools
import os
import posixpath
import re
import stat
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
    """The manifest's bytes. Raises UsageError."""
    try:
        _require_regular(path, str(path), MAX_BYTES)
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(path), error) from None


def read_stream(stream: IO[bytes]) -> bytes:
    """A manifest from a stream, to its end. Raises UsageError."""
    try:
        data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read standard input: {error}") from None
    if len(data) > MAX_BYTES:
        raise UsageError(f"standard input is larger than {MAX_BYTES >> 20} MiB", "is it a manifest?")
    return data


def open_table(path: Path, shown: str) -> BufferedReader:
    """The table at `path`, open for reading. Raises UsageError, which speaks of it as `shown`."""
    try:
        _require_regular(path, shown, MAX_TABLE_BYTES)
        return path.open("rb")
    except (OSError, ValueError) as error:
        raise _unreadable(path, shown, error) from None


def sha256(path: Path) -> str:
    """The hex digest of a table's bytes. Raises UsageError."""
    with open_table(path, str(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def for_quoting(path: Path) -> bytes:
    """The bytes of a table whose lines are to be shown with what is wrong in them; nothing of a very large one."""
    try:
        return path.read_bytes() if path.stat().st_size <= _MAX_QUOTED_BYTES else b""
    except OSError:
        return b""


def is_inside(path: Path, folder: Path) -> bool:
    """Whether the file at `path` lies in `folder` or below it, links followed on both sides."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def folder_of(name: str, base: Path) -> str:
    """The folder that paths in a table start from, relative to `base`: in plain form, or, where a link makes ``..`` in
    it another place than it seems, with a slash at its end."""
    folder = posixpath.dirname(name)
    real = os.path.realpath(base / folder)
    if real != os.path.normpath(Path(os.path.realpath(base)) / folder):
        return f"{folder}/"
    return posixpath.normpath(folder) if folder not in ("", ".") else ""


def beside(manifest: Path, name: str) -> Path:
    """Where a table lies that the manifest names, written as the manifest's own path is."""
    return Path(name) if str(manifest) == "-" else manifest.parent / name


def glob(pattern: str, base: Path) -> list[str]:
    """Paths matching `pattern`, written relative to `base` unless the pattern is absolute. At most one too many."""
    if pattern.count("/") > _MAX_FOLDERS:
        return []  # deeper than what the search can follow
    pattern = expanded(pattern)
    if os.path.lexists(base / pattern):
        return [pattern]  # a file whose name holds wildcards
    pattern = re.sub(r"(?<![^/])(\*\*/+)+", "**/", pattern)  # the same, without the search growing with each **
    found = globbing.iglob(pattern, root_dir=base, recursive=True)  # noqa: PTH207 (Path.glob refuses absolute patterns)
    return list(itertools.islice(found, expand.MAX_ROWS + 1))


def _require_regular(path: Path, shown: str, most_bytes: int) -> None:
    facts = path.stat()
    if stat.S_ISDIR(facts.st_mode):
        raise UsageError(f"{shown} is a directory", _manifests_in(path))
    if not stat.S_ISREG(facts.st_mode):
        raise UsageError(f"{shown} is not a regular file")
    if facts.st_size > most_bytes:
        raise UsageError(f"{shown} is larger than {most_bytes >> 20} MiB", "is it a manifest?")


def _unreadable(path: Path, shown: str, error: OSError | ValueError) -> UsageError:
    if isinstance(error, FileNotFoundError):
        return UsageError(f"no such file: {shown}", _similar(path, shown))
    return UsageError(f"cannot read {shown}: {getattr(error, 'strerror', None) or error}")


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(each.name for each in folder.iterdir() if each.suffix in _MANIFESTS)
    except OSError:
        return []


def _manifests_in(path: Path) -> str:
    names = _names_in(path)
    return f"name a file, such as {path / names[0]}" if names else "name a file"


def _similar(path: Path, shown: str) -> str:
    close = difflib.get_close_matches(path.name, _names_in(path.parent), n=1, cutoff=0.6)
    return f"did you mean {Path(shown).parent / close[0]}?" if close else ""
