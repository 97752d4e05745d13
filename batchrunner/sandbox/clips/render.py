"""Render a clip: read the reference, replace its subject, keep its timing and sound, encode. `render` does it.

Blocking and CPU-bound: worker processes run it. The same request makes the same pictures. Heavy libraries are imported
inside. What the clip costs, and when it is shown, does not belong here.
"""

import errno
import math
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrunner.sandbox.clips.reader import copy_sound, frames, measure, pixels, upright_size

if TYPE_CHECKING:
    from PIL import Image

CRF = {"low": "32", "medium": "27", "high": "22", "maximum": "16"}
PRESET = {"fast": "superfast", "balanced": "medium", "small": "slow"}
# With mbtree, some machines write other bytes at every run. With B-frames, MP4 loses the length of the last frame.
_X264 = "mbtree=0:bframes=0"
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MOST_PX = 16384  # the encoder's limit


@dataclass(frozen=True, slots=True)
class RenderRequest:
    """One clip to make. video, image: input files. out: file to write. odd_length: leave the second half out (a fault).

    resolution, quality, write_mode, steps: the API's words. mark: to append to the clip (`marks`).
    variation: key of what differs between takes. composite: replace the subject, or only re-encode the reference.
    """

    video: Path
    image: Path
    out: Path
    resolution: str = "480p"
    quality: str = "high"
    write_mode: str = "balanced"
    odd_length: bool = False
    mark: bytes = b""
    steps: int = 20
    variation: str = ""
    composite: bool = True


class RenderFailed(Exception):
    """An input cannot be used. input_kind: ``video``, ``image`` or "". kind: the type of the upstream's error."""

    def __init__(self, input_kind: str, kind: str, message: str) -> None:
        super().__init__(input_kind, kind, message)  # all three, so that it survives the way between processes
        self.input_kind, self.kind, self.message = input_kind, kind, message


def unsupported(error: Exception) -> RenderFailed:
    """The failure of a video that cannot be decoded or encoded. It names no path and no number of the libraries."""
    reason = getattr(error, "strerror", None) or str(error)
    return RenderFailed("video", "unsupported_video_format", f"Could not process the video: {reason}")


def render(request: RenderRequest) -> Path:
    """Make the clip, H.264 in a fast-start MP4 as long and as fast as the reference, and return `request.out`.

    Its short side is the resolution's number of pixels; both sides are even. Raises RenderFailed.
    """
    import av

    picture = open_image(request.image)
    try:
        _encode(request, picture)
    except (av.FFmpegError, ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno in _NO_SPACE:  # says nothing about the inputs
            raise OSError(error.errno, f"the sandbox has no space for the clip: {error.strerror}") from None
        raise unsupported(error) from None
    with request.out.open("ab") as file:
        file.write(request.mark)
    return request.out


def output_size(width_px: int, height_px: int, resolution: str) -> tuple[int, int]:
    """Width and height of the result: the short side as asked, the long one in proportion, both even.

    Raises ValueError where no encoder could make that.
    """
    short_px = int(resolution.removesuffix("p"))
    long_px = 2 * round(max(width_px, height_px) * short_px / min(width_px, height_px) / 2)
    if long_px > _MOST_PX:
        raise ValueError(f"at {resolution} it would be {long_px} pixels long; at most {_MOST_PX} can be encoded")
    return (long_px, short_px) if width_px >= height_px else (short_px, long_px)


def open_image(path: Path) -> "Image.Image":
    """The picture, upright, as RGB or, where parts of it are transparent, as RGBA. Raises RenderFailed."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I;16"):  # PIL would clip it to 8 bits
                image = image.point(lambda value: value / 256).convert("L")
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
            image.thumbnail((2048, 2048))  # no clip shows more
            return image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RenderFailed("image", "image_load_error", f"Could not load the image: {error}") from None


def _encode(request: RenderRequest, character: "Image.Image") -> None:
    import av

    with closing(frames(request.video)) as decoded:
        first = next(decoded)
    size_px = output_size(*upright_size(first), request.resolution)
    count, length_s = measure(request.video) or (1, Fraction(1, 25))
    limit = max(1, count // 2) if request.odd_length else None
    replacement = None
    if request.composite:
        from batchrunner.sandbox.clips.replacement import Replacement

        clip = islice(frames(request.video), limit)
        replacement = Replacement(clip, limit or count, size_px[::-1], character, request.variation, request.steps)
    # The sound is written first. Its packets wait for the frames of the same time, without a limit.
    options = {"movflags": "+faststart", "max_interleave_delta": "0"}
    with av.open(str(request.out), "w", format="mp4", options=options) as target:
        encoder = _encoder(target, request, count / length_s, size_px)
        encoder.codec_context.time_base = first.time_base
        copy_sound(request.video, target, float(length_s) * limit / count if limit else math.inf)
        for number, frame in enumerate(islice(frames(request.video), limit)):
            picture = pixels(frame, *size_px)
            result = av.VideoFrame.from_ndarray(replacement.apply(picture, number) if replacement else picture)
            result = result.reformat(format="yuv420p", dst_colorspace="ITU709")
            # All three: a frame keeps its source's time base otherwise, and the last one would have no length.
            result.pts, result.duration, result.time_base = frame.pts, frame.duration, frame.time_base
            target.mux(encoder.encode(result))
        target.mux(encoder.encode(None))


def _encoder(target: Any, request: RenderRequest, rate: Fraction, size_px: tuple[int, int]) -> Any:
    stream = target.add_stream("libx264", rate=rate.limit_denominator(100_000))
    stream.width, stream.height, stream.pix_fmt = *size_px, "yuv420p"
    context = stream.codec_context
    context.thread_count, context.color_range = 1, 1
    context.flags |= 1 << 8  # AV_CODEC_FLAG_FRAME_DURATION
    context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
    stream.options = {"crf": CRF[request.quality], "preset": PRESET[request.write_mode], "x264-params": _X264}
    return stream
