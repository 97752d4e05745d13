"""Check by its structure that a clip is a complete MP4, in plain Python. `batchrunner.media.decoder` decodes it.

`check_structure` reads boxes, sample tables and the NAL units of H.264 and H.265 samples. In about a millisecond it
finds truncated files, junk, concatenated files, web pages saved as clips, and zeroed regions. Layouts: ISO/IEC 14496-12
(boxes) and 14496-15 (NAL units in samples).

Rule: the bytes are untrusted. Sizes are checked before use, counts are limited by the number of bytes, and damage is
returned as a message, never raised.
"""

import re
import struct
import sys
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from batchrunner.formatting import count_text

# Boxes at the top level. A box with such a name that is longer than the file was truncated.
_TOP_BOXES = frozenset(
    b"ftyp styp moov mdat moof mfra free skip wide uuid meta udta meco pdin sidx ssix prft emsg pnot PICT".split()
)
_MAX_FRAGMENTED_TAIL_BYTES = 4096  # padding to a block of a disk; more can hide lost fragments
_MAX_BOXES = 100_000  # at the top level; a fragmented hour has some 7,200
_MAX_INDEX_BYTES = 64 << 20  # moov; an hour of video and sound has 3 MB, a cover picture may have 20
_MAX_SAMPLE_BYTES = 32 << 20  # one picture, read at once; an intra-only 4K picture has 10 MB
_MAX_NAL_UNITS = 2_000_000  # in one file
# H.264 and H.265 never have three zero bytes in a row inside a NAL unit (emulation prevention); some writers leave a
# few at its end. A run this long is a hole in the file.
_HOLE = bytes(16)
# Codecs with samples of NAL units. The tuple has the box and the byte offset of the width of a unit's length field.
_NAL_CODECS = {b"avc1": (b"avcC", 4), b"avc3": (b"avcC", 4), b"hvc1": (b"hvcC", 21), b"hev1": (b"hvcC", 21)}
# Printable ASCII; QuickTime's names of texts begin with the byte A9, a copyright sign.
_is_name = re.compile(rb"[ -~\xa9][ -~]{3}").fullmatch
_VISUAL_ENTRY_BYTES = 78  # fixed fields of a visual sample entry, before its boxes
HEAD_BYTES = 512  # bytes that `names_no_video` needs
_PAGES = ((b"<", "an HTML or XML page"), (b"{", "JSON"), (b"[", "JSON"))


class _Broken(Exception):
    """The file is damaged. Its message says how."""


class Box(NamedTuple):
    """A box: its type, and where its content starts and ends."""

    type: bytes
    start: int
    end: int


class _Run(NamedTuple):
    """Consecutive chunks with the same number of samples and the same sample entry. Chunks and entries count from 1."""

    first_chunk: int
    samples: int
    entry: int


@dataclass(frozen=True, slots=True)
class _Track:
    """A track's sample table.

    sizes: the size of each sample in bytes; if all `count` samples have the same size, `same_size` has it. Neither is
    set for the compact form, which is not checked. nal_widths: the width in bytes of a NAL unit's length field for each
    sample entry; 0 for other codecs.
    """

    handler: bytes
    count: int
    same_size: int
    sizes: "array[int]"
    chunks: "array[int]"
    runs: tuple[_Run, ...]
    nal_widths: tuple[int, ...]


def check_structure(file: BinaryIO, size_bytes: int, *, is_input: bool = False) -> str | None:
    """Return None if the open `file` is a complete MP4 of `size_bytes` bytes, otherwise a message.

    Only the boxes of fragmented files (moof) are checked. is_input: check a user's own file less strictly: a QuickTime
    file needs no 'ftyp' box, and the decoder checks a file without a video track. Raises OSError if reading fails, and
    no other exception.
    """
    try:
        _check(file, size_bytes, is_input=is_input)
    except _Broken as broken:
        return str(broken)
    return None


def expectation_warnings(file: BinaryIO, size_bytes: int) -> tuple[str, ...]:
    """Return warnings about the ends of a file that `check_structure` accepts. Raises OSError."""
    try:
        boxes, tail_at = _walk_file(file, size_bytes)
        if tail_at < size_bytes:
            return (f"{count_text(size_bytes - tail_at, 'byte')} after its last box, which players ignore",)
        head = _read(file, _header_at(boxes), 8) if boxes else b""
    except _Broken:
        return ()
    return (f"its last box '{head[4:].decode('latin-1')}' names no size",) if head.startswith(bytes(4)) else ()


