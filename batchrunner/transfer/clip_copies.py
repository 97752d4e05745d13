"""Copy clips that other batches of the account delivered. A copy counts only if its content has the recorded hash."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path

from batchrunner.account.base import Clip
from batchrunner.account.rows import result_of
from batchrunner.storage.durable_files import Disk
from batchrunner.transfer.downloader import Fetched, file_sha256


class ClipCopies:
    """Copies clips into `folder`, the folder of partial downloads. executor: copies and hashes files."""

    def __init__(self, folder: Path, executor: Executor, files: Disk) -> None:
        self._folder = folder
        self._executor = executor
        self._disk = files

    async def copy(self, key: str, clips: Sequence[Clip]) -> Fetched | None:
        """Copy the first clip that still has its recorded content; None if none has. key: names the copy."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._copy, key, clips)

    def _copy(self, key: str, clips: Sequence[Clip]) -> Fetched | None:
        target = self._folder / f"{key}.copy"
        for clip in clips:
            with suppress(OSError):
                self._disk.clone(clip.path, target)
                if target.stat().st_size == clip.size_bytes and file_sha256(target) == clip.sha256:
                    return Fetched(target, result_of(clip.result_json, clip.size_bytes, clip.sha256))
        with suppress(OSError):
            self._disk.remove(target)
        return None
