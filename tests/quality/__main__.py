"""Measure many clips by hand: ``python -m tests.quality [--clips 200] [--seed 0]``.

Clean clips of several sizes, lengths and qualities, with and without sound, and renders of the sandbox must have no
mark. Each scene with one planted fault (20 black frames, 89 frozen frames, an echo, silence, in turn) must have exactly
this mark, with the exact number of frames. Every clip is an MP4 file that goes through the decode check. The exit
status is 1 if a clip has another mark.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from batchrunner.media.decoder_pool import Here
from batchrunner.quality.marks import marks_of
from batchrunner.sandbox.clips.render import RenderRequest, render
from tests.conftest import MEDIA
from tests.quality.clips import Pictures, scene, silence, tone, with_other_subject, write

SIZES = ((192, 108), (108, 192), (128, 128), (256, 144))
LENGTHS = (125, 150, 200)
QUALITIES = (18, 23, 28, 33)
RENDERS_EVERY = 10  # one clip of so many is a render of the sandbox


class Sample(NamedTuple):
    """A clip with its reference and what must be found. frames: the count in this measure, or None."""

    name: str
    path: Path
    reference: Path
    kinds: tuple[str, ...] = ()
    measure: str = ""
    frames: int | None = None


def blacken(pictures: Pictures, start: int) -> None:
    pictures[start : start + 20] = 3


def freeze(pictures: Pictures, start: int) -> None:
    pictures[start : start + 89] = pictures[start - 1]


FAULTS: dict[str, tuple[Callable[[Pictures, int], None], str, int]] = {
    "black": (blacken, "black_frames", 20),
    "frozen": (freeze, "frozen_frames", 89),
}


def scenes(folder: Path, number: int, rng: Random) -> Iterator[Sample]:
    """Yield a clean clip of a scene, and the same scene with the next fault."""
    (width_px, height_px), frames, crf = rng.choice(SIZES), rng.choice(LENGTHS), rng.choice(QUALITIES)
    kind = ("black", "frozen", "echo", "silence")[number % 4]
    source = scene(number, frames, width_px, height_px)
    sound = tone if kind == "silence" else rng.choice((tone, None))
    reference = write(folder / "reference.mp4", source, sound)
    result = with_other_subject(source, number)
    label = f"seed {number}, {width_px}x{height_px}, {frames} frames, crf {crf}"
    yield Sample(f"clean, {label}", write(folder / "clean.mp4", result, sound, crf), reference)
    path = folder / f"{kind}.mp4"
    if kind in FAULTS:
        plant, measure, count = FAULTS[kind]
        plant(result, rng.randrange(10, frames - count - 5))
        yield Sample(f"{kind}, {label}", write(path, result, sound, crf), reference, (kind,), measure, count)
    elif kind == "echo":
        yield Sample(f"echo, {label}", write(path, source, sound, crf), reference, ("echo",))
    else:
        yield Sample(f"silence, {label}", write(path, result, silence, crf), reference, ("audio",))


def renders(folder: Path, number: int, rng: Random) -> Iterator[Sample]:
    """Yield a render of the sandbox: a real clip with a character in it."""
    video = MEDIA / "bunny.mp4"
    image = rng.choice(sorted(MEDIA.glob("*.jpg")))
    request = RenderRequest(
        video,
        image,
        folder / "render.mp4",
        variation=str(number),
        quality=rng.choice(("low", "high")),
        write_mode="fast",
    )
    yield Sample(f"clean, render {number} with {image.name}", render(request), video)


def wrong_with(sample: Sample) -> str:
    """Return what was found instead of what must be found, or ""."""
    [signature] = Here().run_all("reference", [{"path": str(sample.reference)}])
    item = {"path": str(sample.path), "size_bytes": sample.path.stat().st_size, "quality": True}
    [found] = Here().run_all("clip", [item | {"reference": signature}])
    numbers: dict[str, Any] = found["quality"]
    kinds = tuple(mark.kind for mark in marks_of(numbers, {}))
    if kinds != sample.kinds:
        return f"{', '.join(kinds) or 'no mark'} instead of {', '.join(sample.kinds) or 'no mark'}: {numbers}"
    if sample.frames is not None and numbers[sample.measure] != sample.frames:
        return f"{sample.measure} is {numbers[sample.measure]} instead of {sample.frames}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=200, help="number of clean clips")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts, bad = Counter[str](), 0
    for number in range(options.seed, options.seed + options.clips):
        rng = Random(number)
        make = renders if number % RENDERS_EVERY == 0 else scenes
        with tempfile.TemporaryDirectory() as folder:
            for sample in make(Path(folder), number, rng):
                counts[sample.name.partition(",")[0]] += 1
                if wrong := wrong_with(sample):
                    bad += 1
                    sys.stdout.write(f"{sample.name}: {wrong}\n")
                    sys.stdout.flush()
    total = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    sys.stdout.write(f"{counts.total()} clips ({total}): {bad} with a wrong mark\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
