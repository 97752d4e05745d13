"""The sandbox as a process, and its ledger, which judges all contenders."""

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.jobs import FRAMES, Jobs

Event = dict[str, Any]
_START_S = 30.0


def command() -> str:
    """Return the installed `batchrunner` of this Python."""
    beside = Path(sys.executable).with_name("batchrunner")
    found = str(beside) if beside.exists() else shutil.which("batchrunner")
    if found is None:
        sys.exit("batchrunner is not installed for this Python: pip install -e .")
    return found


@contextlib.contextmanager
def sandbox(root: Path, seed: int, options: tuple[str, ...] = ()) -> Iterator[str]:
    """Start a sandbox with its state under `root`; yield its address."""
    root.mkdir(parents=True, exist_ok=True)
    arguments = [command(), "sandbox", "--port", "0", "--seed", str(seed), "--state", str(root / "state")]
    with (
        (root / "sandbox.log").open("w") as log,
        subprocess.Popen([*arguments, *options], stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout
        try:
            first = process.stdout.readline()
            if "http://" not in first:
                sys.exit(f"the sandbox did not start, see {log.name}")
            yield first.split()[-1]
        finally:
            process.terminate()
            process.wait(_START_S)


@dataclass(frozen=True, slots=True)
class Ledger:
    """The sandbox's own record of accepted, ended and delivered generations."""

    events: tuple[Event, ...]

    @classmethod
    def read(cls, url: str) -> "Ledger":
        """Read the ledger of the sandbox at `url`."""
        with urllib.request.urlopen(f"{url}/sandbox/ledger", timeout=10) as reply:
            return cls(tuple(json.loads(line) for line in reply.read().decode().splitlines()))

    def _of(self, *kinds: str) -> list[Event]:
        return [event for event in self.events if event["event"] in kinds]

    @property
    def accepted(self) -> int:
        """Return the number of accepted generations. Each is paid for."""
        return len(self._of("accepted"))

    @property
    def in_flight(self) -> int:
        """Return the number of accepted generations that have not ended."""
        return self.accepted - len(self._of("completed", "failed"))

    @property
    def paid_twice(self) -> int:
        """Return the number of jobs with more than one accepted generation."""
        counts = Counter(event["params"]["shift"] for event in self._of("accepted"))
        return sum(count > 1 for count in counts.values())

    def results(self) -> dict[float, set[str]]:
        """Return the SHA-256 of each job's clips, by the job's shift."""
        shifts = {event["generation_id"]: event["params"]["shift"] for event in self._of("accepted")}
        hashes: dict[float, set[str]] = {shift: set() for shift in shifts.values()}
        for event in self._of("completed"):
            hashes[shifts[event["generation_id"]]].add(event["sha256"])
        return hashes


def missing_or_bad(jobs: Jobs, ledger: Ledger) -> int:
    """Count the jobs without a valid clip: one that has the job's name, equals a clip of the service for it, and
    decodes.
    """
    hashes = ledger.results()
    return sum(not _good(jobs.clips / f"{job}.mp4", hashes.get(shift, set())) for job, shift in jobs.shifts.items())


def _good(path: Path, digests: set[str]) -> bool:
    import av

    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() not in digests:
        return False
    try:
        with av.open(str(path)) as container:
            return sum(1 for _ in container.decode(video=0)) == FRAMES
    except av.FFmpegError:
        return False
