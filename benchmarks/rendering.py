"""Measure the cost of the sandbox's rendering: CPU and peak memory of clips, each in a process of its own.

    python benchmarks/rendering.py            # two minutes of CPU; writes RENDERING.md; Linux only

The clips are the demo's reference at 480p, 3 s and 30 s of it at 1280x720, and the three jobs of the demo together. CPU
seconds depend little on other processes. Wall time depends on them and is not measured.
"""

import os
import platform
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
MEDIA = ROOT / "manifests/media"
# Like the sandbox's render processes.
ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
ONE = """
import resource, sys
from pathlib import Path
from batchrunner.sandbox.clips.render import RenderRequest, render
video, image, out, resolution, mode = sys.argv[1:]
render(RenderRequest(Path(video), Path(image), Path(out), resolution, composite=mode == "composite"))
used = resource.getrusage(resource.RUSAGE_SELF)
# Not ru_maxrss, which counts the parent before the exec.
peak_kb = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(used.ru_utime + used.ru_stime, int(peak_kb) / 1024)
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        short, long = Path(folder) / "3s.mp4", Path(folder) / "30s.mp4"
        film(short, 75)
        film(long, 750)
        bunny = MEDIA / "bunny.mp4"
        rows = [
            ("`bunny.mp4`, 2.4 s, 480p, `composite`", *measured(bunny, folder), "at most 5 s"),
            ("`bunny.mp4`, 2.4 s, 480p, `transcode`", *measured(bunny, folder, mode="transcode"), ""),
            ("3 s of 1280x720", *measured(short, folder, "720p"), "at most 400 MB"),
            ("30 s of 1280x720", *measured(long, folder, "720p"), "at most 400 MB"),
        ]
        cpu_s = whole_demo(folder)
        rows.append(("the demo, with the sandbox and the runner", cpu_s, None, "at most 60 s: 30 s on two cores"))
    lines = [f"| {name} | {cpu:.1f} s | {f'{mb:.0f} MB' if mb else ''} | {wanted} |" for name, cpu, mb, wanted in rows]
    head = f"""# Rendering in the sandbox

Written by `rendering.py` on {platform.machine()} with {os.cpu_count()} CPUs, Python {platform.python_version()}.

| clip | CPU | peak memory | wanted |
|---|---|---|---|
"""
    text = head + "\n".join(lines) + "\n"
    (ROOT / "benchmarks/RENDERING.md").write_text(text, "utf-8")
    print(text)


def measured(video: Path, folder: str, resolution: str = "480p", mode: str = "composite") -> tuple[float, float]:
    """Return CPU seconds and peak MB of one clip."""
    arguments = [str(video), str(MEDIA / "astronaut.jpg"), f"{folder}/out.mp4", resolution, mode]
    done = subprocess.run(
        [sys.executable, "-c", ONE, *arguments], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    cpu_s, peak_mb = done.stdout.split()
    return float(cpu_s), float(peak_mb)


def whole_demo(folder: str) -> float:
    """Return the CPU seconds of `batchrunner run manifests/demo.yaml` and its child processes."""
    before = os.times()
    command = [sys.executable, "-m", "batchrunner", "run", str(ROOT / "manifests/demo.yaml")]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def film(path: Path, frames: int) -> None:
    """Write the demo's reference in the middle of a wide frame, forwards and backwards."""
    import av
    import numpy as np

    with av.open(str(MEDIA / "bunny.mp4")) as source:
        pictures = [frame.reformat(720, 720, "rgb24").to_ndarray() for frame in source.decode(video=0)]
    there_and_back = pictures + pictures[::-1]
    with av.open(str(path), "w") as target:
        stream: Any = target.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "20"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for number in range(frames):
            picture = there_and_back[number % len(there_and_back)]
            wide = np.concatenate([picture[:, 279::-1], picture, picture[:, :-281:-1]], 1)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(wide), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))


if __name__ == "__main__":
    main()
