"""Clips that cost next to nothing: plain grey, of the size, length and rate that the rendered clip would have.

For benchmarks, simulated nights and hurried rehearsals, where rendering would be all that there is to wait for. Rule:
a clip is encoded once a shape; its mark tells it from other generations' clips (`marks`). Inputs that `render` would
refuse are refused here too, as far as a look at their beginning tells.
"""

import asyncio
import io
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

from batchrunner.sandbox.clips.render import RenderFailed, RenderRequest, count_frames, output_size

_FRAMES = 25  # of a clip whose header does not tell its length
_MOST_FRAMES = 3000


@dataclass(frozen=True, slots=True)
class Shape:
    """Frames a second, how many of them, and their width and height in pixels."""

    rate: Fraction
    frames: int
    width_px: int
    height_px: int


async def tiny(request: RenderRequest) -> bytes:
    """The clip of `request`, in a thread: a renderer, as `service.Renderer` wants it. Raises RenderFailed."""
    return await asyncio.get_running_loop().run_in_executor(None, render_tiny, request)


def render_tiny(request: RenderRequest) -> bytes:
    """The clip of `request`. Raises RenderFailed."""
    _look_at_image(request.image)
    shape = shape_of(request.video)
    frames = max(1, shape.frames // 2) if request.odd_length else shape.frames
    size_px = output_size(shape.width_px, shape.height_px, request.resolution)
    return _clip(Shape(shape.rate, frames, *size_px)) + request.mark


# Inputs are named by their content, so that a path's shape never changes.
@lru_cache(maxsize=4096)
def shape_of(path: Path) -> Shape:
    """The shape of the clip at `path`, turned upright, as its first frame and its header tell. Raises RenderFailed."""
    import av

    try:
        with av.open(str(path)) as source:
            stream = source.streams.video[0]
            first = next(source.decode(stream))
            size_px = (first.width, first.height) if first.rotation % 180 == 0 else (first.height, first.width)
            rate = stream.average_rate or Fraction(25)
    except (av.FFmpegError, StopIteration, IndexError, ValueError, OverflowError) as error:
        raise RenderFailed("video_url", "unsupported_video_format", f"Could not process the video: {error}") from None
    return Shape(rate, min(count_frames(path) or _FRAMES, _MOST_FRAMES), *size_px)


@lru_cache(maxsize=4096)
def _look_at_image(path: Path) -> None:
    from PIL import Image

    try:
        with Image.open(path):
            pass
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RenderFailed("image_url", "image_load_error", f"Could not load the image: {error}") from None


@lru_cache(maxsize=64)
def _clip(shape: Shape) -> bytes:
    import av

    memory = io.BytesIO()
    with av.open(memory, "w", format="mp4") as target:
        stream: Any = target.add_stream("libx264", rate=shape.rate)
        stream.width, stream.height, stream.pix_fmt = shape.width_px, shape.height_px, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "40"}
        stream.codec_context.thread_count = 1
        frame = av.VideoFrame(shape.width_px, shape.height_px, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes([128]) * plane.buffer_size)
        for number in range(shape.frames):
            frame.pts, frame.time_base = number, 1 / shape.rate
            target.mux(stream.encode(frame))
        target.mux(stream.encode())
    return memory.getvalue()
