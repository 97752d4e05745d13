"""Copy clips that other batches of the account delivered. A copy counts only if its content has the recorded hash.

A copy was checked where it was downloaded. It is measured here, because this batch has its own rules for what it shows.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from batchrunner.account.base import Clip
from batchrunner.account.rows import result_of
from batchrunner.media import synthetic_marks
from batchrunner.storage.durable_files import Disk, open_plain
from batchrunner.transfer.downloader import Checks, Fetched, file_sha256


class ClipCopies:
    """Copies clips into `folder`, the folder of partial downloads.

    executor: copies and hashes files. checks: measure the copies.
    """

    def __init__(self, folder: Path, executor: Executor, files: Disk, checks: Checks) -> None:
        self._folder = folder
        self._executor = executor
        self._disk = files
        self._checks = checks

    async def copy(self, key: str, clips: Sequence[Clip]) -> Fetched | None:
        """Copy the first clip that still has its recorded content; None if none has. key: names the copy."""
        loop = asyncio.get_running_loop()
        copy = await loop.run_in_executor(self._executor, self._copy, key, clips)
        return copy and await loop.run_in_executor(self._checks.executor, self._measured, key, copy)

    def _copy(self, key: str, clips: Sequence[Clip]) -> Fetched | None:
        target = self._folder / f"{key}.copy"
        for clip in clips:
            with suppress(OSError):
                self._disk.clone(clip.path, target)
                if target.stat().st_size == clip.size_bytes and file_sha256(target) == clip.sha256:
                    result = result_of(clip.result_json, clip.size_bytes, clip.sha256)
                    with open_plain(target) as file:
                        marks = synthetic_marks.read(file, clip.size_bytes)
                    return Fetched(str(target), replace(result, synthetic_marks=marks))
        with suppress(OSError):
            self._disk.remove(target)
        return None

    def _measured(self, key: str, copy: Fetched) -> Fetched:
        """Return the copy with its measures. It has none if they are off or the copy cannot be decoded."""
        measures = self._checks.further(key)
        if not measures:
            return copy
        task = {**measures, "path": copy.path_text, "size_bytes": copy.result.size_bytes, "sha256": copy.result.sha256}
        [found] = self._checks.decoders.run_all("clip", [task])
        if isinstance(found, Exception):
            return copy
        return replace(copy, result=replace(copy.result, quality=found.get("quality")))
