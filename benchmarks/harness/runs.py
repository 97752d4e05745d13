"""Run a contender once against the instant service."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.instant import Instant
from harness.measured import Cost, child_environment, measured
from harness.packages import environment
from harness.racers import MOST_CALLS, Racer, Work


def run(
    racer: Racer,
    jobs: Work,
    cap: int,
    service: Instant,
    *,
    peers: str = sys.executable,
    calls: int = MOST_CALLS,
    around: Sequence[str] = (),
) -> Cost | None:
    """Run a contender in a new folder beside the jobs. Return its cost, or None if it failed or clips are missing.

    calls: the most uploads and downloads at once. around: a script with its arguments that runs the contender's.
    """
    # Nothing is removed before the end: ext4 looks long for an inode among those freed just before, which would cost
    # whoever runs next some 0.2 ms a file.
    root = Path(tempfile.mkdtemp(prefix="run-", dir=jobs.root.parent))
    (root / "clips").mkdir()
    variables = child_environment(
        AIMLAPI_BASE_URL=service.url, AIMLAPI_KEY="sandbox", POLL_S="0", **environment(racer.package)
    )
    program, *arguments = jobs.command_line(racer, cap, root / "clips", peers, calls)
    cost = measured([program, *around, *arguments], root, variables, root / "log", terminal=racer.terminal)
    whole = sum(clip.stat().st_size == service.clip_bytes for clip in (root / "clips").glob("*.mp4"))
    rate, cpu_ms = jobs.count / cost.wall_s, 1000 * cost.cpu_s / jobs.count
    print(f"{racer.name}, {cap}: {cost.wall_s:.1f} s, {rate:.0f}/s, {cpu_ms:.2f} ms, {whole} clips", flush=True)
    if cost.status == 0 and whole == jobs.count:
        return cost
    print(f"exit {cost.status}: {'' if racer.terminal else (root / 'log').read_text()[-2000:]}", flush=True)
    return None
