"""File operations that must survive a power cut. Tests replace `Disk` with a simulation.

Content is flushed before it gets its final name, and the name is flushed before success is reported. Only plain files
are written and read: no symbolic links, devices or pipes. All functions block: call them through an executor.
"""

import errno
import fcntl
import io
import os
import resource
import stat
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO

from batchrunner.errors import LocalFault

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# The file system does not have the operation, or not for this user. For a folder, this is not a fault.
UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOLCK}
_FICLONE = 0x40049409  # ioctl of Linux: share the blocks of another file
_COPY_BYTES = 1 << 20
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
        """Overwrite bytes of an open file. They are on the disk when this returns. The file does not grow."""
        left = memoryview(content)
        while left:
            written = os.pwrite(file.fileno(), left, start_bytes)
            left, start_bytes = left[written:], start_bytes + written
        _flush_content(file.fileno())

    def create(self, path: Path | str, content: bytes) -> None:
        """Create a plain file with this content, in few system calls: they dominate the cost of a small clip."""
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
        """Start to write these bytes to the disk without waiting, so a later flush is short."""
        _begin_to_write(file.fileno(), start_bytes, length_bytes)

    def publish(self, names: Sequence[tuple[Path | str, Path | str]]) -> None:
        """Flush files, give them their final names, and return when all is on the disk."""
        self.flush_all([source for source, _ in names])
        self.rename_all(names)

    def flush_all(self, paths: Sequence[Path | str]) -> None:
        """Return when the content of these files is on the disk.

        Writeback starts for several files before the first wait: one transaction of the file system can carry many.
        """
        opened: list[int] = []
        try:
            for path in paths:
                # Anything but a plain file is refused here, or by the flush.
                opened.append(os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK))
                if len(paths) > 1:
                    _begin_to_write(opened[-1])
            for descriptor in opened:
                os.fsync(descriptor)
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file atomically, and return when the name is on the disk."""
        self.rename_all([(source, target)])

    def rename_all(self, names: Sequence[tuple[Path | str, Path | str]]) -> None:
        """Rename several files: pairs of old and new names."""
        pairs = [(str(source), str(target)) for source, target in names]
        for source, target in pairs:
            os.replace(source, target)  # noqa: PTH105 (a Path makes three calls for each of its uses)
        for folder in {path[: path.rfind("/") + 1] for pair in pairs for path in pair}:
            self.flush_folder(Path(folder))

    def make_folder(self, folder: Path) -> None:
        """Create a folder, and return when its name is on the disk. Its parent must exist."""
        folder.mkdir(exist_ok=True)
        self.flush_folder(folder.parent)

    def duplicate(self, source: Path, target: Path) -> None:
        """Give a file a second name: a hard link, or a copy if the file system has no hard links."""
        temporary = target.with_name(target.name + ".new")
        temporary.unlink(missing_ok=True)
        try:
            temporary.hardlink_to(source)
        except OSError:
            import shutil  # here, because it loads every archive format

            shutil.copyfile(source, temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        self.rename(temporary, target)
        temporary.unlink(missing_ok=True)  # a rename between two hard links of one file leaves both

    def clone(self, source: Path, target: Path) -> None:
        """Copy a plain file, by shared blocks if the file system can do that. The copy is not flushed.

        An edit of one file never changes the other one, as it would with a hard link.
        """
        with open_plain(source) as reader, closing(self.open(target, "wb")) as writer:
            try:
                fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
            except OSError:
                while chunk := reader.read(_COPY_BYTES):
                    writer.write(chunk)

    def remove(self, path: Path) -> None:
        """Remove a file, if it exists."""
        path.unlink(missing_ok=True)

    def flush_folder(self, folder: Path) -> None:
        """Return when the folder's names are on the disk.

        Some file systems (CIFS, drvfs, some of FUSE) cannot flush a folder, and some folders cannot be opened for
        reading. Both are ignored. An I/O error is raised.
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
    getattr(os, "fdatasync", os.fsync)(descriptor)  # macOS has only fsync


def _begin_to_write(descriptor: int, start_bytes: int = 0, length_bytes: int = 0) -> None:
    """Start writeback: Linux does so for bytes that are no longer needed. length_bytes: 0 means to the end."""
    if hasattr(os, "posix_fadvise"):  # macOS has none
        with suppress(OSError):  # it is advice; the flush reports errors
            os.posix_fadvise(descriptor, start_bytes, length_bytes, os.POSIX_FADV_DONTNEED)


def open_plain(path: Path, *, follow: bool = False) -> io.BufferedReader:
    """Open a plain file for reading. follow: through symbolic links too.

    Raises OSError at once for anything else, even if it was replaced just before this call.
    """
    return io.BufferedReader(io.FileIO(path, "rb", opener=_open_plain_behind_links if follow else _open_plain))


def _open_plain(path: str, flags: int) -> int:
    return _open_plain_behind_links(path, flags | os.O_NOFOLLOW)


def _open_plain_behind_links(path: str, flags: int) -> int:
    # Without O_NONBLOCK, opening a pipe waits for its other end. The file is truncated only after the check below.
    descriptor = os.open(path, (flags | os.O_NONBLOCK) & ~os.O_TRUNC, 0o666)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if flags & os.O_TRUNC and status.st_size:
        os.ftruncate(descriptor, 0)
    return descriptor


def free_bytes(folder: Path) -> int | None:
    """Return the free bytes of its file system for ordinary users, or None if it does not report its size."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize if status.f_blocks else None


def free_inodes(folder: Path) -> int | None:
    """Return how many more files its file system can take, or None if there is no limit."""
    status = os.statvfs(folder)
    return status.f_favail if status.f_files else None


def is_full(folder: Path, least_bytes: int) -> bool:
    """Return whether its file system has less free space than that, or can take no more files."""
    free = free_bytes(folder)
    return (free is not None and free < least_bytes) or free_inodes(folder) == 0


def largest_file_bytes() -> int | None:
    """Return this process's limit for the size of a file (``ulimit -f``), or None."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def fault(error: OSError, doing: str) -> LocalFault:
    """Return the LocalFault for an OSError. doing: the failed action, e.g. ``a download could not be stored``."""
    if error.errno == errno.EFBIG:  # SIGXFSZ is ignored, as Python does
        hint = "Raise the limit (ulimit -f), or use a file system for larger files; then run the same command again."
        return LocalFault("disk_full", f"{doing}: a file has reached the size limit", hint)
    if error.errno in FULL:
        return LocalFault("disk_full", f"{doing}: the disk is full", "Make room and run the same command again.")
    if error.errno in _SHORT:
        hint = "Let it have more, or lower --downloads and --uploads; then run the same command again."
        return LocalFault("too_little", f"{doing}: too little {_SHORT[error.errno]}", hint)
    return LocalFault("disk_error", f"{doing}: {error.strerror or error}", "Check the disk and run the command again.")
