"""``python -m tests.fuzz --minutes 10``: load damaged manifests until the time is over or one is a finding.

Every case follows from its number, so ``--seed N`` repeats and prints one.
"""

import argparse
import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.fuzz import bench, broken, check_bytes, corpus, suite

LIMIT_S = 10.0  # a case that takes longer is a finding


def case(seed: int) -> bytes:
    rng = random.Random(seed)
    if rng.random() < 0.05:
        return rng.randbytes(rng.randint(0, 200))
    return broken(rng.choice(corpus()), rng)


def say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def too_long(*_: object) -> None:
    raise TimeoutError(f"more than {LIMIT_S:g} s")


def attempt(data: bytes, folder: Path) -> tuple[bool, float]:
    """Return whether `data` validates, and the seconds that it took."""
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    start = time.perf_counter()
    try:
        return check_bytes(data, folder), time.perf_counter() - start
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first case")
    parser.add_argument("--seed", type=int, metavar="N", help="play one case, and print it")
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, too_long)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # nothing may wait for standard input
    with bench() as folder:
        if options.seed is not None:
            data = case(options.seed)
            sys.stdout.buffer.write(data + b"\n---\n")
            say(attempt(data, folder))
            return 0
        for name, text in suite():
            try:
                attempt(text.encode(), folder)
            except Exception:
                say(f"case {name} of the YAML test suite")
                raise
        return endless(folder, options.first, time.monotonic() + 60 * options.minutes)


def endless(folder: Path, seed: int, until: float) -> int:
    first, valid, slowest = seed, 0, (0.0, seed)
    while time.monotonic() < until:
        try:
            fits, seconds = attempt(case(seed), folder)
        except BaseException:
            say(f"found: python -m tests.fuzz --seed {seed}")
            raise
        valid += fits
        slowest = max(slowest, (seconds, seed))
        seed += 1
    say(f"{seed - first:,} cases, {valid:,} of them valid; slowest {slowest[0]:.2f} s (--seed {slowest[1]})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
