"""The place where a data set grows: a folder beside the final one, which gets the final name when it is complete.

::

    OUT.partial/data/             the data set so far
    OUT.partial/sent/             growing files of other machines (`batchrunner.datasets.remote_units`)
    OUT.partial/marked/           marked copies of clips (`batchrunner.datasets.marking`)
    OUT.partial/progress.jsonl    a line for each complete file: name, recipe, sha256, bytes, mtime_ns
    OUT.partial/lock              locked by the process that exports

Rules: a line is written after its file is on the disk, so a file with a line is complete. A file without a line is
written again, also one whose recipe, size or time of change differs from its line. The folder `data` is renamed at the
end: a killed export leaves nothing under the final name. One process at a time uses the folder. Only new files are
written: nothing is written through a symbolic link, or to a file that has a second name.
"""

import fcntl
import json
import os
import stat
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from batchrunner.datasets.formats import Unit
from batchrunner.datasets.hashing_file import HashingFile
from batchrunner.datasets.remote_units import Written, through
from batchrunner.errors import BatchLocked, LocalFault, UsageError
from batchrunner.formatting import printable, size_text
from batchrunner.media.decoder_pool import Here
from batchrunner.storage import durable_files
from batchrunner.storage.durable_files import Disk
from batchrunner.workers.engines import Workers

