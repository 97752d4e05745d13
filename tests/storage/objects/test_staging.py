"""Staging: each content is uploaded once under one name, whatever fails, and no job gets another identity."""

import asyncio
import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchrunner.errors import LocalFault, NetworkFault, UsageError
from batchrunner.job import Job, Media
from batchrunner.providers.base import Accepted
from batchrunner.storage.objects import staging as staging_module
from batchrunner.storage.objects.address import ObjectAddress
from batchrunner.storage.objects.staged_names import digest_of, name_of, uploads
from batchrunner.storage.objects.staging import StagedInputs, Staging, Target, unneeded
from batchrunner.storage.objects.store import ObjectState
from tests.conftest import make_job

PREFIX = ObjectAddress("s3", "clips", "staged/")


class Killed(BaseException):
    """The process ended here."""


class Bucket:
    """A bucket in memory. before_call: may raise; called before and after each change."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.puts: list[str] = []
        self.before_call: Callable[[str], None] = lambda _: None

    async def head(self, key: str) -> ObjectState | None:
        self.before_call("head")
        await asyncio.sleep(0)
        content = self.objects.get(key)
        return None if content is None else ObjectState(len(content), f'"{hashlib.md5(content).hexdigest()}"')

    async def put_new(
        self, key: str, file: Path, sha256: str, on_progress: Callable[[int], None], content_type: str
    ) -> ObjectState:
        content = file.read_bytes()  # noqa: ASYNC240 (a few bytes)
        if key not in self.objects:
            if hashlib.sha256(content).hexdigest() != sha256:
                raise LocalFault("input_changed", f"{file} is not the file that was checked")
            self.before_call("put")
            on_progress(len(content))
            await asyncio.sleep(0)
            self.objects[key] = content
            self.puts.append(key)
            self.before_call("stored")
        state = await self.head(key)
        assert state is not None
        return state

    async def list(self, prefix: str) -> Any:
        for key, content in self.objects.items():
            if key.startswith(f"{prefix}/"):
                yield key, ObjectState(len(content))


class Service:
    """A provider that records what is submitted."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.polled: list[list[str]] = []

    async def submit(self, job: Job, _: str) -> Accepted:
        self.jobs.append(job)
        return Accepted(f"gen:{len(self.jobs)}", None)

    async def status(self, _: str, inputs: Any) -> None:
        self.polled.append(list(inputs))


def written(path: Path, content: bytes, mime: str = "video/mp4") -> Media:
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    kind = mime.partition("/")[0]
    return Media(kind, path.name, path, sha256=digest, size_bytes=len(content), mime=mime)


def staging(bucket: Bucket, notices: list[str] | None = None, above_bytes: int = 0) -> Staging:
    target = Target(PREFIX, above_bytes, lambda: bucket)  # type: ignore[arg-type, return-value] # a double of the bucket
    return Staging(target, (3, 3000), (notices if notices is not None else []).append)


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    """Twelve jobs on three clips, one of them in two files, and two pictures."""
    clips = [written(tmp_path / f"{number}.mp4", b"clip %d " % number * 100) for number in range(3)]
    clips.append(written(tmp_path / "copy-of-2.MOV", b"clip 2 " * 100))
    pictures = [written(tmp_path / f"{number}.png", b"picture %d" % number, "image/png") for number in range(2)]
    return [
        make_job(video=clip, image=picture, shift=float(shift))
        for shift, (clip, picture) in enumerate((clip, picture) for clip in clips for picture in pictures)
    ]


def test_each_content_is_uploaded_once_for_all_jobs_and_runs(jobs: list[Job]) -> None:
    async def run(bucket: Bucket) -> None:
        of_run = staging(bucket)
        await asyncio.gather(*(of_run.prepare(job) for job in jobs))

    bucket = Bucket()
    for _ in range(3):
        asyncio.run(run(bucket))
    names = {f"staged/{name}" for name in uploads(jobs, 0)}
    assert len(names) == 5
    assert sorted(bucket.puts) == sorted(names)
    assert all(hashlib.sha256(content).hexdigest() == digest_of(key) for key, content in bucket.objects.items())


def test_a_hundred_kills_upload_nothing_under_another_name_and_lose_nothing(jobs: list[Job]) -> None:
    bucket, chance, kills = Bucket(), random.Random(5), 0

    async def run() -> None:
        of_run = staging(bucket)
        await asyncio.gather(*(of_run.prepare(job) for job in jobs))

    def maybe_killed(call: str) -> None:
        if chance.random() < 0.3:
            raise Killed(call)

    names = {f"staged/{name}" for name in uploads(jobs, 0)}
    while kills < 100:
        bucket.before_call = maybe_killed
        if chance.random() < 0.2:
            bucket.objects.clear()  # another user emptied the bucket
            bucket.puts.clear()
        try:
            asyncio.run(run())
        except Killed:
            kills += 1
        assert set(bucket.objects) <= names
        assert len(bucket.puts) == len(set(bucket.puts)), "nothing is sent twice"
    bucket.before_call = lambda _: None
    asyncio.run(run())
    assert set(bucket.objects) == names


