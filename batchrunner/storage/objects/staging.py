"""Stage local inputs: upload them to a prefix of a bucket, and submit links in place of their content.

An object is named by its content (``<sha256>.<suffix>``), so an input of many jobs and many batches is uploaded once,
and an upload that was killed starts over under the same name. A job's identity is that of its local files: staging
never makes a job new. `SignedInputs` (`batchrunner.storage.objects.signing`) signs the addresses.
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine, Iterable
from dataclasses import dataclass, replace
from typing import Any

from batchrunner.errors import LocalFault, NetworkFault, UsageError
from batchrunner.formatting import size_text
from batchrunner.job import Job, Media, Record
from batchrunner.providers.base import Accepted, GenerationStatus, Provider
from batchrunner.providers.forwarding import ForwardingProvider
from batchrunner.storage import durable_files
from batchrunner.storage.objects.address import ObjectAddress
from batchrunner.storage.objects.staged_names import digest_of, is_staged, name_of, uploads
from batchrunner.storage.objects.store import MOST_CONDITIONAL_BYTES, Objects, ObjectState

_AT_ONCE = 2  # an upload of up to 64 MB is in memory
_TRIES = 5  # in a row, a minute apart


@dataclass(frozen=True, slots=True)
class Target:
    """Where inputs are staged. above_bytes: smaller ones travel in the request. open: returns the bucket."""

    prefix: ObjectAddress
    above_bytes: int
    open: Callable[[], Objects]


class _Stopped(NetworkFault):
    """The run stops, and the upload with it."""


class Staging:
    """The uploads of one run: a `batchrunner.engine.ports.Inputs`. notify: shows progress.

    total: the number of inputs that the run may upload, and their bytes.
    """

    def __init__(self, target: Target, total: tuple[int, int], notify: Callable[[str], None]) -> None:
        self._target = target
        self._total, self._total_bytes = total
        self._notify = notify
        self._objects: Objects | None = None
        self._states: dict[str, ObjectState] = {}
        self._refused: dict[str, LocalFault] = {}
        self._bytes = 0
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._failures = 0

    @property
    def example(self) -> str:
        """An address at which an input could be staged."""
        return str(self._target.prefix.child("x"))

    def address(self, media: Media) -> ObjectAddress | None:
        """Return where an input is staged; None if it travels in the request."""
        return self._target.prefix.child(name_of(media)) if is_staged(media, self._target.above_bytes) else None

    async def prepare(self, job: Job, is_stopped: Callable[[], bool] = lambda: False) -> None:
        """Upload those inputs of a job that are not in the bucket.

        An input that has changed is no error here: the submission of its job refuses it. Raises NetworkFault, also when
        the run stops, and LocalFault for what no other job could do either.
        """
        for name, media in uploads([job], self._target.above_bytes).items():
            async with self._locks[name]:
                if name not in self._states and name not in self._refused:
                    async with self._slots:
                        await self._upload(name, media, is_stopped)

    def staged(self, media: Media) -> Media:
        """Return an input as the address of its upload. Raises LocalFault."""
        address = self.address(media)
        if address is None:
            return media
        name = name_of(media)
        state = self._states.get(name)
        if state is None:
            raise self._refused.get(name) or LocalFault(
                "object_missing", f"{address} was not uploaded", "Run it again."
            )
        etag = (state.etag or state.version or "").strip('"')
        return media._replace(source=str(address), path=None, uri=str(address), etag=etag)

    async def _upload(self, name: str, media: Media, is_stopped: Callable[[], bool]) -> None:
        sent = _Progress(media, is_stopped, self._notify)
        try:
            state = await self._put(name, media, sent)
        except NetworkFault as fault:
            self._failures += not isinstance(fault, _Stopped)
            if self._failures < _TRIES:
                raise
            raise LocalFault(fault.kind, fault.message, fault.hint) from None
        except UsageError as error:
            raise LocalFault("bucket_refused", error.message, error.hint) from None
        except LocalFault as fault:
            if fault.kind != "input_changed":
                raise
            self._refused[name] = fault
            return
        self._failures = 0
        self._states[name] = state
        self._bytes += media.size_bytes or 0
        verb = "Uploaded" if sent.size_bytes else "Already in the bucket:"
        count = f"{len(self._states):,} of {self._total:,} inputs"
        self._notify(f"{verb} {media.source} ({count}, {size_text(self._bytes)} of {size_text(self._total_bytes)})")

    async def _put(self, name: str, media: Media, sent: "_Progress") -> ObjectState:
        """Put an input into the bucket, if it is not there. Raises UsageError, CallError."""
        assert media.path is not None
        assert media.sha256 is not None
        await asyncio.to_thread(_require_readable, media)
        objects, key = self._open(), self._target.prefix.child(name).key
        if await objects.head(key) is None:
            self._notify(f"Uploading {media.source} ({size_text(media.size_bytes or 0)}) to {self._target.prefix}")
        return await objects.put_new(key, media.path, media.sha256, sent, media.mime or "")

    def _open(self) -> Objects:
        if self._objects is None:
            self._objects = self._target.open()
        return self._objects


class _Progress:
    """Counts the bytes of an upload, shows each quarter of a large one, and ends it if the run stops.

    It is made on the event loop and called by the threads that read the file.
    """

    def __init__(self, media: Media, is_stopped: Callable[[], bool], notify: Callable[[str], None]) -> None:
        self.size_bytes = 0
        self._media = media
        self._is_stopped = is_stopped
        self._notify = notify
        self._loop = asyncio.get_running_loop()

    def __call__(self, size_bytes: int) -> None:
        if self._is_stopped():
            raise _Stopped("cut", "the run stops before an input is uploaded")
        whole = self._media.size_bytes or 1
        before, self.size_bytes = self.size_bytes, self.size_bytes + size_bytes
        quarter = 4 * self.size_bytes // whole
        if whole > MOST_CONDITIONAL_BYTES and 4 * before // whole < quarter < 4:
            self._loop.call_soon_threadsafe(self._notify, f"Uploading {self._media.source}: {25 * quarter} %")


def _require_readable(media: Media) -> None:
    """Raise LocalFault if the file of an input is missing, unreadable or of another size."""
    assert media.path is not None
    try:
        with durable_files.open_plain(media.path, follow=True) as file:
            size_bytes = os.fstat(file.fileno()).st_size
    except OSError as error:
        why = str(error.strerror or error)
    else:
        if size_bytes == media.size_bytes:
            return
        why = f"it has {size_text(size_bytes)} now"
    message = f"{media.source} is not the file that was checked when the run began: {why}"
    hint = "as it was, --retry-failed submits it; changed, it counts as another job in the next run"
    raise LocalFault("input_changed", message, hint)


class StagedInputs(ForwardingProvider):
    """A provider that submits staged inputs by their addresses. It passes its calls on to another provider.

    records: those of the batch, for the addresses of generations that earlier runs have submitted.
    """

    def __init__(self, provider: Provider, staging: Staging, records: Iterable[Record]) -> None:
        super().__init__(provider)
        self._staging = staging
        self._jobs = {record.generation_id: record.job for record in records if record.generation_id}

    def prepare(self, job: Job) -> Coroutine[Any, Any, None] | None:
        """Return the work that can be done before a submission, with addresses in place of staged inputs.

        Raises LocalFault if an input is not staged.
        """
        return super().prepare(self._with_addresses(job))

    async def submit(self, job: Job, request_id: str) -> Accepted:
        """Submit once, with addresses in place of staged inputs. Raises CallError."""
        accepted = await self._provider.submit(self._with_addresses(job), request_id)
        self._jobs[accepted.generation_id] = job
        return accepted

    async def status(self, generation_id: str, inputs: Collection[str] = ()) -> GenerationStatus:
        """Poll a generation once. Raises CallError."""
        job = self._jobs.get(generation_id)
        staged = map(self._staging.address, job.inputs.values() if job else ())
        return await self._provider.status(generation_id, [*inputs, *(str(address) for address in staged if address)])

    def _with_addresses(self, job: Job) -> Job:
        return replace(job, inputs={name: self._staging.staged(media) for name, media in job.inputs.items()})


@dataclass(frozen=True, slots=True)
class StagedObject:
    """A staged input that no batch needs. key: its name in the bucket."""

    key: str
    size_bytes: int


async def unneeded(objects: Objects, prefix: ObjectAddress, needed: Collection[str]) -> list[StagedObject]:
    """List the staged inputs below a prefix whose digests are not `needed`. Other objects are left out.

    Raises CallError.
    """
    found = [StagedObject(key, state.size) async for key, state in objects.list(prefix.key.rstrip("/"))]
    depth = prefix.child("x").key.count("/")
    return [
        item
        for item in found
        if item.key.count("/") == depth and (digest := digest_of(item.key)) and digest not in needed
    ]
