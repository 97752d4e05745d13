"""Replace the subject of a clip by the character of a picture, frame by frame: the order of the steps."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from batchrunner.sandbox.clips import segmentation
from batchrunner.sandbox.clips.arrays import Bytes, Floats, fill, scale
from batchrunner.sandbox.clips.character import cut_out
from batchrunner.sandbox.clips.placement import Pose, Take, blended, placed, shade, sunk, varied
from batchrunner.sandbox.clips.reader import Frame
from batchrunner.sandbox.clips.scene import KeyFrames, Plate, understand
from batchrunner.sandbox.clips.tone import toned

if TYPE_CHECKING:
    from PIL import Image

_KEY_EVERY = 80  # frames between key frames, times num_inference_steps
_SUNK = 0.16  # how much of the character's height the ground covers, in part
_LARGER = (0.9, 1.4)  # bounds of how much higher than the subject the character may be
_AT_EDGE = 0.96  # a subject whose foot is lower, as a share of the frame's height, goes on below the frame
_FILL_PX = 96  # side of the field in which a moving background is filled


class Replacement:
    """A character in a scene. apply: sets it into a frame."""

    def __init__(
        self,
        read: Callable[[], Iterable[Frame]],
        size_px: tuple[int, int],
        picture: "Image.Image",
        take: Take,
        steps: int,
    ) -> None:
        """Go through the clip for the subject, and through it again for the background. read: its frames, anew."""
        self._columns, self._rows = size_px
        keys = KeyFrames(min(max(round(_KEY_EVERY / max(steps, 1)), 1), 16))
        for frame in read():
            if keys.wants(frame.number):
                keys.add(frame.pixels(segmentation.SIZE_PX, segmentation.SIZE_PX))
        self._scene = understand(keys)
        self._plate = self._uncovered(read)
        self._take = take
        colours, self._alpha = cut_out(*_seen(picture, size_px))
        self._colours = toned(colours, self._alpha, self._scene.tone, take.grade)

    def apply(self, frame: Bytes, number: int, seconds: float) -> Bytes:
        """Replace the subject in frame `number`: (rows, columns, 3) to (rows, columns, 3)."""
        pose = self._pose(number)
        if pose is None:
            return frame
        pose = varied(pose, self._take, seconds)
        colours, alpha = placed(self._colours, self._alpha, pose, self._rows, self._columns)
        erased, behind = np.zeros_like(alpha), frame
        if self._scene.subject is not None:
            erased = self._scene.erased(number, self._rows, self._columns)
            behind = self._behind(frame, number, erased)
        shadow = shade(alpha, pose)
        return blended(frame, behind, erased, colours, sunk(alpha, behind, pose.y, _SUNK * pose.height), shadow)

    def _uncovered(self, read: Callable[[], Iterable[Frame]]) -> Bytes | None:
        if not (wanted := self._scene.plates()):
            return None
        plate = Plate(self._rows, self._columns)
        for frame in read():
            if frame.number in wanted:
                plate.add(frame.pixels(self._columns, self._rows), self._scene, frame.number)
        return plate.finished()

    def _behind(self, frame: Bytes, number: int, erased: Floats) -> Bytes:
        """The scene without its subject, at frame `number`."""
        from PIL import Image

        if not erased.any():
            return frame
        if self._plate is not None:
            right, down = self._scene.offset(number)
            y, x = ((int(one[0]), int(one[-1]) + 1) for one in map(np.flatnonzero, (erased.any(1), erased.any(0))))
            matrix = (1, 0, x[0] - right * self._columns, 0, 1, y[0] - down * self._rows)
            size_px = (x[1] - x[0], y[1] - y[0])
            plate = Image.fromarray(self._plate)
            drawn = plate.transform(size_px, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
            behind = frame.copy()
            behind[slice(*y), slice(*x)] = np.asarray(drawn)
            return behind
        small = np.asarray(Image.fromarray(frame).resize((_FILL_PX, _FILL_PX), Image.Resampling.BOX), np.float32)
        filled = fill(small, 1 - scale(erased, _FILL_PX, _FILL_PX))
        picture = Image.fromarray(np.clip(filled, 0, 255).astype(np.uint8))
        return np.asarray(picture.resize((self._columns, self._rows), Image.Resampling.BILINEAR))

    def _pose(self, number: int) -> Pose | None:
        """Where the character stands: in the subject's place, or low in the middle of a clip that has no subject."""
        subject = self._scene.subject
        if subject is None:
            return Pose(self._columns / 2, 1.05 * self._rows, 0.85 * self._rows, 0.0)
        x, y, height, lean, area, there = subject.at(max(number - self._take.lag, 0), self._scene.every)
        if there < 1:
            return None
        high = height * self._rows
        # As large as the subject, not only as high: it would look out beside a slimmer character.
        own = self._alpha.sum() / self._alpha.shape[0] ** 2 * high**2
        high *= float(np.clip(np.sqrt(area * self._rows * self._columns / own), *_LARGER))
        foot = (1.0 if y > _AT_EDGE else y) * self._rows + _SUNK / 2 * high
        return Pose(x * self._columns, foot, high * (1 + _SUNK / 2), lean * self._columns)


def _seen(picture: "Image.Image", size_px: tuple[int, int]) -> tuple[Bytes, Floats]:
    """The picture cropped to the frame's shape, and where the character is: by transparency, or by the network."""
    from PIL import Image, ImageOps

    fitted = ImageOps.fit(picture, size_px)
    colours = np.asarray(fitted.convert("RGB"))
    if fitted.mode == "RGBA" and np.mean((opaque := np.asarray(fitted)[..., 3]) < 128) > 0.02:
        return colours, (opaque / np.float32(255)).astype(np.float32)
    side = (segmentation.SIZE_PX, segmentation.SIZE_PX)
    return colours, segmentation.person(np.asarray(fitted.convert("RGB").resize(side, Image.Resampling.BILINEAR)))
