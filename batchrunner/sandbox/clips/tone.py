"""Colour: CIE Lab, and the tone of one picture moved towards that of another. Pure functions over arrays.

Reinhard et al., "Color Transfer between Images", 2001: mean and deviation of each channel, here in CIE Lab.
"""

from dataclasses import dataclass

import numpy as np

from batchrunner.sandbox.clips.arrays import Bytes, Floats

_TO_XYZ = np.array([[0.41246, 0.35758, 0.18044], [0.21267, 0.71515, 0.07218], [0.01933, 0.11919, 0.95030]], np.float32)
_WHITE = _TO_XYZ.sum(1)  # D65
# How far the character's tone goes towards the scene's, and the furthest it may go, for L, a and b.
_SHARE = np.array([0.5, 0.2, 0.25], np.float32)
_MOST_SHIFT = np.array([16, 4, 7], np.float32)
_CONTRAST = (0.8, 1.05)


@dataclass(frozen=True, slots=True)
class Grade:
    """A change of colour in Lab: lighter, towards red, towards yellow; saturation 1 leaves the colours."""

    lightness: float = 0.0
    red: float = 0.0
    yellow: float = 0.0
    saturation: float = 1.0


def to_lab(picture: Bytes | Floats) -> Floats:
    """Convert sRGB of 0 to 255 to CIE Lab: (..., 3) to (..., 3)."""
    value = np.asarray(picture, np.float32) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    share = (linear @ _TO_XYZ.T) / _WHITE
    root = np.where(share > 0.008856, np.cbrt(share), 7.787 * share + 16 / 116)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1).astype(np.float32)


def to_rgb(lab: Floats) -> Bytes:
    """Convert CIE Lab to sRGB of 0 to 255, clipped: (..., 3) to (..., 3)."""
    y = (lab[..., 0] + 16) / 116
    root = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], -1)
    share = np.where(root > 0.206893, root**3, (root - 16 / 116) / 7.787)
    linear = np.clip((share * _WHITE) @ np.linalg.inv(_TO_XYZ).T, 0, 1)
    value = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    rounded: Bytes = np.rint(value * 255).astype(np.uint8)
    return rounded


def toned(character: Bytes, alpha: Floats, scene: Bytes, grade: Grade) -> Bytes:
    """Move the tone of a character towards that of a scene, then grade it: (h, w, 3), (h, w) and (n, 3) to (h, w, 3).

    It goes only part of the way, so that the character keeps its own colours in the scene's light.
    """
    lab, there = to_lab(character), to_lab(scene)
    weight = alpha.reshape(-1) + 1e-6
    mean = np.average(lab.reshape(-1, 3), 0, weight)
    deviation = np.sqrt(np.average((lab.reshape(-1, 3) - mean) ** 2, 0, weight))
    shift = np.clip(_SHARE * (there.mean(0) - mean), -_MOST_SHIFT, _MOST_SHIFT)
    contrast = np.clip(1 + _SHARE[0] * (there.std(0)[0] / max(float(deviation[0]), 1.0) - 1), *_CONTRAST)
    shift += (grade.lightness, grade.red, grade.yellow)
    scaling = np.array([contrast, grade.saturation, grade.saturation], np.float32)
    return to_rgb((lab - mean) * scaling + mean + shift)
