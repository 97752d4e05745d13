"""Deliver results: give files their final names. Tracks which job's result has which name, and overwrites none.

The journal records the owner of a name before the file gets it, so a name without a record is not ours. If another job
needs a name, its file moves to ``.batchrunner/kept/<fingerprint>.mp4``. A file that is not ours moves there too, under
its own name. Nothing is deleted.
"""

import asyncio
import os
import stat
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Executor
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Protocol

from batchrunner.errors import LocalFault
from batchrunner.job import Entry, Job, JobNames, PlacedFile, Record, Result, State, key_of
from batchrunner.journal.journal import Journal
from batchrunner.journal.publications import Publication
from batchrunner.media.decoder_pool import Decoders, one
from batchrunner.storage import durable_files
from batchrunner.storage.batching import Batcher
from batchrunner.storage.durable_files import Disk
from batchrunner.storage.run_directory import RunDir, RunDirectoryClips
from batchrunner.transfer.downloader import Fetched, file_sha256, result_of

_UNNAMED = "a result could not be given its name"
_SMALL_BYTES = 1 << 20
_LOW_BITS = (1 << 64) - 1
_STATE = struct.Struct("<QQQ")  # size, the low 64 bits of the time of the last change in ns, inode


class DeliveredClips(Protocol):
    """Delivered clips for readers. A clip has the name of its entry (`batchrunner.job.Entry.file`)."""

    def exists(self, name: str) -> bool:
        """Return whether a clip has this name. Its content is not checked."""
        ...

    def open(self, name: str) -> BufferedIOBase:
        """Open a clip for reading. Raises OSError; FileNotFoundError if there is none."""
        ...

    def url(self, name: str) -> str:
        """Return the address at which a reader finds the clip, whether or not it exists yet."""
        ...


class ResultStore(DeliveredClips, Protocol):
    """Where the finished clips of one batch are kept. A run calls `settle` once, before `deliver`.

    A clip has the name of every entry that refers to its job. No method deletes a clip, and none overwrites a clip of
    another job. All raise LocalFault.
    """

    async def settle(self, entries: Sequence[Entry], records: Mapping[str, Record]) -> dict[str, Result | None]:
        """Match names with the manifest, and return what the records do not know yet, by fingerprint.

        A Result for a job in flight whose checked clip was delivered before the process died; None for a succeeded job
        whose clip is missing.
        """
        ...

    async def deliver(self, job: Job, fetched: Fetched, record: Record | None = None) -> None:
        """Keep a checked download under its names. It is durable on return, and the download's file is gone.

        record: of the job from then on. It is stored in the journal after the clip has its names.
        """
        ...

    async def look_again(self, records: Mapping[str, Record]) -> dict[str, Result | None]:
        """Check the delivered clips again. Return None by fingerprint for each one that is missing."""
        ...


class OpenStore(Protocol):
    """Creates the result store of a run. `batchrunner.app.environment.Environment` has it."""

    def __call__(
        self, rundir: RunDir, journal: Journal, executor: Executor, files: Disk, decoders: Decoders
    ) -> ResultStore:
        """rundir: of the run; its partial downloads are there. decoders: check clips that an earlier run left."""
        ...


