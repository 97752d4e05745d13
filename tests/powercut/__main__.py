"""Cut the power of a run at every moment, in each way, for half an hour; ``--moments`` tries fewer."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests import preload
from tests.powercut.cuts import Recording, distinct, moments, play, record


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.powercut", description=__doc__)
    parser.add_argument("--jobs", type=int, default=6, help="of the batch that is recorded [default: 6]")
    parser.add_argument("--moments", type=int, help="so many moments, spread over the run [default: every one]")
    parser.add_argument(
        "--twice", type=int, default=0, help="record so many continued runs too, and cut them [default: 0]"
    )
    parser.add_argument("--seed", type=int, default=1, help="decides what is left of what was not flushed [default: 1]")
    parser.add_argument("--lanes", type=int, default=2, help="runs at a time [default: 2]")
    parser.add_argument(
        "--keep", type=Path, help="work in this new folder, and keep the recordings and what went wrong"
    )
    options = parser.parse_args()
    if why := preload.available():
        sys.stdout.write(f"The power cannot be cut here: {why}.\n")
        return 2
    with tempfile.TemporaryDirectory(prefix="powercut-") as temporary:
        folder = options.keep or Path(temporary)
        first = record(folder / "recorded", options.jobs)
        wrong = _cut(first, folder / "cuts", options)
        again = distinct(first, moments(first, options.seed + 1, options.twice)) if options.twice else ()
        for number, (moment, left) in enumerate(again):
            sys.stdout.write(f"\nand again, after a cut at {moment}\n")
            second = record(folder / f"recorded-{number}", options.jobs, (first.folder, left))
            wrong += _cut(second, folder / f"cuts-{number}", options)
    return 1 if wrong else 0


def _cut(recording: Recording, folder: Path, options: argparse.Namespace) -> int:
    """Cut the power at the selected moments and print the figures. Return the number of errors."""
    wanted = moments(recording, options.seed, options.moments)
    sys.stdout.write(f"{len(recording.acts)} acts recorded, {len(wanted)} moments\n")
    sys.stdout.flush()
    outcome = play(recording, folder, wanted, options.lanes)
    sys.stdout.write(f"{outcome.moments} of them leave something of their own\n")
    sys.stdout.write(outcome.figures.table("power cut") + "\n")
    sys.stdout.flush()
    return len(outcome.figures.wrong)


if __name__ == "__main__":
    sys.exit(main())