_BATCH_FILES, _BATCH_BYTES = 64, 256_000_000  # files that are flushed together
_OWN_FOLDERS, _OWN_FILES = {"data", "marked", "sent"}, {"progress.jsonl", "lock"}
_NEW = "Name a new folder."
_CHOOSE = f"Nothing was written. {_NEW}"


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A complete file of the data set. name: inside the data set. sha256: in hex."""

    name: str
    sha256: str
    bytes: int


def final_path(out: Path) -> Path:
    """Return the folder that `out` names, links resolved. Raises UsageError if it cannot be a folder."""
    real = Path(os.path.realpath(out))
    if os.path.lexists(real) and not real.is_dir():
        raise UsageError(f"{printable(str(out))} exists and is not a folder", _CHOOSE)
    if Path(os.path.realpath(".")).is_relative_to(real):
        why = "it is the current folder, or a folder around it. An empty name means the current folder"
        raise UsageError(f"{printable(str(out))} cannot be the data set: {why}", _CHOOSE)
    return real


def is_taken(out: Path) -> bool:
    """Return whether `out` exists and has content. An empty folder is replaced."""
    try:
        with os.scandir(out) as entries:
            return any(True for _ in entries)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UsageError(f"{printable(str(out))} cannot be read: {error.strerror or error}", _CHOOSE) from error


class Workspace:
    """The growing data set for the final folder `out`. Use as a context manager.

    files: the complete files of an earlier, killed export, then those of this one. Raises UsageError for a folder that
    is not its own, BatchLocked, and LocalFault for a full or failing disk.
    """

    def __init__(self, out: Path, disk: Disk, workers: Workers | None = None) -> None:
        self.out = out
        self.path = out.with_name(out.name + ".partial")
        self.data = self.path / "data"
        self.marked = self.path / "marked"
        self.sent = self.path / "sent"
        self._workers = workers or Workers(Here())
        self.files: dict[str, WrittenFile] = {}
        self._disk = disk
        self._lines: dict[str, dict[str, Any]] = {}
        self._progress = self.path / "progress.jsonl"
        self._lock = -1
        self._folders: set[Path] = set()

    def __enter__(self) -> Self:
        try:
            with ExitStack() as undo:
                undo.callback(self._close)
                self._prepare()
                undo.pop_all()
        except OSError as error:
            if error.errno in durable_files.FULL:
                raise self._fault(error) from error
            raise UsageError(
                f"{printable(str(self.path))} cannot be used: {error.strerror or error}", "Name another folder."
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._remove_if_empty()
        self._close()

    def _close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _prepare(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(self.path) and not self._is_own():
            raise UsageError(
                f"{printable(str(self.path))} is in the way: it is not the folder of an interrupted export",
                "Move it away, or name another folder for the data set.",
            )
        self._disk.make_folder(self.path)
        self._take_lock()
        self._disk.make_folder(self.data)
        self._read_progress()

    def _is_own(self) -> bool:
        """Return whether an export made the folder: it is empty, or it has a lock and no other names than ours."""
        if not stat.S_ISDIR(self.path.lstat().st_mode):
            return False
        found = {item.name: item.lstat() for item in self.path.iterdir()}
        folders = {name for name, status in found.items() if stat.S_ISDIR(status.st_mode)}
        files = {name for name, status in found.items() if _is_single_file(status)}
        return not found or (
            "lock" in files and folders <= _OWN_FOLDERS and found.keys() - folders <= files & _OWN_FILES
        )

    def _take_lock(self) -> None:
        path = self.path / "lock"
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = os.path.samestat(os.fstat(self._lock), path.lstat())
        except (BlockingIOError, FileNotFoundError):
            is_ours = False
        except OSError as error:  # a file system without locks
            if error.errno not in durable_files.UNSUPPORTED:
                raise
            is_ours = True
        if not is_ours:
            raise BatchLocked(
                f"another process exports to {printable(str(self.out))}", "Nothing was done. Wait until it has ended."
            )

    def _read_progress(self) -> None:
        """Read the lines of an earlier export. Torn and foreign lines do not count."""
        with suppress(FileNotFoundError), durable_files.open_plain(self._progress) as file:
            for line in file:
                with suppress(ValueError, KeyError, TypeError):
                    found = json.loads(line)
                    [found[key] for key in ("recipe", "sha256", "bytes", "mtime_ns")]
                    self._lines[str(found["name"])] = found

    def is_complete(self, unit: Unit) -> bool:
        """Return whether an earlier export has written this unit. Its file is then in `files`."""
        line = self._lines.get(unit.name)
        if line is None or line["recipe"] != unit.recipe:
            return False
        path = self.data / unit.name
        self._make_folders(path.parent)
        try:
            status = path.lstat()
        except OSError:
            return False
        if (status.st_size, status.st_mtime_ns) != (line["bytes"], line["mtime_ns"]) or not _is_single_file(status):
            return False
        self.files[unit.name] = WrittenFile(unit.name, line["sha256"], line["bytes"])
        return True

    def write(self, units: Iterable[Unit], on_bytes: Callable[[int], None]) -> None:
        """Write the units that are not complete. on_bytes: gets numbers of bytes, of complete units too.

        Raises MediaRefused, LocalFault. What is complete by then is recorded.
        """
        pending = _Pending()
        sent_units = through(self._workers, self.sent, units, self.is_complete, self._free_place)
        try:
            with closing(sent_units):
                for unit, was_complete, sent in sent_units:
                    if was_complete or sent is not None:
                        on_bytes(unit.media_bytes)
                    if was_complete:
                        continue
                    pending.add(unit, self._file(unit, sent) or self._write(unit, on_bytes))
                    if pending.is_large:
                        self._record(pending)
                        pending = _Pending()
            self._record(pending)
        except OSError as error:
            raise self._fault(error) from error

    def _free_place(self, unit: Unit) -> Path:
        """Make the place of a unit's file free, and return it."""
        path = self.data / unit.name
        self._make_folders(path.parent)
        if os.path.lexists(path) and not path.is_dir():
            self._disk.remove(path)
        return path

    def _file(self, unit: Unit, sent: Written | None) -> WrittenFile | None:
        """Return the file that a worker wrote, if it is here."""
        if sent is None:
            return None
        file = WrittenFile(unit.name, *sent)
        with suppress(OSError):
            status = (self.data / unit.name).lstat()
            return file if status.st_size == file.bytes and _is_single_file(status) else None
        return None

    def _write(self, unit: Unit, on_bytes: Callable[[int], None]) -> WrittenFile:
        path = self.data / unit.name
        self._make_folders(path.parent)
        with self._create(path) as file:
            sink = HashingFile(file, on_bytes)
            unit.write(sink)  # type: ignore[arg-type]  # a raw file that only takes bytes
        return WrittenFile(unit.name, sink.sha256, sink.size_bytes)

    def _create(self, path: Path) -> BinaryIO:
        """Open a new file. What has its name is removed, and not written to: it may be a link."""
        try:
            return self._disk.open(path, "xb")
        except FileExistsError:
            if stat.S_ISDIR(path.lstat().st_mode):
                raise self._in_the_way(path) from None
            self._disk.remove(path)
            return self._disk.open(path, "xb")

    def _make_folders(self, folder: Path) -> None:
        """Make a folder below `data`. What has its name and is no folder is removed: it may be a link elsewhere."""
        if folder not in self._folders and folder != self.data:
            self._make_folders(folder.parent)
            if os.path.lexists(folder) and not stat.S_ISDIR(folder.lstat().st_mode):
                self._disk.remove(folder)
            self._disk.make_folder(folder)
        self._folders.add(folder)

    def _in_the_way(self, path: Path) -> UsageError:
        hint = f"Move it away, or remove {printable(str(self.path))}; then run the same command again."
        return UsageError(f"{printable(str(path))} is in the way: it is a folder", hint)

    def _record(self, pending: "_Pending") -> None:
        """Flush files, then add their lines."""
        if not pending.files:
            return
        paths = [self.data / name for name in pending.files]
        self._disk.flush_all(paths)
        for folder in sorted({path.parent for path in paths}):
            self._disk.flush_folder(folder)
        lines = []
        for (name, (recipe, file)), path in zip(pending.files.items(), paths, strict=True):
            line = {"name": name, "recipe": recipe, "sha256": file.sha256, "bytes": file.bytes}
            self._lines[name] = {**line, "mtime_ns": path.lstat().st_mtime_ns}
            lines.append(b"\n" + json.dumps(self._lines[name]).encode())
            self.files[name] = file
        with self._disk.open(self._progress, "ab") as progress:
            progress.write(b"".join([*lines, b"\n"]))  # a torn line before it stays alone on its line
            self._disk.flush(progress)

    def publish(self, names: Collection[str]) -> None:
        """Give the data set its final name. names: of its files; others are of an earlier export, and are removed."""
        try:
            self._remove_others(names)
            for folder in sorted(self._folders | {self.data}):
                self._disk.flush_folder(folder)
            if is_taken(self.out):
                raise UsageError(f"{printable(str(self.out))} exists now; it was not there at the start", _NEW)
            self._disk.rename(self.data, self.out)
        except OSError as error:
            raise self._fault(error) from error
        self.remove()

    def _remove_others(self, names: Collection[str]) -> None:
        known = set(names)
        for folder, folders, files in os.walk(self.data, topdown=False):
            for path in (Path(folder, name) for name in files):
                if path.relative_to(self.data).as_posix() not in known:
                    self._disk.remove(path)
            for path in (Path(folder, name) for name in folders):
                if path.is_symlink():
                    path.unlink()
                else:
                    with suppress(OSError):  # it has files
                        path.rmdir()

    def discard(self) -> None:
        """Remove the growing data set and the copies: they have no use any more."""
        with suppress(OSError):
            self._remove_others(())
            self.data.rmdir()
        self.remove()

    def remove(self) -> None:
        """Remove what is left after `data` has got its final name. A rest does no harm."""
        with suppress(OSError):
            for folder in (self.marked, self.sent):
                if folder.is_dir() and not folder.is_symlink():
                    for path in folder.iterdir():
                        path.unlink()
                    folder.rmdir()
            for name in ("progress.jsonl", "lock"):  # the lock last: it shows that the folder is ours
                (self.path / name).unlink(missing_ok=True)
            self.path.rmdir()

    def _remove_if_empty(self) -> None:
        """Remove the folder if the next export could not use anything in it."""
        with suppress(OSError):
            for path in (self.marked, self.sent, self.data):
                with suppress(FileNotFoundError):
                    path.rmdir()
            self.remove()

    def remove_rest(self) -> None:
        """Remove what an export left that was killed after `data` had got its final name. Not for use as a context."""
        with suppress(OSError, BatchLocked, FileNotFoundError):
            if self._is_own() and not os.path.lexists(self.data):
                self._take_lock()
                self.remove()
        self._close()

    def require_space(self, media_bytes: int) -> None:
        """Refuse to begin if the disk has too little space for the files that are not complete. Raises LocalFault."""
        with suppress(OSError):
            free = durable_files.free_bytes(self.path)
            done = sum(line["bytes"] for line in self._lines.values() if isinstance(line["bytes"], int))
            if free is not None and free < media_bytes - done:
                raise LocalFault(
                    "disk_full",
                    f"the data set needs {size_text(media_bytes - done)}, and the disk of {printable(str(self.out))} "
                    f"has {size_text(free)} free",
                    "Make room, or name a folder on another disk; then run the same command again.",
                )

    def _fault(self, error: OSError) -> LocalFault:
        return durable_files.fault(error, f"the data set could not be written to {printable(str(self.path))}")


def _is_single_file(status: os.stat_result) -> bool:
    """Return whether it is a plain file with one name: a change of it changes no other file."""
    return stat.S_ISREG(status.st_mode) and status.st_nlink <= 1


class _Pending:
    """Files that are written, and not flushed yet: recipe and file, by name."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[str, WrittenFile]] = {}
        self._size_bytes = 0

    def add(self, unit: Unit, file: WrittenFile) -> None:
        """Add a file."""
        self.files[unit.name] = unit.recipe, file
        self._size_bytes += file.bytes

    @property
    def is_large(self) -> bool:
        """Whether the files are to be flushed."""
        return len(self.files) >= _BATCH_FILES or self._size_bytes >= _BATCH_BYTES
