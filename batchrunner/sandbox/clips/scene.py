"""The reference clip's scene: key frames, the camera's path, the subject's masks and track, the background plate.

Works on arrays; `render` reads them from the file, twice: once for the key frames, once for the plate. Memory does not
grow with the clip's length: the distance between key frames does.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from batchrunner.sandbox.clips import segmentation
from batchrunner.sandbox.clips.arrays import Bytes, Floats, blur, fill, grow, scale
from batchrunner.sandbox.clips.camera import moved, shifted
from batchrunner.sandbox.clips.subject import Track, covered, follow, still_background, track

SIZE_PX = 128  # side of the masks
MOST_KEYS = 160
_MOST_PLATES = 16
_SAMPLE = 16  # every so manieth pixel of a key frame tells the scene's tone, in each direction


@dataclass(slots=True)
class KeyFrames:
    """Collects each `every`th frame of a clip, small, with the network's score. Doubles `every` when it is full."""

    every: int
    pictures: list[Floats] = field(default_factory=list)
    scores: list[Floats] = field(default_factory=list)

    def wants(self, number: int) -> bool:
        """Is frame `number` a key frame?"""
        return number % self.every == 0

    def add(self, picture: Bytes) -> None:
        """Take the next key frame: (256, 256, 3), whatever the clip's shape."""
        if len(self.pictures) == MOST_KEYS:
            self.every *= 2
            del self.pictures[1::2], self.scores[1::2]
        small = [scale(picture[..., channel], SIZE_PX, SIZE_PX) for channel in range(3)]
        self.pictures.append(np.stack(small, -1))
        self.scores.append(scale(segmentation.person(picture), SIZE_PX, SIZE_PX))


@dataclass(frozen=True, slots=True)
class Scene:
    """What is known of the scene of n key frames.

    offsets: (n, 2), how far right and down the scene has moved, as shares of the frame. masks: (n, 128, 128), how much
    of the frame is erased, moved back by the offsets. still: but for the offsets, the background stands still.
    tone: (m, 3), colours of the scene. subject: in the frame; None where there is none.
    """

    every: int
    offsets: Floats
    masks: Floats
    still: bool
    tone: Bytes
    subject: Track | None

    def offset(self, number: float) -> tuple[float, float]:
        """How far right and down the scene has moved at frame `number`."""
        keys = np.arange(len(self.offsets)) * self.every
        right, down = (float(np.interp(number, keys, self.offsets[:, axis])) for axis in (0, 1))
        return right, down

    def erased(self, number: int, rows: int, columns: int) -> Floats:
        """How much of each pixel of frame `number` is erased, 0 to 1: (rows, columns)."""
        at = min(number / self.every, len(self.masks) - 1)
        mask = np.maximum(self.masks[int(at)], self.masks[int(np.ceil(at))])
        right, down = self.offset(number)
        return scale(shifted(mask, right * SIZE_PX, down * SIZE_PX)[0], rows, columns)

    def plates(self) -> set[int]:
        """The numbers of the frames that the background plate is made of; none where the background moves."""
        if not self.still or self.subject is None:
            return set()
        keys = np.linspace(0, len(self.offsets) - 1, min(len(self.offsets), _MOST_PLATES)).astype(int)
        return {int(key) * self.every for key in keys}


def understand(keys: KeyFrames) -> Scene:
    """Find the subject and the scene's motion on the key frames."""
    pictures, scores = np.stack(keys.pictures), np.stack(keys.scores)
    offsets, background = _path(pictures, scores), None
    if offsets is not None:
        aligned = [shifted(one, *-offset) for one, offset in zip(pictures, offsets, strict=True)]
        likely = np.stack([shifted(one, *-offset)[0] for one, offset in zip(scores, offsets, strict=True)])
        moved_back = np.stack([one for one, _ in aligned])
        background = still_background(moved_back, covered(likely) | (np.stack([one for _, one in aligned]) < 1))
    if offsets is None or background is None:
        offsets, moved_back, likely = np.zeros((len(pictures), 2), np.float32), pictures, scores
    masks = follow(moved_back, likely, background)
    subject = track(masks)
    tone = pictures[:, ::_SAMPLE, ::_SAMPLE][~masks[:, ::_SAMPLE, ::_SAMPLE]]
    shares = offsets / SIZE_PX
    if subject is not None:
        subject = replace(subject, x=subject.x + shares[:, 0], y=subject.y + shares[:, 1])
    wide = np.stack([blur(grow(one, 4), 3) if one.any() else 0.0 * one for one in masks]).astype(np.float32)
    if background is not None:  # the background does not change: an erased pixel too many is not seen
        wide = np.maximum.reduce([wide, wide[[0, *range(len(wide) - 1)]], wide[[*range(1, len(wide)), -1]]])
    return Scene(
        keys.every,
        shares,
        wide,
        background is not None,
        (tone if len(tone) else pictures.reshape(-1, 3)).astype(np.uint8),
        subject,
    )


def _path(pictures: Floats, scores: Floats) -> Floats | None:
    """How far the scene has moved at each key frame, in pixels around their mean; None where that cannot be told."""
    greys = pictures.mean(-1)
    steps = [(0.0, 0.0)]
    for number in range(1, len(greys)):
        subject = grow(np.maximum(scores[number], scores[number - 1]) > 0.3, 4)
        step = moved(greys[number - 1], greys[number], 1 - blur(subject, 2))
        if step is None:
            return None
        steps.append(step)
    path = np.cumsum(steps, 0)
    return np.asarray(path - path.mean(0), np.float32)


class Plate:
    """Gathers the background from frames in which it is uncovered: (rows, columns, 3)."""

    def __init__(self, rows: int, columns: int) -> None:
        self._sums = np.zeros((rows, columns, 3), np.float32)
        self._weights = np.zeros((rows, columns), np.float32)

    def add(self, picture: Bytes, scene: Scene, number: int) -> None:
        """Take the pixels of frame `number` that are uncovered and not known yet."""
        rows, columns = picture.shape[:2]
        right, down = scene.offset(number)
        clear = (1 - scene.erased(number, rows, columns)) ** 4
        weighted, inside = shifted(np.dstack([picture * clear[..., None], clear]), -right * columns, -down * rows)
        # The first frame that shows a pixel wins: a mean of many would be blurred.
        left = inside * np.clip(1 - self._weights, 0, 1)
        self._sums += weighted[..., :3] * left[..., None]
        self._weights += weighted[..., 3] * left

    def finished(self) -> Bytes:
        """The background; what was never uncovered is filled from around it."""
        mean = self._sums / np.maximum(self._weights, 1e-4)[..., None]
        return np.clip(fill(mean, np.minimum(self._weights / 0.2, 1)), 0, 255).astype(np.uint8)
