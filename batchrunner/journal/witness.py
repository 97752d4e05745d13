"""The witness: a file beside `.batchrunner` with the number of the journal's last commit.

A journal can become older without a trace in itself: its write-ahead log was cut, emptied or lost, or an old copy
replaced it. So the number of the last commit is stored a second time, outside of the journal. It is written after the
commit and before anybody acts on the committed records. So a journal that is older than its witness has lost commits.

The file has two slots in separate blocks. Writes go to them in turn. Each slot has a checksum, so a torn write after a
power cut leaves the other slot valid. The file stays open, so it is still written after the run directory is renamed.
"""

import re
from pathlib import Path
from typing import BinaryIO, NamedTuple
from zlib import crc32

from batchrunner.storage.durable_files import Disk

_SLOT_BYTES = 4096  # a block: the unit in which a disk writes
_SLOT = re.compile(rb"(batchrunner witness 1 ([0-9a-f]{32}) ([0-9]{20})) ([0-9a-f]{8})\n")


class Mark(NamedTuple):
    """The random id of a journal and the number of its last commit."""

    journal_id: str
    sequence: int


class Witness:
    """The witness at `path`. files: the real or a simulated file system."""

    def __init__(self, path: Path, files: Disk) -> None:
        self.path = path
        self._disk = files
        self._file: BinaryIO | None = None
        self._slot = 0  # the slot of the next write

    def read(self) -> Mark | None:
        """Return the latest mark; None if there is no file or no valid slot. Raises OSError."""
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
        """Write a new file with this mark in both slots. It replaces an existing file. Raises OSError."""
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
        """Store the mark durably. Raises OSError; the previous mark is then still valid."""
        if self._file is None:
            self._file = self._disk.open(self.path, "r+b")
        self._disk.overwrite(self._file, self._slot * _SLOT_BYTES, _slot(mark))
        self._slot = 1 - self._slot

    def remove(self) -> None:
        """Remove the file. Raises OSError."""
        self.close()
        self._disk.remove(self.path)

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _slot(mark: Mark) -> bytes:
    content = f"batchrunner witness 1 {mark.journal_id} {mark.sequence:020d}".encode()
    return b"%s %08x\n" % (content, crc32(content))


def _mark(content: bytes) -> Mark | None:
    """Return the mark of the slot that starts here; None if it is torn or damaged."""
    found = _SLOT.match(content)
    if found is None or int(found[4], 16) != crc32(found[1]):
        return None
    return Mark(found[2].decode(), int(found[3]))
