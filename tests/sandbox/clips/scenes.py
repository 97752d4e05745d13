"""Synthetic scenes with a known result: a textured background, a disc that moves across it, a stone."""

from dataclasses import dataclass

import numpy as np

from batchrunner.sandbox.clips.pictures import Bytes, Floats, Mask, blur

SIDE = 128


@dataclass
class Walk:
    """n key frames: pictures (n, 128, 128, 3), the network's output, the subject's true masks and centres."""

    background: Bytes
    pictures: Bytes
    scores: Floats
    masks: Mask
    centres: Floats


def texture(seed: int, side: int = SIDE) -> Bytes:
    """Return a smooth random picture of 20 to 220: (side, side, 3)."""
    noise = np.random.default_rng(seed).random((side, side, 3))
    soft = np.dstack([blur(noise[..., channel], 2) for channel in range(3)])
    return np.asarray((soft - soft.min()) / (soft.max() - soft.min()) * 200 + 20, np.uint8)


def disc(x: float, y: float, radius: float, side: int = SIDE) -> Mask:
    rows, columns = np.ogrid[:side, :side]
    return np.asarray(np.hypot(rows - y, columns - x) < radius)


def walk(frames: int = 12, drift: float = 0.0, stone: bool = False, seed: int = 1) -> Walk:
    """A red disc moves from left to right. drift: pixels a frame that the camera moves the scene right.

    stone: the network takes a still stone, which the disc first touches, for a part of the subject.
    """
    wide = texture(seed, SIDE + 128)
    pictures, scores, masks, centres = [], [], [], []
    rock = disc(25, 78, 12) if stone else np.zeros((SIDE, SIDE), bool)
    for number in range(frames):
        left = round(64 - drift * number)
        picture = wide[64 : 64 + SIDE, left : left + SIDE].copy()
        x = 40 + 5 * number
        mask = disc(x, 70, 18)
        picture[mask] = (230, 20, 30)
        pictures.append(picture)
        masks.append(mask)
        scores.append(np.where(mask | rock, 0.98, 0.02))
        centres.append(x)
    return Walk(wide[64 : 64 + SIDE, 64 : 64 + SIDE], *map(np.array, (pictures, scores, masks, centres)))
