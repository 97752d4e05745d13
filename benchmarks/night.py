"""Measure a large batch: 10,000 jobs with 1,000 in flight against the sandbox; uploads and downloads of large files.

    python benchmarks/night.py                  # writes benchmarks/NIGHT.md; some ten minutes
    python benchmarks/night.py --jobs 1000 --in-flight 100 --dry   # a short run, writes nothing

batchrunner runs as its installed command and the sandbox as another process, both on loopback. Peak memory is VmHWM of
the batchrunner process; CPU is its user and system time; threads and sockets are counted every half second. The sandbox
shares the two cores, so the wall time says little about batchrunner alone; CPU and memory do.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
MEDIA = HERE.parent / "manifests" / "media"
COMMAND = [str(Path(sys.executable).with_name("batchrunner"))]


@dataclass(frozen=True, slots=True)
class Figures:
    """The cost of one run."""

    status: int
    wall_s: float
    cpu_s: float
    peak_mb: float
    threads: int
    sockets: int
    succeeded: int


def start_sandbox(folder: Path, service: dict[str, object]) -> tuple[subprocess.Popen[str], str]:
    faults = folder / "sandbox.yaml"
    faults.write_text(json.dumps({"service": service}))  # JSON is YAML
    arguments = ["sandbox", "--port", "0", "--state", str(folder / "service"), "--faults", str(faults)]
    log = (folder / "sandbox.log").open("w+")
    process = subprocess.Popen([*COMMAND, *arguments], stdout=log, stderr=log, text=True)
    while True:
        text = (folder / "sandbox.log").read_text()
        if found := re.search(r"listening on (http://\S+)", text):
            return process, found[1]
        if process.poll() is not None:
            raise SystemExit(f"the sandbox did not start: {text}")
        time.sleep(0.05)


def measure(folder: Path, manifest: Path, url: str) -> Figures:
    environment = {**os.environ, "AIMLAPI_BASE_URL": url, "AIMLAPI_KEY": "benchmark"}
    environment["BATCHRUNNER_STATE"] = str(folder / "state")
    began = time.monotonic()
    with (folder / "run.log").open("w") as log:
        arguments = ["run", str(manifest), "--output", str(folder / "out"), "--quiet"]
        process = subprocess.Popen([*COMMAND, *arguments], stdout=log, stderr=log, env=environment)
        peak_kb = threads = sockets = 0
        while process.poll() is None:
            try:
                status_text = Path(f"/proc/{process.pid}/status").read_text()
                peak_kb = max(peak_kb, int(re.search(r"VmHWM:\s+(\d+)", status_text)[1]))  # type: ignore[index]
                threads = max(threads, int(re.search(r"Threads:\s+(\d+)", status_text)[1]))  # type: ignore[index]
                links = [str(item.readlink()) for item in Path(f"/proc/{process.pid}/fd").iterdir()]
                sockets = max(sockets, sum(link.startswith("socket:") for link in links))
                ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                cpu_s = (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")
            except (OSError, TypeError):
                continue
            time.sleep(0.5)
    wall_s = time.monotonic() - began
    report = json.loads((folder / "out" / "report.json").read_bytes())
    return Figures(process.returncode, wall_s, cpu_s, peak_kb / 1024, threads, sockets, report["totals"]["succeeded"])


def urls(folder: Path, jobs: int, in_flight: int) -> Path:
    rows = [{"video": f"https://example.com/{number}.mp4"} for number in range(jobs)]
    return write(folder, rows, in_flight, image="https://example.com/hero.png")


def uploads(folder: Path, jobs: int, size_bytes: int) -> Path:
    """Return jobs whose local clip has `size_bytes`: a real clip with a box at its end that players skip."""
    clip = (MEDIA / "bunny.mp4").read_bytes()
    padding = size_bytes - len(clip)
    with (folder / "large.mp4").open("wb") as file:
        file.write(clip + padding.to_bytes(4, "big") + b"free")
        file.truncate(size_bytes)
    shutil.copy(MEDIA / "hopper.jpg", folder)
    rows = [{"video": "large.mp4", "shift": 1 + number / 64} for number in range(jobs)]
    return write(folder, rows, 8, image="hopper.jpg")


def write(folder: Path, rows: list[dict[str, object]], in_flight: int, **defaults: str) -> Path:
    manifest = folder / "batch.yaml"
    settings = {"version": 1, "name": "night", "concurrency": in_flight, "poll_interval": "5s"}
    manifest.write_text(json.dumps({**settings, "defaults": defaults, "jobs": rows}, indent=0))
    return manifest


def one(title: str, service: dict[str, object], make: object) -> tuple[str, Figures]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = make(folder)  # type: ignore[operator]
        sandbox, url = start_sandbox(folder, {"render": "stub", "queue_wait": "0s", **service})
        try:
            figures = measure(folder, manifest, url)
        finally:
            sandbox.terminate()
            sandbox.wait()
    print(title, figures, flush=True)
    return title, figures


def page(rows: list[tuple[str, Figures]]) -> str:
    lines = [
        "# The cost of a large batch",
        "",
        f"{datetime.now(UTC):%d %B %Y}, {os.cpu_count()} cores, {platform.system()},",
        f"Python {platform.python_version()},",
        f"batchrunner {version('batchrunner')}. Made by `python benchmarks/night.py`, which says what is measured.",
        "",
        "| batch | succeeded | wall, s | CPU, s | peak memory, MB | threads | sockets |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {title} | {row.succeeded} | {row.wall_s:.0f} | {row.cpu_s:.1f} | {row.peak_mb:.0f} | {row.threads} | "
        f"{row.sockets} |"
        for title, row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--in-flight", type=int, default=1_000)
    parser.add_argument("--dry", action="store_true", help="write nothing")
    chosen = parser.parse_args()
    many = {"capacity": chosen.in_flight, "queue_limit": 100_000, "duration": "20s", "spread": 0.3}
    few = {"capacity": 8, "duration": "500ms"}
    rows = [
        one("100 jobs, 10 in flight", {**many, "duration": "1s"}, lambda folder: urls(folder, 100, 10)),
        one(
            f"{chosen.jobs:,} jobs, {chosen.in_flight:,} in flight",
            many,
            lambda folder: urls(folder, chosen.jobs, chosen.in_flight),
        ),
        one("8 uploads of 0.2 MB, 8 at once", few, lambda folder: uploads(folder, 8, 200_000)),
        one("8 uploads of 100 MB, 8 at once", few, lambda folder: uploads(folder, 8, 100_000_000)),
    ]
    if not chosen.dry:
        (HERE / "NIGHT.md").write_text(page(rows))


if __name__ == "__main__":
    main()