def test_only_large_inputs_are_staged_and_the_job_keeps_its_identity(jobs: list[Job]) -> None:
    service, bucket = Service(), Bucket()
    of_run = staging(bucket, above_bytes=500)

    async def run() -> None:
        provider = StagedInputs(service, of_run, [])  # type: ignore[arg-type] # a double of a provider
        await of_run.prepare(jobs[0])
        await provider.submit(jobs[0], "r")
        await provider.status("gen:1", ["https://example.com/a.png"])

    asyncio.run(run())
    [sent] = service.jobs
    [key] = bucket.objects
    assert sent.fingerprint == jobs[0].fingerprint
    assert (sent.inputs["video"].uri, sent.inputs["video"].path) == (f"s3://clips/{key}", None)
    assert sent.inputs["image"] == jobs[0].inputs["image"]
    assert jobs[0].inputs["video"].path is not None, "the job itself does not change"
    assert service.polled == [["https://example.com/a.png", f"s3://clips/{key}"]]


def test_progress_shows_what_is_uploaded_and_what_was_there(jobs: list[Job]) -> None:
    notices: list[str] = []
    bucket = Bucket()
    asyncio.run(staging(bucket, notices, above_bytes=500).prepare(jobs[0]))
    assert notices == [
        "Uploading 0.mp4 (700 bytes) to s3://clips/staged/",
        "Uploaded 0.mp4 (1 of 3 inputs, 700 bytes of 3.0 kB)",
    ]
    asyncio.run(staging(bucket, notices, above_bytes=500).prepare(jobs[0]))
    assert notices[2:] == ["Already in the bucket: 0.mp4 (1 of 3 inputs, 700 bytes of 3.0 kB)"]


@pytest.mark.parametrize("content", [b"x" * 700, b"x", None], ids=["content", "size", "gone"])
def test_an_input_that_changed_concerns_its_jobs_alone(jobs: list[Job], content: bytes | None) -> None:
    video = jobs[0].inputs["video"]
    assert video.path is not None
    video.path.unlink()
    if content is not None:
        video.path.write_bytes(content)

    async def run() -> None:
        of_run = staging(Bucket())
        for job in jobs:
            await of_run.prepare(job)
        with pytest.raises(LocalFault) as caught:
            of_run.staged(video)
        assert caught.value.kind == "input_changed"
        assert of_run.staged(jobs[-1].inputs["video"]).uri

    asyncio.run(run())


def test_a_large_upload_shows_its_quarters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging_module, "MOST_CONDITIONAL_BYTES", 100)
    media = written(tmp_path / "large.mp4", b"x" * 1000)
    notices: list[str] = []

    async def run() -> None:
        sent = staging_module._Progress(media, lambda: False, notices.append)
        for _ in range(10):
            await asyncio.to_thread(sent, 100)
        await asyncio.sleep(0)

    asyncio.run(run())
    assert notices == [f"Uploading large.mp4: {percent} %" for percent in (25, 50, 75)]


def test_a_bucket_that_stays_unreachable_stops_the_batch(jobs: list[Job]) -> None:
    bucket = Bucket()

    def unreachable(_: str) -> None:
        raise NetworkFault("bucket_unreachable", "the bucket s3://clips cannot be reached", "Check the network.")

    async def run() -> None:
        of_run = staging(bucket)
        for _ in range(4):
            with pytest.raises(NetworkFault):
                await of_run.prepare(jobs[0])
        with pytest.raises(LocalFault, match="cannot be reached"):
            await of_run.prepare(jobs[0])

    bucket.before_call = unreachable
    asyncio.run(run())


def test_a_stop_ends_an_upload(jobs: list[Job]) -> None:
    bucket = Bucket()

    async def run() -> None:
        of_run = staging(bucket)
        for _ in range(10):
            with pytest.raises(NetworkFault, match="stops"):
                await of_run.prepare(jobs[0], lambda: True)
        await of_run.prepare(jobs[0])

    asyncio.run(run())


def test_a_bucket_that_is_not_allowed_is_a_local_fault(jobs: list[Job]) -> None:
    def refuse() -> Any:
        raise UsageError("the bucket s3://clips is not allowed", "Allow it.")

    of_run = Staging(Target(PREFIX, 0, refuse), (1, 1), lambda _: None)
    with pytest.raises(LocalFault, match="not allowed"):
        asyncio.run(of_run.prepare(jobs[0]))


def test_a_name_depends_on_the_content_only(tmp_path: Path) -> None:
    first = written(tmp_path / "a.mp4", b"same")
    second = written(tmp_path / "b.MOV.backup", b"same")
    assert name_of(first) == name_of(second)
    assert digest_of(f"staged/{name_of(first)}") == first.sha256
    assert digest_of("staged/my-own-clip.mp4") is None


def test_only_staged_inputs_that_are_not_needed_are_listed() -> None:
    bucket = Bucket()
    needed, other = "a" * 64, "b" * 64
    keys = [f"staged/{needed}.mp4", f"staged/{other}.mp4", "staged/own.mp4", f"staged/deeper/{other}.mp4"]
    bucket.objects = dict.fromkeys([*keys, f"elsewhere/{other}.mp4"], b"1234")
    found = asyncio.run(unneeded(bucket, PREFIX, {needed}))  # type: ignore[arg-type] # a double of the bucket
    assert [(item.key, item.size_bytes) for item in found] == [(f"staged/{other}.mp4", 4)]
