"""Deliver results to a bucket: a result store that keeps clips in the run directory and copies them to a prefix.

An object has the name that the clip has in the run directory. A copy is confirmed when the bucket has an object with
the clip's size and SHA-256; its ETag then goes to the record of the job. No object of somebody else is replaced. An
object of this batch whose name now means another job moves to ``.kept/<sha256>.mp4`` below the prefix. The file in the
run directory is freed only after the record is stored, and only if the user wants that (``keep_local: no``).
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from io import BufferedIOBase
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import quote

from batchrunner.errors import CallError, LocalFault, NetworkFault, UsageError
from batchrunner.formatting import count_text
from batchrunner.job import Entry, Job, Record, Result, State
from batchrunner.storage import durable_files
from batchrunner.storage.objects.address import ObjectAddress
from batchrunner.storage.objects.blocking import spooled
from batchrunner.storage.objects.store import Objects, ObjectState
from batchrunner.storage.run_directory import REPORTS, RunDir
from batchrunner.transfer.delivery import Store
from batchrunner.transfer.downloader import Fetched

KEPT = ".kept"  # below the prefix: clips whose name now means another job
MARKER = ".batchrunner"  # below the prefix: the object that shows that the bucket may be written
_TYPES = {".json": "application/json", ".html": "text/html; charset=utf-8", ".csv": "text/csv; charset=utf-8"}
_CLIP_TYPE = "video/mp4"
_WAITS = (
    "The clip is in the run directory. It is copied as soon as the bucket can be reached; it is not paid for again."
)
_EXAMINED = 16  # waiting clips, after each delivery
_IN_THE_WAY = "Choose another prefix for deliver, or remove the objects yourself."
_NO_COPY = {"object_missing", "input_changed"}  # the object is gone, or has another content


@dataclass(frozen=True, slots=True)
class BucketTarget:
    """Where clips are delivered. open: returns the bucket of an address.

    keep_local: keep the files in the run directory. is_needed: whether the run still needs the file of a record.
    batch: the batch's name, which owns the reports.
    """

    prefix: ObjectAddress
    open: Callable[[ObjectAddress], Objects]
    keep_local: bool = True
    is_needed: Callable[[Record], bool] = lambda _: False
    batch: str = ""

    @property
    def owner(self) -> str:
        """What is stored with a report in the bucket, so that only this batch replaces it."""
        return hashlib.sha256(self.batch.encode()).hexdigest()[:32]

    def address(self, name: str) -> ObjectAddress:
        """Return the address of a clip or a report by its name in the run directory."""
        return self.prefix.child(name)


class BucketStore:
    """The results of one batch in a bucket: a `ResultStore`, and the engine's `Bucket`.

    local: the run directory's results. obstacle: why the bucket cannot be used, found by `settle`; None if it can, or
    if it is only out of reach for now.
    """

    def __init__(self, local: Store, rundir: RunDir, target: BucketTarget) -> None:
        self.obstacle: LocalFault | None = None
        self._local = local
        self._rundir = rundir
        self._target = target
        self._names: dict[str, list[str]] = {}
        self._jobs: dict[str, str] = {}  # name: fingerprint
        self._records: Mapping[str, Record] = {}
        self._owners: dict[str, dict[str, str]] = {}  # address, ETag: fingerprint
        self._known: dict[str, ObjectState] | None = None  # None: not known
        self._compared: set[tuple[str, str]] = set()  # addresses and ETags
        self._stores: dict[str, Objects] = {}
        self._waiting: deque[str] = deque()  # clips whose files are to be freed
        self._moving = asyncio.Lock()

    # Readers

    def exists(self, name: str) -> bool:
        """Return whether a clip has this name, in the run directory or in the bucket."""
        return self._local.exists(name) or self._recorded(name) is not None

    def open(self, name: str) -> BufferedIOBase:
        """Open a clip for reading: the file, or a copy of the object. Raises OSError."""
        found = None if self._local.exists(name) else self._recorded(name)
        if found is None:
            return self._local.open(name)
        result, etag = found
        address = self._target.address(name)
        try:
            objects = self._target.open(address)  # of its own: it is used in another thread
            file = spooled(lambda file: objects.download(address.key, file, etag), result.sha256)
        except (CallError, UsageError) as error:
            raise OSError(error.message) from None
        return cast("BufferedIOBase", file)

    def url(self, name: str) -> str:
        """Return the address of a clip in the bucket, percent-encoded."""
        address = self._target.address(name)
        return f"{address.place}/{quote(address.key)}"

    def _recorded(self, name: str) -> tuple[Result, str] | None:
        """Return the result whose confirmed object has this name, and its ETag."""
        record = self._records.get(self._jobs.get(name, ""))
        result = record.result if record is not None else None
        address = str(self._target.address(name))
        if result is None or not self._is_present(address, result):
            return None
        return result, (result.objects or {})[address]

    # The run

    async def settle(self, entries: Sequence[Entry], records: Mapping[str, Record]) -> dict[str, Result | None]:
        """Match names with the manifest, and compare the records with the run directory and the bucket.

        Returns what `Store.settle` does. Also a result for each clip that has to be copied to the bucket. Raises
        LocalFault for the run directory; a bucket that refuses is the `obstacle`.
        """
        self._records = records
        for entry in entries:
            self._names.setdefault(entry.job.fingerprint, []).append(entry.file)
            self._jobs[entry.file] = entry.job.fingerprint
        for fingerprint, record in records.items():
            self._own(fingerprint, record.result)
        found = await self._local.settle(entries, records)
        await self._list()
        self._check_names(records)
        await self._check_reports()
        await self._check_writing()
        for record in records.values():
            if record.result is not None and record.state in {State.SUCCEEDED, State.IN_FLIGHT}:
                await self._settle(record, record.result, found)
        return found

    async def _settle(self, record: Record, result: Result, found: dict[str, Result | None]) -> None:
        fingerprint = record.job.fingerprint
        await self._compare(result)
        has_any = self._has_any(result)
        if record.state is State.IN_FLIGHT:
            if has_any:
                found.setdefault(fingerprint, result)
            return
        lacks_file = fingerprint in found
        if fingerprint not in self._names or self._has_all(record.job, result):
            if has_any and lacks_file:
                del found[fingerprint]
                await self._restore(record, result)
        elif has_any or not lacks_file:
            found[fingerprint] = result

    async def deliver(self, job: Job, fetched: Fetched, record: Record | None = None) -> None:
        """Keep a checked download in the run directory. `publish` copies it to the bucket. Raises LocalFault."""
        await self._local.deliver(job, fetched, record)

    async def look_again(self, records: Mapping[str, Record]) -> dict[str, Result | None]:
        """Check the files of the run directory and the objects again. Returns what `settle` does. Raises LocalFault."""
        found = await self._local.look_again(records)
        await self._list()
        for record in records.values():
            if record.result is not None and record.state is State.SUCCEEDED:
                await self._settle(record, record.result, found)
        return found

    async def publish(self, job: Job, result: Result) -> Result | None:
        """Copy a clip to the bucket under its names. Return its result with the confirmed objects.

        None if no copy of the clip is left. Raises NetworkFault, LocalFault.
        """
        objects = dict(result.objects or {})
        with _as_faults():
            async with self._copy_of(job, result, lock=self._moving) as file:
                if file is None:
                    return None
                for name in self._names_in_bucket(job, result):
                    address = self._target.address(name)
                    await self._make_way(address, result)
                    state = await self._put(address, file, result.sha256)
                    if state is None:
                        return None
                    objects[str(address)] = _etag(state)
        published = replace(result, objects=objects)
        self._own(job.fingerprint, published)
        return published

    async def release(self, record: Record) -> None:
        """Free the file of a clip whose delivery is stored, if the user wants that and the run needs it no longer."""
        if self._target.keep_local:
            return
        self._waiting.appendleft(record.job.fingerprint)
        for fingerprint in [self._waiting.popleft() for _ in range(min(_EXAMINED, len(self._waiting)))]:
            if self._target.is_needed(self._records.get(fingerprint, record)):
                self._waiting.append(fingerprint)
            else:
                await self._free(fingerprint)

    async def release_all(self) -> None:
        """Free all files of clips whose delivery is stored, if the user wants that. Raises LocalFault."""
        if not self._target.keep_local:
            for fingerprint in list(self._records):
                await self._free(fingerprint)

    async def _free(self, fingerprint: str) -> None:
        record = self._records[fingerprint]
        if record.state is State.SUCCEEDED and record.result is not None and self._has_all(record.job, record.result):
            await self._local.free(record.job, record.result)

    async def put_reports(self, folder: Path) -> None:
        """Copy the reports in `folder` to the bucket. They replace those of a batch of this name. Raises CallError."""
        with _as_faults():
            for name in REPORTS:
                path, address = folder / name, self._target.address(name)
                await self._open(address).put_own(address.key, path, self._target.owner, _TYPES[path.suffix])

    # The bucket

    async def _list(self) -> None:
        """List the objects below the prefix."""
        prefix = self._target.prefix
        try:
            with _as_faults():
                listed = self._open(prefix).list(prefix.key.rstrip("/"))
                self._known = {f"{prefix.place}/{key}": state async for key, state in listed}
        except NetworkFault:
            return  # what was confirmed counts as present
        except LocalFault as fault:
            self.obstacle = fault

    def _check_names(self, records: Mapping[str, Record]) -> None:
        """Find out before anything is paid for whether somebody else has the names of clips that are still to come."""
        to_come = (name for name in self._names if name not in records or records[name].state is State.PENDING)
        addresses = (str(self._target.address(name)) for job in to_come for name in self._names[job])
        taken = [address for address in addresses if address in (self._known or {}) and address not in self._owners]
        if taken:
            message = f"{count_text(len(taken), 'object')} in the way that this batch did not deliver, as {taken[0]}"
            self.obstacle = self.obstacle or LocalFault("object_differs", message, _IN_THE_WAY)

    async def _check_reports(self) -> None:
        """Find out before anything is paid for whether the reports there are those of another batch."""
        addresses = [self._target.address(name) for name in REPORTS]
        with suppress(NetworkFault):
            try:
                with _as_faults():
                    for address in addresses:
                        if str(address) in (self._known or {}):
                            await self._open(address).has_own(address.key, self._target.owner)
            except LocalFault as fault:
                self.obstacle = self.obstacle or fault

    async def _check_writing(self) -> None:
        """Find out before anything is paid for whether the bucket may be written."""
        marker = self._target.address(MARKER)
        with suppress(NetworkFault):  # out of reach for now: clips wait in the run directory
            try:
                with _as_faults():
                    await self._open(marker).require_writable(marker.key)
            except LocalFault as fault:
                self.obstacle = self.obstacle or fault

    def _is_present(self, address: str, result: Result) -> bool:
        """Return whether a confirmed object is still there, as far as is known."""
        etag = (result.objects or {}).get(address)
        if etag is None:
            return False
        if self._known is None or not address.startswith(f"{str(self._target.prefix).rstrip('/')}/"):
            return True
        state = self._known.get(address)
        if state is None or state.size != result.size_bytes:
            return False
        return (address, etag) in self._compared or _etag(state) == etag

    async def _compare(self, result: Result) -> None:
        """Ask for the objects that the list has with another ETag: some stores list another one than the object has."""
        for address, etag in (result.objects or {}).items():
            state = (self._known or {}).get(address)
            if state is None or self._is_present(address, result) or state.size != result.size_bytes:
                continue
            with suppress(CallError), _as_faults():
                place = ObjectAddress.parse(address)
                found = await self._open(place).head(place.key)
                if found is not None and _etag(found) == etag:
                    self._compared.add((address, etag))

    def _has_any(self, result: Result) -> bool:
        kept = (self._known or {}).get(str(self._target.address(_kept(result))))
        if kept is not None and kept.size == result.size_bytes:
            return True
        return any(self._is_present(address, result) for address in result.objects or ())

    def _has_all(self, job: Job, result: Result) -> bool:
        names = self._names_in_bucket(job, result)
        return all(self._is_present(str(self._target.address(name)), result) for name in names)

    def _names_in_bucket(self, job: Job, result: Result) -> list[str]:
        return self._names.get(job.fingerprint) or [_kept(result)]

    async def _put(self, address: ObjectAddress, file: Path, sha256: str) -> ObjectState | None:
        """Put a clip under a free name. None if the file is no longer the clip."""
        try:
            state = await self._open(address).put_new(address.key, file, sha256, content_type=_CLIP_TYPE)
        except FileNotFoundError:
            return None
        except LocalFault as fault:
            if fault.kind == "input_changed" or (fault.kind == "object_missing" and not _is_file(file)):
                return None
            raise
        if self._known is not None:
            self._known[str(address)] = state
        self._compared.add((str(address), _etag(state)))
        return state

    async def _make_way(self, address: ObjectAddress, result: Result) -> None:
        """Move an object of this batch whose name now means another job. Objects of others stay."""
        owners = self._owners.get(str(address))
        if not owners:
            return
        objects = self._open(address)
        async with self._moving:
            state = await objects.head(address.key)
            record = self._records.get(owners.get(_etag(state), "")) if state is not None else None
            if state is None or record is None or record.result is None or record.result.sha256 == result.sha256:
                return
            async with self._copy_of(record.job, record.result, "moved") as file:
                kept = self._target.address(_kept(record.result))
                if file is None or await self._put(kept, file, record.result.sha256) is None:
                    return  # its name is not free, and nothing replaces it
            if await objects.head(address.key) == state:
                await objects.delete(address.key)

    @asynccontextmanager
    async def _copy_of(
        self, job: Job, result: Result, ending: str = "object", lock: asyncio.Lock | None = None
    ) -> AsyncIterator[Path | None]:
        """Have a file with the clip's content: of the run directory, or a temporary copy of an object.

        lock: held while an object is copied, because no object may move then. ending: of the temporary file's name.
        """
        if (file := await self._local.find(job, result)) is not None:
            yield file
            return
        path = self._rundir.partial_dir / f"{job.key}.{ending}"
        try:
            async with lock or nullcontext():
                found = await self._fetch(result, path)
            yield path if found else None
        finally:
            path.unlink(missing_ok=True)

    async def _fetch(self, result: Result, path: Path) -> bool:
        """Write the clip's object to `path`. Return whether there is one with its content."""
        kept = str(self._target.address(_kept(result)))
        for text, etag in [*(result.objects or {}).items(), (kept, None)]:
            try:
                address = ObjectAddress.parse(text)
                with _new_file(path) as file:
                    if await self._open(address).download(address.key, file, etag) == result.sha256:
                        return True
            except UsageError:
                continue  # an earlier bucket, which is no longer allowed
            except LocalFault as fault:
                if fault.kind not in _NO_COPY:
                    raise
        return False

    async def _restore(self, record: Record, result: Result) -> None:
        """Put a clip back into the run directory, unless only the bucket keeps clips or cannot be reached."""
        if not self._target.keep_local:
            return
        path = self._rundir.partial_dir / f"{record.job.key}.object"
        with suppress(CallError):
            if await self._fetch(result, path):
                await self._local.deliver(record.job, Fetched(str(path), result))
        path.unlink(missing_ok=True)

    def _own(self, fingerprint: str, result: Result | None) -> None:
        for address, etag in ((result.objects or {}) if result else {}).items():
            self._owners.setdefault(address, {})[etag] = fingerprint

    def _open(self, address: ObjectAddress) -> Objects:
        if address.place not in self._stores:
            self._stores[address.place] = self._target.open(address)
        return self._stores[address.place]


@contextmanager
def _as_faults() -> Iterator[None]:
    """Turn errors of settings and files into errors of calls, with hints for a clip that is in the run directory."""
    try:
        yield
    except NetworkFault as fault:
        raise NetworkFault(fault.kind, fault.message, _WAITS, retry_after_s=fault.retry_after_s) from None
    except UsageError as error:
        raise LocalFault("bucket_refused", error.message, error.hint) from None
    except OSError as error:
        raise durable_files.fault(error, "a clip could not be copied") from error


def _kept(result: Result) -> str:
    return f"{KEPT}/{result.sha256}.mp4"


def _etag(state: ObjectState) -> str:
    return state.etag or state.version or ""  # with its quotes: it is sent back as it is


def _new_file(path: Path) -> BinaryIO:
    path.unlink(missing_ok=True)  # of a killed run, or a link
    return path.open("xb")


def _is_file(path: Path) -> bool:
    return path.is_file()
