"""Run directories with small clips, local inputs and a journal, for tests of data sets."""

import asyncio
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from batchrunner.datasets.batches import Batch, read_batch
from batchrunner.job import Entry, Job, Media, Record, Run, State
from batchrunner.journal.journal import Journal
from batchrunner.journal.witness import Witness
from batchrunner.review.verdicts import Verdict, VerdictLog
from batchrunner.storage.durable_files import Disk
from batchrunner.storage.run_directory import RunDir
from tests.conftest import Inline, make_record, make_run, remote, result_of

MODEL = "alibaba/wan2.2-14b-animate-replace"


@dataclass(frozen=True)
class Sample:
    """A job. content: of its clip; None for a job that failed. reference, image: content of local inputs; None: URLs.

    key: determines the fingerprint.
    """

    id: str
    content: bytes | None = b""
    reference: bytes | None = b"walk"
    image: bytes | None = b"hero"
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=lambda: {"resolution": "480p"})
    key: str = ""
    take: int = 1
    quality: Mapping[str, Any] | None = None

    @property
    def clip(self) -> bytes | None:
        return f"clip of {self.id}".encode() if self.content == b"" else self.content


def make_batch(
    folder: Path,
    samples: Iterable[Sample],
    *,
    finished: bool = True,
    name: str = "heroes",
    settings: Mapping[str, Any] | None = None,
) -> RunDir:
    """Make a run directory `folder`/run with these jobs. Their inputs are in `folder`/media. settings: of the run."""
    samples = list(samples)
    rundir = RunDir(folder / "run")
    rundir.make()
    (folder / "media").mkdir(exist_ok=True)
    run = make_run(manifest_path=str(folder / "batch.yaml"), name=name, settings_json=json.dumps(settings or {}))
    asyncio.run(_fill(rundir, folder, samples, run, finished=finished))
    return rundir


async def _fill(rundir: RunDir, folder: Path, samples: list[Sample], run: Run, *, finished: bool) -> None:
    entries, records = [], {}
    for number, sample in enumerate(samples):
        job = _job(folder, sample)
        entries.append(Entry(number, sample.id, job, sample.tags))
        state = State.FAILED if sample.clip is None else State.SUCCEEDED
        result = None if sample.clip is None else result_of(sample.clip, duration_s=2.5, quality=sample.quality)
        records[job.fingerprint] = make_record(sample.id, state, job=job, result=result)
        if sample.clip is not None:
            (rundir.path / entries[-1].file).write_bytes(sample.clip)
    journal = Journal(rundir.journal, Inline(), Witness(rundir.witness, Disk()))
    await journal.begin(run, entries, list[Record](records.values()))
    if finished:
        await journal.finish(replace(run, finished_at=2.0, exit_status=0))
    journal.close()


def _job(folder: Path, sample: Sample) -> Job:
    inputs = {
        "video": _media(folder, "video", sample.reference, ".mp4", "video/mp4", "https://example.com/walk.mp4?sig=abc"),
        "image": _media(folder, "image", sample.image, ".jpg", "image/jpeg", "https://example.com/hero.jpg"),
    }
    digest = hashlib.sha256(f"{sample.key or sample.id}/{sample.take}".encode()).hexdigest()
    return Job(f"sha256:{digest}", MODEL, inputs, sample.params, sample.take)


def _media(folder: Path, kind: str, content: bytes | None, suffix: str, mime: str, url: str) -> Media:
    if content is None:
        return remote(kind, url)
    path = folder / "media" / f"{content.decode()}{suffix}"
    if not path.exists():
        path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return Media(kind, f"media/{path.name}", path, None, digest, len(content), mime)


def accept(rundir: RunDir, *names: str, verdict: str = "accept") -> None:
    """Store a verdict on the clips of these jobs."""
    batch = open_batch(rundir)
    rows = {row["id"]: row for row in batch.rows}
    with VerdictLog(rundir.path) as log:
        for name in names:
            row = rows[name]
            log.append(Verdict(name, row["take"], row["fingerprint"], row["sha256"], verdict))


def open_batch(rundir: RunDir) -> Batch:
    """Read the batch of a run directory."""
    batch = read_batch(rundir, "0")
    assert batch is not None
    return batch


def tree_of(folder: Path) -> dict[str, bytes]:
    """Return the content of each file below `folder`."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
