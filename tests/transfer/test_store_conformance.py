"""Every result store keeps what `batchrunner.transfer.delivery.ResultStore` declares."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from batchrunner.job import Entry, Job, Record, Result, State
from batchrunner.journal.journal import Journal
from batchrunner.media.decoder_pool import Decoders, Here
from batchrunner.storage.durable_files import Disk
from batchrunner.storage.objects.address import ObjectAddress
from batchrunner.storage.run_directory import RunDir
from batchrunner.transfer.bucket_delivery import BucketStore, BucketTarget
from batchrunner.transfer.delivery import OpenStore, ResultStore, Store
from batchrunner.transfer.downloader import Fetched
from tests.conftest import Inline, make_entries, make_job, make_record, make_run, result_of
from tests.transfer.memory_bucket import MemoryBucket
from tests.transfer.memory_store import Bucket


@dataclass
class Batch:
    """A batch over several runs with one store. remove: takes a delivered clip away, as somebody else might."""

    folder: Path
    open_store: OpenStore
    remove: Callable[[str], None]
    records: dict[str, Record] = field(default_factory=dict)

    def run(self, entries: tuple[Entry, ...], scenario: "Scenario") -> dict[str, Result | None]:
        """Start a run with `entries`, then the scenario. Return what the start found."""
        return asyncio.run(self._run(entries, scenario))

    async def _run(self, entries: tuple[Entry, ...], scenario: "Scenario") -> dict[str, Result | None]:
        rundir = RunDir(self.folder / "run")
        rundir.make()
        journal = Journal(rundir.journal, Inline())
        try:
            for entry in entries:
                self.records.setdefault(entry.job.fingerprint, make_record(state=State.IN_FLIGHT, job=entry.job))
            await journal.begin(make_run(), entries, self.records.values())
            store = self.open_store(rundir, journal, Inline(), Disk(), Here())
            found = await store.settle(entries, self.records)
            await self._publish(store, found)
            await scenario(store)
            return found
        finally:
            journal.close()

    async def _publish(self, store: ResultStore, found: dict[str, Result | None]) -> None:
        """Copy the clips that are in the run directory and not in the bucket, as the engine does."""
        if isinstance(store, BucketStore):
            for fingerprint, result in list(found.items()):
                if result is not None and self.records[fingerprint].state is State.SUCCEEDED:
                    await self.succeed(store, self.records[fingerprint].job, result)
                    del found[fingerprint]

    async def deliver(self, store: ResultStore, name: str, content: bytes, *, recorded: bool = True) -> None:
        """Deliver a job by its name. recorded: the journal knows it; otherwise the process died before."""
        job = make_job(name)
        path = RunDir(self.folder / "run").partial_dir / f"{job.key}.part"
        path.write_bytes(content)
        await store.deliver(job, Fetched(str(path), result_of(content)))
        assert not path.exists()
        if recorded:
            await self.succeed(store, job, result_of(content))

    async def succeed(self, store: ResultStore, job: Job, result: Result) -> None:
        """Record a delivery, as the engine does: a bucket has to confirm it first, and then frees the file."""
        published: Result | None = result
        if isinstance(store, BucketStore):
            published = await store.publish(job, result)
            assert published is not None
        record = replace(self.records[job.fingerprint], state=State.SUCCEEDED, result=published)
        self.records[job.fingerprint] = record
        if isinstance(store, BucketStore):
            await store.release(record)


Scenario = Callable[[ResultStore], Awaitable[None]]
PREFIX = ObjectAddress("s3", "clips", "results/")


def bucket_batch(folder: Path, objects: MemoryBucket, *, keep_local: bool) -> Batch:
    """Return a batch that delivers to a bucket."""

    def open_store(
        rundir: RunDir, journal: Journal, executor: Executor, files: Disk, decoders: Decoders
    ) -> BucketStore:
        opened: Any = objects
        target = BucketTarget(PREFIX, lambda _: opened, keep_local)
        return BucketStore(Store(rundir, journal, executor, files, decoders), rundir, target)

    def remove(name: str) -> None:
        (folder / "run" / name).unlink(missing_ok=True)
        del objects.objects[f"results/{name}"]

    return Batch(folder, open_store, remove)


@pytest.fixture(params=["run directory", "memory", "bucket", "bucket alone"])
def batch(request: pytest.FixtureRequest, tmp_path: Path) -> Batch:
    if request.param.startswith("bucket"):
        return bucket_batch(tmp_path, MemoryBucket(), keep_local=request.param == "bucket")
    if request.param == "memory":
        bucket = Bucket()
        return Batch(tmp_path, bucket.open_store, lambda name: bucket.objects.pop(bucket.names[name]) and None)
    return Batch(tmp_path, Store, lambda name: (tmp_path / "run" / name).unlink())


async def nothing(_: ResultStore) -> None:
    """Only start a run."""


def content(store: ResultStore, name: str) -> bytes:
    assert store.exists(name)
    with store.open(name) as file:
        return file.read()


def test_a_delivered_clip_has_the_name_of_its_entry(batch: Batch) -> None:
    async def scenario(store: ResultStore) -> None:
        assert not store.exists("a.mp4")
        with pytest.raises(FileNotFoundError):
            store.open("a.mp4")
        await batch.deliver(store, "a", b"clip a")
        assert content(store, "a.mp4") == b"clip a"
        assert not store.exists("b.mp4")
        assert urlsplit(store.url("a.mp4")).scheme
        assert store.url("a.mp4") != store.url("b.mp4")

    assert batch.run(make_entries("a", "b"), scenario) == {}


def test_a_clip_has_the_name_of_every_entry_that_refers_to_its_job(batch: Batch) -> None:
    async def scenario(store: ResultStore) -> None:
        await batch.deliver(store, "a", b"clip a")
        assert content(store, "a.mp4") == content(store, "copy.mp4") == b"clip a"

    batch.run(make_entries("a", "copy=a"), scenario)


def test_the_next_run_has_the_clips_of_the_last_one(batch: Batch) -> None:
    async def first(store: ResultStore) -> None:
        await batch.deliver(store, "a", b"clip a")

    async def second(store: ResultStore) -> None:
        assert content(store, "a.mp4") == b"clip a"

    batch.run(make_entries("a"), first)
    assert batch.run(make_entries("a"), second) == {}


def test_a_renamed_entry_keeps_its_clip(batch: Batch) -> None:
    async def first(store: ResultStore) -> None:
        await batch.deliver(store, "a", b"clip a")

    async def second(store: ResultStore) -> None:
        assert content(store, "new.mp4") == b"clip a"

    batch.run(make_entries("a"), first)
    assert batch.run(make_entries("new=a"), second) == {}


def test_a_name_that_now_refers_to_another_job_loses_no_clip(batch: Batch) -> None:
    async def first(store: ResultStore) -> None:
        await batch.deliver(store, "a", b"clip a")

    async def second(store: ResultStore) -> None:
        await batch.deliver(store, "b", b"clip b")
        assert content(store, "a.mp4") == b"clip b"

    async def third(store: ResultStore) -> None:
        assert content(store, "a.mp4") == b"clip a"
        assert content(store, "b.mp4") == b"clip b"

    batch.run(make_entries("a"), first)
    assert batch.run(make_entries("a=b"), second) == {}
    assert batch.run(make_entries("a", "b"), third) == {}


def test_a_clip_that_is_missing_at_the_start_is_reported_and_delivered_again(batch: Batch) -> None:
    async def first(store: ResultStore) -> None:
        await batch.deliver(store, "a", b"clip a")
        await batch.deliver(store, "b", b"clip b")

    async def second(store: ResultStore) -> None:
        assert not store.exists("a.mp4")
        await batch.deliver(store, "a", b"clip a")
        assert content(store, "a.mp4") == b"clip a"

    batch.run(make_entries("a", "b"), first)
    batch.remove("a.mp4")
    assert batch.run(make_entries("a", "b"), second) == {make_job("a").fingerprint: None}
    assert batch.run(make_entries("a", "b"), nothing) == {}


def test_a_clip_that_is_removed_during_the_run_is_noticed(batch: Batch) -> None:
    async def scenario(store: ResultStore) -> None:
        await batch.deliver(store, "a", b"clip a")
        await batch.deliver(store, "b", b"clip b")
        assert await store.look_again(batch.records) == {}
        batch.remove("b.mp4")
        assert await store.look_again(batch.records) == {make_job("b").fingerprint: None}

    batch.run(make_entries("a", "b"), scenario)


def test_a_clip_that_was_delivered_before_the_process_died_is_found(batch: Batch, clip: bytes) -> None:
    async def first(store: ResultStore) -> None:
        await batch.deliver(store, "a", clip, recorded=False)

    batch.run(make_entries("a"), first)
    found = batch.run(make_entries("a"), nothing)
    result = found[make_job("a").fingerprint]
    assert result is not None
    assert result.sha256 == result_of(clip).sha256


def test_a_clip_may_be_in_folders(batch: Batch) -> None:
    name = "train/Élodie danse/a #1"

    async def first(store: ResultStore) -> None:
        await batch.deliver(store, "a", b"clip a")
        assert content(store, f"{name}.mp4") == b"clip a"
        assert " " not in store.url(f"{name}.mp4").partition("://")[2] or store.url("x").startswith("memory:")

    batch.run(make_entries(f"{name}=a"), first)
    assert batch.run(make_entries(f"{name}=a"), nothing) == {}
    assert batch.run(make_entries("other/a=a"), nothing) == {}
    assert batch.run(make_entries("a"), nothing) == {}
