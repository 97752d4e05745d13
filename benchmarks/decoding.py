"""Measure the cost of checking a result: CPU of decoding and measuring one clip, of a worker's start, of round trips.

    python benchmarks/decoding.py                                     # some seconds, writes nothing

The clip is H.264, 150 frames of 1280x720 at 24 frames per second, moving and noisy.
"""

import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from batchrunner.media.decoder import check_decodes
from batchrunner.media.decoder_pool import Here, Pool

WIDTH_PX, HEIGHT_PX, FRAMES, RATE = 1280, 720, 150, 24
ROUNDS = 5


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        encode(path)
        size_bytes = path.stat().st_size
        [signature] = Here().run_all("reference", [{"path": str(path)}])
        measured = {"path": str(path), "size_bytes": size_bytes, "quality": True, "reference": signature}
        every = [cpu_of(lambda: check_decodes(path)) for _ in range(ROUNDS)]
        both = [cpu_of(lambda: Here().run_all("clip", [measured])) for _ in range(ROUNDS)]
        print(f"{size_bytes / 1e6:.1f} MB, {FRAMES} frames: {1000 * median(every):.0f} ms of CPU to decode every frame")
        print(f"{1000 * median(both):.0f} ms with the measures and the comparison with the reference (`quality`)")
        print(f"decoding takes {1e9 * median(every) / (WIDTH_PX * HEIGHT_PX * FRAMES):.1f} ns a pixel")
        with closing(Pool(1)) as pool:
            started = time.perf_counter()
            pool.ready()
            print(f"a worker starts in {1000 * (time.perf_counter() - started):.0f} ms, once")
            item = {"path": str(path), "size_bytes": 1}  # refused immediately: only the round trip is measured
            started = time.perf_counter()
            for _ in range(200):
                pool.run_all("clip", [item])
            print(f"a round trip takes {1e6 * (time.perf_counter() - started) / 200:.0f} µs")


def cpu_of(work: Callable[[], object]) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def encode(path: Path) -> None:
    import av

    chance = random.Random(1)
    texture = chance.randbytes(WIDTH_PX * HEIGHT_PX // 64)
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=RATE, options={"crf": "23"})
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        for number in range(FRAMES):
            frame = av.VideoFrame(WIDTH_PX, HEIGHT_PX, "yuv420p")
            for plane in frame.planes:
                plane.update(picture(texture, plane.buffer_size, plane.line_size, number))
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def picture(texture: bytes, size_bytes: int, line_bytes: int, number: int) -> bytes:
    """Draw blocks of eight pixels that move from frame to frame."""
    rows = []
    for row in range(size_bytes // line_bytes):
        start = (row // 8 * 997 + number * 3) % (len(texture) - line_bytes // 8 - 1)
        values = texture[start : start + line_bytes // 8]
        rows.append(b"".join(bytes([value // 2 + 60 + number % 3]) * 8 for value in values))
    content = b"".join(rows)
    return content + bytes(size_bytes - len(content))


if __name__ == "__main__":
    main()
