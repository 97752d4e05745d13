"""batchrunner's downloader alone, with check, flush and rename: fetch_ours.py PARTS URL FOLDER COUNT AT_ONCE

PARTS: the steps to omit, separated by commas, to measure their cost: `flush`, `sha`; `-` for none.
"""

import asyncio
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from batchrunner.media.decoder_pool import Here
from batchrunner.storage.batching import Batcher
from batchrunner.storage.durable_files import Disk
from batchrunner.transfer import partial_file
from batchrunner.transfer.downloader import Checks, Downloader
from batchrunner.transfer.url_guard import Guard


class Unflushed(Disk):
    def flush_all(self, paths: Sequence[Path]) -> None: ...

    def start_writeback(self, file: BinaryIO, start_bytes: int, length_bytes: int) -> None: ...


class Unhashed:
    def update(self, _: object) -> None: ...

    def hexdigest(self) -> str:
        return ""


async def main(without: list[str], url: str, folder: Path, count: int, at_once: int) -> None:
    keys = [str(number) for number in range(count)]
    files = Unflushed() if "flush" in without else Disk()
    with ThreadPoolExecutor(max_workers=4) as executor:
        landings = Batcher(executor, files.publish)  # as the store does it
        async with Downloader(folder, executor, files, Guard(url), Checks(Here(), executor)) as clips:

            async def work() -> None:
                while keys:
                    fetched = await clips.fetch(url, keys.pop())
                    await landings.do([(fetched.path, fetched.path.with_suffix(".mp4"))])

            await asyncio.gather(*(work() for _ in range(at_once)))


if __name__ == "__main__":
    left_out, address, place, wanted, most = sys.argv[1:]
    if "sha" in left_out:
        partial_file.hashlib.sha256 = lambda *_: Unhashed()
    asyncio.run(main(left_out.split(","), address, Path(place), int(wanted), int(most)))
