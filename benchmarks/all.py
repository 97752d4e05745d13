"""Run all benchmarks and write every section of RESULTS.md.

    python benchmarks/all.py --peers .venv-peers/bin/python      # about an hour, on an otherwise idle machine
    python benchmarks/all.py --before v1 --peers ...             # and batchrunner at another commit, beside this one
    python benchmarks/all.py --only scale start        # a section is the name of a script
    python benchmarks/all.py --smoke                             # each on a small scale; writes nothing

A script writes each section; it can also be run alone. Exit status: 0 if all scripts succeed.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from harness import fetchers, racers, results

WITH_PEERS = ("overhead", "downloads")
WITH_BEFORE = ("overhead", "calls", "downloads", "slow_links", "scale")


def main() -> int:
    options = _options()
    if not options.smoke:
        results.begin(f"{results.setting()}- Versions: {versions(options.peers)}")
    failed = []
    for name in options.only:
        argv = [sys.executable, str(results.FOLDER / f"{name}.py"), *(["--smoke"] if options.smoke else [])]
        argv += ["--peers", options.peers] if name in WITH_PEERS else []
        argv += ["--before", options.before] if options.before and name in WITH_BEFORE else []
        began = time.monotonic()
        status = subprocess.run(argv, check=False).returncode
        print(f"== {name}: exit {status}, {time.monotonic() - began:.0f} s", flush=True)
        failed += [name] if status else []
    print(f"failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


def versions(peers: str) -> str:
    """Return the versions of all installed contenders."""
    found = fetchers.versions(peers) | racers.versions(peers)
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="All benchmarks. Writes benchmarks/RESULTS.md.")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="Python that has the other tools")
    parser.add_argument(
        "--before", metavar="COMMIT", help="also measure batchrunner of this commit, in the same rounds"
    )
    parser.add_argument("--only", nargs="+", choices=results.ORDER, default=results.ORDER, metavar="SECTION")
    parser.add_argument("--smoke", action="store_true", help="small, no timing judged, no page")
    options = parser.parse_args()
    options.peers = str(Path(options.peers).absolute())  # a link is what tells a virtual environment's Python
    return options


if __name__ == "__main__":
    sys.exit(main())
