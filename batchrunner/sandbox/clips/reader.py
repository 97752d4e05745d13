"""Read the reference clip's frames, upright, from a file. What is made of them does not belong here."""

from collections.abc import Generator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MOST_PX = 16384  # the encoder's limit


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded frame: when it is shown, in units of `time_base` after the first one, and for how long.

    start_s: when the first one is shown. rate: of the clip, frames a second. width_px, height_px: upright.
    """

    number: int
    pts: int
    duration: int
    time_base: Fraction
    start_s: Fraction
    rate: Fraction
    width_px: int
    height_px: int
    decoded: Any

    def pixels(self, width_px: int, height_px: int) -> "NDArray[np.uint8]":
        """The frame, upright, scaled: (height_px, width_px, 3) RGB."""
        import numpy as np

        turns = self.decoded.rotation // 90
        size_px = (height_px, width_px) if turns % 2 else (width_px, height_px)
        picture = self.decoded.reformat(*size_px, "rgb24").to_ndarray()
        return np.ascontiguousarray(np.rot90(picture, turns))


def frames(path: Path) -> Generator[Frame, None, None]:
    """Decode the clip at `path`. Times go up, whatever the file says. Raises av.FFmpegError, ValueError."""
    import av

    with av.open(str(path)) as source:
        if not source.streams.video:
            raise ValueError("it has no video stream")
        stream = source.streams.video[0]
        stream.thread_type = "AUTO"
        rate, time_base = stream.average_rate or Fraction(25), stream.time_base or Fraction(1, 90000)
        usual = max(1, round(1 / rate / time_base))
        first, pts, duration = None, 0, 0
        for number, decoded in enumerate(source.decode(stream)):
            if first is None:
                first = decoded.pts or 0
            at = pts + duration if decoded.pts is None else decoded.pts - first
            pts = max(at, pts + 1) if number else 0
            duration = decoded.duration or usual
            turned = decoded.rotation % 180 != 0
            size_px = (decoded.height, decoded.width) if turned else (decoded.width, decoded.height)
            yield Frame(number, pts, duration, time_base, first * time_base, rate, *size_px, decoded)
        if first is None:
            raise ValueError("it has no frames")


def measure(path: Path) -> tuple[int, Fraction] | None:
    """Count the frames that play of the clip at `path`, and their length in seconds, undecoded; None if that fails."""
    import av

    try:
        with av.open(str(path)) as source:
            stream = source.streams.video[0]
            rate, time_base = stream.average_rate or Fraction(25), stream.time_base
            shown = [
                (packet.pts, packet.duration or 0)
                for packet in source.demux(stream)
                if packet.size and not packet.is_discard
            ]
    except (av.FFmpegError, IndexError, ValueError, OverflowError):
        return None
    if not shown:
        return None
    times = sorted((pts, duration) for pts, duration in shown if pts is not None)
    if not times or time_base is None:
        return len(shown), len(shown) / rate
    (first, _), (last, duration) = times[0], times[-1]
    duration = duration or (last - first) // max(len(times) - 1, 1)
    return len(shown), (last - first + duration) * time_base or len(shown) / rate


def output_size(width_px: int, height_px: int, resolution: str) -> tuple[int, int]:
    """Width and height of the result: the short side as asked, the long one in proportion, both even.

    Raises ValueError where no encoder could make that.
    """
    short_px = int(resolution.removesuffix("p"))
    long_px = 2 * round(max(width_px, height_px) * short_px / min(width_px, height_px) / 2)
    if long_px > _MOST_PX:
        raise ValueError(f"at {resolution} it would be {long_px} pixels long; at most {_MOST_PX} can be encoded")
    return (long_px, short_px) if width_px >= height_px else (short_px, long_px)
