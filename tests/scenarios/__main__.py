"""Live as many nights as one likes (``--seeds 0-1000``), or one, with its story (``--seed 17``)."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import repeat
from pathlib import Path

from tests.scenarios.night import Night, Story
from tests.scenarios.oracle import judge


def live(seed: int, rate: float | None = None, keep: Path | None = None) -> tuple[int, str, Story]:
    """One night: its seed, what is wrong ("" for nothing), and its story. keep: copy what a bad night left there."""
    with tempfile.TemporaryDirectory(dir=shared_memory()) as folder:
        night = Night(seed, rate=rate)
        story = Story(seed, Path(folder), replace(night.config, state_dir=Path(folder) / "sandbox"))
        wrong = _wrong(night, story)
        if wrong and keep:
            shutil.copytree(folder, keep / f"night-{seed}")
            (keep / f"night-{seed}" / "story.txt").write_text("\n".join([*story.lines, wrong]))
    return seed, wrong, story


def _wrong(night: Night, story: Story) -> str:
    try:
        with no_longer_than(60):
            night.live(story)
        judge(story)
    except AssertionError as error:
        return str(error) or repr(error)
    except OversleptError:
        return "the night does not end"
    return ""


class OversleptError(BaseException):
    """The night does not end. No Exception: nothing in the program may take it for a failure of a job."""


@contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    """A night takes a second; one that is still awake long after never ends. Raises OversleptError."""

    def ring(*_: object) -> None:
        raise OversleptError

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def shared_memory() -> str | None:
    """A folder in memory where there is one: nights flush a lot."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def replay(seed: int) -> str:
    """The command that lives this night again."""
    return f"python -m tests.scenarios --seed {seed}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scenarios", description=__doc__)
    parser.add_argument("--seed", type=int, help="live this night and tell its story")
    parser.add_argument("--seeds", default="0-299", help="live these nights [default: 0-299]")
    parser.add_argument("--rate", type=float, help="the rate of each fault; decided by the seed otherwise")
    parser.add_argument("--keep", type=Path, help="copy what bad nights leave into this folder")
    options = parser.parse_args()
    if options.seed is not None:
        seed, wrong, story = live(options.seed, options.rate, options.keep)
        sys.stdout.write("\n".join([*story.lines, wrong or "all promises kept"]) + "\n")
        return 1 if wrong else 0
    first, last = (int(number) for number in options.seeds.split("-"))
    started = time.monotonic()
    bad = 0
    with ProcessPoolExecutor() as pool:
        seeds = range(first, last + 1)
        for seed, wrong, _ in pool.map(live, seeds, repeat(options.rate), repeat(options.keep), chunksize=4):
            if wrong:
                bad += 1
                sys.stdout.write(f"night {seed}: {wrong}\n    {replay(seed)}\n")
                sys.stdout.flush()
    nights = last - first + 1
    sys.stdout.write(f"{nights} nights lived in {time.monotonic() - started:.0f} s: {nights - bad} good, {bad} bad\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
