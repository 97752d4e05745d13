"""Find the files in a tar: where each one starts, and its size. Nothing is unpacked.

It reads USTAR as the export writes it. Long names of other programs (pax, GNU) are skipped, so a file has its short
name. Layout: POSIX.1-1988, `tar.h`. Rule: the bytes are untrusted. Damage is a ValueError.
"""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_BLOCK_BYTES = 512
_FILES = {b"0", b"\0", b"7"}


class Member(NamedTuple):
    """A file in a tar."""

    name: str
    start_bytes: int
    size_bytes: int


def members(file: BinaryIO, tar_bytes: int) -> Iterator[Member]:
    """Yield the files of an open tar of `tar_bytes` bytes. Raises ValueError for damage, OSError if reading fails."""
    at = 0
    while True:
        file.seek(at)
        header = file.read(_BLOCK_BYTES)
        if len(header) < _BLOCK_BYTES:
            raise ValueError("the tar has no end: it is cut short")
        if not any(header):
            return
        size_bytes = _size(header)
        start = at + _BLOCK_BYTES
        if size_bytes > tar_bytes - start:
            raise ValueError(f"the file at byte {at:,} of the tar is longer than the tar")
        if header[156:157] in _FILES:
            yield Member(_name(header), start, size_bytes)
        at = start + -(-size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES


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
    raw = (prefix + b"/" if prefix else b"") + header[:100].partition(b"\0")[0]
    return raw.decode("utf-8", "surrogateescape")
