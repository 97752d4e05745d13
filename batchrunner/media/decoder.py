"""Decode every frame of a downloaded clip, and return its size, length and frame count.

Rule: the bytes are hostile, so whatever they are the answer is words. What this machine lacks is no fault of theirs.
Nothing here bounds memory or time: `batchrunner.media.decode_worker` runs it in a process of its own that is bounded.
What a clip ought to look like (size, length) is not judged here: a paid clip that is merely odd is kept.
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from batchrunner.media import mp4_structure
from batchrunner.storage import durable_files

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.stream import VideoStream

MOST_PIXELS = 36_000_000  # of a frame: 8K has 35.4 million

FRAMES_ONLY = {"max_pixels": str(MOST_PIXELS)}  # also where a frame is larger than the header declares
_STRICT = FRAMES_ONLY | {"err_detect": "crccheck+explode"}

# Gets the pixels of a frame and the number of frames before they are decoded. Raises CheckLimit.
Allow = Callable[[int, int], None]


class CheckLimit(ValueError):
    """The check reached one of its own limits (pixels, time, memory). The file may be complete or not."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a decoder found: picture size in pixels, length in seconds and frame count, the last two None if unsaid.

    warnings: what is odd about a clip that is whole.
    """

    width_px: int
    height_px: int
    duration_s: float | None
    frames: int | None
    warnings: tuple[str, ...] = ()


def allow_pixels(pixels: int, frames: int) -> None:
    """Refuse frames that are too large. Raises CheckLimit."""
    if pixels > MOST_PIXELS:
        raise CheckLimit(f"its frames have {pixels:,} pixels, and {MOST_PIXELS:,} are the most that are decoded")


def bound(stream: "VideoStream | AudioStream", options: dict[str, str]) -> int:
    """Make a stream ready to be decoded, in one thread and with options for FFmpeg; return the pixels of a frame.

    Several files are decoded at once: threads of its own only cost. Raises ValueError where no decoder knows it, and
    CheckLimit where its frames are too large.
    """
    context = stream.codec_context
    if context is None:
        raise ValueError("no decoder knows how it is coded")
    context.thread_count = 1
    context.options = options
    pixels = int(getattr(context, "width", 1) * getattr(context, "height", 1))
    if not pixels:  # what FFmpeg leaves of a size that `max_pixels` refuses
        raise CheckLimit(f"its frames have more than {MOST_PIXELS:,} pixels, or no size at all")
    return pixels


def inspect(path: Path, size_bytes: int, allow: Allow = allow_pixels) -> Decoded:
    """Check the structure of the clip at `path` and decode it.

    Raises ValueError that says what is wrong, its subclass CheckLimit where the check was ended, and OSError where the
    file cannot be read.
    """
    with durable_files.open_plain(path) as file:
        complaint = mp4_structure.check_structure(file, size_bytes)
        if complaint is not None:
            raise ValueError(complaint)
        warnings = mp4_structure.expectation_warnings(file, size_bytes)
    return replace(check_decodes(path, allow), warnings=warnings)


def check_decodes(path: Path, allow: Allow = allow_pixels) -> Decoded:
    """Decode every frame of the MP4 at `path`, pictures and sound, and return the result.

    Blocking: about 3 ns of CPU per pixel. Raises ValueError where a frame is missing or damaged, CheckLimit where a
    bound is reached, OSError for want of memory.
    """
    import av
    import av.logging

    av.logging.set_level(None)  # FFmpeg's own messages would go to the terminal
    try:
        decoded, missing = _decode_all(path, allow, {})
        if missing:  # an edit list may hide frames from players: count the frames behind it
            decoded, missing = _decode_all(path, allow, {"ignore_editlist": "1"})
    except MemoryError:  # FFmpeg's too
        raise OSError(errno.ENOMEM, "out of memory") from None
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"it does not decode: {getattr(error, 'strerror', '') or 'no picture came out'}") from None
    if missing:
        raise ValueError(f"it does not decode: {missing:,} of {decoded.frames:,} frames are missing")
    return decoded


def _decode_all(path: Path, allow: Allow, demuxer: dict[str, str]) -> tuple[Decoded, int]:
    """Decode each frame of each stream; returns what was found, and how many declared frames are missing."""
    import av

    # The format is given, so that a file in disguise (a playlist) cannot make FFmpeg open anything else.
    with av.open(f"file:{path}", format="mp4", options=_STRICT | demuxer) as container:
        stream = container.streams.video[0]
        length = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
        declared = stream.frames or round(length * float(stream.average_rate or 0))
        allow(bound(stream, _STRICT), declared)
        found, size_px = _decode_streams(container, allow, declared)
        if not found:
            raise ValueError("it does not decode: no picture came out")
        decoded = Decoded(*size_px, length or None, stream.frames or None)
        return decoded, max(0, stream.frames - found)


def _decode_streams(container: "InputContainer", allow: Allow, declared: int) -> tuple[int, tuple[int, int]]:
    """Decode the first picture stream and all sound; returns the number of pictures and the size of the last one."""
    import av

    streams = [container.streams.video[0], *container.streams.audio]
    for sound in container.streams.audio:
        bound(sound, _STRICT)
    found, size_px = 0, (0, 0)
    for packet in container.demux(streams):
        for frame in packet.decode():
            if isinstance(frame, av.VideoFrame | av.AudioFrame) and frame.is_corrupt:
                raise ValueError(f"it does not decode: the frame at {frame.time or 0:.2f} s is damaged")
            if isinstance(frame, av.VideoFrame):
                found += 1
                if (frame.width, frame.height) != size_px:
                    size_px = (frame.width, frame.height)
                    allow(frame.width * frame.height, declared)
    return found, size_px
