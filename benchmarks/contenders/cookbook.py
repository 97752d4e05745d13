"""A batch as an asyncio script in the style of the OpenAI cookbook: bounded tasks, five attempts, results as JSON
Lines.

When it is started again, it skips the ids in its file of results. cookbook.py BODIES CLIPS AT_ONCE
"""

import asyncio
import json
import os
import sys
from pathlib import Path

import aiohttp

URL = os.environ["AIMLAPI_BASE_URL"] + "/v2/video/generations"
HEADERS = {"Authorization": f"Bearer {os.environ['AIMLAPI_KEY']}"}
DONE = Path("results.jsonl")
POLL_S = float(os.environ.get("POLL_S", "0.5"))
TRIES = 5


async def generate(session: aiohttp.ClientSession, body: object, clip: Path) -> str:
    """Submit, poll and download; return the generation's id."""
    async with session.post(URL, json=body, headers=HEADERS, raise_for_status=True) as reply:
        generation = await reply.json()
    while generation["status"] in {"queued", "generating"}:
        await asyncio.sleep(POLL_S)
        asked = {"generation_id": generation["id"]}
        async with session.get(URL, params=asked, headers=HEADERS, raise_for_status=True) as reply:
            generation = await reply.json()
    async with session.get(generation["video"]["url"], raise_for_status=True) as reply:
        data = await reply.read()
    save(clip, data)
    return str(generation["id"])


async def work(session: aiohttp.ClientSession, path: Path, clips: Path, slots: asyncio.Semaphore) -> bool:
    """Run one job with up to five attempts. Return whether it succeeded."""
    async with slots:
        for _ in range(TRIES):
            try:
                generation_id = await generate(session, read(path), clips / f"{path.stem}.mp4")
            except (aiohttp.ClientError, TimeoutError) as error:
                print(f"{path.stem}: {error!r}", file=sys.stderr)
                continue
            record(path.stem, generation_id)
            return True
        return False


async def run(todo: list[Path], clips: Path, at_once: int) -> bool:
    """Run all jobs of `todo`, `at_once` in parallel. Return whether all succeeded."""
    slots = asyncio.Semaphore(at_once)
    async with aiohttp.ClientSession() as session:
        return all(await asyncio.gather(*(work(session, path, clips, slots) for path in todo)))


def read(path: Path) -> object:
    return json.loads(path.read_text())


def save(clip: Path, data: bytes) -> None:
    clip.write_bytes(data)


def record(job: str, generation_id: str) -> None:
    with DONE.open("a") as results:
        results.write(json.dumps({"id": job, "generation_id": generation_id}) + "\n")


def main() -> int:
    bodies, clips, at_once = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    done = {json.loads(line)["id"] for line in DONE.read_text().splitlines()} if DONE.exists() else set()
    todo = [path for path in sorted(bodies.glob("*.json")) if path.stem not in done]
    return 0 if asyncio.run(run(todo, clips, at_once)) else 1


if __name__ == "__main__":
    sys.exit(main())