def _check(file: BinaryIO, size_bytes: int, *, is_input: bool) -> None:
    actual_bytes = file.seek(0, 2)
    if actual_bytes != size_bytes:
        raise _Broken(f"it holds {actual_bytes:,} bytes where {size_bytes:,} were expected")
    if (other := names_no_video(_read(file, 0, min(size_bytes, HEAD_BYTES)))) is not None:
        raise _Broken(other)
    boxes, _ = _walk_file(file, size_bytes)
    _check_parts(boxes, (b"moov", b"mdat") if is_input else (b"ftyp", b"moov", b"mdat"))
    tracks = _tracks(file, next(box for box in boxes if box.type == b"moov"))
    videos = [track for track in tracks if track.handler == b"vide"]
    if not videos:
        if is_input:
            return  # the decoder identifies it
        raise _Broken("it has no video track")
    if any(box.type == b"moof" for box in boxes):
        return
    if not any(track.count for track in videos):
        raise _Broken("its video track has no pictures")
    for track in tracks:
        _check_places(track, size_bytes)
    _check_pictures(file, size_bytes, videos)


def _check_parts(boxes: list[Box], needed: tuple[bytes, ...]) -> None:
    """Check that all boxes of a clip exist, and the ones that describe all of it only once."""
    count = Counter(box.type for box in boxes)
    for name in (b"ftyp", b"moov", b"mdat"):
        if name in needed and not count[name]:
            raise _Broken(f"it has no '{name.decode()}' box: it is not an MP4, or not complete")
        if count[name] > 1 and name != b"mdat":
            raise _Broken(f"it has {count[name]} '{name.decode()}' boxes: files were joined into one")


def boxes(file: BinaryIO, start: int, end: int) -> Iterator[Box]:
    """Yield the boxes in a range of a file, up to the first damaged one. Raises OSError."""
    at = start
    try:
        for _ in range(_MAX_BOXES):
            if at >= end:
                return
            box = _box(_read(file, at, min(16, end - at)), at, end, to_the_end=True)
            yield box
            at = box.end
    except _Broken:
        return


def last_box(file: BinaryIO, size_bytes: int) -> Box:
    """Return the last box of a file, with its header. Bytes that are no box may follow it.

    Raises ValueError if the file is no chain of boxes, and OSError.
    """
    try:
        found, _ = _walk_file(file, size_bytes)
    except _Broken as broken:
        raise ValueError(str(broken)) from broken
    if not found:
        raise ValueError("it has no box")
    return found[-1]._replace(start=_header_at(found))


def _header_at(found: list[Box]) -> int:
    """Return where the last of the boxes of a file begins."""
    return found[-2].end if len(found) > 1 else 0


def names_no_video(head: bytes) -> str | None:
    """Return the type of a file that starts with `head` and is not a video, or None."""
    if not head:
        return "it is empty"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head[4:8] != b"ftyp":
        return next((f"it is {name}, not a video" for mark, name in _PAGES if text.startswith(mark)), None)
    return None


