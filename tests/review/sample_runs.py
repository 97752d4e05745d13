"""Run directories for tests of the review page: a journal with any number of delivered clips, without a run."""

import asyncio
import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from batchrunner.job import Attempt, Entry, Job, Media, Record, Result, Run, Snapshot, State
from batchrunner.journal.journal import Journal, read
from batchrunner.storage.run_directory import RunDir
from tests.conftest import NOW, Inline, make_run

FPS = 10
_FROZEN = {"frozen_frames": 40, "frozen_at_s": 0.8}
_SCENES = ("park", "beach", "street", "kitchen", "harbour", "attic")


def fingerprint(name: str) -> str:
    return f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"


def local(kind: str, path: Path, sha256: str | None = None) -> Media:
    """Return a local input with the content of the file."""
    content = path.read_bytes()
    digest = sha256 or hashlib.sha256(content).hexdigest()
    mime = "video/mp4" if kind == "video" else "image/jpeg"
    return Media(kind, f"media/{path.name}", path, None, digest, len(content), mime)


def job_of(name: str, video: Media, image: Media, take: int = 1) -> Job:
    fields: dict[str, Any] = {"take": take} if "take" in Job.__slots__ else {}
    params = {"resolution": "480p", "num_inference_steps": 20}
    inputs = {"video": video, "image": image}
    return Job(fingerprint(f"{name} {take}"), "alibaba/wan2.2-14b-animate-replace", inputs, params, **fields)


def record_of(job: Job, content: bytes | None, quality: dict[str, Any] | None = None) -> Record:
    """Return a delivered job, or one whose generation failed."""
    state = State.FAILED if content is None else State.SUCCEEDED
    outcome = "failed" if content is None else "succeeded"
    attempt = Attempt(1, f"run.{job.key}.1", NOW, f"gen-{job.key}", outcome, None, NOW + 1, NOW + 2, NOW + 60, NOW + 61)
    result = None
    if content is not None:
        measures = {"fps": FPS, "measured_frames": 60, **(quality or {})}
        digest = hashlib.sha256(content).hexdigest()
        result = Result(len(content), digest, 480, 480, 2.4, (), measures)
    return Record(job, state, (attempt,), None, result)


def write(
    folder: Path, entries: Sequence[Entry], records: Iterable[Record], contents: dict[str, bytes], **run: Any
) -> RunDir:
    """Write a run directory. contents: of the clips, by SHA-256."""
    rundir = RunDir(folder)
    rundir.make()
    kept = {record.job.fingerprint: record for record in records}
    sources: dict[str, Path] = {}
    for entry in entries:
        result = kept[entry.job.fingerprint].result
        if result is None:
            continue
        path = folder / entry.file
        path.parent.mkdir(parents=True, exist_ok=True)
        if result.sha256 in sources:
            os.link(sources[result.sha256], path)
        else:
            path.write_bytes(contents[result.sha256])
            sources[result.sha256] = path
    save(rundir, make_run(**{"finished_at": NOW + 100, "exit_status": 0, **run}), entries, kept.values())
    return rundir


def save(rundir: RunDir, run: Run, entries: Sequence[Entry], records: Iterable[Record]) -> None:
    """Write a run with its entries and records to the journal, also from a test that has an event loop."""

    async def work() -> None:
        journal = Journal(rundir.journal, Inline())
        await journal.begin(replace(run, finished_at=None, exit_status=None), entries, list(records))
        if run.finished_at is not None:
            await journal.finish(run)
        journal.close()

    with ThreadPoolExecutor(1) as threads:
        threads.submit(lambda: asyncio.run(work())).result()


def sample(
    folder: Path, jobs: int, clips: Sequence[bytes], videos: Sequence[Media], images: Sequence[Media], takes: int = 1
) -> RunDir:
    """Write a batch in which videos and images are combined, some clips are marked, and a few jobs failed."""
    entries: list[Entry] = []
    records: list[Record] = []
    for number in range(jobs):
        video, image = videos[number % len(videos)], images[number // len(videos) % len(images)]
        for take in range(1, takes + 1):
            place = len(entries)
            scene = _SCENES[number % len(_SCENES)]
            base = f"{scene}-{number:04d}"
            job = job_of(base, video, image, take)
            failed = number % 40 == 7 and take == takes
            quality = _FROZEN if number % 9 == 4 and take == 1 else None
            records.append(record_of(job, None if failed else clips[place % len(clips)], quality))
            entries.append(Entry(place, base if take == 1 else f"{base}.t{take}", job, {"scene": scene}))
    contents = {hashlib.sha256(clip).hexdigest(): clip for clip in clips}
    return write(folder, entries, records, contents)


def snapshot(rundir: RunDir) -> Snapshot:
    found = read(rundir.journal)
    assert found is not None
    return found
