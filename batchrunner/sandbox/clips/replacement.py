"""Replace the subject of a clip by the character of a picture: cut-out, tone, take, placement, shadow, background."""

import math
import random
from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from av import VideoFrame
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

from batchrunner.sandbox.clips.pictures import Bytes, Floats, Size, blur, fill, largest, paste, warp, widen
from batchrunner.sandbox.clips.reader import pixels
from batchrunner.sandbox.clips.scene import SIDE_PX, Scene, understand
from batchrunner.sandbox.clips.segmentation import SIZE_PX, person

# How far the character's tone goes towards the scene's, and the furthest it may go, for L, a and b (white is 255).
_SHARE, _MOST_SHIFT = np.array([0.5, 0.2, 0.25]), np.array([40, 4, 7])
_SUNK = 0.1  # share of the character's height in which the ground covers its foot
_SRGB, _LAB = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
_SIGNS = np.array((0, 128, 128), np.uint8)  # PIL has a and b as signed bytes


class Take(NamedTuple):
    """What differs between takes. tone: shift in Lab. right, lean: in heights of the character. lag: frames late."""

    tone: tuple[float, float, float]
    saturation: float
    right: float
    lean: float
    size: float
    lag: float


def draw_take(key: str) -> Take:
    """Draw a take: the same key, the same take."""
    vary = random.Random(key).uniform
    tone = vary(-10, 10), vary(-2.5, 2.5), vary(-5, 5)
    return Take(tone, vary(0.85, 1.15), vary(-0.06, 0.06), vary(-0.07, 0.07), vary(0.94, 1.06), vary(0, 3))


def cut_out(picture: Image.Image, size: Size) -> Bytes:
    """Crop a picture to the clip's shape and return its character: RGBA, (h, w, 4), cropped to it.

    It is what is opaque, or what the network takes for the largest person, or else the whole picture. Where the
    picture's edge cuts it off, it fades out.
    """
    layer = picture.convert("RGBA")
    if (np.asarray(layer)[..., 3] < 128).mean() < 0.02:
        layer.putalpha(Image.fromarray(find_character(np.asarray(picture.convert("RGB")))))
    fitted = np.asarray(ImageOps.fit(layer, (size[1], size[0])))
    down, across = np.mgrid[1 : 0 : size[0] * 1j, -1 : 1 : size[1] * 1j]
    opacity = fitted[..., 3] * np.clip(down / 0.03, 0, 1) * np.clip((1 - np.abs(across)) / 0.1, 0, 1)
    # Edges take the colour of the pixels inside of them: the old background does not shine through.
    inner = np.dstack([fitted[..., :3], np.where(opacity > 240, 255, 0)]).astype(np.uint8)
    character = Image.fromarray(np.dstack([fill(inner), opacity.astype(np.uint8)]))
    return np.asarray(character.crop(character.getchannel("A").getbbox()))


def find_character(picture: Bytes) -> Bytes:
    """Return the opacity of the largest person, 0 to 255; all 255 if there is none: (h, w, 3) to (h, w)."""
    image, smooth = Image.fromarray(picture), Image.Resampling.BILINEAR
    score = person(np.asarray(image.resize((SIZE_PX, SIZE_PX), smooth)))
    found = widen(largest(score > 0.5), 3)
    score = np.where(found, score, 0) if found.mean() > 0.01 else np.ones_like(score)
    wide = Image.fromarray((255 * score).astype(np.uint8)).resize(image.size, smooth)
    return np.asarray(wide.point(lambda value: 2 * (value - 76)))


def adapt_tone(character: Bytes, scene: Bytes, take: Take) -> Bytes:
    """Move the tone of a character towards that of a scene, in part, then grade it: (h, w, 4), (k, l, 3) to (h, w, 4).

    Reinhard et al., "Color Transfer between Images", 2001: mean and deviation of each channel, here in CIE Lab.
    """
    own, light = to_lab(character[..., :3]), to_lab(scene)
    weight = character[..., 3] + 1e-3
    mean = np.average(own, (0, 1), np.dstack([weight] * 3))
    deviation = np.sqrt(np.average((own[..., 0] - mean[0]) ** 2, weights=weight))
    shift = np.clip(_SHARE * (light.mean((0, 1)) - mean), -_MOST_SHIFT, _MOST_SHIFT) + take.tone
    contrast = np.clip(1 + _SHARE[0] * (light[..., 0].std() / max(float(deviation), 1.0) - 1), 0.8, 1.05)
    graded = (own - mean) * (contrast, take.saturation, take.saturation) + mean + shift
    return np.dstack([to_rgb(graded), character[..., 3]])


