"""Staging against a real S3 server: names, checksums, links, and processes that are killed while they upload."""

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random
from urllib.request import urlopen

import pytest

from batchrunner.errors import LocalFault
from batchrunner.job import Media
from batchrunner.storage.objects.address import ObjectAddress
from batchrunner.storage.objects.staged_names import name_of
from batchrunner.storage.objects.staging import Staging, Target, unneeded
from tests.conftest import ROOT, make_job
from tests.objects.s3_server import BUCKET, CLOSED_BUCKET, READER, Server

LARGE_BYTES = 66_000_000  # sent in several requests
UPLOAD = """
import asyncio, os, sys
from pathlib import Path
from batchrunner.job import Media
from batchrunner.storage.objects.address import AllowedBuckets, ObjectAddress
from batchrunner.storage.objects.staging import Staging, Target
from batchrunner.storage.objects.store import Access, open_store
from tests.conftest import make_job

bucket, key, path, sha256, size = sys.argv[1:]
address = ObjectAddress("s3", bucket, key)
access = Access(AllowedBuckets.of([bucket]), os.environ, Path("/nonexistent"))
media = Media("video", "clip", Path(path), sha256=sha256, size_bytes=int(size), mime="video/mp4")
target = Target(address, 0, lambda: open_store(address, access))
staging = Staging(target, (1, int(size)), lambda text: print(text, flush=True))
asyncio.run(staging.prepare(make_job(video=media)))
"""


def written(path: Path, size_bytes: int) -> Media:
    content = Random(size_bytes).randbytes(1000) * (size_bytes // 1000)
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return Media("video", path.name, path, sha256=digest, size_bytes=len(content), mime="video/mp4")


def staging(server: Server, prefix: str, bucket: str = BUCKET, **more: tuple[str, str]) -> Staging:
    target = Target(ObjectAddress("s3", bucket, prefix), 0, lambda: server.open(bucket, **more))
    return Staging(target, (1, 1), lambda _: None)


def keys(server: Server, prefix: str) -> list[str]:
    async def listed() -> list[str]:
        return [key async for key, _ in server.open().list(prefix)]

    return asyncio.run(listed())


def test_a_staged_input_has_its_content_its_type_and_a_link_that_works(server: Server, tmp_path: Path) -> None:
    media = written(tmp_path / "walk.mp4", 50_000)

    async def scenario() -> str:
        of_run = staging(server, "links/")
        await of_run.prepare(make_job(video=media))
        staged = of_run.staged(media)
        assert staged.uri == f"s3://{BUCKET}/links/{name_of(media)}"
        return await server.open().sign(f"links/{name_of(media)}", 60)

    with urlopen(asyncio.run(scenario())) as reply:
        assert hashlib.sha256(reply.read()).hexdigest() == media.sha256
        assert reply.headers["Content-Type"] == "video/mp4"


@pytest.mark.parametrize("size_bytes", [50_000, LARGE_BYTES])
def test_killed_uploads_leave_one_whole_object_under_one_name(server: Server, tmp_path: Path, size_bytes: int) -> None:
    media = written(tmp_path / "clip.mp4", size_bytes)
    prefix = f"killed-{size_bytes}"
    argv = [sys.executable, "-c", UPLOAD, BUCKET, prefix, str(media.path), str(media.sha256), str(size_bytes)]
    environment = {**os.environ, **server.environment(), "PYTHONPATH": str(ROOT)}
    chance = Random(size_bytes)
    for _ in range(3):
        with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
            assert process.stdout is not None
            process.stdout.readline()  # it is uploading, or has found the object
            try:
                process.wait(chance.random() * 0.3)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
        assert keys(server, prefix) in ([], [f"{prefix}/{name_of(media)}"])
    asyncio.run(staging(server, prefix).prepare(make_job(video=media)))
    assert keys(server, prefix) == [f"{prefix}/{name_of(media)}"]

    async def digest() -> str:
        bucket = server.open()
        state = await bucket.head(f"{prefix}/{name_of(media)}")
        assert state is not None
        assert state.size == size_bytes
        found = hashlib.sha256()
        for start in range(0, size_bytes, 8 << 20):
            found.update(await bucket.read(f"{prefix}/{name_of(media)}", start, min(start + (8 << 20), size_bytes)))
        return found.hexdigest()

    assert asyncio.run(digest()) == media.sha256


def test_another_content_under_the_name_is_not_replaced(server: Server, tmp_path: Path) -> None:
    media = written(tmp_path / "clip.mp4", 5000)
    foreign = written(tmp_path / "foreign.mp4", 6000)
    assert foreign.path is not None
    assert foreign.sha256 is not None

    async def scenario() -> None:
        assert foreign.path is not None
        await server.open().put_new(f"foreign/{name_of(media)}", foreign.path, str(foreign.sha256))
        await staging(server, "foreign").prepare(make_job(video=media))

    with pytest.raises(LocalFault, match="another content"):
        asyncio.run(scenario())


def test_a_bucket_that_may_not_be_written_is_a_fault_with_the_next_step(server: Server, tmp_path: Path) -> None:
    media = written(tmp_path / "clip.mp4", 5000)
    with pytest.raises(LocalFault) as caught:
        asyncio.run(staging(server, "x", CLOSED_BUCKET, keys=READER).prepare(make_job(video=media)))
    assert caught.value.kind == "bucket_refused"
    assert "s3:PutObject" in caught.value.hint
    assert READER[1] not in repr(caught.value)


def test_only_staged_inputs_are_removed(server: Server, tmp_path: Path) -> None:
    media, own = written(tmp_path / "clip.mp4", 7000), written(tmp_path / "own.mp4", 8000)
    prefix = ObjectAddress("s3", BUCKET, "cleaned/")

    async def scenario() -> list[str]:
        bucket = server.open()
        await staging(server, "cleaned").prepare(make_job(video=media))
        assert own.path is not None
        await bucket.put_new("cleaned/own.mp4", own.path, str(own.sha256))
        assert await unneeded(bucket, prefix, {str(media.sha256)}) == []
        for item in await unneeded(bucket, prefix, ()):
            await bucket.delete(item.key)
        return [key async for key, _ in bucket.list("cleaned")]

    assert asyncio.run(scenario()) == ["cleaned/own.mp4"]
