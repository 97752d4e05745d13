"""The record of file operations, parsed in order. See preload.c."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

_HEAD = struct.Struct("=IIIIqq")


class Kind(IntEnum):
    """As in preload.c."""

    CREATE = 1
    WRITE = 2
    RESIZE = 3
    FLUSH_BEGINS = 4
    FLUSH_ENDS = 5
    RENAME = 6
    LINK = 7
    UNLINK = 8
    MKDIR = 9
    RMDIR = 10


@dataclass(frozen=True, slots=True)
class Act:
    """One operation.

    inode: of the file or folder, if it has one. at: offset of a write, new size, or the number that pairs the two
    records of a flush. path, other: old and new name. data: the bytes written.
    """

    kind: Kind
    inode: int
    at: int
    path: str
    other: str
    data: bytes


def parse(log: bytes) -> Iterator[Act]:
    """Yield every operation, oldest first."""
    place = 0
    while place < len(log):
        kind, *sizes, inode, at = _HEAD.unpack_from(log, place)
        place += _HEAD.size
        fields = []
        for size in sizes:
            fields.append(log[place : place + size])
            place += size
        yield Act(Kind(kind), inode, at, fields[0].decode(), fields[1].decode(), fields[2])
