"""Every promise of batchrunner for this one workload, each kept in the cheapest known way: the complete floor.

complete.py MANIFEST CLIPS AT_ONCE [decode]

MANIFEST is a file of JSON Lines. There are no settings, no retries, no budgets, no screen, no inputs, and no second
model: one program, written for these jobs. It does for each job:

- check the manifest's row: keys, texts, a unique id; a fingerprint of the request
- journal: four rows with checksums, flushed before and after each call: state, request, generation, times, file, hash
- account index: a row with checksum in a second database, so that no other batch pays for the same work; at most one
  commit a second
- a connection for each POST; a deadline for each call; a timer before the poll
- check each reply: status, type, duplicate keys, the generation's id, the link
- download in pieces into a partial file; size; SHA-256; the clip's boxes and samples; flush, rename, folder flushed
- two lines of progress with the time
- a row of report.json, results.csv and report.html, with the values that batchrunner's have

`decode` also decodes each clip and measures its pictures, by batchrunner's own function, in the thread that flushes:
without the process that keeps a hostile clip away. Four threads took more CPU, because they compete for Python.
"""

import asyncio
import csv
import hashlib
import io
import json
import os
import sqlite3
import sys
import time
import zlib
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from bare import HEADERS, URL, Groups, publish

from batchrunner.media.mp4_structure import check_structure

MODEL = "alibaba/wan2.2-14b-animate-replace"
COMMON = {"resolution": "480p", "num_inference_steps": 20, "shift": 5.0, "video_quality": "high"}
KEYS = {"id", "video", "image"}
DEADLINE = aiohttp.ClientTimeout(total=60)
POLL_INTERVAL_S = 0.001
DURABLE = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
CARD = """\
<li class="card" data-n="{n}" data-state="{state}" data-resolution="{resolution}" data-group="{id}" data-verdict="" \
data-suspicion="0.0" data-slow="{generation_s}">
<div class="sheet">
<div class="pane result"><button type="button" class="play" aria-label="Play {id}" data-clip="./{file}" \
data-poster="strip-{sha256}" data-width="480" data-height="480" data-reference="">\
<span class="sign" aria-hidden="true"></span></button></div>
<div class="pane input video" data-poster="" data-label="Reference clip"><span class="far">{n}</span>\
<span class="cap">reference</span></div>
<div class="pane input image" data-poster="" data-label="Character image"><span class="far">face</span>\
<span class="cap">character</span></div>
</div>
<div class="words">
<h3><a href="./{file}"><bdi>{id}</bdi></a></h3>
<p class="faint inputs"><bdi>{video} &times; {image}</bdi></p><div class="foot">
<p class="facts"><span class="dimensions">480x480</span> <span class="resolution">{resolution}</span> \
<span class="length">0.2 s</span> <span class="size">{bytes} B</span> \
<span class="generated">made in {generation_s} s</span></p>
<details class="more"><summary>Details</summary></details>
</div>
</div>
</li>
"""


class Job:
    """A job, its request, and all that is known of it."""

    def __init__(self, n: int, row: dict[str, str]) -> None:
        self.n, self.id, self.video, self.image = n, row["id"], row["video"], row["image"]
        self.body = json.dumps({"model": MODEL, "video_url": self.video, "image_url": self.image, **COMMON})
        self.fingerprint = hashlib.sha256(self.body.encode()).hexdigest()
        self.state, self.generation, self.sha256, self.size = "pending", "", "", 0
        self.submitted = self.accepted = self.completed = self.ended = 0.0

    def values(self) -> tuple[Any, ...]:
        """The changing values of its row in the journal, and a checksum over them."""
        times = self.submitted, self.accepted, self.completed, self.ended
        values = (self.state, self.generation, *times, self.sha256, self.size)
        return *values, zlib.crc32(f"{self.fingerprint}{values}".encode()), self.fingerprint

    def indexed(self) -> tuple[Any, ...]:
        """Its row in the account's index."""
        values = (self.fingerprint, self.state, self.generation, self.submitted, f"{self.id}.mp4", self.sha256)
        return *values, zlib.crc32(repr(values).encode())

    def reported(self) -> dict[str, Any]:
        """Its entry of the report."""
        request = {"model": MODEL, "video": self.video, "image": self.image, **COMMON}
        unread = dict.fromkeys(("sha256", "bytes", "mime", "width_px", "height_px", "duration_s"))
        unknown = dict.fromkeys(("object", "synthetic_marks", "quality", "error", "verdict"))
        submitted, accepted, completed, ended = map(utc, (self.submitted, self.accepted, self.completed, self.ended))
        attempt = {
            "number": 1, "generation_id": self.generation, "submitted_at": submitted, "accepted_at": accepted,
            "completed_at": completed, "ended_at": ended, "outcome": self.state, "polls": 1, "credits": None,
            "estimate": None, "settled": None, "settled_at": None, "error": None,
        }  # fmt: skip
        return {
            "id": self.id, "job": self.id, "take": 1, "position": self.n, "fingerprint": f"sha256:{self.fingerprint}",
            "state": self.state, "request": request, "generation_id": self.generation, "file": f"{self.id}.mp4",
            "bytes": self.size, "sha256": self.sha256, "width_px": 480, "height_px": 480, "duration_s": 0.2,
            "warnings": [], **unknown,
            "inputs": {"video": {"source": self.video, **unread}, "image": {"source": self.image, **unread}},
            "parameters": COMMON, "cost": {"usd": 0, "settled_usd": 0, "quoted_usd": 0, "estimated_usd": 0},
            "attempts": [attempt],
            "estimate": {"credits": None, "basis": "the length of the reference clip is unknown", "billed_s": None},
            "times": {
                "generation_s": round(self.completed - self.accepted, 3),
                "download_s": round(self.ended - self.completed, 3),
                "total_s": round(self.ended - self.submitted, 3),
            },
            "priority": 0, "tags": {},
        }  # fmt: skip


