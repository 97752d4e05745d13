"""Find the subject of a clip on its key frames, and follow it: masks, then poses. Pure functions over arrays.

Coordinates are shares of the frame's width and height, so a mask of any size fits a frame of any size.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from batchrunner.sandbox.clips.arrays import Floats, Mask, blur, grow, largest

_LIKELY = 0.8
# A smaller one, as a share of the frame, is taken for a mistake of the network.
_LEAST = 0.008
# Differences of two colours, of 255: below the first one they are the same, above the second one they are not.
_SAME, _OTHER = 14.0, 34.0
_MOST_COMPARED = 24
# So far may ears and hands reach out of what the network finds, of 128 pixels.
_REACH_PX = 12
# For so many key frames a subject is believed to be there although it is not found.
_BELIEVED = 3


@dataclass(frozen=True, slots=True)
class Track:
    """The subject on n key frames: x and y of its foot's middle, height, lean (shift of its top), area; each (n,).

    there: 1 where it is in the picture.
    """

    x: Floats
    y: Floats
    height: Floats
    lean: Floats
    area: Floats
    there: Floats

    def at(self, number: float, every: int) -> tuple[float, ...]:
        """Return x, y, height, lean, area and presence at frame `number`, where each `every`th frame is a key frame."""
        keys = np.arange(len(self.x)) * every
        fields = (self.x, self.y, self.height, self.lean, self.area, self.there)
        return tuple(float(np.interp(number, keys, one)) for one in fields)


def covered(scores: Floats) -> Mask:
    """Return what the largest person, and a rim around it, covers: the network's (n, h, w) to (n, h, w)."""
    return np.stack([grow(largest(one), 2) for one in scores > _LIKELY])


def follow(pictures: Floats, scores: Floats, background: Floats | None) -> Mask:
    """Return the subject's masks on n key frames: (n, h, w, 3) RGB and the network's (n, h, w) to (n, h, w).

    Of several people it is the largest one. background: as `still_background` returns it. Pixels that look like it are
    not the subject's, and pixels beside the subject that look different are. All False: no subject.
    """
    found = scores > _LIKELY
    if background is not None:
        difference = np.abs(pictures - background).max(-1)
        difference = np.stack([blur(one, 1) for one in difference])
        found = found & ~(difference < _SAME)
        extended = np.stack([grow(blur(one, 1) > 0.6, _REACH_PX) for one in found])
        found |= (difference > _OTHER) & extended
    masks = np.zeros_like(found)
    areas = [int(largest(one).sum()) for one in found]
    first = int(np.argmax(areas))
    if areas[first] < _LEAST * found[0].size:
        return masks
    masks[first] = largest(found[first])
    for order in (range(first + 1, len(found)), range(first - 1, -1, -1)):
        seen = masks[first]
        for number in order:
            masks[number] = largest(found[number], grow(seen, 4))
            seen = masks[number] if masks[number].any() else seen
    return masks


def still_background(pictures: Floats, hidden: Mask) -> Floats | None:
    """Return the scene's colours where the camera stands still, NaN where they were never seen; None if it moves.

    (n, h, w, 3) and (n, h, w) to (h, w, 3): the median over the frames in which a pixel is not hidden.
    """
    chosen = np.linspace(0, len(pictures) - 1, min(len(pictures), _MOST_COMPARED)).astype(int)
    values = np.where(hidden[chosen][..., None], np.nan, pictures[chosen])
    times = (~hidden[chosen]).sum(0)
    ordered = np.sort(values, 0)  # NaN goes last
    ranks = [np.maximum((times - 1) * quarter // 4, 0)[None, ..., None] for quarter in (1, 2, 3)]
    low, middle, high = (np.take_along_axis(ordered, rank, 0)[0] for rank in ranks)
    enough = times >= 3
    still = enough.any() and np.mean((high - low).max(-1)[enough] < _SAME) > 0.8
    return np.asarray(middle) if still else None


def track(masks: Mask) -> Track | None:
    """Return where the subject is, smoothed over the key frames: (n, h, w) to a Track of n; None without a subject."""
    poses = np.array([_pose(mask) for mask in masks], np.float32)
    seen = np.flatnonzero(~np.isnan(poses[:, 0]))
    if not len(seen):
        return None
    numbers = np.arange(len(poses))
    columns = [_smooth(np.interp(numbers, seen, poses[seen, column])) for column in range(5)]
    near = np.abs(numbers[:, None] - seen).min(1) <= _BELIEVED
    x, y, height, lean, area = columns
    return Track(x, y, height, lean, area, near.astype(np.float32))


def _pose(mask: Mask) -> tuple[float, ...]:
    """x and y of the foot's middle, height, lean, area. The outer 2 % of the rows' mass do not count."""
    rows, columns = mask.shape
    mass = mask.sum(1)
    if not mass.any():
        return (np.nan,) * 5
    share = np.cumsum(mass) / mass.sum()
    top, bottom = np.searchsorted(share, (0.02, 0.985))
    heights = np.arange(rows)[mass > 0]
    centres = (mask @ np.arange(columns))[mass > 0] / mass[mass > 0]
    slope, middle = _line(heights - heights.mean(), centres, mass[mass > 0])
    foot = middle + slope * (bottom - heights.mean())
    lean = slope * (top - bottom) / columns
    return (foot + 0.5) / columns, (bottom + 1) / rows, (bottom + 1 - top) / rows, lean, mask.mean()


def _line(at: Any, values: Any, weights: Any) -> tuple[float, float]:
    """Slope and value at 0 of the weighted least squares line."""
    mean, level = np.average(at, weights=weights), np.average(values, weights=weights)
    spread = np.average((at - mean) ** 2, weights=weights)
    slope = np.average((at - mean) * (values - level), weights=weights) / max(spread, 1e-6)
    return float(slope), float(level - slope * mean)


def _smooth(values: Any) -> Floats:
    padded = np.pad(values, 2, "edge")
    weights = (1, 4, 6, 4, 1)
    total = sum(weight * padded[at : at + len(values)] for at, weight in enumerate(weights))
    return np.asarray(total / 16, np.float32)
