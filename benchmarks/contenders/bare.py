"""The minimal work with aiohttp: POST, poll, download, one file written, without records, checks or retries.

bare.py JOBS CLIPS AT_ONCE [EXTRA...]

JOBS is one file of JSON Lines. Each EXTRA adds the work of one promise in the cheapest known way:

own       a connection for each POST
durable   each clip flushed and renamed, and its directory flushed: in groups, in one thread
journal   four rows per job in SQLite, flushed before and after each call: in groups, in one thread
decode    a frame of each clip decoded, in four threads

`uvloop` uses that event loop.
"""

import asyncio
import json
import os
import sqlite3
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp

URL = os.environ["AIMLAPI_BASE_URL"] + "/v2/video/generations"
HEADERS = {"Authorization": f"Bearer {os.environ['AIMLAPI_KEY']}"}


class Groups:
    """Groups of work: items that arrive during one group form the next."""

    def __init__(self, work: Callable[[list[Any]], None]) -> None:
        self.work, self.thread = work, ThreadPoolExecutor(1)
        self.items: list[Any] = []
        self.waiting: list[asyncio.Future[None]] = []
        self.busy = False

    async def do(self, item: Any) -> None:
        done = asyncio.get_running_loop().create_future()
        self.items.append(item)
        self.waiting.append(done)
        if not self.busy:
            self.next()
        await done

    def next(self) -> None:
        items, waiting = self.items, self.waiting
        self.items, self.waiting, self.busy = [], [], bool(waiting)
        if waiting:
            work = asyncio.get_running_loop().run_in_executor(self.thread, self.work, items)
            work.add_done_callback(lambda _: self.ended(waiting))

    def ended(self, waiting: list[asyncio.Future[None]]) -> None:
        self.next()
        for done in waiting:
            done.set_result(None)


def publish(clips: list[Path]) -> None:
    """Flush clips, rename them to their final names, and flush the directory."""
    files = [os.open(clip.with_suffix(".part"), os.O_RDONLY) for clip in clips]
    for file in files:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    for file in files:
        os.fsync(file)
        os.close(file)
    for clip in clips:
        clip.with_suffix(".part").replace(clip)
    folder = os.open(clips[0].parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def journal(folder: Path) -> Callable[[list[Any]], None]:
    """Store groups of rows. A row is durable when its group is done."""
    book = sqlite3.connect(folder / "journal.db", isolation_level=None, check_same_thread=False)
    book.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE jobs (id PRIMARY KEY, was);")

    def store(rows: list[Any]) -> None:
        book.execute("BEGIN")
        book.executemany("INSERT INTO jobs VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET was = excluded.was", rows)
        book.execute("COMMIT")

    return store


def decode(clip: Path) -> None:
    import av

    with av.open(str(clip), format="mp4") as container:
        next(container.decode(container.streams.video[0]))


class Loop:
    """The main loop of the contender."""

    def __init__(self, clips: Path, extras: list[str]) -> None:
        self.clips, self.extras = clips, extras
        self.landing = Groups(publish)
        self.journal = Groups(journal(clips.parent)) if "journal" in extras else None
        self.pool = ThreadPoolExecutor(4)

    async def note(self, name: str, was: str) -> None:
        if self.journal:
            await self.journal.do((name, was))

    async def keep(self, name: str, data: bytes) -> None:
        clip = self.clips / f"{name}.mp4"
        if "durable" in self.extras:
            clip.with_suffix(".part").write_bytes(data)
            await self.note(name, "named")
            await self.landing.do(clip)
        else:
            clip.write_bytes(data)
            await self.note(name, "named")
        if "decode" in self.extras:
            await asyncio.get_running_loop().run_in_executor(self.pool, decode, clip)
        await self.note(name, "done")

    async def work(self, posts: aiohttp.ClientSession, session: aiohttp.ClientSession, todo: list[Any]) -> None:
        while todo:
            job = todo.pop()
            await self.note(job["id"], "intended")
            async with posts.post(URL, json=job["body"], headers=HEADERS) as reply:
                generation = await reply.json()
            await self.note(job["id"], "accepted")
            async with session.get(URL, params={"generation_id": generation["id"]}, headers=HEADERS) as reply:
                generation = await reply.json()
            async with session.get(generation["video"]["url"]) as reply:
                data = await reply.read()
            await self.keep(job["id"], data)


async def main(todo: list[Any], clips: Path, at_once: int, extras: list[str]) -> None:
    loop = Loop(clips, extras)
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as own,
    ):
        posts = own if "own" in extras else session
        await asyncio.gather(*(loop.work(posts, session, todo) for _ in range(at_once)))


if __name__ == "__main__":
    if "uvloop" in sys.argv[4:]:
        import uvloop

        uvloop.install()
    wanted = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    asyncio.run(main(wanted, Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
