"""Stop any number of runs and print the figures: ``python -m tests.soak --kills 1000``."""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from tests.soak.oracle import Figures
from tests.soak.soak import Plan, soak
from tests.soak.two_batches import soak_two


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="how often SIGKILL hits a run [default: 100]")
    parser.add_argument("--terms", type=int, default=0, help="and SIGTERM [default: 0]")
    parser.add_argument("--ints", type=int, default=0, help="and SIGINT [default: 0]")
    parser.add_argument("--lies", action="store_true", help="against a service that lies")
    parser.add_argument("--disk", action="store_true", help="on a disk that fails for a while in every run (Linux)")
    parser.add_argument("--two-batches", action="store_true", help="kill two batches of one account, with common jobs")
    parser.add_argument("--buckets", action="store_true", help="stage to and deliver to a bucket of a real S3 server")
    parser.add_argument("--jobs", type=int, default=60, help="of each batch [default: 60]")
    parser.add_argument("--concurrency", type=int, default=8, help="of each batch [default: 8]")
    parser.add_argument("--lanes", type=int, default=2, help="batches at a time [default: 2]")
    parser.add_argument("--seed", type=int, default=1, help="decides the moments [default: 1]")
    parser.add_argument("--keep", type=Path, help="work in this folder, and keep it")
    options = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        folder = options.keep or Path(temporary)
        stops = {signal.SIGKILL: options.kills, signal.SIGTERM: options.terms, signal.SIGINT: options.ints}
        for stop, count in stops.items():
            if count:
                plan = Plan(
                    stop,
                    count,
                    options.jobs,
                    options.concurrency,
                    options.seed,
                    options.lanes,
                    lies=options.lies,
                    disk=options.disk,
                )
                figures = _soak(options, plan, folder / stop.name)
                sys.stdout.write(figures.table(stop.name) + "\n\n")
                sys.stdout.flush()
                wrong += len(figures.wrong)
    return 1 if wrong else 0


def _soak(options: argparse.Namespace, plan: Plan, folder: Path) -> Figures:
    if not options.buckets:
        return (soak_two if options.two_batches else soak)(plan, folder)
    from tests.objects.s3_server import serving  # it needs the extra "objects"
    from tests.soak.buckets import soak_buckets

    with tempfile.TemporaryDirectory(prefix="s3-") as data, serving(Path(data)) as server:
        return soak_buckets(plan, server, folder)


if __name__ == "__main__":
    sys.exit(main())
