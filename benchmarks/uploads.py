"""Measure the upload of local inputs: CPU per GB, and the time of a batch whose jobs share one clip.

    python benchmarks/uploads.py                                      # a minute, writes nothing
    python benchmarks/uploads.py --jobs 4 --mb 1 --rounds 1           # a quick check

Two variants in alternation: each submission reads and encodes the clip ("each time"), and it is encoded once into a
mapped temporary file ("once"). The service is a process of its own, which reads bodies and answers at once.
"""

import argparse
import asyncio
import hashlib
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from batchrunner.clock import LoopClock
from batchrunner.job import Job, Media
from batchrunner.media.encoded_inputs import LIMIT_BYTES, EncodedInputs
from batchrunner.providers.aimlapi.client import ApiClient
from batchrunner.providers.endpoint import Endpoint
from batchrunner.providers.registry import DEFAULT_MODEL

AT_ONCE = 8
VARIANTS = {"each time": 0, "once": LIMIT_BYTES}
REPLY = b'{"id": "x:y", "status": "queued"}'


def main() -> None:
    options = _options()
    ours, theirs = multiprocessing.Pipe()
    service = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    service.start()
    url = ours.recv()
    try:
        with tempfile.TemporaryDirectory() as folder:
            job = job_of(Path(folder) / "clip.mp4", options.mb * 1_000_000)
            measured: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
            for _ in range(options.rounds):
                for name, limit_bytes in VARIANTS.items():
                    measured[name].append(asyncio.run(batch(url, job, options.jobs, limit_bytes)))
    finally:
        service.terminate()
    sent_gb = options.jobs * options.mb / 1000
    print(f"{options.jobs} jobs on one clip of {options.mb} MB, {AT_ONCE} at once, {options.rounds} rounds, medians:")
    for name, rounds in measured.items():
        cpu_s, wall_s = (median(values) for values in zip(*rounds, strict=True))
        print(f"{name:>10}: {cpu_s / sent_gb:.2f} s of CPU per GB of input, {wall_s:.2f} s for the batch")


async def batch(url: str, job: Job, jobs: int, limit_bytes: int) -> tuple[float, float]:
    """Submit a batch. Return CPU and wall time, s."""
    with ThreadPoolExecutor(4) as executor:
        async with ApiClient(Endpoint(url, "key"), LoopClock(), executor) as client:
            client._inputs = EncodedInputs(executor, limit_bytes=limit_bytes)  # noqa: SLF001 (no setting chooses it)
            slots = asyncio.Semaphore(AT_ONCE)

            async def submit(number: int) -> None:
                async with slots:
                    await client.submit(job, f"run.{number}")

            before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
            await asyncio.gather(*(submit(number) for number in range(jobs)))
            after, ended = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu_s, ended - began


def job_of(path: Path, size_bytes: int) -> Job:
    content = os.urandom(size_bytes)
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    video = Media("video", path.name, path, sha256=digest, size_bytes=size_bytes, mime="video/mp4")
    image = Media("image", "image", uri="https://example.com/hero.png")
    return Job(f"sha256:{digest}", DEFAULT_MODEL, {"video": video, "image": image}, {"resolution": "480p"})


def serve(pipe: Connection) -> None:
    asyncio.run(_serve(pipe))


async def _serve(pipe: Connection) -> None:
    server = await asyncio.start_server(_answer, "127.0.0.1", 0, limit=1 << 22)
    pipe.send(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    await server.serve_forever()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    remaining = int(head.partition("content-length: ")[2].partition("\r\n")[0])
    while remaining and (block := await reader.read(1 << 22)):
        remaining -= len(block)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(REPLY), REPLY))
    await writer.drain()
    writer.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The cost of uploads.")
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--mb", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
