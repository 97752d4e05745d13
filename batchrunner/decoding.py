"""Does a downloaded clip decode? A real decoder is asked for a picture, and for what it knows of the clip.

Rule: the bytes are hostile, so whatever they are the answer is words. What this machine lacks is no fault of theirs.
What a clip ought to look like (size, length) is not judged here: a paid clip that is merely odd is kept.
"""

import errno
from dataclasses import dataclass
from pathlib import Path


class CheckLimit(ValueError):
    """The check reached one of its own bounds (time, memory): the clip may be whole or not."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a decoder found: picture size in pixels, length in seconds and frame count, the last two None if unsaid."""

    width_px: int
    height_px: int
    duration_s: float | None
    frames: int | None


def check_decodes(path: Path) -> Decoded:
    """Decode the first picture of the MP4 at `path`, and tell what was found.

    The last key frame is left alone: it found nothing more in 200 clips with a flipped byte, and took as long again.
    Blocking: 1 to 20 ms of CPU. Raises ValueError, in words, where no picture comes out; OSError for want of memory.
    """
    import av

    av.logging.set_level(None)  # FFmpeg's own messages would go to the terminal
    try:
        # The format is given, so that a file in disguise (a playlist) cannot make FFmpeg open anything else.
        with av.open(f"file:{path}", format="mp4") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # one picture: threads of its own only cost, and may be refused
            frame = next(container.decode(stream))
            length = stream.duration and stream.time_base and float(stream.duration * stream.time_base)
            return Decoded(frame.width, frame.height, length or None, stream.frames or None)
    except MemoryError:  # FFmpeg's too
        raise OSError(errno.ENOMEM, "out of memory") from None
    except (av.error.FFmpegError, StopIteration, IndexError) as error:
        raise ValueError(f"it does not decode: {getattr(error, 'strerror', '') or 'no picture came out'}") from None
