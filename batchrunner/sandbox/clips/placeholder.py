"""Clips that cost next to nothing: plain grey, of the size, length and rate that the rendered clip would have.

For benchmarks, simulated nights and hurried rehearsals, where rendering would be all that there is to wait for. Rule:
a clip is encoded once a shape; its mark tells it from other generations' clips (`marks`). Inputs that `render` would
refuse are refused here too, as far as their beginning tells.
"""

import asyncio
import io
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

from batchrunner.sandbox.clips.reader import frames, measure, upright_size
from batchrunner.sandbox.clips.render import RenderFailed, RenderRequest, output_size, unsupported

# So many frames are encoded; a longer clip repeats them.
_ENCODED_FRAMES = 250


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
    _check_image(request.image)
    shape = shape_of(request.video)
    frames = max(1, shape.frames // 2) if request.odd_length else shape.frames
    try:
        size_px = output_size(shape.width_px, shape.height_px, request.resolution)
    except ValueError as error:
        raise unsupported(error) from None
    return _clip(Shape(shape.rate, frames, *size_px)) + request.mark


# Inputs are named by their content, so that a path's shape never changes.
@lru_cache(maxsize=4096)
def shape_of(path: Path) -> Shape:
    """The shape of the clip at `path`, turned upright. Raises RenderFailed."""
    import av

    try:
        with closing(frames(path)) as decoded:
            first = next(decoded)
        count, length_s = measure(path) or (1, Fraction(1, 25))
    except (av.FFmpegError, ValueError, OverflowError) as error:
        raise unsupported(error) from None
    # Not the rate that the header tells: at a varying one, the clip would be longer or shorter than its reference.
    return Shape((count / length_s).limit_denominator(100_000), count, *upright_size(first))


@lru_cache(maxsize=4096)
def _check_image(path: Path) -> None:
    from PIL import Image

    try:
        with Image.open(path):
            pass
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RenderFailed("image", "image_load_error", f"Could not load the image: {error}") from None


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
        encoded: list[Any] = []
        for number in range(min(shape.frames, _ENCODED_FRAMES)):
            frame.pts, frame.time_base = number, 1 / shape.rate
            encoded += stream.encode(frame)
        encoded += stream.encode()
        for number in range(shape.frames):
            model = encoded[number % len(encoded)]
            packet = av.Packet(bytes(model))
            packet.stream, packet.time_base, packet.is_keyframe = stream, 1 / shape.rate, model.is_keyframe
            packet.pts = packet.dts = number
            packet.duration = 1
            target.mux(packet)
    return memory.getvalue()
