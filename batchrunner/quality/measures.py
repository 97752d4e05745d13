"""Measure what a clip shows, from arrays: one small grey picture per frame, and the peak of the sound. Pure.

Pictures are uint8 arrays of the shape (frames, 36, 64). `profile_of` finds black, flat, still and repeated frames,
flicker and jumps in one clip. `numbers_of` compares a clip with its reference and returns numbers for the report.
`signature_of` and `signature_from` convert a reference to JSON and back. Nothing here decodes, reads files or decides
what is suspicious (`batchrunner.quality.marks`).
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 64, 36
MOST_FRAMES = 20_000  # measured of one clip: 46 MB
VERSION = 1  # of the numbers; another version means another way to measure

_BLACK_MEAN, _BLACK_PEAK = 18.0, 32.0  # of a frame, and of its cells but the brightest: grey levels
_BRIGHT_CELLS = 46  # 2 % of a frame: noise and small text
_FLAT_DEVIATION = 2.5
# An encoder refines the first repeats of a frame and refreshes later ones: most repeats are exact, some only near.
_EXACT_MEAN = 0.05
_NEAR_MOST, _NEAR_MEAN = 8, 0.8
_FIRST_MOST, _FIRST_MEAN = 12, 1.5  # of the first two repeats, which a strong compression refines most
_EXACT_SHARE = 0.8  # of the frames of a frozen run
_BLOCK = 256  # frames at a time, because the clip as floating-point numbers takes eight times its memory
_SHORTEST_RUN = 8  # fewer repeats are a matter of the frame rate
_STILL_MEAN = 0.12
_FLICKER_LEVELS = 6.0
_JUMP_LEVELS, _JUMP_RATIO = 24.0, 4.0
_NEAR_FRAMES = 3  # how far an event of the reference may be from that of the clip
_SAMPLES = 24  # frames of the reference for the comparison with a clip
_SAMPLE_AROUND = 2
_CHANGED_CELLS = 12  # a subject of so many cells counts

Pictures = NDArray[np.uint8]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Clip:
    """The raw material of one clip. audio_peak: 0 to 1, None without sound. frames: all, measured or not."""

    pictures: Pictures
    frames: int
    duration_s: float | None
    audio_peak: float | None

    @property
    def fps(self) -> float | None:
        """Frames per second, or None if unknown."""
        return round(self.frames / self.duration_s, 3) if self.duration_s else None


@dataclass(frozen=True, slots=True)
class Profile:
    """One flag per measured frame. jump, flicker: not beside frames that explain them.

    motion: mean change from frame to frame, in grey levels.
    """

    black: Flags
    flat: Flags
    frozen: Flags
    still: Flags
    jump: Flags
    flicker: Flags
    motion: float


@dataclass(frozen=True, slots=True)
class Reference:
    """What is kept of a reference: its profile, and samples of its pictures at even distances."""

    profile: Profile
    samples: Pictures
    frames: int
    duration_s: float | None
    fps: float | None
    audio_peak: float | None


def profile_of(pictures: Pictures) -> Profile:
    """Find the unusual frames of a clip."""
    levels = pictures.reshape(len(pictures), -1)
    means, peaks, deviations = _levels(levels)
    black = (means < _BLACK_MEAN) & (peaks < _BLACK_PEAK)
    flat = (deviations < _FLAT_DEVIATION) & ~black
    most, change, second = _changes(levels)
    frozen = _frozen(most, change, second) & ~black & ~flat
    still = (change < _STILL_MEAN) & ~black & ~flat
    still[:1] = False
    explained = _wider(black | flat | frozen, 1)
    flicker = _flicker(means) & ~explained
    jump = _jumps(change) & ~explained & ~_wider(flicker, 1)
    return Profile(black, flat, frozen, still, jump, flicker, float(change.mean()) if len(change) else 0.0)


def _levels(levels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the mean, the level that few cells exceed, and the standard deviation of each frame."""
    blocks = [levels[start : start + _BLOCK] for start in range(0, len(levels), _BLOCK)]
    found = [(block.mean(1), _highest(block, _BRIGHT_CELLS), block.std(1)) for block in blocks]
    return np.concatenate(found, 1) if found else np.empty((3, 0))


def _highest(cells: NDArray[Any], rank: int) -> NDArray[Any]:
    """Return for each frame the value of this rank, counted from the highest. A percentile takes ten times as long."""
    values: NDArray[Any] = np.partition(cells, -rank, axis=1)[:, -rank]
    return values


