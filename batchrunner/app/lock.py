"""Lock files: load a manifest and compare it with its lock file, and write the lock file.

The lock file of ``batch.yaml`` is ``batch.yaml.lock``. `batchrunner.manifest.lockfile` has its content. A lock file is
written atomically, and only if it changes.
"""

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from batchrunner import manifest
from batchrunner.errors import ManifestError, UsageError
from batchrunner.formatting import count_text, printable, redacted, shell_line, shell_path
from batchrunner.gc_pause import gc_paused
from batchrunner.manifest import Batch, lock_drift, lockfile
from batchrunner.manifest.inputs import Objects
from batchrunner.manifest.loader import STDIN, LoadOptions
from batchrunner.manifest.trace import Trace
from batchrunner.storage import durable_files
from batchrunner.storage.durable_files import Disk

MAX_BYTES: Final = 2 << 30
_NOTHING: Mapping[str, str] = MappingProxyType({})
_PLAIN = LoadOptions()


class _Stored(NamedTuple):
    """A lock file that was read."""

    path: Path
    text: str
    document: lockfile.Document


def path_of(path: Path) -> Path:
    """Return the path of a manifest's lock file. Raises UsageError for standard input."""
    if path == STDIN:
        raise UsageError("a manifest on standard input has no lock file", "Write the manifest to a file.")
    return path.with_name(f"{path.name}.lock")


@gc_paused()
def load(
    path: Path,
    assignments: Mapping[str, str] = _NOTHING,
    environment: Mapping[str, str] = _NOTHING,
    allowed: Iterable[str] = (),
    objects: Objects | None = None,
    *,
    locked: bool = False,
    options: LoadOptions = _PLAIN,
) -> Batch:
    """Load a manifest as `batchrunner.manifest.load` does.

    locked: compare it with its lock file. options: with contents, the local inputs are not read, and those in the lock
    file count as unchanged. Raises ManifestError with all differences, UsageError if the lock file cannot be used.
    """
    if not locked or not (path == STDIN or os.path.lexists(path)):  # the load names a missing manifest
        return manifest.load(path, assignments, environment, allowed, objects, options)
    command = _command(path, assignments, allowed)
    stored = _read(path_of(path), command)
    trace = Trace()
    options = LoadOptions(trace, None if options.contents is None else lockfile.contents_of(stored.document))
    batch = manifest.load(path, assignments, environment, allowed, objects, options)
    _require_same(batch, trace, stored, command)
    return batch


def load_to_check(
    path: Path,
    assignments: Mapping[str, str] = _NOTHING,
    environment: Mapping[str, str] = _NOTHING,
    allowed: Iterable[str] = (),
    objects: Objects | None = None,
    *,
    locked: bool = False,
    has_inputs: bool = True,
) -> Batch:
    """Load a manifest as `load` does, but keep no entries unless they are compared with a lock file."""
    options = LoadOptions(contents=None if has_inputs else {}, only_check=not locked)
    return load(path, assignments, environment, allowed, objects, locked=locked, options=options)


def _require_same(batch: Batch, trace: Trace, stored: _Stored, command: str) -> None:
    """Raise ManifestError if a manifest differs from its lock file."""
    found = lock_drift.differences(stored.document, lockfile.build(batch, trace), batch, trace)
    if found:
        hint = f"undo the change, or accept it with: {command}"
        diagnostics = lock_drift.as_diagnostics(found, str(stored.path), stored.text, hint)
        message = f"{batch.path} does not match {stored.path}: {count_text(len(found), 'difference')}"
        raise ManifestError(printable(message), diagnostics)


def check(
    path: Path,
    assignments: Mapping[str, str],
    environment: Mapping[str, str],
    allowed: Sequence[str],
    objects: Objects | None = None,
) -> tuple[Batch, str]:
    """Return a manifest that its lock file fits, and a sentence about it. Raises ManifestError, UsageError."""
    batch = load(path, assignments, environment, allowed, objects, locked=True)
    return batch, f"{path_of(path)} fits: {count_text(len(batch.entries), 'job')}"


@gc_paused()
def write(
    path: Path,
    assignments: Mapping[str, str],
    environment: Mapping[str, str],
    allowed: Sequence[str],
    objects: Objects | None = None,
) -> tuple[Batch, str]:
    """Write the lock file of the manifest at `path`. Return the batch, and a sentence about what was done.

    Raises ManifestError, UsageError, LocalFault.
    """
    target = path_of(path)
    before = _replaceable(target)
    trace = Trace()
    batch = manifest.load(path, assignments, environment, allowed, objects, LoadOptions(trace))
    document = lockfile.build(batch, trace)
    contents = [count_text(len(document[name]), name.removesuffix("s")) for name in ("jobs", "inputs", "tables")]
    data = lockfile.text_of(document).encode()
    if data == before:
        return batch, f"{target} is up to date: {', '.join(contents)}"
    _replace(target, data)
    return batch, f"Wrote {target}: {', '.join(contents)}"


def _command(path: Path, assignments: Mapping[str, str], allowed: Iterable[str]) -> str:
    """Return the command that writes the lock file, for people."""
    arguments = ["batchrunner", "lock", shell_path(str(path))]
    for name, value in assignments.items():
        arguments += ["--set", redacted(f"{name}={value}")]
    for name in allowed:
        arguments += ["--env", name]
    return shell_line(arguments)


def _bytes_of(path: Path) -> bytes | None:
    """Return the content of a lock file, or None if there is none. Raises UsageError."""
    try:
        with durable_files.open_plain(path, follow=True) as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read the lock file {path}: {reason}", "Nothing was submitted.") from None
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path} is larger than {MAX_BYTES >> 30} GiB", "Is it a lock file? Nothing was submitted.")
    return data


def _read(path: Path, command: str) -> _Stored:
    data = _bytes_of(path)
    if data is None:
        raise UsageError(f"there is no lock file {path}", f"Write it with: {command}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        hint = f"Restore it from version control, or write it again with: {command}"
        raise UsageError(f"{path} cannot be used: it is not UTF-8 text", hint) from None
    return _Stored(path, text, lockfile.parse(text, str(path), command))


def _replaceable(target: Path) -> bytes | None:
    """Return the content that a new lock file will replace, or None. Raises UsageError if it must not be replaced."""
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _unwritable(target, getattr(error, "strerror", None) or error) from None
    if not stat.S_ISREG(mode):
        what = "a symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
        raise UsageError(f"{target} is {what}, so no lock file is written there", "Remove it, or move it away.")
    data = _bytes_of(target) or b""
    text = data.decode("utf-8-sig", "replace")
    if not lockfile.is_lock(text):
        hint = "Move it away, or give the manifest another name."
        raise UsageError(f"{target} is not a lock file of batchrunner", hint)
    if (newer := lockfile.newer_version(text)) is not None:
        hint = "Use a newer batchrunner, or remove the file to write it in the older form."
        raise UsageError(f"a newer batchrunner wrote {target}: it has version {newer}", hint)
    return data


def _replace(target: Path, data: bytes) -> None:
    """Write a file atomically. Raises UsageError, LocalFault."""
    disk, partial = Disk(), target.with_name(f".lock.{os.getpid()}.part")
    try:
        try:
            disk.create(partial, data)
            disk.publish([(partial, target)])
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in durable_files.FULL:
            raise durable_files.fault(error, f"the lock file {target} could not be written") from error
        raise _unwritable(target, error.strerror or error) from error


def _unwritable(target: Path, reason: object) -> UsageError:
    return UsageError(
        f"cannot write the lock file {target}: {reason}",
        "It is beside the manifest: make that folder writable, or copy the manifest to another one.",
    )