def to_lab(picture: Bytes) -> Floats:
    """Convert sRGB to CIE Lab, L of 0 to 255, a and b around 128: (h, w, 3) to (h, w, 3)."""
    lab = ImageCms.profileToProfile(Image.fromarray(picture), _SRGB, _LAB, outputMode="LAB")
    return (np.asarray(lab) ^ _SIGNS).astype(np.float32)


def to_rgb(lab: Floats) -> Bytes:
    """Convert CIE Lab, as of `to_lab`, to sRGB: (h, w, 3) to (h, w, 3)."""
    content = np.clip(np.rint(lab), 0, 255).astype(np.uint8) ^ _SIGNS
    picture = Image.frombytes("LAB", (content.shape[1], content.shape[0]), content.tobytes())
    return np.asarray(ImageCms.profileToProfile(picture, _LAB, _SRGB, outputMode="RGB"))


def place(character: Bytes, foot: tuple[float, float], height: float, lean: float, size: Size) -> Bytes:
    """Draw a character into an empty frame: (m, n, 4) to (*size, 4).

    foot: x and y of its lower end's middle. lean: how far its top is to the right of that. All in pixels.
    """
    (rows, columns), (x, y) = character.shape[:2], foot
    scale, shear = rows / height, rows * lean / height**2
    return warp(character, (scale, shear, columns / 2 - scale * x - shear * y, 0, scale, rows - scale * y), size)


def stand(opacity: Bytes, scene: Bytes, foot: float, depth: float) -> Bytes:
    """Let a foot stand in the ground, not on it: bright detail, such as blades of grass, covers it.

    (h, w) and (h, w, 3) to (h, w). It ends at the row `foot`, and begins `depth` rows above.
    """
    band = slice(max(int(foot - depth), 0), max(int(foot) + 1, 1))
    ground = scene[band].mean(-1, dtype=np.float32)
    detail = ground - blur(ground, 2 + int(depth / 4))
    above = (foot - np.arange(len(opacity))[band])[:, None] / depth
    result = opacity.copy()
    result[band] = opacity[band] * np.clip(3 * above - 0.5 - detail / (2 * detail.std() + 4), 0, 1)
    return result


def shadow(foot: tuple[float, float], width: float, size: Size) -> Bytes:
    """Return how much light the ground loses around a foot, 0 to 255: `size`."""
    result, depth = np.zeros(size, np.uint8), 1.4 * 0.1 * width
    band = slice(max(int(foot[1] - depth), 0), max(int(foot[1] + depth) + 2, 0))  # above and below it is 0
    y, x = np.arange(size[0])[band, None], np.arange(size[1])
    distance = np.hypot((x - foot[0]) / (0.55 * width), (y - foot[1]) / (0.1 * width))
    result[band] = 140 * np.clip(1.4 - distance, 0, 1)
    return result


def background(scene: Scene, samples: dict[int, Bytes], margin: NDArray[Any]) -> Bytes:
    """Return the scene without its subject: frames (h, w, 3), by key frame, to (h', w', 3), with margins x and y.

    The first frame that shows a pixel wins: a mean of many would be blurred. What none shows is filled from beside it.
    """
    (rows, columns, _), (x, y) = samples[0].shape, margin
    plate = Image.new("RGBA", (columns + 2 * x, rows + 2 * y))
    for key, sample in samples.items():
        (right, down), hidden = scene.offsets[key], enlarge(scene.erased[key], (rows, columns))
        layer = np.dstack([sample, 255 - np.minimum(hidden, 51) * 5])
        moved = warp(layer, (1, 0, right * columns - x, 0, 1, down * rows - y), (rows + 2 * y, columns + 2 * x))
        plate = Image.alpha_composite(Image.fromarray(moved), plate)
    return fill(np.asarray(plate))


