"""Decode every frame of a downloaded clip, and return its size, length and frame count.

Rule: the bytes are untrusted, so any damage is reported as a ValueError. A failure of this machine is an OSError. This
module does not limit memory or time: `batchrunner.media.decode_worker` runs it in a process with limits. It does not
check whether size and length are as expected, because a paid clip with unusual properties is kept.
"""

import errno
import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from batchrunner.media import mp4_structure, synthetic_marks
from batchrunner.media.region import Region
from batchrunner.storage import durable_files

if TYPE_CHECKING:
    from av import AudioFrame, VideoFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.stream import VideoStream

MOST_PIXELS = 36_000_000  # of a frame: 8K has 35.4 million

FRAMES_ONLY = {"max_pixels": str(MOST_PIXELS)}  # applies even if a frame is larger than the header declares
_STRICT = FRAMES_ONLY | {"err_detect": "crccheck+explode"}
# FFmpeg decodes frames of a file before it opens it, to learn what the header may not say. Each of them would be
# decoded twice.
_BY_HEADER = {"skip_frame": "all", "probesize": "32"}

# Gets the pixels of a frame and the number of frames before they are decoded. Raises CheckLimit.
Allow = Callable[[int, int], None]

# Called before a clip is decoded from its start, at most three times. Returns a function that takes its frames.
Observe = Callable[[], Callable[["VideoFrame | AudioFrame"], None]]


class CheckLimit(ValueError):
    """The check reached one of its own limits (pixels, time, memory). The file may be complete or not."""


class Decoded(NamedTuple):
    """The properties of a decoded clip: size in pixels, length in seconds, frame count. The last two are None if
    unknown.

    warnings: unusual properties of a complete clip. synthetic_marks: see `batchrunner.media.synthetic_marks`.
    """

    width_px: int
    height_px: int
    duration_s: float | None
    frames: int | None
    warnings: tuple[str, ...] = ()
    synthetic_marks: tuple[str, ...] = ()


def allow_pixels(pixels: int, frames: int) -> None:
    """Refuse frames that are too large. Raises CheckLimit."""
    if pixels > MOST_PIXELS:
        raise CheckLimit(f"its frames have {pixels:,} pixels; at most {MOST_PIXELS:,} are decoded")


def bound(stream: "VideoStream | AudioStream", options: dict[str, str]) -> int:
    """Prepare a stream for decoding in one thread with options for FFmpeg, and return the pixels of a frame.

    Several files are decoded in parallel, so more threads per file do not help. Raises ValueError if no decoder
    supports the stream, CheckLimit if its frames are too large.
    """
    context = stream.codec_context
    if context is None:
        raise ValueError("no decoder supports its codec")
    context.thread_count = 1
    context.options = options
    pixels = int(getattr(context, "width", 1) * getattr(context, "height", 1))
    if not pixels:  # FFmpeg clears a size that exceeds `max_pixels`
        raise CheckLimit(f"its frames have more than {MOST_PIXELS:,} pixels, or no size at all")
    return pixels


def unobserved() -> "Callable[[VideoFrame | AudioFrame], None]":
    """Return a function that ignores frames."""
    return lambda _: None


def inspect(
    path: Path,
    size_bytes: int,
    allow: Allow = allow_pixels,
    observe: Observe = unobserved,
    start_bytes: int | None = None,
) -> Decoded:
    """Check the structure of the clip at `path` and decode it. observe: gets the frames that pass the check.

    start_bytes: where the clip starts in a larger file; None if it is all of the file.

    Raises ValueError with the damage, its subclass CheckLimit if the check was stopped, and OSError if the file cannot
    be read.
    """
    with durable_files.open_plain(path) as whole:
        file = whole if start_bytes is None else io.BufferedReader(Region(whole, start_bytes, size_bytes))
        damage = mp4_structure.check_structure(file, size_bytes)
        if damage is not None:
            raise ValueError(damage)
        warnings = mp4_structure.expectation_warnings(file, size_bytes)
        marks = synthetic_marks.read(file, size_bytes)
        source = path if start_bytes is None else file
        return check_decodes(source, allow, observe)._replace(warnings=warnings, synthetic_marks=marks)


def check_decodes(source: Path | BinaryIO, allow: Allow = allow_pixels, observe: Observe = unobserved) -> Decoded:
    """Decode all pictures and sound of the MP4 at a path or in an open file, and return the result.

    Blocks, for about 3 ns of CPU time per pixel. Raises ValueError if a frame is missing or damaged, CheckLimit at a
    limit, OSError if memory is short.
    """
    import av
    import av.logging

    av.logging.set_level(None)  # FFmpeg's own messages would go to the terminal
    # A complete clip mostly decodes as its header says. Otherwise the file is opened again, with all of FFmpeg's care.
    with suppress(av.error.FFmpegError, IndexError, ValueError, MemoryError):
        decoded, missing = _decode_all(source, allow, observe, _BY_HEADER)
        if not missing:
            return decoded
    try:
        decoded, missing = _decode_all(source, allow, observe, {})
        if missing:  # an edit list may hide frames from players: count the frames behind it
            decoded, missing = _decode_all(source, allow, observe, {"ignore_editlist": "1"})
    except MemoryError:  # also from FFmpeg
        raise OSError(errno.ENOMEM, "out of memory") from None
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"it does not decode: {getattr(error, 'strerror', '') or 'no frame was decoded'}") from None
    if missing:
        raise ValueError(f"it does not decode: {missing:,} of {decoded.frames:,} frames are missing")
    return decoded


def _decode_all(
    source: Path | BinaryIO, allow: Allow, observe: Observe, demuxer: dict[str, str]
) -> tuple[Decoded, int]:
    """Decode each frame of each stream. Return the result and the number of missing frames."""
    import av

    if not isinstance(source, Path):
        source.seek(0)
    # The fixed format prevents a disguised file (a playlist) from opening other files.
    opened: Any = f"file:{source}" if isinstance(source, Path) else source
    with av.open(opened, "r", format="mp4", options=_STRICT | demuxer) as container:
        stream = container.streams.video[0]
        length = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
        declared = stream.frames or round(length * float(stream.average_rate or 0))
        if demuxer is _BY_HEADER and not stream.frames:
            raise ValueError("its header does not count its frames")
        allow(bound(stream, _STRICT), declared)
        found, size_px = _decode_streams(container, allow, observe(), declared)
        if not found:
            raise ValueError("it does not decode: no frame was decoded")
        decoded = Decoded(*size_px, length or None, stream.frames or None)
        return decoded, max(0, stream.frames - found)


def _decode_streams(
    container: "InputContainer", allow: Allow, take: "Callable[[VideoFrame | AudioFrame], None]", declared: int
) -> tuple[int, tuple[int, int]]:
    """Decode the first video stream and all sound. Return the number of pictures and the size of the last one.

    The caller has allowed the declared size of the pictures.
    """
    import av

    video = container.streams.video[0]
    streams = [video, *container.streams.audio]
    for sound in container.streams.audio:
        bound(sound, _STRICT)
    found, size_px = 0, (video.width, video.height)
    for packet in container.demux(streams):
        for frame in packet.decode():
            if isinstance(frame, av.VideoFrame | av.AudioFrame):
                if frame.is_corrupt:
                    raise ValueError(f"it does not decode: the frame at {frame.time or 0:.2f} s is damaged")
                take(frame)
            if isinstance(frame, av.VideoFrame):
                found += 1
                if (frame.width, frame.height) != size_px:
                    size_px = (frame.width, frame.height)
                    allow(frame.width * frame.height, declared)
    return found, size_px
