"""Place the character in a frame: what a take varies, where it stands, its shadow, and the blend. Pure functions."""

import math
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from batchrunner.sandbox.clips.arrays import Bytes, Floats, blur, scale
from batchrunner.sandbox.clips.tone import Grade

_SHADOW = 0.55
_SHADE_PX = 96  # side of the field in which soft shadows are drawn


@dataclass(frozen=True, slots=True)
class Take:
    """What differs between takes of one job. right, lean: shares of the character's height. lag: frames behind.

    bob: height of a breath, as a share; phase: where in a breath the clip begins, in radians.
    """

    grade: Grade
    right: float
    lean: float
    size: float
    lag: float
    bob: float
    phase: float


def take(key: str) -> Take:
    """Draw a take from its key: the same key, the same take."""
    digest = sha256(key.encode()).digest()
    draws = [int.from_bytes(digest[at : at + 3], "big") / 2**23 - 1 for at in range(0, 27, 3)]  # -1 to 1
    light, red, yellow, colour, right, lean, size, lag, phase = draws
    grade = Grade(4 * light, 2.5 * red, 5 * yellow, 1 + 0.15 * colour)
    return Take(grade, 0.06 * right, 0.07 * lean, 1 + 0.06 * size, 1.5 * (1 + lag), 0.006, math.pi * phase)


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the character stands, in pixels: its foot's middle, its height, how far its top is to the right of that."""

    x: float
    y: float
    height: float
    lean: float


def varied(pose: Pose, take: Take, seconds: float) -> Pose:
    """Change a pose as the take says, at a time of the clip."""
    breath = 1 + take.bob * math.sin(2 * math.pi * 0.4 * seconds + take.phase)
    height = pose.height * take.size * breath
    return Pose(pose.x + take.right * height, pose.y, height, pose.lean + take.lean * height)


def placed(colours: Bytes, alpha: Floats, pose: Pose, rows: int, columns: int) -> tuple[Bytes, Floats]:
    """Draw the character into an empty frame: (m, n, 3) and (m, n) to (rows, columns, 3) and (rows, columns)."""
    from PIL import Image

    up = alpha.shape[0] / pose.height  # pixels of the character for one of the frame
    slant = pose.lean / pose.height
    # Only the box is drawn that holds the character.
    half, leans = alpha.shape[1] / 2 / up, (0.0, pose.lean)
    left, top = max(int(pose.x + min(leans) - half), 0), max(int(pose.y - pose.height), 0)
    right, bottom = min(math.ceil(pose.x + max(leans) + half), columns), min(math.ceil(pose.y), rows)
    picture, solid = np.zeros((rows, columns, 3), np.uint8), np.zeros((rows, columns), np.float32)
    if left >= right or top >= bottom:
        return picture, solid
    # (x, y) of the frame shows (up * (x - pose.x + slant * (y - pose.y)) + n / 2, up * (y - pose.y) + m).
    start = up * (left - pose.x + slant * (top - pose.y)) + alpha.shape[1] / 2
    matrix = (up, up * slant, start, 0, up, up * (top - pose.y) + alpha.shape[0])
    size_px = (right - left, bottom - top)
    source = Image.fromarray(np.dstack([colours, np.rint(alpha * 255).astype(np.uint8)]))
    drawn = np.asarray(source.transform(size_px, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))
    picture[top:bottom, left:right] = drawn[..., :3]
    solid[top:bottom, left:right] = drawn[..., 3] / np.float32(255)
    return picture, solid


def sunk(alpha: Floats, scene: Bytes, foot: float, depth: float) -> Floats:
    """Let the character's foot stand in the ground, not on it: bright detail of it, such as blades of grass, covers it.

    (rows, columns) and (rows, columns, 3) to (rows, columns). It ends at the row `foot`, beginning `depth` rows above.
    """
    rows = alpha.shape[0]
    top, bottom = max(int(foot - depth), 0), min(math.ceil(foot), rows)
    if top >= bottom or foot >= rows or depth < 1:
        return alpha
    ground = scene[top:bottom].mean(-1, dtype=np.float32)
    detail = ground - blur(ground, max(2, int(depth / 4)))
    cover = np.clip(0.5 + detail / (3 * float(detail.std()) + 4), 0, 1)
    share = ((foot - np.arange(top, bottom)) / depth)[:, None]
    result = alpha.copy()
    result[top:bottom] *= np.clip((1.5 * share - cover) / 0.5 + 0.25, 0, 1).astype(np.float32)
    return result


def shade(alpha: Floats, pose: Pose) -> Floats:
    """How much light the character takes from the scene, 0 to 1: a pool at its foot, and a soft rim beside it.

    (rows, columns) to (rows, columns). A foot below the frame casts no pool.
    """
    rows, columns = alpha.shape
    down, right = _SHADE_PX / rows, _SHADE_PX / columns
    small = scale(alpha, _SHADE_PX, _SHADE_PX)
    rim = 0.5 * _SHADOW * blur(blur(small, 3), 3)
    width = max(float(small.sum(1).max()), 1.0) / 2
    y, x = np.ogrid[:_SHADE_PX, :_SHADE_PX]
    distance = np.hypot(
        (x - pose.x * right) / (1.1 * width), (y - pose.y * down + 1) / max(0.05 * pose.height * down, 1)
    )
    pool = _SHADOW * np.clip(1.4 - distance, 0, 1) if pose.y < 0.985 * rows else 0 * distance
    return scale(np.maximum(rim, pool), rows, columns)


def blended(frame: Bytes, behind: Bytes, erased: Floats, colours: Bytes, alpha: Floats, shadow: Floats) -> Bytes:
    """Erase the subject, then set the character into the frame: all (h, w, 3) or (h, w), to (h, w, 3).

    behind: the scene without the subject. erased, alpha, shadow: 0 to 1.
    """
    changed = (erased > 0) | (alpha > 0) | (shadow > 0.004)
    down, right = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
    if not len(down):
        return frame
    place = slice(down[0], down[-1] + 1), slice(right[0], right[-1] + 1)
    scene = frame[place].astype(np.float32)
    scene += (behind[place] - scene) * erased[place][..., None]
    scene *= (1 - shadow[place])[..., None]
    scene += (colours[place] - scene) * alpha[place][..., None]
    result = frame.copy()
    result[place] = scene + 0.5
    return result