def enlarge(mask: Bytes, size: Size) -> Bytes:
    """Scale a mask of a key frame to a frame: (128, 128) to `size`."""
    return warp(mask, (SIDE_PX / size[1], 0, 0, 0, SIDE_PX / size[0], 0), size)


def between_keys(values: Floats, numbers: NDArray[Any], every: int) -> Floats:
    """Interpolate between key frames, which are `every` frames apart: (n, k) and frame numbers (f,) to (f, k)."""
    keys = every * np.arange(len(values))
    return np.stack([np.interp(numbers, keys, field) for field in values.T], 1).astype(np.float32)


class Replacement:
    """The character of a picture in the scene of a clip. `apply` sets it into a frame."""

    def __init__(
        self, clip: Iterable[VideoFrame], count: int, size: Size, picture: Image.Image, variation: str, steps: int
    ) -> None:
        """Find the subject on the key frames of a clip of `count` frames: more of them if there are more steps."""
        self._size, self._take = size, draw_take(variation)
        # Memory does not grow with the clip: at most 160 small key frames, and 16 as large as the result.
        self._every = every = max(1, min(round(80 / max(steps, 1)), 16), math.ceil(count / 160))
        sampled = np.linspace(0, (count - 1) // every, 16).astype(int)
        pictures, scores, samples = [], [], dict[int, Bytes]()
        for key, frame in enumerate(islice(clip, 0, None, every)):
            pictures.append(pixels(frame, SIDE_PX, SIDE_PX))
            scores.append(person(pixels(frame, SIZE_PX, SIZE_PX))[::2, ::2])
            if key in sampled:
                samples[key] = pixels(frame, size[1], size[0])
        scene = self._scene = understand(np.stack(pictures), np.stack(scores))
        numbers = np.arange(every * len(pictures))
        self._offsets = between_keys(scene.offsets * size[::-1], numbers, every)
        self._poses = between_keys(scene.poses, np.maximum(numbers - self._take.lag, 0), every)
        self._margin = np.ceil(np.abs(self._offsets).max(0)).astype(int)
        self._hidden_key, self._hidden = -1, np.zeros(size, np.uint8)
        self._plate = background(scene, samples, self._margin) if scene.still else None
        self._character = adapt_tone(cut_out(picture, size), samples[0], self._take)

    def apply(self, frame: Bytes, number: int) -> Bytes:
        """Replace the subject in frame `number`: (rows, columns, 3) to (rows, columns, 3)."""
        (rows, columns), take, (x, y, height, lean, area, present) = self._size, self._take, self._poses[number]
        if present < 1:
            return frame
        # As large as the subject, not only as high: it would look out beside a slimmer character.
        own = (self._character[..., 3] / 255).sum() / len(self._character) ** 2 * height**2 * rows / columns
        height *= rows * take.size * np.clip(np.sqrt(area / max(own, 1e-6)), 1, 1.4)
        # A subject that is cut off by the frame's lower edge goes on below it.
        foot = (x * columns + take.right * height, rows if y > 0.96 else y * rows + _SUNK / 2 * height)
        drawn = place(self._character, foot, height, lean * columns + take.lean * height, self._size)
        scene, opacity = self._without_subject(frame, number), drawn[..., 3]
        if foot[1] < rows:
            scene = paste(scene, np.zeros_like(scene), shadow(foot, float(opacity.max(0).sum() / 255) + 1, self._size))
            opacity = stand(opacity, scene, foot[1], _SUNK * height)
        return paste(scene, drawn[..., :3], opacity)

    def _without_subject(self, frame: Bytes, number: int) -> Bytes:
        key = number // self._every
        if key != self._hidden_key:
            # Between key frames the subject is somewhere between. An erased pixel too many is not seen.
            self._hidden_key, self._hidden = key, enlarge(self._scene.erased[key : key + 2].max(0), self._size)
        hidden = self._hidden
        if self._plate is None:
            return fill(np.dstack([frame, 255 - hidden]))
        x, y = self._margin - self._offsets[number]
        left, top, right, bottom = Image.fromarray(hidden).getbbox() or (0, 0, 1, 1)
        box = np.s_[top:bottom, left:right]
        behind = warp(self._plate, (1, 0, x + left, 0, 1, y + top), (bottom - top, right - left))
        result = frame.copy()
        result[box] = paste(frame[box], behind, hidden[box])
        return result
