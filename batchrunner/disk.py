"""The few things done to files that must survive a power cut, in one place so that a simulation can stand in.

Rule: content is flushed before it gets its final name, and the name before anybody is told. All of it blocks: call it
through an executor.
"""

import errno
import os
import shutil
from pathlib import Path
from typing import BinaryIO

from batchrunner.errors import LocalFault

FULL = {errno.ENOSPC, errno.EDQUOT}


class Disk:
    """The real file system."""

    def open(self, path: Path, mode: str) -> BinaryIO:
        """Open a file for binary writing: mode ``wb`` or ``ab``."""
        return path.open(mode)  # type: ignore[return-value]  # both modes are binary

    def flush(self, file: BinaryIO) -> None:
        """Return when the file's content is on the disk."""
        file.flush()
        os.fsync(file.fileno())

    def rename(self, source: Path, target: Path) -> None:
        """Give a file its new name, in one step, and return when the name is on the disk."""
        source.replace(target)
        for folder in {source.parent, target.parent}:
            self.flush_folder(folder)

    def duplicate(self, source: Path, target: Path) -> None:
        """Let the same content stand under a second name: a hard link where the file system has them, else a copy."""
        temporary = target.with_name(target.name + ".new")
        temporary.unlink(missing_ok=True)
        try:
            temporary.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        self.rename(temporary, target)
        temporary.unlink(missing_ok=True)  # renaming one hard link over another of the same file leaves both

    def remove(self, path: Path) -> None:
        """Remove a file that may be there."""
        path.unlink(missing_ok=True)

    def flush_folder(self, folder: Path) -> None:
        """Return when the folder's names are on the disk."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def fault(error: OSError, doing: str) -> LocalFault:
    """What an OSError means for the user. doing: what was tried, e.g. ``a download could not be stored``."""
    if error.errno in FULL:
        return LocalFault("disk_full", f"{doing}: the disk is full", "Make room and run the same command again.")
    return LocalFault("disk_error", f"{doing}: {error.strerror or error}", "Check the disk and run the command again.")
