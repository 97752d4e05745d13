"""Simulate any number of scenarios (``--seeds 0-1000``), or one with its story (``--seed 17``)."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import repeat
from pathlib import Path

from tests.scenarios.oracle import check_story
from tests.scenarios.scenario import Scenario, Story


def simulate(
    seed: int,
    rate: float | None = None,
    keep: Path | None = None,
    change: Callable[[Scenario], object] = lambda scenario: None,
) -> tuple[int, str, Story]:
    """Simulate one scenario; return its seed, its error ("" for none) and its story.

    keep: copy the files of a failed one there. change: changes the scenario before it is simulated.
    """
    with tempfile.TemporaryDirectory(dir=shared_memory()) as folder:
        scenario = Scenario(seed, rate=rate)
        change(scenario)
        story = Story(seed, Path(folder), replace(scenario.config, state_dir=Path(folder) / "sandbox"))
        wrong = _wrong(scenario, story)
        if wrong and keep:
            shutil.copytree(folder, keep / f"scenario-{seed}")
            (keep / f"scenario-{seed}" / "story.txt").write_text("\n".join([*story.lines, wrong]))
    return seed, wrong, story


def _wrong(scenario: Scenario, story: Story) -> str:
    try:
        with time_limit(60):
            scenario.simulate(story)
        check_story(story)
    except AssertionError as error:
        return str(error) or repr(error)
    except TimeLimitError:
        return "the scenario does not end"
    return ""


class TimeLimitError(BaseException):
    """The scenario does not end. Not an Exception, so that no code under test takes it for a failure of a job."""


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise TimeLimitError after this time.

    A scenario takes a second; one that is still active long after that never ends.
    """

    def expire(*_: object) -> None:
        raise TimeLimitError

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def shared_memory() -> str | None:
    """Return a folder in memory if there is one, because scenarios flush often."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def replay(seed: int) -> str:
    """Return the command that simulates this scenario again."""
    return f"python -m tests.scenarios --seed {seed}"


def outcome(seed: int, rate: float | None = None, keep: Path | None = None) -> tuple[int, str]:
    """Simulate one scenario in another process. Its story stays there, because it has objects of the run."""
    return simulate(seed, rate, keep)[:2]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scenarios", description=__doc__)
    parser.add_argument("--seed", type=int, help="simulate this seed and print its story")
    parser.add_argument("--seeds", default="0-299", help="simulate these seeds [default: 0-299]")
    parser.add_argument("--rate", type=float, help="the rate of each fault; decided by the seed otherwise")
    parser.add_argument("--keep", type=Path, help="copy the files of failed scenarios into this folder")
    options = parser.parse_args()
    if options.seed is not None:
        seed, wrong, story = simulate(options.seed, options.rate, options.keep)
        sys.stdout.write("\n".join([*story.lines, wrong or "all promises kept"]) + "\n")
        return 1 if wrong else 0
    first, last = (int(number) for number in options.seeds.split("-"))
    started = time.monotonic()
    bad = 0
    with ProcessPoolExecutor() as pool:
        seeds = range(first, last + 1)
        for seed, wrong in pool.map(outcome, seeds, repeat(options.rate), repeat(options.keep), chunksize=4):
            if wrong:
                bad += 1
                sys.stdout.write(f"scenario {seed}: {wrong}\n    {replay(seed)}\n")
                sys.stdout.flush()
    count = last - first + 1
    sys.stdout.write(f"{count} scenarios in {time.monotonic() - started:.0f} s: {count - bad} good, {bad} bad\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
