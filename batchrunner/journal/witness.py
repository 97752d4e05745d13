"""The witness: a file beside `.batchrunner` that says how far the journal had come when it was last relied upon.

A journal can go back in time without a trace in itself: a write-ahead log that was cut, emptied or lost, or an old copy
in the journal's place, look like a journal that has not come further yet. So the number of the last commit is kept a
second time, outside of it. Rule: it is written after the commit, and before anybody acts on what was committed. So a
journal is never older than its witness, unless something was lost.

The file holds two slots, in blocks of their own. A write goes to one of them in turn, and each has a checksum, so a
write that a power cut tears leaves the other slot. The file stays open: it is found again after the run directory was
renamed.
"""

import re
from pathlib import Path
from typing import BinaryIO, NamedTuple
from zlib import crc32

from batchrunner.storage.durable_files import Disk

_SLOT_BYTES = 4096  # a block, which is what a disk writes or tears
_SLOT = re.compile(rb"(batchrunner witness 1 ([0-9a-f]{32}) ([0-9]{20})) ([0-9a-f]{8})\n")


class Mark(NamedTuple):
    """How far a journal has come: its own random id, and the number of its last commit."""

    journal_id: str
    sequence: int


class Witness:
    """The witness at `path`. files: the file system, or a stand-in for it."""

    def __init__(self, path: Path, files: Disk) -> None:
        self.path = path
        self._disk = files
        self._file: BinaryIO | None = None
        self._slot = 0  # that is written next

    def read(self) -> Mark | None:
        """The latest mark; None where there is no file, or where nothing in it can be relied upon. Raises OSError."""
        try:
            content = self._disk.read(self.path, 2 * _SLOT_BYTES)
        except FileNotFoundError:
            return None
        marks = [_mark(content[start:]) for start in (0, _SLOT_BYTES)]
        known = [mark for mark in marks if mark is not None]
        if not known:
            return None
        latest = max(known, key=lambda mark: mark.sequence)
        self._slot = 1 - marks.index(latest)
        return latest

    def create(self, mark: Mark) -> None:
        """Write a new file with this mark in both slots, in the place of one that may be there. Raises OSError."""
        self.close()
        new = self.path.with_name(f"{self.path.name}.new")
        self._disk.remove(new)
        file = self._disk.open(new, "wb")
        try:
            file.write(_slot(mark).ljust(_SLOT_BYTES) * 2)
            self._disk.flush(file)
        finally:
            file.close()
        self._disk.rename(new, self.path)

    def write(self, mark: Mark) -> None:
        """Store the mark; on the disk when this returns. Raises OSError: then the mark before it stands."""
        if self._file is None:
            self._file = self._disk.open(self.path, "r+b")
        self._disk.overwrite(self._file, self._slot * _SLOT_BYTES, _slot(mark))
        self._slot = 1 - self._slot

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _slot(mark: Mark) -> bytes:
    words = f"batchrunner witness 1 {mark.journal_id} {mark.sequence:020d}".encode()
    return b"%s %08x\n" % (words, crc32(words))


def _mark(content: bytes) -> Mark | None:
    """The mark of a slot that begins here; None where it was torn or damaged."""
    found = _SLOT.match(content)
    if found is None or int(found[4], 16) != crc32(found[1]):
        return None
    return Mark(found[2].decode(), int(found[3]))
