"""Operations on pictures and masks. Pure functions over arrays. Pictures are bytes: RGB, or RGBA with opacity."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.floating[Any]]
Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Size = tuple[int, int]  # rows and columns


def blur(field: Any, radius_px: int) -> Floats:
    """Average over squares of 2r + 1 pixels; the edge pixels continue outside: (h, w) to (h, w)."""
    total, size_px = np.asarray(field, np.float64), 2 * radius_px + 1
    for _ in range(2):
        total = np.cumsum(np.pad(total, ((radius_px + 1, radius_px), (0, 0)), "edge"), 0)
        total = ((total[size_px:] - total[:-size_px]) / size_px).T
    return total.astype(np.float32)


def widen(mask: Mask, radius_px: int) -> Mask:
    """Add to a mask what is within a square of 2r + 1 pixels: (h, w) to (h, w)."""
    return np.asarray(blur(mask, radius_px) > 1e-4)


def largest(mask: Mask, near: Mask | None = None) -> Mask:
    """Keep the largest 4-connected component of a mask, or the one that shares most pixels with `near`: (h, w)."""
    labels, before = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0), np.zeros(())
    while not np.array_equal(labels, before):
        before, framed = labels, np.pad(labels, 1)
        neighbours = (framed[:-2, 1:-1], framed[2:, 1:-1], framed[1:-1, :-2], framed[1:-1, 2:])
        labels = np.where(mask, np.maximum.reduce([labels, *neighbours]), 0)
        # The number of a component is that of one of its pixels: what that pixel has joined, all join at once.
        labels = np.where(mask, labels.reshape(-1)[labels - 1], 0)
    counts = np.bincount(labels[mask if near is None else mask & near], minlength=2)
    return np.asarray(mask & (labels == counts.argmax()))


def warp(picture: Bytes, matrix: tuple[float, ...], size: Size) -> Bytes:
    """Draw a picture through an affine map: (h, w) or (h, w, c) to `size` or (*size, c).

    (x, y) of the result shows (a x + b y + c, d x + e y + f) of the picture; nothing, 0, where that is outside.
    """
    kind, smooth = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(picture).transform((size[1], size[0]), kind, matrix, smooth))


def paste(below: Bytes, above: Bytes, opacity: Bytes) -> Bytes:
    """Lay a picture over another one: (h, w, 3), (h, w, 3) and (h, w) to (h, w, 3)."""
    result = Image.fromarray(below)
    result.paste(Image.fromarray(above), mask=Image.fromarray(opacity))
    return np.asarray(result)


def fill(picture: Bytes) -> Bytes:
    """Give see-through pixels the colours around them, smoothly: (h, w, 4) to (h, w, 3)."""
    levels = [Image.fromarray(picture)]
    while max(levels[-1].size) > 1:
        levels.append(levels[-1].reduce(2))
    filled = levels.pop().convert("RGB")
    for level in reversed(levels):
        filled = filled.resize(level.size, Image.Resampling.BILINEAR)
        filled.paste(level, mask=level.getchannel("A"))
    return np.asarray(filled)
