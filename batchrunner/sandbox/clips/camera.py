"""Where the camera has moved between two pictures, as a translation. Pure functions over arrays."""

import numpy as np

from batchrunner.sandbox.clips.arrays import Floats, blur

_STEPS = 6
# The mean difference of two aligned pictures, of 255, above which they do not show the same scene.
_MOST_DIFFERENCE = 12.0


def moved(before: Floats, after: Floats, weight: Floats) -> tuple[float, float] | None:
    """Return how far right and down the scene has moved, in pixels; None where no translation explains the change.

    (h, w) greys of 0 to 255 and weights of 0 to 1; what moves by itself should have the weight 0. Phase correlation
    finds whole pixels, least squares on the gradient the rest.
    """
    rows, columns = before.shape
    inner = weight * np.outer(np.hanning(rows + 2)[1:-1], np.hanning(columns + 2)[1:-1])
    spectra = [np.fft.rfft2((one - blur(one, 8)) * inner) for one in (before, after)]
    cross = spectra[1] * spectra[0].conj()
    peak = np.fft.irfft2(cross / (np.abs(cross) + 1e-3), (rows, columns)).argmax()
    y, x = divmod(int(peak), columns)
    y, x = (y + rows // 2) % rows - rows // 2, (x + columns // 2) % columns - columns // 2
    if max(abs(x) / columns, abs(y) / rows) > 0.25:
        x = y = 0
    right, down = float(x), float(y)
    for _ in range(_STEPS):
        aligned, inside = shifted(after, -right, -down)
        w = weight * inside
        down_slope, right_slope = np.gradient(aligned)
        difference = aligned - before
        a, b, c = (float((w * one).sum()) for one in (right_slope**2, right_slope * down_slope, down_slope**2))
        p, q = (float((w * one * difference).sum()) for one in (right_slope, down_slope))
        if (determinant := a * c - b * b) < 1e-3 * max(a, c, 1.0):
            break
        right -= float(np.clip((c * p - b * q) / determinant, -2, 2))
        down -= float(np.clip((a * q - b * p) / determinant, -2, 2))
    aligned, inside = shifted(after, -right, -down)
    error = np.average(np.abs(aligned - before), weights=weight * inside + 1e-9)
    return (right, down) if error < _MOST_DIFFERENCE else None


def shifted(field: Floats, right_px: float, down_px: float) -> tuple[Floats, Floats]:
    """Move a picture right and down, bilinearly: (h, w, ...) to (h, w, ...) and (h, w), 1 where it has content."""
    inside = np.ones(field.shape[:2], np.float32)
    for axis, by in ((0, down_px), (1, right_px)):
        whole = int(np.floor(by))
        part = by - whole
        if part:
            field = (1 - part) * _moved_whole(field, whole, axis) + part * _moved_whole(field, whole + 1, axis)
            inside = np.minimum(_moved_whole(inside, whole, axis), _moved_whole(inside, whole + 1, axis))
        elif whole:
            field, inside = _moved_whole(field, whole, axis), _moved_whole(inside, whole, axis)
    return field, inside


def _moved_whole(field: Floats, by: int, axis: int) -> Floats:
    moved_field = np.zeros_like(field)
    length = field.shape[axis]
    into = [slice(None)] * field.ndim
    out_of = list(into)
    into[axis] = slice(max(by, 0), max(length + min(by, 0), 0))
    out_of[axis] = slice(max(-by, 0), max(length - max(by, 0), 0))
    moved_field[tuple(into)] = field[tuple(out_of)]
    return moved_field
