"""Read the marks by which a clip says that it is synthetic media. Nothing is verified.

- ``c2pa``: a C2PA manifest. C2PA specification 2.2, "Embedding manifests into BMFF-based assets": a ``uuid`` box.
- ``xmp:<type>``: IPTC's digital source type in XMP, such as ``xmp:trainedAlgorithmicMedia``. XMP part 3 (ISO 16684-1):
  a ``uuid`` box; QuickTime has an ``XMP_`` box. IPTC Photo Metadata Standard: ``Iptc4xmpExt:DigitalSourceType``.
- ``aigc``: the implicit label of GB 45438-2025: the key ``AIGC`` in the metadata of the file, or in XMP.

Rule: the bytes are untrusted. Only headers of boxes and short texts are read, and damage means that there is no mark.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO
from xml.parsers import expat

from batchrunner.media.mp4_structure import Box, boxes

C2PA, XMP, AIGC = "c2pa", "xmp", "aigc"
C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
XMP_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
IPTC_NAMESPACE = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_RDF_RESOURCE = "http://www.w3.org/1999/02/22-rdf-syntax-ns# resource"
_PURPOSES = {b"manifest", b"original", b"update"}  # of a C2PA box; `merkle` alone is no manifest
_CONTAINERS = {b"moov", b"trak", b"udta"}
_MOST_DEPTH = 4
_MOST_XMP_BYTES = 1 << 20
_MOST_TEXT_BYTES = 1 << 16
_MOST_KEYS = 1000
_TYPE = re.compile(r"[A-Za-z]{1,60}")
_HEADER_BYTES = 20 + max(map(len, _PURPOSES)) + 1


def read(file: BinaryIO, size_bytes: int) -> tuple[str, ...]:
    """Return the marks in an open MP4 of `size_bytes` bytes, sorted. Raises OSError if reading fails."""
    return tuple(sorted({mark for box in _leaves(file, 0, size_bytes, _MOST_DEPTH) for mark in _marks_in(file, box)}))


def has_xmp(file: BinaryIO, size_bytes: int) -> bool:
    """Return whether an open MP4 has XMP, whatever it says. Raises OSError."""
    found = _leaves(file, 0, size_bytes, _MOST_DEPTH)
    return any(box.type == b"XMP_" or (box.type == b"uuid" and _text(file, box, 16) == XMP_UUID) for box in found)


def _leaves(file: BinaryIO, start: int, end: int, depth: int) -> Iterator[Box]:
    """Yield the boxes that can have a mark."""
    for box in boxes(file, start, end):
        if box.type in _CONTAINERS and depth:
            yield from _leaves(file, box.start, box.end, depth - 1)
        elif box.type in _READERS:
            yield box


def _marks_in(file: BinaryIO, box: Box) -> Iterator[str]:
    yield from _READERS[box.type](file, box)


def _text(file: BinaryIO, box: Box, most_bytes: int) -> bytes:
    file.seek(box.start)
    return file.read(min(most_bytes, box.end - box.start))


def _of_uuid(file: BinaryIO, box: Box) -> Iterator[str]:
    head = _text(file, box, _HEADER_BYTES)
    if head.startswith(C2PA_UUID) and head[20:].partition(b"\0")[0] in _PURPOSES:
        yield C2PA
    elif head.startswith(XMP_UUID):
        yield from _of_xmp(_text(file, box, _MOST_XMP_BYTES)[len(XMP_UUID) :])


def _of_jumb(file: BinaryIO, box: Box) -> Iterator[str]:
    """Find a manifest store outside of a `uuid` box: a description box with the label ``c2pa``."""
    head = _text(file, box, 64)
    if head[4:8] == b"jumd" and b"c2pa\0" in head:
        yield C2PA


def _of_xmp_box(file: BinaryIO, box: Box) -> Iterator[str]:
    yield from _of_xmp(_text(file, box, _MOST_XMP_BYTES))


def _of_xmp(packet: bytes) -> Iterator[str]:
    found = _XmpReader()
    found.read(packet)
    yield from (f"{XMP}:{name}" for value in found.types if _TYPE.fullmatch(name := value.strip().rpartition("/")[2]))
    if found.has_aigc:
        yield AIGC


class _XmpReader:
    """Collects the digital source types of a packet. A document type ends the reading: XMP has none."""

    def __init__(self) -> None:
        self.types: list[str] = []
        self.has_aigc = False
        self._is_inside = False

    def read(self, packet: bytes) -> None:
        """Read a packet up to its first fault."""
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.StartDoctypeDeclHandler = self._refuse
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._add
        try:
            parser.Parse(packet, False)
        except (expat.ExpatError, ValueError):
            return

    def _refuse(self, *_: object) -> None:
        raise ValueError("XMP has no document type")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        for key, value in attributes.items():
            self._note(key, value)
        self._is_inside = self._note(name, attributes.get(_RDF_RESOURCE, ""))

    def _end(self, _: str) -> None:
        self._is_inside = False

    def _add(self, text: str) -> None:
        if self._is_inside and len(self.types[-1]) < _MOST_TEXT_BYTES:
            self.types[-1] += text

    def _note(self, name: str, value: str) -> bool:
        """Note a property, and return whether it is a digital source type."""
        self.has_aigc = self.has_aigc or name.rpartition(" ")[2] == "AIGC"
        if name != f"{IPTC_NAMESPACE} DigitalSourceType" or len(self.types) >= _MOST_KEYS:
            return False
        self.types.append(value)
        return True


def _of_aigc(file: BinaryIO, box: Box) -> Iterator[str]:
    yield AIGC


def _of_meta(file: BinaryIO, box: Box) -> Iterator[str]:
    """Find the key in the metadata: named in `keys`, as a box of its own, or as ``----`` of iTunes."""
    # A QuickTime box starts with its first box, an ISO box with version and flags.
    start = box.start if _text(file, box, 8)[4:] == b"hdlr" else box.start + 4
    numbers: set[int] = set()
    for child in boxes(file, start, box.end):
        if child.type == b"keys":
            numbers = set(_numbers(_text(file, child, _MOST_TEXT_BYTES)))
        elif child.type == b"ilst" and any(_is_aigc(file, item, numbers) for item in _items(file, child)):
            yield AIGC
        elif child.type in {b"uuid", b"jumb"}:
            yield from _marks_in(file, child)


def _items(file: BinaryIO, ilst: Box) -> Iterator[Box]:
    """Yield the items of a list. Their types may be numbers, which no other box has."""
    at = ilst.start
    for _ in range(_MOST_KEYS):
        file.seek(at)
        head = file.read(8)
        size = int.from_bytes(head[:4])
        if len(head) < 8 or not 8 <= size <= ilst.end - at:
            return
        yield Box(head[4:], at + 8, at + size)
        at += size


def _is_aigc(file: BinaryIO, item: Box, numbers: set[int]) -> bool:
    if item.type == b"----":
        names = (_text(file, child, 64)[4:] for child in boxes(file, item.start, item.end) if child.type == b"name")
        return any(name == b"AIGC" for name in names)
    return item.type == b"AIGC" or int.from_bytes(item.type) in numbers


def _numbers(keys: bytes) -> Iterator[int]:
    """Yield the numbers, from 1, of the keys that are named AIGC. keys: version and flags, a count, then the keys."""
    at = 8
    for number in range(1, _MOST_KEYS):
        size = int.from_bytes(keys[at : at + 4])
        if not 8 <= size <= len(keys) - at:
            return
        if keys[at + 8 : at + size] == b"AIGC":
            yield number
        at += size


_READERS = {
    b"uuid": _of_uuid,
    b"jumb": _of_jumb,
    b"XMP_": _of_xmp_box,
    b"meta": _of_meta,
    b"AIGC": _of_aigc,
}
