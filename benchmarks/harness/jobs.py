"""The jobs: one tiny reference clip and one picture per job, as request bodies and as a manifest with the same content.

Each job has its own `shift`, which identifies it in the ledger, and its own picture: no two clips have the same bytes,
so a clip under the name of another job is detected. The inputs are small, so rendering is cheap.
"""

import base64
import io
import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

MODEL = "alibaba/wan2.2-14b-animate-replace"
FRAMES = 3
_COMMON = {"resolution": "480p", "video_quality": "low", "video_write_mode": "fast"}


@dataclass(frozen=True, slots=True)
class Jobs:
    """The input of a contender. shifts: by job id. clips: the directory for `<id>.mp4`."""

    root: Path
    shifts: dict[str, float]

    @property
    def bodies(self) -> Path:
        """The directory of `<id>.json` files, each with the body of a POST."""
        return self.root / "bodies"

    @property
    def manifest(self) -> Path:
        """The path of the same jobs as a batchrunner manifest."""
        return self.root / "manifest.yaml"

    @property
    def clips(self) -> Path:
        """The directory of the results."""
        return self.root / "clips"


def write(root: Path, count: int) -> Jobs:
    """Write `count` jobs into the empty directory `root`."""
    shifts = {f"job-{number:02d}": round(1 + number / 10, 1) for number in range(1, count + 1)}
    jobs = Jobs(root, shifts)
    for folder in (jobs.bodies, jobs.clips, root / "media"):
        folder.mkdir(parents=True)
    clip = _clip()
    (root / "media" / "clip.mp4").write_bytes(clip)
    rows = []
    for number, (job, shift) in enumerate(shifts.items()):
        picture = _picture(number)
        (root / "media" / f"{job}.png").write_bytes(picture)
        video, image = (_data_uri("video/mp4", clip), _data_uri("image/png", picture))
        body = {"model": MODEL, "video_url": video, "image_url": image, "shift": shift, **_COMMON}
        (jobs.bodies / f"{job}.json").write_text(json.dumps(body))
        rows.append({"id": job, "video": "media/clip.mp4", "image": f"media/{job}.png", "shift": shift})
    manifest = {"version": 1, "name": "peers", "model": MODEL, "defaults": _COMMON, "jobs": rows}
    jobs.manifest.write_text(json.dumps(manifest, indent=1))  # JSON is YAML
    return jobs


def _data_uri(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def _clip() -> bytes:
    import av

    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for number in range(FRAMES):
            frame = av.VideoFrame(32, 32, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes([60 * (number + 1)]) * plane.buffer_size)
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return target.getvalue()


def _picture(number: int) -> bytes:
    from PIL import Image

    target = io.BytesIO()
    # 64 steps of green against 8 of red: neighbours differ by more than the encoder smooths away.
    Image.new("RGB", (16, 16), (number % 8 * 32, number // 8 * 32, 128)).save(target, "PNG")
    return target.getvalue()
