"""A batch that is cheap to render: tiny generated inputs, and any number of different jobs."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from tests.orders import data_uri, fingerprint_of
from tests.soak.forks import PLAIN_POSTERS
from tests.soak.processes import Command, call

_STEPS = range(2, 41)  # num_inference_steps that the service accepts
MODEL = "alibaba/wan2.2-14b-animate-replace"  # the default of a batch
KNOBS = {"video_quality": "low", "video_write_mode": "fast"}  # the cheapest to render


@dataclass(frozen=True, slots=True)
class Batch:
    """A manifest, its inputs and its run directory. environment: selects the service."""

    folder: Path
    environment: dict[str, str]
    output: Path

    @property
    def manifest(self) -> Path:
        return self.folder / "batch.yaml"

    @property
    def journal(self) -> Path:
        return self.output / ".batchrunner" / "journal.db"

    def orders(self) -> dict[str, str]:
        """Return the fingerprint that the service has for each job, by id."""
        manifest = json.loads(self.manifest.read_text())
        media = {name: data_uri(self.folder / manifest["defaults"][name], name) for name in ("video", "image")}
        shared = {name: value for name, value in manifest["defaults"].items() if name not in media}
        model = manifest.get("model", MODEL)
        orders: dict[str, str] = {}
        for job in manifest["jobs"]:
            own = {name: value for name, value in job.items() if name != "id"}
            orders[job["id"]] = fingerprint_of({"model": model, **shared, **own}, **media)
        return orders

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads((self.output / "report.json").read_bytes())
        return report

    def start(self, *options: str, forked: bool = False) -> Command:
        """Start `batchrunner run`. forked: as a fork of a loaded process (`Command`), with posters of one pixel."""
        arguments: list[str | Path] = ["run", self.manifest, "--output", self.output, *options]
        environment = {**self.environment, PLAIN_POSTERS: "1"}
        return Command(arguments, self.folder, self.folder / "run.log", forked=forked, **environment)

    def run(self, *options: str, forked: bool = True) -> int:
        """Run `batchrunner run` to its end and return its status."""
        with self.start(*options, forked=forked) as command:
            return command.end()

    def log(self) -> str:
        """Return the output of all runs."""
        return (self.folder / "run.log").read_text()

    def clips(self) -> Iterator[tuple[str, bytes]]:
        """Yield the names and contents of the delivered clips."""
        for path in self.output.glob("*.mp4"):
            yield path.name, path.read_bytes()

    def verify(self) -> tuple[int, str]:
        """Run `batchrunner verify`; return its status and output."""
        done = call("verify", self.output, cwd=self.folder)
        return done.returncode, done.stdout + done.stderr


def make_batch(
    folder: Path, jobs: int, environment: dict[str, str], *, output: Path | None = None, first: int = 0, **settings: Any
) -> Batch:
    """Write a manifest of `jobs` different jobs and its inputs into `folder`. settings: further manifest keys.

    first: the number of the first job. Jobs of equal numbers are equal, in whatever batch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    make_clip(folder / "clip.mp4")
    make_picture(folder / "picture.png")
    rows = [
        {"id": f"job-{number:03}", "num_inference_steps": _STEPS[number % len(_STEPS)], "shift": 1 + number / 64}
        for number in range(first, first + jobs)
    ]
    content = {
        "version": 1,
        "name": "soak",
        "concurrency": 8,
        "poll_interval": "100ms",
        **settings,
        "defaults": {"video": "clip.mp4", "image": "picture.png", **KNOBS, **settings.get("defaults", {})},
        "jobs": rows,
    }
    batch = Batch(folder, environment, output or folder / "out")
    batch.manifest.write_text(json.dumps(content, indent=1))  # JSON is YAML
    return batch


def make_clip(path: Path, side_px: int = 32, frames: int = 3) -> None:
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        stream.width = stream.height = side_px
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame(side_px, side_px, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes((number * 20 + at) % 256 for at in range(plane.buffer_size)))
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def make_picture(path: Path, side_px: int = 32, *, noisy: bool = False) -> None:
    """Write a picture; a noisy one makes large clips."""
    from random import Random

    from PIL import Image

    size_bytes = 3 * side_px**2
    pixels = Random(1).randbytes(size_bytes) if noisy else bytes(at % 251 for at in range(size_bytes))
    Image.frombytes("RGB", (side_px, side_px), pixels).save(path)
