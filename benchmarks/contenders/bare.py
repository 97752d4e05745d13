"""The least that aiohttp can do: POST, look, download, one file written; nothing kept, checked or tried again.

bare.py JOBS CLIPS AT_ONCE [EXTRA...]

JOBS is one file of JSON Lines. Each EXTRA adds one thing that a promise costs: `decode` decodes a frame of each clip,
in four threads; `own` gives each POST a connection of its own; `durable` flushes each clip, renames it and flushes the
folder, in four threads. `uvloop` runs all of it on that loop.
"""

import asyncio
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp

URL = os.environ["AIMLAPI_BASE_URL"] + "/v2/video/generations"
HEADERS = {"Authorization": f"Bearer {os.environ['AIMLAPI_KEY']}"}


async def work(posts: aiohttp.ClientSession, session: aiohttp.ClientSession, todo: list[Any], keep: Any) -> None:
    while todo:
        job = todo.pop()
        async with posts.post(URL, json=job["body"], headers=HEADERS) as reply:
            generation = await reply.json()
        async with session.get(URL, params={"generation_id": generation["id"]}, headers=HEADERS) as reply:
            generation = await reply.json()
        async with session.get(generation["video"]["url"]) as reply:
            data = await reply.read()
        await keep(job["id"], data)


def decode(clip: Path) -> None:
    import av

    with av.open(str(clip), format="mp4") as container:
        next(container.decode(container.streams.video[0]))


def store(clip: Path, data: bytes, extras: list[str]) -> None:
    if "durable" not in extras:
        clip.write_bytes(data)
    else:
        part = clip.with_suffix(".part")
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(clip)
        folder = os.open(clip.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    if "decode" in extras:
        decode(clip)


async def main(todo: list[Any], clips: Path, at_once: int, extras: list[str]) -> None:
    pool = ThreadPoolExecutor(4)

    async def keep(name: str, data: bytes) -> None:
        if {"decode", "durable"} & set(extras):
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(pool, store, clips / f"{name}.mp4", data, extras)
        else:
            store(clips / f"{name}.mp4", data, extras)

    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as own,
    ):
        posts = own if "own" in extras else session
        await asyncio.gather(*(work(posts, session, todo, keep) for _ in range(at_once)))


if __name__ == "__main__":
    if "uvloop" in sys.argv[4:]:
        import uvloop

        uvloop.install()
    wanted = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    asyncio.run(main(wanted, Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