def utc(at: float) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
    return f"{seconds}.{int(at % 1 * 1000):03d}Z"


def jobs_of(manifest: Path) -> list[Job]:
    """Read and check the manifest."""
    jobs = []
    for n, line in enumerate(manifest.read_text().splitlines()):
        row = strict(line)
        if row.keys() != KEYS or not all(type(value) is str and value for value in row.values()):
            sys.exit(f"{manifest}:{n + 1}: unknown keys or no texts")
        if not row["video"].startswith("https://") or not row["image"].startswith("https://"):
            sys.exit(f"{manifest}:{n + 1}: no links")
        jobs.append(Job(n, row))
    if len({job.id for job in jobs}) != len(jobs):
        sys.exit(f"{manifest}: an id stands twice")
    return jobs


def strict(text: str | bytes) -> dict[str, Any]:
    """Return an object without duplicate keys."""
    value = json.loads(text, object_pairs_hook=unique)
    if type(value) is not dict:
        raise ValueError("no object")
    return value


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice")
    return value


class Journal:
    """The journal of the run and the index of the account."""

    def __init__(self, folder: Path, jobs: list[Job]) -> None:
        self.book = sqlite3.connect(folder / "journal.db", isolation_level=None, check_same_thread=False)
        self.book.executescript(f"""{DURABLE} CREATE TABLE jobs (n INTEGER PRIMARY KEY, id TEXT UNIQUE, request TEXT,
            fingerprint TEXT UNIQUE, state TEXT, generation TEXT, submitted REAL, accepted REAL, completed REAL,
            ended REAL, sha256 TEXT, size INTEGER, checksum INTEGER);""")
        self.book.execute("BEGIN")
        rows = ((job.n, job.id, job.body, job.fingerprint, job.state) for job in jobs)
        self.book.executemany("INSERT INTO jobs (n, id, request, fingerprint, state) VALUES (?, ?, ?, ?, ?)", rows)
        self.book.execute("COMMIT")
        self.index = sqlite3.connect(folder / "index.db", isolation_level=None, check_same_thread=False)
        self.index.executescript(f"""{DURABLE} CREATE TABLE work (fingerprint TEXT PRIMARY KEY, state TEXT,
            generation TEXT, submitted REAL, file TEXT, sha256 TEXT, checksum INTEGER) WITHOUT ROWID;""")
        self.known = {fingerprint for (fingerprint,) in self.index.execute("SELECT fingerprint FROM work")}
        self.changed: dict[str, Job] = {}
        self.indexed_at = time.monotonic()

    def store(self, jobs: list[Job]) -> None:
        """Store jobs in the journal, and once a second in the index."""
        self.book.execute("BEGIN")
        self.book.executemany(
            """UPDATE jobs SET (state, generation, submitted, accepted, completed, ended, sha256, size, checksum) =
            (?, ?, ?, ?, ?, ?, ?, ?, ?) WHERE fingerprint = ?""",
            [job.values() for job in jobs],
        )
        self.book.execute("COMMIT")
        self.changed.update((job.fingerprint, job) for job in jobs)
        if time.monotonic() - self.indexed_at > 1:
            self.store_index()

    def store_index(self) -> None:
        self.index.execute("BEGIN")
        rows = sorted(job.indexed() for job in self.changed.values())
        self.index.executemany("INSERT OR REPLACE INTO work VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        self.index.execute("COMMIT")
        self.changed, self.indexed_at = {}, time.monotonic()


def check_boxes(job: Job, file: Path) -> None:
    """Check a clip's boxes and samples."""
    with file.open("rb") as clip:
        if (wrong := check_structure(clip, job.size)) is not None:
            sys.exit(f"{job.id}: {wrong}")


def decode(job: Job, file: Path) -> None:
    """Check a clip's boxes and samples, decode it, and measure its pictures."""
    from batchrunner.media import decode_worker, decoder

    item = {"path": file, "size_bytes": job.size, "quality": True}
    decode_worker.TASKS["clip"](item, decoder.allow_pixels)


def publishing(check: Callable[[Job, Path], None]) -> Callable[[list[tuple[Job, Path]]], None]:
    """Return a function that checks clips, flushes and renames them."""

    def check_and_publish(items: list[tuple[Job, Path]]) -> None:
        for job, clip in items:
            check(job, clip.with_suffix(".part"))
        publish([clip for _, clip in items])

    return check_and_publish


class Loop:
    """The main loop of the contender."""

    def __init__(self, jobs: list[Job], clips: Path, extras: list[str]) -> None:
        self.clips = clips
        self.journal = Journal(clips.parent, jobs)
        self.todo = [job for job in reversed(jobs) if job.fingerprint not in self.journal.known]
        self.storing = Groups(self.journal.store)
        self.landing = Groups(publishing(decode if "decode" in extras else check_boxes))

    async def note(self, job: Job, state: str) -> None:
        job.state = state
        await self.storing.do(job)

    async def work(self, posts: aiohttp.ClientSession, session: aiohttp.ClientSession) -> None:
        while self.todo:
            job = self.todo.pop()
            await self.submit(posts, job)
            link = await self.poll(session, job)
            await self.download(session, job, link)

    async def submit(self, posts: aiohttp.ClientSession, job: Job) -> None:
        job.submitted = time.time()
        await self.note(job, "submitting")
        headers = {**HEADERS, "Content-Type": "application/json"}
        async with posts.post(URL, data=job.body, headers=headers) as reply:
            job.generation = text(await answer(reply, 201), "id")
        job.accepted = time.time()
        await self.note(job, "in_flight")
        print(f"{utc(job.accepted)} {job.id}: accepted: generation {job.generation}", file=sys.stderr, flush=True)

    async def poll(self, session: aiohttp.ClientSession, job: Job) -> str:
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            async with session.get(URL, params={"generation_id": job.generation}, headers=HEADERS) as reply:
                generation = await answer(reply, 200)
            if text(generation, "id") != job.generation:
                raise ValueError("another generation")
            if text(generation, "status") == "completed":
                job.completed = time.time()
                link = text(generation["video"], "url")
                if urlsplit(link).scheme not in ("http", "https"):
                    raise ValueError("no link")
                return link

    async def download(self, session: aiohttp.ClientSession, job: Job, link: str) -> None:
        clip = self.clips / f"{job.id}.mp4"
        digest = hashlib.sha256()
        async with session.get(link) as reply:
            if reply.status != 200:
                raise ValueError(f"status {reply.status}")
            with clip.with_suffix(".part").open("wb", buffering=0) as file:
                async for piece in reply.content.iter_any():
                    file.write(piece)
                    digest.update(piece)
                    job.size += len(piece)
            if job.size != reply.content_length:
                raise ValueError("another size")
        job.sha256 = digest.hexdigest()
        await self.note(job, "named")
        await self.landing.do((job, clip))
        job.ended = time.time()
        await self.note(job, "succeeded")
        print(f"{utc(job.ended)} {job.id}: succeeded: {job.size} B, 480x480, 0.2 s", file=sys.stderr, flush=True)


async def answer(reply: aiohttp.ClientResponse, status: int) -> dict[str, Any]:
    if reply.status != status or reply.content_type != "application/json":
        raise ValueError(f"status {reply.status}, {reply.content_type}")
    return strict(await reply.read())


def text(found: dict[str, Any], key: str) -> str:
    value = found[key]
    if type(value) is not str or not value.isprintable():
        raise ValueError(f"{key} is no text")
    return value


def report(jobs: list[Job], folder: Path) -> None:
    """Write the three reports, each in one piece, flushed and renamed."""
    rows, table, cards = [], io.StringIO(), []
    writer = csv.writer(table)
    for job in jobs:
        row = job.reported()
        rows.append(json.dumps(row, separators=(",", ":")))
        writer.writerow(value for key, value in row.items() if type(value) in (str, int, float))
        shown = {key: escape(value) if type(value) is str else value for key, value in row.items()}
        shown |= {"n": job.n, "video": escape(job.video), "image": escape(job.image)}
        cards.append(CARD.format(resolution="480p", generation_s=row["times"]["generation_s"], **shown))
    texts = {
        "report.json": '{"schema_version":1,"jobs":[' + ",\n".join(rows) + "]}",
        "results.csv": table.getvalue(),
        "report.html": "<ul>" + "".join(cards) + "</ul>",
    }
    for name, content in texts.items():
        partial = folder / f"{name}.part"
        with partial.open("w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(folder / name)


async def main(jobs: list[Job], clips: Path, at_once: int, extras: list[str]) -> None:
    loop = Loop(jobs, clips, extras)
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=DEADLINE) as session,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True), timeout=DEADLINE) as posts,
    ):
        await asyncio.gather(*(loop.work(posts, session) for _ in range(at_once)))
    loop.journal.store_index()
    report(jobs, clips.parent)


if __name__ == "__main__":
    asyncio.run(main(jobs_of(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