class Store(RunDirectoryClips):
    """The results of one run directory: `ResultStore`.

    names: final names by fingerprint, from the manifest's entries. decoders: for clips that an earlier run left.
    """

    def __init__(self, rundir: RunDir, journal: Journal, executor: Executor, files: Disk, decoders: Decoders) -> None:
        super().__init__(rundir)
        self._decoders = decoders
        self._kept = rundir.kept.relative_to(rundir.path)
        self._journal = journal
        self._executor = executor
        self._disk = files
        self._placed: dict[str, PlacedFile] = {}
        self._ours: dict[str, list[str]] = {}  # names in `_placed` at the start, by fingerprint
        for name, placed in journal.files().items():
            self._placed[name] = placed
            self._ours.setdefault(placed.fingerprint, []).append(name)
        self._names = JobNames()
        self._left: dict[str, bytes | None] = {}  # the state of each delivered file
        self._flushes: Batcher[str] = Batcher(executor, self._flush)

    async def settle(self, entries: Sequence[Entry], records: Mapping[str, Record]) -> dict[str, Result | None]:
        """Match names with the manifest, and return results that the records do not have yet.

        Returns by fingerprint: a Result for a job in flight whose checked file is already in place (the process died
        between the rename and the journal), None for a succeeded job whose file is gone. Raises LocalFault.
        """
        self._names = await self._run(JobNames, entries)
        news: dict[str, Result | None] = {}
        for fingerprint, names in list(self._ours.items()):
            record = records.get(fingerprint)
            if record is not None and record.state is State.IN_FLIGHT:
                result = await self._run(self._recover, names, record.result)
                if result is not None:
                    news[fingerprint] = result
        for fingerprint in await self._run(self._unsettled, records, set(news)):
            record, result = records[fingerprint], news.get(fingerprint)
            found = await self._spread(record.job, result or record.result, read=result is not None)
            if not found:
                news[fingerprint] = None
            await self._move_former_names(record.job)
        self._ours.clear()  # every result now has its names or is in the folder for kept files
        return news

    def _unsettled(self, records: Mapping[str, Record], found: AbstractSet[str]) -> list[str]:
        """Return the jobs whose names have to be settled: found ones, and succeeded ones with an incomplete clip."""
        delivered = [record for record in records.values() if record.state is State.SUCCEEDED]
        complete = self._complete(delivered)
        incomplete = {record.job.fingerprint for record in delivered if record.job.fingerprint not in complete}
        return [fingerprint for fingerprint in records if fingerprint in incomplete or fingerprint in found]

    def _complete(self, records: Iterable[Record]) -> set[str]:
        """Return the succeeded jobs whose clip has all of its names and no former one. Files are compared by size."""
        complete = set()
        for record in records:
            if record.result is None:
                continue
            fingerprint = record.job.fingerprint
            names = self._names_of(record.job)
            present = self._present(record.job, record.result, read=False)
            owns_all = all(self._is_own(name, record.job) for name in names)
            if owns_all and set(names) <= set(present) and set(self._ours.get(fingerprint, ())) <= set(names):
                complete.add(fingerprint)
                for name in names:
                    self._left.setdefault(name, _file_state(self._root / name))
        return complete

    async def deliver(self, job: Job, fetched: Fetched, record: Record | None = None) -> None:
        """Flush a checked download, give it its final name and its further ones, and store its record.

        Raises LocalFault.
        """
        names, result = self._names_of(job), fetched.result
        path = await self._clear(names[0], job)
        if result.size_bytes > _SMALL_BYTES:  # the journal's thread must not wait for a large flush
            await self._flushes.do([fetched.path_text])
        placed = PlacedFile(job.fingerprint, result.sha256, result.size_bytes)
        last = record if len(names) == 1 else None
        await self._journal.publish(Publication(names[0], placed, (fetched.path_text, path), last, self._publish))
        if len(names) > 1:
            await self._spread(job, result, read=True)
            if record is not None:
                await self._journal.save(record)

    async def look_again(self, records: Mapping[str, Record]) -> dict[str, Result | None]:
        """Find results whose files were changed or removed, and restore their names if a copy is left.

        Returns None by fingerprint for a result that has no file any more. A file with other content is foreign: it is
        moved away before a result gets its name. Raises LocalFault.
        """
        news: dict[str, Result | None] = {}
        for fingerprint, strangers in (await self._run(self._changed, list(records.values()))).items():
            for name in strangers:
                self._placed.pop(name, None)
            record = records[fingerprint]
            if not await self._spread(record.job, record.result):
                news[fingerprint] = None
        return news

    async def find(self, job: Job, result: Result) -> Path | None:
        """Return a file with the content of a result; None if there is none. Raises LocalFault."""
        names = await self._run(lambda: self._present(job, result, read=True))
        return self._root / names[0] if names else None

    async def free(self, job: Job, result: Result) -> None:
        """Remove the files of a result that is stored elsewhere. Files with another content stay. Raises LocalFault."""
        names = await self._run(lambda: self._present(job, result, read=True))
        for name in names:
            await self._run(self._disk.remove, self._root / name)
            self._left.pop(name, None)

    def _changed(self, records: Sequence[Record]) -> dict[str, list[str]]:
        """Return by fingerprint the names whose file has changed. Files that look different are hashed."""
        changed: dict[str, list[str]] = {}
        for record in records:
            if record.state is not State.SUCCEEDED or record.result is None:
                continue
            for name in self._names.files(record.job.fingerprint):
                state = _file_state(f"{self._root}/{name}")
                if state is not None and (state == self._left.get(name) or self._is_same(name, state, record.result)):
                    continue
                changed.setdefault(record.job.fingerprint, []).append(name)
        return changed

    def _is_same(self, name: str, state: bytes, result: Result) -> bool:
        """Return whether a touched or replaced file still has the result's content. True if it is unreadable."""
        size_bytes, _, _ = _STATE.unpack(state)
        if size_bytes != result.size_bytes:
            return False
        try:
            same = file_sha256(self._root / name) == result.sha256
        except FileNotFoundError:
            return False
        except OSError:  # a disk error says nothing about the content
            return True
        if same:
            self._left[name] = state
        return same

    def _present(self, job: Job, result: Result, *, read: bool) -> list[str]:
        """Return the names that have the job's result, by size. read: compare the hash of the content, too."""
        candidates: list[str] = [*self._names_of(job), self._kept_name(job.key), *self._ours.get(job.fingerprint, [])]
        return [
            name
            for name in candidates
            if (self._is_own(name, job) or name == self._kept_name(job.key))
            and _size(self._root / name) == result.size_bytes
            and (not read or self._holds(name, result))
        ]

    def _is_own(self, name: str, job: Job) -> bool:
        placed = self._placed.get(name)
        return placed is not None and placed.fingerprint == job.fingerprint

    def _holds(self, name: str, result: Result) -> bool:
        """Return whether a file has the result's content. An unreadable file has not."""
        state = _file_state(self._root / name)
        if state is not None and state == self._left.get(name):
            return True  # it got its name in this run
        try:
            return file_sha256(self._root / name) == result.sha256
        except OSError:
            return False

    async def _spread(self, job: Job, result: Result | None, *, read: bool = False) -> bool:
        """Give the job's file each of its names. Return False if there is no file.

        Files are compared by content if a name has no file of the right size, and always with `read`: no record says
        then that the names were complete.
        """
        if result is None:
            return False
        names = self._names_of(job)
        present = [] if read else self._present(job, result, read=False)
        if not set(names) <= set(present):  # a copy gets a name only if its content is the result's
            present = await self._run(lambda: self._present(job, result, read=True))
        if not present:
            return False
        have = present[0]
        for name in names:
            if name in present and self._is_own(name, job):
                continue
            if self._is_own(name, job) and name not in present:
                self._placed.pop(name)  # a file there has other content: it is foreign, and is moved away
            await self._clear(name, job)
            await self._place(name, job, result)
            step = self._disk.duplicate if have in names else self._disk.rename
            await self._run(step, self._root / have, self._root / name)
            have = name
        for name in names:  # also those that have one more link now
            self._left.setdefault(name, _file_state(self._root / name))
        return True

    async def _move_former_names(self, job: Job) -> None:
        """Move files of this job whose names the manifest no longer has to the folder for kept files."""
        names = self._names_of(job)
        for name in self._ours.get(job.fingerprint, ()):
            if name in names or not self._is_own(name, job):
                continue
            path, placed = self._root / name, self._placed[name]
            # A file of another size is gone, or the user edited it.
            if path.is_relative_to(self._root / self._kept) or _size(path) != placed.size_bytes:
                continue
            target = self._kept_name(job.key)
            if _exists(self._root / target):
                target = str(self._free_name(path.stem, ".mp4").relative_to(self._root))
            else:
                await self._journal.place(target, placed)
                self._placed[target] = placed
            await self._run(self._disk.rename, path, self._root / target)

    async def _clear(self, name: str, job: Job) -> str:
        """Make the folders of `name`, and move the file of this name out of the way unless it is this job's own.

        Returns the path with this name.
        """
        if "/" in name:
            await self._run(self._make_folders, name)
        placed = self._placed.get(name)
        path = f"{self._root}/{name}"
        own = placed is not None and placed.fingerprint == job.fingerprint
        # A file of another size than recorded was edited by the user and belongs to them.
        if not _exists(path) or (own and placed is not None and _size(path) == placed.size_bytes):
            return path
        if placed is not None and not own:
            target = self._kept_name(key_of(placed.fingerprint))
            await self._journal.place(target, placed)
            self._placed[target] = placed
        else:
            target = str(self._free_name(Path(name).stem, ".mp4").relative_to(self._root))
        await self._run(self._disk.rename, Path(path), self._root / target)
        return path

    def _make_folders(self, name: str) -> None:
        """Make the missing folders of a name. A file in the place of one moves away, as one in the place of a clip."""
        for folder in list(Path(name).parents)[-2::-1]:
            path = self._root / folder
            if path.is_dir():
                continue
            if _exists(path):
                self._disk.rename(path, self._free_name(path.name, ""))
            self._disk.make_folder(path)

    def _free_name(self, stem: str, ending: str) -> Path:
        """Return a free name in the folder for kept files."""
        number = 1
        while _exists(target := self._root / self._kept / f"{stem}.{number}{ending}"):
            number += 1
        return target

    async def _place(self, name: str, job: Job, result: Result) -> None:
        placed = PlacedFile(job.fingerprint, result.sha256, result.size_bytes)
        await self._journal.place(name, placed)
        self._placed[name] = placed

    def _names_of(self, job: Job) -> list[str]:
        return self._names.files(job.fingerprint) or [self._kept_name(job.key)]

    def _kept_name(self, key: str) -> str:
        return str(self._kept / f"{key}.mp4")

    def _recover(self, names: Sequence[str], known: Result | None) -> Result | None:
        """Return the result that has one of `names`, if it is whole and has the recorded content.

        known: the result as the record has it. A file with its content was checked.
        """
        for name in names:
            path = self._root / name
            placed = self._placed[name]
            if _size(path) == placed.size_bytes and file_sha256(path) == placed.sha256:
                if known is not None and known.sha256 == placed.sha256:
                    return known
                try:
                    item = {"path": str(path), "size_bytes": placed.size_bytes, "sha256": placed.sha256}
                    found = one(self._decoders, "clip", item)
                except ValueError:
                    continue
                return result_of(placed.size_bytes, placed.sha256, found)
        return None

    def _flush(self, paths: list[str]) -> LocalFault | None:
        try:
            self._disk.flush_all(paths)
        except OSError as error:
            return durable_files.fault(error, _UNNAMED)
        return None

    def _publish(self, publications: Sequence[Publication]) -> LocalFault | None:
        """Give files their names, in the journal's thread."""
        for item in publications:
            self._placed[item.name] = item.placed
        try:
            self._disk.publish([item.paths for item in publications])
        except OSError as error:
            return durable_files.fault(error, _UNNAMED)
        for item in publications:
            self._left[item.name] = _file_state(item.paths[1])
        return None

    async def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)
        except OSError as error:
            raise durable_files.fault(error, _UNNAMED) from error


def _exists(path: Path | str) -> bool:
    """Return whether anything has this name, also a broken link."""
    return os.path.lexists(path)


def _file_state(path: Path | str) -> bytes | None:
    """Return size, time and inode of a plain file, which identify it without reading it; None for anything else.

    They are packed, because a run keeps them for each clip.
    """
    state = _plain_file(path)
    return None if state is None else _STATE.pack(state.st_size, state.st_mtime_ns & _LOW_BITS, state.st_ino)


def _size(path: Path | str) -> int | None:
    state = _plain_file(path)
    return None if state is None else state.st_size


def _plain_file(path: Path | str) -> os.stat_result | None:
    """Return the status of a plain file; None for anything else, including links."""
    try:
        state = os.lstat(path)
    except OSError:
        return None
    return state if stat.S_ISREG(state.st_mode) else None
