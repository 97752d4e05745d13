"""Read a reference clip: its frames, upright; its length; its sound. Heavy libraries are imported inside."""

from collections.abc import Generator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import av

    from batchrunner.sandbox.clips.pictures import Bytes


def frames(path: Path) -> Generator["av.VideoFrame", None, None]:
    """Decode the clip at `path`. Times go up from 0, whatever the file says. Raises av.FFmpegError, ValueError."""
    import av

    with av.open(str(path)) as source:
        if not source.streams.video:
            raise ValueError("it has no video stream")
        stream = source.streams.video[0]
        stream.thread_type = "AUTO"
        usual_s = 1 / (stream.average_rate or Fraction(25))
        first, pts, duration, packets = None, -1, 1, 0
        for packet in source.demux(stream):
            packets += bool(packet.size)
            for frame in packet.decode():
                first = frame.pts or 0 if first is None else first
                pts = frame.pts = max(pts + 1, pts + duration if frame.pts is None else frame.pts - first)
                duration = frame.duration = frame.duration or max(1, round(usual_s / (frame.time_base or usual_s)))
                yield frame
        if first is None:
            raise ValueError("it has no frames")
        if packets < stream.frames:
            raise ValueError(f"it ends after {packets} of its {stream.frames} frames")


def upright_size(frame: "av.VideoFrame") -> tuple[int, int]:
    """Return the width and height of a frame as it is shown."""
    return (frame.height, frame.width) if frame.rotation % 180 else (frame.width, frame.height)


def pixels(frame: "av.VideoFrame", width_px: int, height_px: int) -> "Bytes":
    """Return the frame, upright, scaled: (height_px, width_px, 3) RGB."""
    import numpy as np

    sides = (height_px, width_px) if frame.rotation % 180 else (width_px, height_px)
    return np.ascontiguousarray(np.rot90(frame.reformat(*sides, "rgb24").to_ndarray(), frame.rotation // 90))


def measure(path: Path) -> tuple[int, Fraction] | None:
    """Count the frames that play of the clip at `path`, and their length in seconds, undecoded; None if that fails."""
    import av

    try:
        with av.open(str(path)) as source:
            stream = source.streams.video[0]
            rate, time_base = stream.average_rate or Fraction(25), stream.time_base or Fraction(0)
            played = [packet for packet in source.demux(stream) if packet.size and not packet.is_discard]
            times = sorted((packet.pts, packet.duration or 0) for packet in played if packet.pts is not None)
    except (av.FFmpegError, IndexError, ValueError, OverflowError):
        return None
    length_s = Fraction(0)
    if times:
        (first, _), (last, duration) = times[0], times[-1]
        length_s = (last - first + (duration or (last - first) // max(len(times) - 1, 1))) * time_base
    return (len(played), length_s or len(played) / rate) if played else None


def copy_sound(path: Path, target: Any, length_s: float) -> None:
    """Write `length_s` of the first sound stream of the clip at `path` into `target`, in AAC, in step with frame 0."""
    import av

    with av.open(str(path)) as source:
        video, streams = source.streams.video[0], [one for one in source.streams.audio if one.codec_context]
        if not streams:
            return
        start_s = (video.start_time or 0) * (video.time_base or Fraction(0))
        layout = "mono" if streams[0].channels == 1 else "stereo"
        sound = target.add_stream("aac", streams[0].sample_rate, layout=layout)
        for frame in source.decode(streams[0]):
            if (
                frame.pts is not None
                and frame.time_base
                and start_s <= frame.pts * frame.time_base < start_s + length_s
            ):
                frame.pts -= round(start_s / frame.time_base)
                target.mux(sound.encode(frame))
        target.mux(sound.encode(None))
