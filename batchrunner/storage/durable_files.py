"""The few things done to files that must survive a power cut, in one place so that a simulation can stand in.

Rules: content is flushed before it gets its final name, and the name before anybody is told. Only plain files are
written and read: never through a symbolic link that somebody put there, never a device or a pipe that would not end.
All of it blocks: call it through an executor.
"""

import errno
import io
import os
import resource
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from batchrunner.errors import LocalFault

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# A file system that has no such operation, or does not offer it to this user. For a folder, that is no fault.
UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOLCK}
_CLOSED = {errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR}
_SHORT = {errno.ENOMEM: "memory", errno.EMFILE: "room for open files", errno.ENFILE: "room for open files"}


class Disk:
    """The real file system."""

    def open(self, path: Path, mode: str) -> BinaryIO:
        """Open a plain file for binary writing: mode ``wb``, ``ab``, or ``r+b`` for `overwrite`.

        Raises OSError for a link, a device, a pipe.
        """
        return io.BufferedWriter(io.FileIO(path, mode, opener=_open_plain))

    def read(self, path: Path, most_bytes: int) -> bytes:
        """The first bytes of a plain file. Raises OSError."""
        with open_plain(path) as file:
            return file.read(most_bytes)

    def overwrite(self, file: BinaryIO, start_bytes: int, content: bytes) -> None:
        """Write this over what stands there in an open file; on the disk when it returns. The file does not grow."""
        left = memoryview(content)
        while left:
            written = os.pwrite(file.fileno(), left, start_bytes)
            left, start_bytes = left[written:], start_bytes + written
        _flush_content(file.fileno())

    def create(self, path: Path, content: bytes) -> None:
        """Make a plain file that holds this. Few calls of the system: they are what a small clip costs."""
        flags = os.O_WRONLY | os.O_CREAT
        try:
            descriptor = os.open(path, flags | os.O_EXCL, 0o666)  # a new one is a plain one
        except FileExistsError:
            descriptor = _open_plain(str(path), flags | os.O_TRUNC)
        try:
            left = memoryview(content)
            while left:
                left = left[os.write(descriptor, left) :]
        finally:
            os.close(descriptor)

    def flush(self, file: BinaryIO) -> None:
        """Return when the file's content is on the disk."""
        file.flush()
        os.fsync(file.fileno())

    def start_writeback(self, file: BinaryIO, start_bytes: int, length_bytes: int) -> None:
        """Send what was written there on its way to the disk, without waiting, so that a later flush is short."""
        _begin_to_write(file.fileno(), start_bytes, length_bytes)

    def publish(self, names: Sequence[tuple[Path, Path]]) -> None:
        """Flush files that were written, give them their final names, and return when all is on the disk."""
        self.flush_all([source for source, _ in names])
        self.rename_all(names)

    def flush_all(self, paths: Sequence[Path]) -> None:
        """Return when the content of these files is on the disk.

        All are on their way before the first is waited for: one transaction of the file system can carry many.
        """
        opened: list[int] = []
        try:
            for path in paths:
                # What is no plain file is refused here, or by the flush.
                opened.append(os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK))
                _begin_to_write(opened[-1])
            for descriptor in opened:
                os.fsync(descriptor)
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file its new name, in one step, and return when the name is on the disk."""
        self.rename_all([(source, target)])

    def rename_all(self, names: Sequence[tuple[Path, Path]]) -> None:
        """The same for several at once: old names and new ones."""
        for source, target in names:
            source.replace(target)
        for folder in {path.parent for pair in names for path in pair}:
            self.flush_folder(folder)

    def duplicate(self, source: Path, target: Path) -> None:
        """Let the same content stand under a second name: a hard link where the file system has them, else a copy."""
        temporary = target.with_name(target.name + ".new")
        temporary.unlink(missing_ok=True)
        try:
            temporary.hardlink_to(source)
        except OSError:
            import shutil  # here, as it brings every archive format along

            shutil.copyfile(source, temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        self.rename(temporary, target)
        temporary.unlink(missing_ok=True)  # renaming one hard link over another of the same file leaves both

    def remove(self, path: Path) -> None:
        """Remove a file that may be there."""
        path.unlink(missing_ok=True)

    def flush_folder(self, folder: Path) -> None:
        """Return when the folder's names are on the disk.

        Some file systems (CIFS, drvfs, some of FUSE) cannot flush a folder, and some folders cannot be opened for
        reading. Both are ignored: nothing more can be done there. An I/O error is raised.
        """
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno not in UNSUPPORTED | _CLOSED:
                raise


def _flush_content(descriptor: int) -> None:
    getattr(os, "fdatasync", os.fsync)(descriptor)  # macOS has the latter alone


def _begin_to_write(descriptor: int, start_bytes: int = 0, length_bytes: int = 0) -> None:
    """Linux begins to write what is dirty there when it hears that nobody will need it. length_bytes 0: to the end."""
    if hasattr(os, "posix_fadvise"):  # macOS has none
        with suppress(OSError):  # it is advice: a file system may refuse it, and the flush tells of what is broken
            os.posix_fadvise(descriptor, start_bytes, length_bytes, os.POSIX_FADV_DONTNEED)


def open_plain(path: Path, *, follow: bool = False) -> io.BufferedReader:
    """Open a plain file for reading. follow: through symbolic links too.

    Raises OSError for what is none, at once, even where it turns into one between a look at it and this call.
    """
    return io.BufferedReader(io.FileIO(path, "rb", opener=_open_plain_behind_links if follow else _open_plain))


def _open_plain(path: str, flags: int) -> int:
    return _open_plain_behind_links(path, flags | os.O_NOFOLLOW)


def _open_plain_behind_links(path: str, flags: int) -> int:
    # Without O_NONBLOCK, opening a pipe waits for its other end. The file is truncated only after the check below.
    descriptor = os.open(path, (flags | os.O_NONBLOCK) & ~os.O_TRUNC, 0o666)
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if flags & os.O_TRUNC and facts.st_size:
        os.ftruncate(descriptor, 0)
    return descriptor


def free_bytes(folder: Path) -> int | None:
    """Room on its file system, for users who are not root. None where the file system does not know its own size."""
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize if facts.f_blocks else None


def free_inodes(folder: Path) -> int | None:
    """How many more files its file system takes. None where it has no such limit."""
    facts = os.statvfs(folder)
    return facts.f_favail if facts.f_files else None


def is_full(folder: Path, least_bytes: int) -> bool:
    """Whether its file system has less room than that, or takes no further file."""
    free = free_bytes(folder)
    return (free is not None and free < least_bytes) or free_inodes(folder) == 0


def largest_file_bytes() -> int | None:
    """The size limit of a file for this process (``ulimit -f``); None where there is none."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def fault(error: OSError, doing: str) -> LocalFault:
    """What an OSError means for the user. doing: what was tried, e.g. ``a download could not be stored``."""
    if error.errno == errno.EFBIG:  # SIGXFSZ is ignored, as Python does
        hint = "Raise the limit (ulimit -f), or use a file system for larger files; then run the same command again."
        return LocalFault("disk_full", f"{doing}: a file has reached the size limit", hint)
    if error.errno in FULL:
        return LocalFault("disk_full", f"{doing}: the disk is full", "Make room and run the same command again.")
    if error.errno in _SHORT:
        hint = "Let it have more, or lower --downloads and --uploads; then run the same command again."
        return LocalFault("too_little", f"{doing}: too little {_SHORT[error.errno]}", hint)
    return LocalFault("disk_error", f"{doing}: {error.strerror or error}", "Check the disk and run the command again.")
