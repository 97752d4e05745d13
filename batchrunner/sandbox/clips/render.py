"""Makes the sandbox's clips: the character set into the reference clip's scene. One function is the door: `render`.

Blocking and CPU-bound: `pool` runs it in worker processes. Rule: the same request makes the same pictures. Heavy
libraries are imported inside. What the clip costs, and when it is shown, does not belong here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import av
    import numpy as np
    from numpy.typing import NDArray

    Picture = NDArray[np.float32]

CRF = {"low": 32, "medium": 27, "high": 22, "maximum": 16}
PRESET = {"fast": "superfast", "balanced": "medium", "small": "slow"}
# The character's place in the scene, as shares of its height and width: the middle, where the subject is.
_ELLIPSE = (0.42, 0.30)


@dataclass(frozen=True, slots=True)
class RenderRequest:
    """One clip to make. video, image: input files. out: file to write. odd_length: leave the second half out (a fault).

    resolution, quality, write_mode: the API's words. mark: to append to the clip (`marks`).
    """

    video: Path
    image: Path
    out: Path
    resolution: str = "480p"
    quality: str = "high"
    write_mode: str = "balanced"
    odd_length: bool = False
    mark: bytes = b""


class RenderFailed(Exception):
    """An input cannot be used. field, kind: as in the upstream's error: the request's field and the error's type."""

    def __init__(self, field: str, kind: str, message: str) -> None:
        super().__init__(field, kind, message)  # all three, so that it survives the way between processes
        self.field = field
        self.kind = kind
        self.message = message


def render(request: RenderRequest) -> Path:
    """Make the clip, H.264 in a fast-start MP4 as long and as fast as the reference, and return `request.out`.

    Its short side is the resolution's number of pixels; both sides are even. Raises RenderFailed.
    """
    import av

    character = _open_image(request.image)
    try:
        _make(request, character)
    except (av.FFmpegError, ValueError, OverflowError, MemoryError) as error:
        raise RenderFailed("video_url", "unsupported_video_format", f"Could not process the video: {error}") from None
    with request.out.open("ab") as file:
        file.write(request.mark)
    return request.out


def count_frames(path: Path) -> int | None:
    """Frames of the clip at `path` as its header tells, or None."""
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            if stream.frames:
                return stream.frames
            if stream.duration and stream.time_base and stream.average_rate:
                return round(stream.duration * stream.time_base * stream.average_rate)
            return None
    except (av.FFmpegError, IndexError, ValueError, OverflowError):
        return None


def output_size(width_px: int, height_px: int, resolution: str) -> tuple[int, int]:
    """Width and height of the result: the short side as asked, the long one in proportion, both even."""
    short_px = int(resolution.removesuffix("p"))
    long_px = 2 * round(max(width_px, height_px) * short_px / min(width_px, height_px) / 2)
    return (long_px, short_px) if width_px >= height_px else (short_px, long_px)


def _open_image(path: Path) -> Any:
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RenderFailed("image_url", "image_load_error", f"Could not load the image: {error}") from None


def _make(request: RenderRequest, character: Any) -> None:
    import av

    with (
        av.open(str(request.video)) as source,
        av.open(str(request.out), "w", format="mp4", options={"movflags": "+faststart"}) as target,
    ):
        if not source.streams.video:
            raise ValueError("it has no video stream")
        stream = source.streams.video[0]
        stream.thread_type = "AUTO"
        rate = stream.average_rate or Fraction(25)
        limit = max(1, stream.frames // 2) if request.odd_length else None
        encoder: Any = None
        scene: _Scene | None = None
        for picture, pts, time_base in _pictures(source, stream, request.resolution, limit):
            if scene is None:
                height_px, width_px = picture.shape[:2]
                scene = _Scene(character, width_px, height_px)
                encoder = _encoder(target, request, rate, (width_px, height_px))
                encoder.codec_context.time_base = time_base
            frame = av.VideoFrame.from_ndarray(scene.with_character(picture), format="rgb24")
            # Both: a frame keeps its source's time base otherwise, and the clip would last a fraction of a second.
            frame.pts, frame.time_base = pts, time_base
            target.mux(encoder.encode(frame))
        if encoder is None:
            raise ValueError("it has no frames")
        target.mux(encoder.encode(None))


def _encoder(target: Any, request: RenderRequest, rate: Fraction, size_px: tuple[int, int]) -> Any:
    stream = target.add_stream("libx264", rate=rate)
    stream.width, stream.height = size_px
    stream.pix_fmt = "yuv420p"
    stream.codec_context.thread_count = 1
    stream.options = {
        "crf": str(CRF[request.quality]),
        "preset": PRESET[request.write_mode],
        "x264-params": "mbtree=0",  # with it, other bytes at every run on some machines
    }
    return stream


def _pictures(
    source: "av.container.InputContainer", stream: Any, resolution: str, limit: int | None
) -> Iterator[tuple[Any, int, Fraction]]:
    """The reference's frames, upright and scaled, as (RGB array, pts from 0, time base)."""
    import numpy as np

    size_px: tuple[int, int] | None = None
    first_pts = 0
    for number, frame in enumerate(source.decode(stream)):
        if number == limit:
            return
        turned = frame.rotation % 180 != 0
        if size_px is None:
            size_px = output_size(*((frame.height, frame.width) if turned else (frame.width, frame.height)), resolution)
            first_pts = frame.pts or 0
        width_px, height_px = size_px[::-1] if turned else size_px
        picture = frame.reformat(width_px, height_px, "rgb24").to_ndarray()
        time_base = stream.time_base
        pts = frame.pts - first_pts if frame.pts is not None else round(number / stream.average_rate / time_base)
        yield np.ascontiguousarray(np.rot90(picture, frame.rotation // 90)), pts, time_base


class _Scene:
    """The character, cropped to the frame's shape, feathered, and toned frame by frame towards the scene."""

    def __init__(self, character: Any, width_px: int, height_px: int) -> None:
        import numpy as np
        from PIL import ImageOps

        rows, columns = np.ogrid[:height_px, :width_px]
        down = (rows - height_px / 2) / (height_px * _ELLIPSE[0])
        across = (columns - width_px / 2) / (width_px * _ELLIPSE[1])
        # 1 inside, 0 outside, a soft edge between.
        mask = np.clip((1.0 - np.sqrt(down**2 + across**2)) / 0.15, 0, 1).astype(np.float32)
        # Only the part of the frame that changes is worked on.
        self._place = tuple(slice(places.min(), places.max() + 1) for places in np.nonzero(mask))
        self._mask: Picture = mask[self._place][..., None]
        fitted = np.asarray(ImageOps.fit(character, (width_px, height_px)), np.float32)
        self._mean = fitted.mean((0, 1))
        self._deviation = fitted.std((0, 1)) + 1e-3
        self._character: Picture = fitted[self._place] - self._mean

    def with_character(self, picture: "NDArray[np.uint8]") -> "NDArray[np.uint8]":
        """`picture` with the character set into it, in place."""
        import numpy as np

        sample = picture[::8, ::8].astype(np.float32)
        # Half way to the scene's mean and contrast: it should sit in the light of the scene and stay itself.
        gain = (1 + sample.std((0, 1)) / self._deviation) / 2
        shift = (self._mean + sample.mean((0, 1))) / 2
        scene = picture[self._place].astype(np.float32)
        toned = self._character * gain + shift
        picture[self._place] = np.clip(scene + (toned - scene) * self._mask, 0, 255)
        return picture
