"""Render a clip: read the reference, replace its subject, keep its timing and sound, encode. `render` does it.

Blocking and CPU-bound: worker processes run it. The same request makes the same pictures. Heavy libraries are imported
inside. What the clip costs, and when it is shown, does not belong here.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrunner.sandbox.clips.reader import Frame, frames, measure, output_size
from batchrunner.sandbox.clips.sound import Sound

if TYPE_CHECKING:
    from PIL import Image

    from batchrunner.sandbox.clips.replacement import Replacement

CRF = {"low": 32, "medium": 27, "high": 22, "maximum": 16}
PRESET = {"fast": "superfast", "balanced": "medium", "small": "slow"}


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
    """An input cannot be used. field, kind: as in the upstream's error: the request's field and the error's type."""

    def __init__(self, field: str, kind: str, message: str) -> None:
        super().__init__(field, kind, message)  # all three, so that it survives the way between processes
        self.field = field
        self.kind = kind
        self.message = message


def unsupported(error: Exception) -> RenderFailed:
    """The failure of a video that cannot be decoded or encoded. It names no path and no number of the libraries."""
    reason = getattr(error, "strerror", None) or str(error)
    return RenderFailed("video_url", "unsupported_video_format", f"Could not process the video: {reason}")


def render(request: RenderRequest) -> Path:
    """Make the clip, H.264 in a fast-start MP4 as long and as fast as the reference, and return `request.out`.

    Its short side is the resolution's number of pixels; both sides are even. Raises RenderFailed.
    """
    import av

    picture = _open_image(request.image)
    try:
        _make(request, picture)
    except (av.FFmpegError, ValueError, OverflowError, MemoryError) as error:
        raise unsupported(error) from None
    with request.out.open("ab") as file:
        file.write(request.mark)
    return request.out


def count_frames(path: Path) -> int | None:
    """Frames of the clip at `path` that play, or None."""
    measured = measure(path)
    return measured and measured[0]


def _open_image(path: Path) -> "Image.Image":
    """The picture, upright, as RGB or, where parts of it are transparent, as RGBA."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I;16"):  # PIL would clip it to 8 bits
                image = image.point(lambda value: value / 256).convert("L")
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RenderFailed("image_url", "image_load_error", f"Could not load the image: {error}") from None
    return image


def _make(request: RenderRequest, picture: "Image.Image") -> None:
    import av

    with closing(frames(request.video)) as decoded:
        first = next(decoded)
    size_px = output_size(first.width_px, first.height_px, request.resolution)
    replacement = _replacement(request, picture, size_px) if request.composite else None
    with av.open(str(request.out), "w", format="mp4", options={"movflags": "+faststart"}) as target:
        encoder = _encoder(target, request, first, size_px)
        colours = _colours(first, encoder)
        durations: dict[int, int] = {}
        with closing(Sound(request.video, target, first.start_s)) as sound:
            for frame in _played(request):
                pixels = frame.pixels(*size_px)
                if replacement is not None:
                    pixels = replacement.apply(pixels, frame.number, float(frame.pts * frame.time_base))
                made = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                if colours is not None:
                    made = made.reformat(format="yuv420p", dst_colorspace=colours)
                # Both: a frame keeps its source's time base otherwise, and the clip would last a fraction of a second.
                made.pts, made.time_base = frame.pts, frame.time_base
                durations[frame.pts] = frame.duration
                _mux(target, encoder.encode(made), durations)
                end_s = (frame.pts + frame.duration) * frame.time_base
                sound.until(end_s)
            _mux(target, encoder.encode(None), durations)
            sound.until(end_s if request.odd_length else None)


def _replacement(request: RenderRequest, picture: "Image.Image", size_px: tuple[int, int]) -> "Replacement":
    from batchrunner.sandbox.clips.placement import take
    from batchrunner.sandbox.clips.replacement import Replacement

    return Replacement(lambda: _played(request), size_px, picture, take(request.variation), request.steps)


def _played(request: RenderRequest) -> Iterator[Frame]:
    """The reference's frames that the result has."""
    limit = max(1, (count_frames(request.video) or 0) // 2) if request.odd_length else None
    return islice(frames(request.video), limit)


def _mux(target: Any, packets: Any, durations: dict[int, int]) -> None:
    for packet in packets:
        # Or the last frame, and a clip of one frame, would have no length.
        packet.duration = durations.pop(packet.pts, packet.duration)
        target.mux(packet)


def _colours(first: Frame, encoder: Any) -> int | None:
    """Give the result the reference's colour matrix and its tags. Returns the matrix, None where it has no tag."""
    from av.video.reformatter import Colorspace

    source = first.decoded
    if source.colorspace != Colorspace.ITU709:
        return None  # the encoder takes and writes BT.601 where it is told nothing else
    context = encoder.codec_context
    context.colorspace, context.color_range = source.colorspace, 1
    context.color_primaries, context.color_trc = source.color_primaries, source.color_trc
    return int(Colorspace.ITU709)


def _encoder(target: Any, request: RenderRequest, first: Frame, size_px: tuple[int, int]) -> Any:
    stream = target.add_stream("libx264", rate=first.rate)
    stream.width, stream.height = size_px
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = first.time_base
    stream.codec_context.thread_count = 1
    stream.options = {
        "crf": str(CRF[request.quality]),
        "preset": PRESET[request.write_mode],
        "x264-params": "mbtree=0",  # with it, other bytes at every run on some machines
    }
    return stream
