"""Measure the part of a video that plays: frames and length, from its packets, without decoding.

An edit list hides frames, a header may promise more than the file holds, and some containers count no frames. So all
packets are read. Reading them costs no more than hashing the file. Runs in the process that decodes inputs.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

_SLACK_S = 1.0  # a complete clip may be this much shorter than its header says
_SLACK = 0.1  # the same, as a fraction
_EBML = b"\x1aE\xdf\xa3"
_SEGMENT = b"\x18S\x80g"


class Played(NamedTuple):
    """The frames of the picture that play.

    frames: without those that an edit list hides. length_s: from the first frame to the end of the last one.
    end_s: where the longest stream ends. declared_s: the length that the header names, or None.
    empty: frames whose data are zero bytes only.
    """

    frames: int
    length_s: float
    end_s: float
    declared_s: float | None
    empty: int


def moving_stream(container: "InputContainer") -> "VideoStream | None":
    """Return the first video stream that is not a cover picture, or None."""
    from av.stream import Disposition

    hidden = Disposition.attached_pic | Disposition.timed_thumbnails
    return next((stream for stream in container.streams.video if not stream.disposition & hidden), None)


def measure(container: "InputContainer") -> Played:
    """Read all packets of a container in which `moving_stream` finds a picture.

    Raises FFmpegError if the file is damaged.
    """
    import av

    picture = moving_stream(container)
    assert picture is not None
    frames = empty = 0
    first_s, last_s, end_s = float("inf"), 0.0, 0.0
    for packet in container.demux():
        stamp = packet.dts if packet.pts is None else packet.pts
        if not packet.size or packet.is_discard or stamp is None:
            continue  # the end of a stream, or a frame that is not shown
        at_s = float(stamp * (packet.time_base or 0))
        until_s = at_s + _length_s(packet)
        end_s = max(end_s, until_s)
        if packet.stream_index == picture.index:
            frames += 1
            empty += not any(bytes(packet))
            first_s, last_s = min(first_s, at_s), max(last_s, until_s)
    declared_s = container.duration / av.time_base if container.duration else None
    return Played(frames, max(0.0, last_s - first_s) if frames else 0.0, end_s, declared_s, empty)


def _length_s(packet: "Packet[Any]") -> float:
    """Return how long a packet plays, by its own duration or by the rate of its stream."""
    if packet.duration:
        return float(packet.duration * (packet.time_base or 0))
    rate = getattr(packet.stream, "average_rate", None)
    return float(1 / rate) if rate else 0.0


def cut_short(played: Played, *, by_header: bool) -> str:
    """Return why the file cannot be complete, or "".

    by_header: compare with the length in the header. It matters only for formats without a table of frames.
    """
    if not played.frames:
        return "it shows no frame"
    if played.empty:
        return f"{played.empty:,} of its frames hold zero bytes only"
    declared_s = (played.declared_s or 0.0) if by_header else 0.0
    if declared_s - played.end_s > max(_SLACK_S, _SLACK * declared_s):
        return f"it ends after {played.end_s:.1f} s of {declared_s:.1f} s"
    return ""


def declared_bytes(head: bytes) -> int | None:
    """Return the declared size of a Matroska, WebM or AVI file that starts with `head`, or None.

    head: the first kilobyte. Layouts: RFC 8794 (EBML), RFC 9559 (Matroska), and the RIFF format of AVI.
    """
    if head.startswith(b"RIFF") and len(head) >= 8:
        size = int.from_bytes(head[4:8], "little")
        return 8 + size if 0 < size < 0xFFFFFFFF else None
    if not head.startswith(_EBML):
        return None
    at, header_bytes = _ebml_size(head, len(_EBML))
    if header_bytes is None or head[at + header_bytes : at + header_bytes + 4] != _SEGMENT:
        return None
    at, segment_bytes = _ebml_size(head, at + header_bytes + 4)
    return None if segment_bytes is None else at + segment_bytes


def _ebml_size(head: bytes, at: int) -> tuple[int, int | None]:
    """Read the size field at `at`. Return its end and its value, None for an unknown size."""
    first = head[at] if at < len(head) else 0
    width = 9 - first.bit_length()
    if not first or at + width > len(head):
        return at, None
    bits = 7 * width
    value = int.from_bytes(head[at : at + width], "big") & ((1 << bits) - 1)
    return at + width, None if value == (1 << bits) - 1 else value
