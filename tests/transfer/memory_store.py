"""A result store in memory: the second `batchrunner.transfer.delivery.ResultStore`, for tests.

`Bucket` is what lasts over the runs of a batch, like a bucket of an object storage.
"""

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from io import BufferedIOBase

from batchrunner.job import Entry, Job, Record, Result, State
from batchrunner.journal.journal import Journal
from batchrunner.media.decoder_pool import Decoders
from batchrunner.storage.durable_files import Disk
from batchrunner.storage.run_directory import RunDir
from batchrunner.transfer.delivery import ResultStore
from batchrunner.transfer.downloader import Fetched


@dataclass
class Bucket:
    """Objects by fingerprint, each with its result, and fingerprints by name."""

    objects: dict[str, tuple[bytes, Result]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def open_store(
        self, rundir: RunDir, journal: Journal, executor: Executor, files: Disk, decoders: Decoders
    ) -> ResultStore:
        """Create the store of a run: a `batchrunner.transfer.delivery.OpenStore`."""
        return MemoryStore(self, journal)


class MemoryStore:
    """The results of one batch in a `Bucket`. journal: stores the records of deliveries; None for readers."""

    def __init__(self, bucket: Bucket, journal: Journal | None = None) -> None:
        self._bucket = bucket
        self._journal = journal

    def exists(self, name: str) -> bool:
        return self._bucket.names.get(name) in self._bucket.objects

    def open(self, name: str) -> BufferedIOBase:
        if not self.exists(name):
            raise FileNotFoundError(name)
        return io.BytesIO(self._bucket.objects[self._bucket.names[name]][0])

    def url(self, name: str) -> str:
        return f"memory://bucket/{name}"

    async def settle(self, entries: Sequence[Entry], records: Mapping[str, Record]) -> dict[str, Result | None]:
        self._bucket.names = {entry.file: entry.job.fingerprint for entry in entries}
        in_flight = [name for name, record in records.items() if record.state is State.IN_FLIGHT]
        delivered = {name: self._bucket.objects[name][1] for name in in_flight if name in self._bucket.objects}
        return {**delivered, **await self.look_again(records)}

    async def deliver(self, job: Job, fetched: Fetched, record: Record | None = None) -> None:
        self._bucket.objects[job.fingerprint] = (fetched.path.read_bytes(), fetched.result)
        fetched.path.unlink()
        if record is not None and self._journal is not None:
            await self._journal.save(record)

    async def look_again(self, records: Mapping[str, Record]) -> dict[str, Result | None]:
        succeeded = [name for name, record in records.items() if record.state is State.SUCCEEDED]
        return {name: None for name in succeeded if name not in self._bucket.objects}
