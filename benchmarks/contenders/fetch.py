"""Fetch COUNT files in Python without durability: fetch.py HOW URL FOLDER COUNT AT_ONCE

HOW: `plain`, aiohttp, each block is written when it arrives; `sha`, the same with a SHA-256; `threads`, requests in a
pool of threads.
"""

import asyncio
import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_BLOCK_BYTES = 1 << 20


async def plain(url: str, files: list[Path], at_once: int, *, hashed: bool) -> None:
    import aiohttp

    async def work(session: aiohttp.ClientSession) -> None:
        while files:
            with files.pop().open("wb") as file:
                async with session.get(url) as reply:
                    digest = hashlib.sha256()
                    async for block in reply.content.iter_chunked(_BLOCK_BYTES):
                        file.write(block)
                        if hashed:
                            digest.update(block)
                    digest.hexdigest()

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, read_bufsize=1 << 18) as session:
        await asyncio.gather(*(work(session) for _ in range(at_once)))


def threads(url: str, files: list[Path], at_once: int) -> None:
    import requests

    def one(path: Path) -> None:
        with requests.get(url, stream=True, timeout=60) as reply, path.open("wb") as file:
            for block in reply.iter_content(_BLOCK_BYTES):
                file.write(block)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, files))


if __name__ == "__main__":
    how, address, folder, wanted, most = sys.argv[1:]
    paths = [Path(folder) / f"{number}.mp4" for number in range(int(wanted))]
    if how == "threads":
        threads(address, paths, int(most))
    else:
        asyncio.run(plain(address, paths, int(most), hashed=how == "sha"))
