"""Measure the upload of local inputs: CPU per GB, and the time of a batch whose jobs share one clip.

    python benchmarks/uploads.py               # a minute; writes its section of RESULTS.md
    python benchmarks/uploads.py --smoke       # 4 jobs on a clip of 1 MB; writes nothing

Three variants in alternation: each submission reads and encodes the clip ("each time"), it is encoded once into a
mapped temporary file ("once"), and it is uploaded once to a bucket and submitted as a signed link ("staged", needs the
extra `objects`). The service is a process of its own, which reads bodies and answers at once.
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
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import results

from batchrunner.clock import LoopClock
from batchrunner.engine.ports import ReadyInputs
from batchrunner.job import Job, Media
from batchrunner.media.encoded_inputs import LIMIT_BYTES, EncodedInputs
from batchrunner.providers.aimlapi.client import ApiClient
from batchrunner.providers.base import Provider
from batchrunner.providers.endpoint import Endpoint
from batchrunner.providers.registry import DEFAULT_MODEL

AT_ONCE = 8
EACH_TIME, ONCE, STAGED = "each time", "once", "staged"
LEAST_RATIO = 3.0  # of the CPU per GB, before and after
REPLY = b'{"id": "x:y", "status": "queued"}'
_TEXTS = {
    EACH_TIME: "each submission reads and encodes the clip (before)",
    ONCE: "it is encoded once into a mapped temporary file (after)",
    STAGED: "it is uploaded once to a bucket, and links are submitted",
}


@dataclass(frozen=True, slots=True)
class Row:
    """Medians of a variant. cpu_s: per GB of input. wall_s: of the batch."""

    name: str
    cpu_s: float
    wall_s: float


def main() -> int:
    options = _options()
    ours, theirs = multiprocessing.Pipe()
    service = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    service.start()
    url = ours.recv()
    try:
        with tempfile.TemporaryDirectory() as folder, bucket(Path(folder) / "bucket") as server:
            job = job_of(Path(folder) / "clip.mp4", options.mb * 1_000_000)
            variants = [EACH_TIME, ONCE, *([STAGED] if server else [])]
            measured: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
            for number in range(options.rounds):
                for name in variants:
                    place = (server, f"round-{number}") if name == STAGED else None
                    measured[name].append(asyncio.run(batch(url, job, options.jobs, name, place)))
    finally:
        service.terminate()
    sent_gb = options.jobs * options.mb / 1000
    rows = []
    for name, rounds in measured.items():
        cpu_s, wall_s = (median(values) for values in zip(*rounds, strict=True))
        rows.append(Row(name, cpu_s / sent_gb, wall_s))
    print(table(rows))
    if not options.smoke:
        results.put("uploads", section(rows, options), bars(rows))
        print(f"written: {results.PAGE}")
    return 0


@contextmanager
def bucket(folder: Path) -> Iterator[Any]:
    """Run an S3 server; yield None where it cannot run, and say why."""
    from tests.objects.s3_server import ServerMissing, serving

    folder.mkdir()
    try:
        with serving(folder) as server:
            yield server
    except ServerMissing as error:
        print(f"NOT MEASURED: {STAGED}: {error}")
        yield None


@asynccontextmanager
async def service_of(url: str, job: Job, name: str, place: Any) -> AsyncIterator[tuple[Provider, Any]]:
    """Connect to the service in a way of submitting. Yield the provider, and what prepares the inputs."""
    with ThreadPoolExecutor(4) as executor:
        async with ApiClient(Endpoint(url, "key"), LoopClock(), executor) as client:
            limit_bytes = 0 if name == EACH_TIME else LIMIT_BYTES
            client._inputs = EncodedInputs(executor, limit_bytes=limit_bytes)  # noqa: SLF001 (no setting chooses it)
            if place is None:
                yield client, ReadyInputs()
                return
            from batchrunner.redaction import Redactor
            from batchrunner.storage.objects.address import ObjectAddress
            from batchrunner.storage.objects.signing import Links, SignedInputs
            from batchrunner.storage.objects.staging import StagedInputs, Staging, Target

            server, prefix = place
            target = Target(ObjectAddress("s3", "clips", prefix), 0, server.open)
            staging = Staging(target, (1, job.inputs["video"].size_bytes or 0), lambda _: None)
            signed = SignedInputs(client, Links(server.access, 3600.0, Redactor(), print), [job], [staging.example])
            yield StagedInputs(signed, staging, ()), staging


async def batch(url: str, job: Job, jobs: int, name: str, place: Any) -> tuple[float, float]:
    """Submit a batch. Return CPU and wall time, s."""
    async with service_of(url, job, name, place) as (provider, inputs):
        slots = asyncio.Semaphore(AT_ONCE)

        async def submit(number: int) -> None:
            async with slots:
                await inputs.prepare(job, lambda: False)
                await provider.submit(job, f"run.{number}")

        before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        await asyncio.gather(*(submit(number) for number in range(jobs)))
        after, ended = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu_s, ended - began


def table(rows: list[Row]) -> str:
    """Return the figures as a table in Markdown."""
    lines = ["| variant | CPU, s per GB of input | the batch, s |", "| --- | --- | --- |"]
    lines += [f"| {row.name}: {_TEXTS[row.name]} | {row.cpu_s:.2f} | {row.wall_s:.2f} |" for row in rows]
    return "\n".join(lines)


def section(rows: list[Row], options: argparse.Namespace) -> str:
    """Return the section of RESULTS.md."""
    missing = "" if any(row.name == STAGED for row in rows) else "\n\nNot measured: staged (the extra `objects`)."
    return f"""## Uploads

{options.jobs} jobs on one clip of {options.mb} MB, {AT_ONCE} submissions at once, to a service that reads each body and
replies at once. Medians of {options.rounds} rounds. The CPU is that of the client alone. The service uses the same
processors, and so does the S3 server of the staged variant.

{results.setting()}
{table(rows)}{missing}
"""


def bars(rows: list[Row]) -> list[results.Bar]:
    """Return the target and its result."""
    cpu_s = {row.name: row.cpu_s for row in rows}
    ratio = cpu_s[EACH_TIME] / cpu_s[ONCE]
    measured = f"{cpu_s[EACH_TIME]:.2f} and {cpu_s[ONCE]:.2f} s of CPU per GB: {ratio:.1f}"
    asked = f"Inputs encoded once: at most 1/{LEAST_RATIO:.0f} of the CPU per GB of encoding each time"
    return [results.Bar(asked, measured, ratio >= LEAST_RATIO)]


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
    parser.add_argument("--smoke", action="store_true", help="small, writes nothing")
    options = parser.parse_args()
    if options.smoke:
        options.jobs, options.mb, options.rounds = 4, 1, 1
    return options


if __name__ == "__main__":
    sys.exit(main())