def _read(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    data = file.read(size)
    if len(data) != size:
        raise _Broken(f"it ends before byte {start + size:,}")
    return data


def _walk_file(file: BinaryIO, size_bytes: int) -> tuple[list[Box], int]:
    """Return the top-level boxes and the end of the last one. Other bytes may follow it."""
    boxes: list[Box] = []
    at = 0
    while at < size_bytes:
        head = _read(file, at, min(16, size_bytes - at))
        try:
            boxes.append(_box(head, at, size_bytes, to_the_end=True))
        except _Broken:
            if _is_tail(boxes, head, size_bytes - at):
                return boxes, at
            raise
        at = boxes[-1].end
        if len(boxes) > _MAX_BOXES:
            raise _Broken(f"it has more than {_MAX_BOXES:,} boxes")
    return boxes, at


def _is_tail(boxes: list[Box], head: bytes, size_bytes: int) -> bool:
    """Return whether bytes that start with `head` and are not a box can follow a complete clip.

    The sample tables of a plain file show whether all its pictures exist. A fragmented file has no such table, so bytes
    that could begin the next fragment count as truncation.
    """
    names = {box.type for box in boxes}
    if not {b"moov", b"mdat"} <= names or head[4:8] in _TOP_BOXES:
        return False
    if b"moof" not in names or b"mfra" in names:  # mfra is at the end
        return True
    if len(head) < 8:
        return head.isspace() or (len(head) >= 4 and not any(head))
    return size_bytes <= _MAX_FRAGMENTED_TAIL_BYTES


def _walk(data: bytes, start: int, end: int) -> Iterator[Box]:
    """Yield the boxes in data[start:end], which they must fill. Four zero bytes may follow (QuickTime)."""
    at = start
    while at < end and not (end - at == 4 and data[at:end] == bytes(4)):
        box = _box(data[at : min(at + 16, end)], at, end)
        yield box
        at = box.end


def _box(head: bytes, at: int, end: int, *, to_the_end: bool = False) -> Box:
    """Return the box at `at` that starts with `head`, in a range that ends at `end`.

    to_the_end: a size of 0 means up to `end`, as it does at the top level.
    """
    if len(head) < 8:
        raise _Broken(f"{len(head)} stray bytes at byte {at:,}, after the last box")
    size, name = struct.unpack_from(">I4s", head)
    header = 8
    if not _is_name(name):
        raise _Broken(f"junk at byte {at:,} instead of a box")
    if size == 1:  # a 64-bit size follows
        header = 16
        size = struct.unpack_from(">Q", head, 8)[0] if len(head) == 16 else 0
    elif size == 0 and to_the_end and name in _TOP_BOXES:
        size = end - at
    if header <= size <= end - at:
        return Box(name, at + header, at + size)
    what = "has an impossible size" if size < header else f"needs {size:,} bytes and only {end - at:,} are left"
    raise _Broken(f"the box '{name.decode('latin-1')}' at byte {at:,} {what}")


def _find(data: bytes, box: Box, *path: bytes) -> Box | None:
    """Return the first box down `path` from `box`, or None."""
    for name in path:
        found = next((child for child in _walk(data, box.start, box.end) if child.type == name), None)
        if found is None:
            return None
        box = found
    return box


def _tracks(file: BinaryIO, moov: Box) -> list[_Track]:
    size = moov.end - moov.start
    if size > _MAX_INDEX_BYTES:
        raise _Broken(f"its index (moov) has {size:,} bytes, which is too many")
    data = _read(file, moov.start, size)
    return [_track(data, box) for box in _walk(data, 0, size) if box.type == b"trak"]


def _track(data: bytes, trak: Box) -> _Track:
    handler = _find(data, trak, b"mdia", b"hdlr")
    table = _find(data, trak, b"mdia", b"minf", b"stbl")
    if handler is None or table is None:
        raise _Broken("a track has no handler or no sample table")
    boxes_by_type = {box.type: box for box in _walk(data, table.start, table.end)}
    kind = _fields(data, handler, 8, ">4s")[0]
    count, same_size, sizes = _sizes(data, boxes_by_type)
    runs = _numbers(data, boxes_by_type.get(b"stsc"), "I", 3)
    wide = b"co64" in boxes_by_type
    return _Track(
        handler=kind,
        count=count,
        same_size=same_size,
        sizes=sizes,
        chunks=_numbers(data, boxes_by_type.get(b"co64" if wide else b"stco"), "Q" if wide else "I"),
        runs=tuple(map(_Run._make, zip(runs[::3], runs[1::3], runs[2::3], strict=True))),
        nal_widths=_nal_widths(data, boxes_by_type.get(b"stsd")) if kind == b"vide" else (),
    )


def _fields(data: bytes, box: Box, offset: int, layout: str) -> tuple[Any, ...]:
    """Read the fields at `offset` in a box. Raises _Broken if the box is too short."""
    if box.start + offset + struct.calcsize(layout) > box.end:
        raise _Broken(f"the box '{box.type.decode()}' is too short")
    return struct.unpack_from(layout, data, box.start + offset)


def _numbers(data: bytes, box: Box | None, code: str, columns: int = 1) -> "array[int]":
    """Return all rows of a table box: version and flags, a count, then `columns` big-endian numbers a row."""
    numbers = array(code)
    if box is not None:
        (rows,) = _fields(data, box, 4, ">I")
        _fill(numbers, data, box, 8, rows * columns)
    return numbers


def _fill(numbers: "array[int]", data: bytes, box: Box, offset: int, count: int) -> None:
    start = box.start + offset
    if count * numbers.itemsize > box.end - start:
        raise _Broken(f"the table '{box.type.decode()}' is too short for its {count:,} numbers")
    numbers.frombytes(data[start : start + count * numbers.itemsize])
    if sys.byteorder == "little":
        numbers.byteswap()


def _sizes(data: bytes, boxes_by_type: dict[bytes, Box]) -> tuple[int, int, "array[int]"]:
    """Return the number of samples, their common size or 0, and their single sizes or none."""
    sizes = array("I")
    box = boxes_by_type.get(b"stsz") or boxes_by_type.get(b"stz2")
    if box is None:
        return 0, 0, sizes
    same_size, count = _fields(data, box, 4, ">II")
    if box.type == b"stz2":
        same_size = 0
    elif not same_size:
        _fill(sizes, data, box, 12, count)
    return count, same_size, sizes


def _nal_widths(data: bytes, stsd: Box | None) -> tuple[int, ...]:
    if stsd is None:
        raise _Broken("a video track has no codec description")
    widths = []
    for entry in _walk(data, stsd.start + 8, stsd.end):
        width = 0
        if entry.type in _NAL_CODECS:
            name, offset = _NAL_CODECS[entry.type]
            config = _find(data, entry._replace(start=entry.start + _VISUAL_ENTRY_BYTES), name)
            if config is None:
                raise _Broken(f"its '{entry.type.decode()}' video has no '{name.decode()}' configuration")
            width = (_fields(data, config, offset, "B")[0] & 3) + 1
        widths.append(width)
    return tuple(widths)


def _chunks(track: _Track) -> Iterator[tuple[int, int, int, int]]:
    """Yield each chunk's offset, the index of its first sample, its number of samples and its sample entry, from 0."""
    ends = [*(run.first_chunk for run in track.runs[1:]), len(track.chunks) + 1]
    first = 0
    for run, end in zip(track.runs, ends, strict=False):  # no runs, one end
        if not 0 < run.first_chunk < end <= len(track.chunks) + 1:
            raise _Broken("its sample table is out of order")
        for chunk in range(run.first_chunk - 1, end - 1):
            yield track.chunks[chunk], first, run.samples, run.entry - 1
            first += run.samples
    if first < track.count:
        raise _Broken(f"its sample table has places for {first:,} of {track.count:,} samples")


def _check_places(track: _Track, size_bytes: int) -> None:
    """Check that every sample is inside the file."""
    for offset, first, samples, _ in _chunks(track) if track.sizes or track.same_size else ():
        in_chunk = max(0, min(samples, track.count - first))
        length = sum(track.sizes[first : first + in_chunk]) if track.sizes else in_chunk * track.same_size
        if offset + length > size_bytes:
            raise _Broken(f"samples should reach byte {offset + length:,} and the file ends at {size_bytes:,}")


def _check_pictures(file: BinaryIO, size_bytes: int, videos: list[_Track]) -> None:
    """Check that every H.264 and H.265 sample is a chain of NAL units that fills it exactly, without holes."""
    if sum(sum(track.sizes) for track in videos) > size_bytes:
        raise _Broken("its pictures add up to more than the file")  # samples that overlap would be read repeatedly
    units_left = _MAX_NAL_UNITS
    for track in videos:
        for offset, first, samples, entry in _chunks(track):
            if not 0 <= entry < len(track.nal_widths):
                raise _Broken("its sample table names a missing codec description")
            at = offset
            for size in track.sizes[first : first + samples] if track.nal_widths[entry] else ():
                if size > _MAX_SAMPLE_BYTES:
                    raise _Broken(f"the picture at byte {at:,} has {size:,} bytes, which is too many")
                units_left -= _nal_units(_read(file, at, size), track.nal_widths[entry], at)
                if units_left < 0:
                    raise _Broken(f"it has more than {_MAX_NAL_UNITS:,} NAL units")
                at += size


def _nal_units(sample: bytes, width: int, offset: int) -> int:
    """Return the number of NAL units in a picture sample. offset: of the sample in the file."""
    at, units = 0, 0
    while at < len(sample):
        length = int.from_bytes(sample[at : at + width])
        at += width
        if not 0 < length <= len(sample) - at:
            raise _Broken(f"the picture at byte {offset:,} is damaged: its parts do not fit it")
        at += length
        units += 1
    if _HOLE in sample:
        raise _Broken(f"the picture at byte {offset:,} is damaged: it has a hole of zero bytes")
    return units
