"""Cut the character out of its picture. Pure functions over arrays."""

import numpy as np

from batchrunner.sandbox.clips.arrays import Bytes, Floats, blur, grow, largest, scale

# A person that covers less of the picture is no person.
_LEAST = 0.01


def cut_out(picture: Bytes, score: Floats | None) -> tuple[Bytes, Floats]:
    """Return the character's colours and opacity, cropped to it: (h, w, 3) and (h', w', any size) to (m, n, 3), (m, n).

    score: how likely a pixel is the character's; None or hardly any: the whole picture is, in an oval. Where the
    picture's edge cuts the character off, its opacity fades out.
    """
    rows, columns = picture.shape[:2]
    if score is None or not (found := _main(score)).any() or found.mean() < _LEAST:
        alpha = _oval(rows, columns)
    else:
        wide = scale(np.where(found, score, 0), rows, columns)
        alpha = np.clip((refine(picture, wide) - 0.3) / 0.5, 0, 1)
    alpha = alpha * _fade(rows, columns)
    colours = unmix(picture, alpha)
    down, right = (np.flatnonzero((alpha > 0.02).any(axis)) for axis in (1, 0))
    if not len(down):
        return colours, alpha
    place = slice(down[0], down[-1] + 1), slice(right[0], right[-1] + 1)
    return colours[place], alpha[place]


def refine(picture: Bytes, mask: Floats) -> Floats:
    """Move a mask's edges to the picture's: guided filter (He et al., 2010), (h, w, 3) and (h, w) to (h, w)."""
    guide = picture.mean(-1, dtype=np.float32) / 255
    radius_px = max(1, min(mask.shape) // 60)
    mean, level = blur(guide, radius_px), blur(mask, radius_px)
    variance = blur(guide * guide, radius_px) - mean * mean
    slope = (blur(guide * mask, radius_px) - mean * level) / (variance + 1e-3)
    offset = level - slope * mean
    refined: Floats = np.clip(blur(slope, radius_px) * guide + blur(offset, radius_px), 0, 1)
    return refined


def unmix(picture: Bytes, alpha: Floats) -> Bytes:
    """Give see-through pixels the colour of the solid ones beside them: the old background does not shine through."""
    radius_px = max(1, min(alpha.shape) // 80)
    weight = (alpha > 0.97).astype(np.float32) + 1e-4
    near = blur(picture * weight[..., None], radius_px) / blur(weight, radius_px)[..., None]
    return np.where(alpha[..., None] > 0.97, picture, np.clip(near, 0, 255)).astype(np.uint8)


def _main(score: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return grow(largest(score > 0.5), max(1, score.shape[0] // 80))


def _oval(rows: int, columns: int) -> Floats:
    down, across = np.ogrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    return np.clip((1 - np.hypot(down, across)) / 0.15, 0, 1).astype(np.float32)


def _fade(rows: int, columns: int) -> Floats:
    """1 inside, 0 at the left, right and lower edge of the picture: (rows, columns)."""
    down, across = np.arange(rows)[::-1, None], np.minimum(np.arange(columns), np.arange(columns)[::-1])
    return np.minimum(np.clip(down / (0.06 * rows), 0, 1), np.clip(across / (0.05 * columns), 0, 1)).astype(np.float32)