def _changes(levels: NDArray[np.uint8]) -> tuple[NDArray[np.int16], NDArray[np.float64], NDArray[np.float64]]:
    """Return for each frame the largest and the mean change since the frame before, and the mean since two before.

    The first frame has no change. Frames without a second one before them have a large one.
    """
    most, change, second = np.full(len(levels), 255, np.int16), np.zeros(len(levels)), np.full(len(levels), 255.0)
    for number in range(1, len(levels)):  # one at a time: no copy of the clip in 16 bits
        difference = np.abs(levels[number].astype(np.int16) - levels[number - 1])
        most[number], change[number] = difference.max(), difference.mean()
        if change[number] < _NEAR_MEAN and number > 1:
            second[number] = np.abs(levels[number].astype(np.int16) - levels[number - 2]).mean()
    return most, change, second


def _frozen(most: NDArray[np.int16], change: NDArray[np.float64], second: NDArray[np.float64]) -> Flags:
    """Return the frames of long runs that repeat the frame before them.

    A repeat may equal the frame two before: an encoder alternates between two nearly equal pictures.
    """
    found = np.zeros(len(most), np.bool_)
    exact = np.minimum(change, second) < _EXACT_MEAN
    for start, end in _runs((most <= _NEAR_MOST) & (change < _NEAR_MEAN)):
        if end - start >= _SHORTEST_RUN and exact[start:end].mean() >= _EXACT_SHARE:
            first = start
            while start - first < 2 and most[first - 1] <= _FIRST_MOST and change[first - 1] < _FIRST_MEAN:
                first -= 1
            found[first:end] = True
    return found


def _jumps(change: NDArray[np.float64]) -> Flags:
    """Return the frames that differ from the frame before far more than their neighbours do."""
    found = np.zeros(len(change), np.bool_)
    for number in np.flatnonzero(change > _JUMP_LEVELS):
        around = np.concatenate((change[max(1, number - 5) : number], change[number + 1 : number + 6]))
        found[number] = len(around) >= 2 and change[number] > _JUMP_RATIO * max(np.median(around), 1.0)
    return found


def _flicker(means: NDArray[np.float64]) -> Flags:
    """Return the frames that are brighter than both neighbours, or darker than both."""
    found = np.zeros(len(means), np.bool_)
    before, after = means[1:-1] - means[:-2], means[1:-1] - means[2:]
    found[1:-1] = (before * after > 0) & (np.minimum(np.abs(before), np.abs(after)) > _FLICKER_LEVELS)
    return found


def reference_of(clip: Clip) -> Reference:
    """Return what later comparisons need of a reference."""
    count = len(clip.pictures)
    places = ((np.arange(_SAMPLES) + 0.5) * count / _SAMPLES).astype(int)
    samples = clip.pictures[np.unique(places)] if count else clip.pictures
    profile = profile_of(clip.pictures)
    return Reference(profile, samples, clip.frames, clip.duration_s, clip.fps, clip.audio_peak)


def numbers_of(clip: Clip, reference: Reference | None = None) -> dict[str, Any]:
    """Return the measures of a clip, ready for JSON. Frames that are alike in the reference are not counted.

    Keys that end with ``_frames`` are counts, ``_s`` seconds, ``_peak`` a share of full scale. Unknown values are None.
    """
    own = profile_of(clip.pictures)
    black, flat, frozen, still = (
        flags & ~_same_place(clip, flags, reference, name)
        for name, flags in (("black", own.black), ("flat", own.flat), ("frozen", own.frozen), ("still", own.still))
    )
    jump = own.jump & ~_same_place(clip, own.jump, reference, "jump") if reference else np.zeros_like(own.jump)
    flicker = int(own.flicker.sum()) - (int(reference.profile.flicker.sum()) if reference else 0)
    levels = clip.pictures.reshape(len(clip.pictures), -1)
    return {
        "version": VERSION,
        "frames": clip.frames,
        "measured_frames": len(clip.pictures),
        "duration_s": None if clip.duration_s is None else round(clip.duration_s, 3),
        "fps": clip.fps,
        "brightness": round(float(levels.mean()), 2) if len(levels) else None,
        "motion": round(own.motion, 3),
        "black_frames": int(black.sum()),
        "black_at_s": _first_s(clip, black),
        "frozen_frames": int(frozen.sum()),
        "frozen_at_s": _first_s(clip, frozen),
        "still_frames": int(still.sum()),
        "flat_frames": int(flat.sum()),
        "flicker_frames": max(0, flicker),
        "jumps": int(jump.sum()),
        "jump_at_s": _first_s(clip, jump),
        "echo_distance": _echo_distance(clip, reference) if reference else None,
        "audio_peak": _rounded(clip.audio_peak),
        "reference_duration_s": _rounded(reference.duration_s) if reference else None,
        "reference_fps": reference.fps if reference else None,
        "reference_audio_peak": _rounded(reference.audio_peak) if reference else None,
        "digest": _digest(clip, own),
    }


