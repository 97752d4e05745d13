"""The reference clip's scene: the camera's path, the background, the subject's masks and poses. Pure functions.

They work on n key frames of 128 x 128 pixels, whatever the clip's length and shape.
"""

from typing import NamedTuple

import numpy as np

from batchrunner.sandbox.clips.pictures import Bytes, Floats, Mask, blur, largest, warp, widen

SIDE_PX = 128
# Differences of two colours, of 255: below the first one they are the same, above the second one they are not.
_SAME, _OTHER = 14.0, 34.0


class Scene(NamedTuple):
    """offsets: (n, 2), how far right and down the scene has moved, as shares of the frame. still: apart from that.

    erased: (n, 128, 128), where the subject is, 0 to 255. poses: as `find_poses` returns them.
    """

    offsets: Floats
    still: bool
    erased: Bytes
    poses: Floats


def understand(pictures: Bytes, scores: Floats) -> Scene:
    """Find the camera's path and the subject: (n, 128, 128, 3), and how likely a person is, (n, 128, 128)."""
    people = np.stack([widen(largest(score > 0.8), 2) for score in scores])
    offsets = camera_path(pictures, people)
    layers = np.concatenate([pictures, np.where(people, 0, 255).astype(np.uint8)[..., None]], -1)
    background = still_background(np.stack([shift(*pair) for pair in zip(layers, -offsets, strict=True)]))
    behind = None if background is None else np.stack([shift(background, offset) for offset in offsets])
    masks = follow(pictures, scores > 0.8, behind)
    erased = np.stack([blur(255 * widen(mask, 4), 3) for mask in masks]).astype(np.uint8)
    return Scene(offsets / SIDE_PX, background is not None, erased, find_poses(masks))


def shift(picture: Bytes, offset: Floats) -> Bytes:
    """Move a picture right and down by an offset in pixels, bilinearly; 0 comes in: (h, w, c) to (h, w, c)."""
    return warp(picture, (1, 0, -offset[0], 0, 1, -offset[1]), (len(picture), picture.shape[1]))


def camera_path(pictures: Bytes, people: Mask) -> Floats:
    """Return how far right and down the scene has moved since the middle key frame, in pixels: (n, 2).

    (n, h, w, 3), and what moves by itself, (n, h, w). Without a translation that explains the change it is anything.
    """
    greys, middle = pictures.mean(-1, dtype=np.float32), len(pictures) // 2
    pairs = zip(greys, people, strict=True)
    return np.stack([camera_step(greys[middle], grey, ~(people[middle] | mask)) for grey, mask in pairs])


def camera_step(before: Floats, after: Floats, fixed: Mask) -> Floats:
    """Return how far right and down the scene has moved, in pixels: (h, w) greys and a mask of the scene to (2,).

    Phase correlation finds whole pixels, least squares on the gradient the residual.
    """
    rows, columns = before.shape
    weight = blur(fixed, 2) * np.outer(np.hanning(rows + 2)[1:-1], np.hanning(columns + 2)[1:-1])
    spectra = [np.fft.rfft2((grey - blur(grey, 8)) * weight) for grey in (before, after)]
    cross = spectra[1] * spectra[0].conj()
    y, x = np.unravel_index(np.fft.irfft2(cross / (np.abs(cross) + 1e-3), before.shape).argmax(), before.shape)
    down, right = (y + rows // 2) % rows - rows // 2, (x + columns // 2) % columns - columns // 2
    aligned = np.roll(after, (-down, -right), (0, 1))
    slopes = [(weight * slope).reshape(-1) for slope in np.gradient((before + aligned) / 2)]
    residual = np.linalg.lstsq(np.stack(slopes, -1), (weight * (before - aligned)).reshape(-1))[0]
    return np.array((right + residual[1].clip(-1, 1), down + residual[0].clip(-1, 1)))


def still_background(layers: Bytes) -> Bytes | None:
    """Return the scene where it stands still: (n, h, w, 4), opaque where it is seen, to (h, w, 4). None if it moves.

    It is the median of at most 24 frames.
    """
    chosen = layers[np.linspace(0, len(layers) - 1, min(len(layers), 24)).astype(int)]
    hidden = np.repeat(chosen[..., 3:] < 255, 3, -1)
    values = np.ma.array(chosen[..., :3], np.float32, mask=hidden)
    median = np.ma.median(values, 0)  # type: ignore[no-untyped-call]  # numpy has no types for it
    if not (np.ma.abs(values - median).mean(0).max(-1) < _SAME).mean() > 0.8:
        return None
    return np.dstack([median.filled(0), np.where(hidden.all((0, 3)), 0, 255)]).astype(np.uint8)


def follow(pictures: Bytes, found: Mask, behind: Bytes | None) -> Mask:
    """Return the subject's masks: (n, h, w, 3) and what the network finds (n, h, w) to (n, h, w).

    Of several people it is the largest one. What looks like the scene behind, (n, h, w, 4), is not the subject's, and
    what looks different beside the subject is. All False: no subject, or one below 0.8 % of the frame.
    """
    if behind is not None:
        difference = np.abs(pictures.astype(np.float32) - behind[..., :3]).max(-1)
        difference = np.where(behind[..., 3] < 255, (_SAME + _OTHER) / 2, difference)
        difference = np.stack([blur(one, 1) for one in difference])
        found = found & (difference > _SAME)
        # Ears and hands may reach 12 pixels out of what the network finds.
        found |= (difference > _OTHER) & np.stack([widen(blur(mask, 1) > 0.6, 12) for mask in found])
    masks = np.stack([largest(mask) for mask in found])
    first = int(masks.sum((1, 2)).argmax())
    for numbers in (range(first + 1, len(masks)), range(first - 1, -1, -1)):
        near = masks[first]
        for number in numbers:
            masks[number] = largest(found[number], widen(near, 4))
            near = masks[number] if masks[number].any() else near
    return masks if masks[first].mean() > 0.008 else np.zeros_like(masks)


def find_poses(masks: Mask) -> Floats:
    """Return x and y of the foot's middle, height, lean, area and presence: (n, h, w) to (n, 6).

    As shares of the frame, smoothed. Lean: how far the top is to the right of the foot. Presence: 1 where the subject
    is in the frame: found not more than 3 key frames away. Without a subject: low in the middle, all the time.
    """
    found, numbers = np.flatnonzero(masks.any((1, 2))), np.arange(len(masks))
    if not len(found):
        return np.tile(np.array((0.5, 1.0, 0.85, 0, 0, 1), np.float32), (len(masks), 1))
    poses = np.array([_pose(masks[number]) for number in found])
    fields = [np.pad(np.interp(numbers, found, field), 2, "edge") for field in poses.T]
    smooth = [np.convolve(field, np.array((1, 4, 6, 4, 1)) / 16, "valid") for field in fields]
    return np.stack([*smooth, np.abs(numbers[:, None] - found).min(1) <= 3], 1).astype(np.float32)


def _pose(mask: Mask) -> tuple[float, ...]:
    (rows, columns), (y, x) = mask.shape, np.nonzero(mask)
    top, bottom = np.quantile(y, (0.02, 0.985))
    slope = np.mean((y - y.mean()) * (x - x.mean())) / max(float(y.var()), 1.0)
    foot, lean = x.mean() + slope * (bottom - y.mean()) + 0.5, slope * (top - bottom)
    return foot / columns, (bottom + 1) / rows, (bottom + 1 - top) / rows, lean / columns, mask.mean()
