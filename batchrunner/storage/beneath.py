"""Read files below one folder and never outside it: no symbolic links, devices or pipes. Nothing is written.

`Folder.open` opens each step of a path from the folder before it, so a link in the middle is refused, even if it
replaces a folder meanwhile.
"""

import errno
import io
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

_MOST_DEPTH = 200  # of folders in folders


class IsLink(OSError):
    """A step of the path is a symbolic link."""


class Folder:
    """A folder with files to read. Use as a context manager. The folder itself may be a link.

    Raises OSError if it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def open(self, steps: Sequence[str]) -> io.BufferedReader:
        """Open a plain file. steps: the names of the folders below this one, and of the file.

        Raises IsLink for a link, FileNotFoundError if it does not exist, and OSError for anything else.
        """
        with ExitStack() as opened:
            folder = self._descriptor
            for name in steps[:-1]:
                folder = _open_step(name, os.O_RDONLY | os.O_DIRECTORY, folder)
                opened.callback(os.close, folder)
            descriptor = _open_step(steps[-1], os.O_RDONLY | os.O_NONBLOCK, folder)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file", "/".join(steps))
        return io.BufferedReader(io.FileIO(descriptor, "rb"))

    def names(self) -> Iterator[str]:
        """Yield the paths of all files and links below the folder, without those whose name begins with a dot.

        Raises OSError if a folder cannot be read.
        """
        yield from self._names(self.path, "", _MOST_DEPTH)

    def _names(self, folder: Path, prefix: str, depth: int) -> Iterator[str]:
        with os.scandir(folder) as found:
            items = sorted((item.name, item.is_dir(follow_symlinks=False)) for item in found if item.name[0] != ".")
        for name, is_folder in items:
            if not is_folder:
                yield prefix + name
                continue
            if not depth:
                raise OSError(errno.ELOOP, "too many folders in folders", prefix + name)
            yield from self._names(folder / name, f"{prefix}{name}/", depth - 1)


def _open_step(name: str, flags: int, folder: int) -> int:
    try:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if _is_link(name, folder):
            raise IsLink(errno.ELOOP, "it is a symbolic link", name) from error
        raise


def _is_link(name: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False