def _same_place(clip: Clip, flags: Flags, reference: Reference | None, name: str) -> Flags:
    """Return for each frame whether the reference has the same property at the same time."""
    if reference is None or not len(flags):
        return np.zeros_like(flags)
    theirs: Flags = getattr(reference.profile, "still" if name == "frozen" else name)
    if name == "frozen":
        theirs = theirs | reference.profile.frozen
    return _wider(theirs, _NEAR_FRAMES)[_matching(clip, len(theirs), reference)] if len(theirs) else flags & False


def _matching(clip: Clip, count: int, reference: Reference) -> NDArray[np.intp]:
    """Return for each frame of the clip the number of the reference's frame at the same time."""
    ratio = reference.fps / clip.fps if reference.fps and clip.fps else 1.0
    return np.minimum(((np.arange(len(clip.pictures)) + 0.5) * ratio).astype(np.intp), count - 1)


def _echo_distance(clip: Clip, reference: Reference) -> float | None:
    """Return how far the clip is from its reference, in grey levels. None if the reference shows too little.

    It is the difference of those few cells of a frame that differ most: a small subject that was replaced shows.
    """
    if not len(clip.pictures) or not reference.frames:
        return None
    ratio = clip.fps / reference.fps if reference.fps and clip.fps else 1.0
    step = len(reference.profile.black) / len(reference.samples) if len(reference.samples) else 0
    distances = []
    for number, sample in enumerate(reference.samples):
        middle = int((int((number + 0.5) * step) + 0.5) * ratio)
        near = clip.pictures[max(0, middle - _SAMPLE_AROUND) : middle + _SAMPLE_AROUND + 1]
        if len(near) and sample.std() >= _FLAT_DEVIATION:
            cells = np.abs(near.astype(np.int16) - sample).reshape(len(near), -1)
            distances.append(float(_highest(cells, _CHANGED_CELLS).min()))
    return round(float(np.percentile(distances, 90)), 2) if len(distances) >= 3 else None


def _digest(clip: Clip, own: Profile) -> str | None:
    """Return a hash of the pictures that finds the same clip in another file. None for a clip without a motif."""
    if not len(clip.pictures) or (own.black | own.flat).all():
        return None
    return hashlib.sha256(clip.pictures.tobytes()).hexdigest()[:32]


def _first_s(clip: Clip, flags: Flags) -> float | None:
    return round(int(flags.argmax()) / clip.fps, 3) if clip.fps and flags.any() else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _runs(flags: Flags) -> list[tuple[int, int]]:
    """Return the runs of true flags, as start and end."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    return [(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def _wider(flags: Flags, frames: int) -> Flags:
    """Return the flags, with so many more before and after each run."""
    wide = flags.copy()
    for distance in range(1, frames + 1):
        wide[distance:] |= flags[:-distance]
        wide[:-distance] |= flags[distance:]
    return wide


_FLAGS = ("black", "flat", "frozen", "still", "jump", "flicker")


def signature_of(reference: Reference) -> dict[str, Any]:
    """Return a reference as JSON values, about 75 kB."""
    return {
        "measured": len(reference.profile.black),
        "frames": reference.frames,
        "duration_s": reference.duration_s,
        "fps": reference.fps,
        "audio_peak": reference.audio_peak,
        "motion": reference.profile.motion,
        "samples": base64.b64encode(reference.samples.tobytes()).decode(),
        **{name: np.packbits(getattr(reference.profile, name)).tobytes().hex() for name in _FLAGS},
    }


def signature_from(found: Mapping[str, Any]) -> Reference:
    """Do the reverse of `signature_of`."""
    measured = found["measured"]

    def flags(name: str) -> Flags:
        packed = np.frombuffer(bytes.fromhex(found[name]), np.uint8)
        return np.unpackbits(packed, count=measured).astype(np.bool_)

    samples = np.frombuffer(base64.b64decode(found["samples"]), np.uint8).reshape(-1, HEIGHT, WIDTH)
    profile = Profile(**{name: flags(name) for name in _FLAGS}, motion=found["motion"])
    return Reference(profile, samples, found["frames"], found["duration_s"], found["fps"], found["audio_peak"])
