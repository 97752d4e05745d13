"""Small operations on pictures and masks: blur, scale, grow, components, fill. Pure functions over arrays."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def scale(field: Any, rows: int, columns: int) -> Floats:
    """Scale a field bilinearly: (h, w) to (rows, columns); where it gets smaller, its pixels are averaged."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(field, np.float32))
    return np.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR))


def blur(field: Any, radius_px: int) -> Floats:
    """Average over squares of 2r + 1 pixels; the edge pixels continue outside: (h, w, ...) to (h, w, ...)."""
    blurred: Floats = np.asarray(field, np.float32)
    for axis in (0, 1):
        widths = [(0, 0)] * blurred.ndim
        widths[axis] = (radius_px + 1, radius_px)
        total = np.cumsum(np.pad(blurred, widths, "edge"), axis, dtype=np.float64)
        length = 2 * radius_px + 1
        span = blurred.shape[axis]
        above, below = (np.take(total, np.arange(start, start + span), axis) for start in (length, 0))
        blurred = ((above - below) / length).astype(np.float32)
    return blurred


def grow(mask: Mask, radius_px: int) -> Mask:
    """Widen a mask by a square of 2r + 1 pixels: (h, w) to (h, w)."""
    wider: Mask = blur(mask, radius_px) > 1e-4
    return wider


def components(mask: Mask) -> NDArray[np.intp]:
    """Number the 4-connected components of a mask from 1 up, with gaps; 0 outside: (h, w) to (h, w)."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        framed = np.pad(labels, 1)
        around = (framed[1:-1, 1:-1], framed[:-2, 1:-1], framed[2:, 1:-1], framed[1:-1, :-2], framed[1:-1, 2:])
        # The number of a component is that of one of its pixels: what that pixel has joined, all join at once.
        joined = np.where(mask, np.maximum.reduce(around), 0)
        joined = np.where(mask, joined.reshape(-1)[joined - 1], 0)
        if np.array_equal(joined, labels):
            return labels
        labels = joined


def largest(mask: Mask, near: Mask | None = None) -> Mask:
    """Keep the largest component of a mask, or the one that shares most pixels with `near`: (h, w) to (h, w)."""
    labels = components(mask)
    counts = np.bincount(labels[mask & near] if near is not None else labels[mask], minlength=2)
    counts[0] = 0
    kept: Mask = labels == counts.argmax() if counts.any() else np.zeros_like(mask)
    return kept


def fill(picture: Floats, known: Floats) -> Floats:
    """Fill the unknown pixels from the known ones around them, smoothly: (h, w, 3) and weights (h, w) to (h, w, 3)."""
    rows, columns = known.shape
    if min(rows, columns) < 2 or known.min() >= 1:
        return picture
    half = ((rows + 1) // 2, (columns + 1) // 2)
    weight = scale(known, *half)
    sums = np.stack([scale(picture[..., channel] * known, *half) for channel in range(3)], -1)
    coarse = fill(sums / np.maximum(weight, 1e-6)[..., None], np.minimum(weight * 2, 1))
    wide = np.stack([scale(coarse[..., channel], rows, columns) for channel in range(3)], -1)
    return wide + (picture - wide) * known[..., None]
