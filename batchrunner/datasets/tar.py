"""Find the files in a tar: where each one starts, its size, and whether it may be unpacked. Nothing is unpacked.

It reads USTAR as the export writes it, and the long names of other programs (pax, GNU), which count instead of the name
in the header. Folders are left out. Layout: POSIX.1-1988, `tar.h`, and POSIX.1-2001, `pax`. Rule: the bytes are
untrusted. Damage is a ValueError.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from batchrunner.datasets import sums

_BLOCK_BYTES = 512
_MOST_NAME_BYTES = 1 << 16  # of the names of other programs
_FILES, _FOLDERS = {b"0", b"\0", b"7"}, {b"5"}
_ODD = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a pipe"}
_LONG_NAME, _LONG_TARGET, _PAX, _PAX_OF_ALL = b"L", b"K", b"x", b"g"  # before the header that they belong to
_PAX_RECORD = re.compile(rb"(\d{1,9}) ([^=]{1,100})=")


class Member(NamedTuple):
    """A file in a tar, or something else that is no folder. problem: why it is not safe to unpack, or ""."""

    name: str
    start_bytes: int
    size_bytes: int
    problem: str = ""


def members(file: BinaryIO, tar_bytes: int) -> Iterator[Member]:
    """Yield the members of an open tar of `tar_bytes` bytes. Raises ValueError for damage, OSError if reading fails."""
    at, long_name = 0, b""
    while True:
        file.seek(at)
        header = file.read(_BLOCK_BYTES)
        if len(header) < _BLOCK_BYTES:
            raise ValueError("the tar has no end: it is cut short")
        if not any(header):
            return
        size_bytes = _size(header)
        start, kind = at + _BLOCK_BYTES, header[156:157]
        if size_bytes > tar_bytes - start:
            raise ValueError(f"the file at byte {at:,} of the tar is longer than the tar")
        if kind in {_LONG_NAME, _PAX, _PAX_OF_ALL}:
            long_name = _long_name(kind, _content(file, size_bytes)) or long_name
        elif kind != _LONG_TARGET:
            name = _text(long_name) if long_name else _name(header)
            problem = _problem(name, kind)
            if problem or kind not in _FOLDERS:
                yield Member(name, start, size_bytes, problem)
            long_name = b""
        at = start + -(-size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES


def _problem(name: str, kind: bytes) -> str:
    """Return why a member is not safe to unpack, or ""."""
    if kind not in _FILES | _FOLDERS:
        return f"it is {_ODD.get(kind, 'of an unknown type')}"
    return "" if kind in _FOLDERS and name.strip("/") == "." else sums.outside(name)


def _content(file: BinaryIO, size_bytes: int) -> bytes:
    if size_bytes > _MOST_NAME_BYTES:
        raise ValueError("the tar is damaged: a name in it is too long")
    return file.read(size_bytes)


def _long_name(kind: bytes, content: bytes) -> bytes:
    """Return the name that a header of another program states for the next member, or b""."""
    if kind == _LONG_NAME:
        return content.partition(b"\0")[0]
    name, at = b"", 0
    while found := _PAX_RECORD.match(content, at):
        end = at + int(found[1])
        if not found.end() < end <= len(content):
            break
        if found[2] == b"path":
            name = content[found.end() : end - 1]
        at = end
    if content[at:].strip(b"\0"):
        raise ValueError("the tar is damaged: a pax header has a record of another form")
    return name


def _size(header: bytes) -> int:
    """Return the size in a header after a check of its checksum, which counts its own field as spaces."""
    expected = sum(header[:148]) + 8 * ord(" ") + sum(header[156:])
    if _octal(header[148:156]) != expected:
        raise ValueError("the tar is damaged: a header fails its checksum")
    if header[124] & 0x80:  # base 256, for more than 8 GB
        return int.from_bytes(header[125:136])
    return _octal(header[124:136])


def _octal(field: bytes) -> int:
    text = field.strip(b" \0")
    if text and not (text.isdigit() and b"8" not in text and b"9" not in text):
        raise ValueError("the tar is damaged: a number in a header is none")
    return int(text or b"0", 8)


def _name(header: bytes) -> str:
    prefix = header[345:500].partition(b"\0")[0] if header[257:262] == b"ustar" else b""
    return _text((prefix + b"/" if prefix else b"") + header[:100].partition(b"\0")[0])


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
