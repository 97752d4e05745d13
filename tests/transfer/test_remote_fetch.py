"""Clips that are fetched again by workers. This machine fetches what they cannot, and only its errors count."""

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from batchrunner.errors import ServiceFault
from batchrunner.events import JobMoved
from batchrunner.job import Move, Record
from batchrunner.media.decoder_pool import Here
from batchrunner.transfer.downloader import Checks, Fetched
from batchrunner.transfer.remote_fetch import RemoteFetch, fetch_clip
from tests.conftest import make_job
from tests.transfer.test_downloader import Bench, Gauge, Host

JOB = make_job("a")


class Sent(Executor):
    """Runs tasks in a thread after a round through pickle, and keeps their arguments. fails: they return None."""

    def __init__(self, *, fails: bool = False) -> None:
        self.arguments: list[tuple[Any, ...]] = []
        self._fails = fails
        self._threads = ThreadPoolExecutor(max_workers=1)

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **_: Any) -> "Future[Any]":
        self.arguments.append(arguments)
        call, values = pickle.loads(pickle.dumps((function, arguments)))
        assert call is fetch_clip
        return self._threads.submit(lambda: None) if self._fails else self._threads.submit(call, *values)

    def close(self) -> None:
        self._threads.shutdown()


class Near:
    """The downloader of this machine."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    async def fetch(self, url: str, key: str, on_progress: Callable[[int, int | None], None]) -> Fetched:
        self.keys.append(key)
        raise ServiceFault("link_expired", "the link no longer works")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    (folder := tmp_path / "partial").mkdir()
    with ThreadPoolExecutor(max_workers=2) as threads:
        yield Bench(folder, threads, Gauge(monkeypatch))


def fetch(bench: Bench, host: Host, remote: Executor, near: Near, *, is_missing: bool = True) -> Fetched:
    async def main(url: str) -> Fetched:
        checks = Checks(Here(), bench.executor, lambda _: {"quality": True})
        clips = RemoteFetch(near, remote, bench.folder, url, checks)
        if is_missing:
            clips.on_event(JobMoved(0.0, (), Move.FILE_MISSING, Record(JOB)))
        return await clips.fetch(f"{url}/clip.mp4", JOB.key)

    found: Fetched = bench.run(host, main)
    return found


def test_a_worker_fetches_and_measures_a_clip_that_is_missing(bench: Bench, clip: bytes) -> None:
    near = Near()
    with closing(Sent()) as remote:
        fetched = fetch(bench, Host(clip), remote, near)
    assert fetched.path.read_bytes() == clip
    assert fetched.path.parent == bench.folder
    assert fetched.result.size_bytes == len(clip)
    assert fetched.result.quality is not None
    assert near.keys == []
    assert list(bench.folder.iterdir()) == [fetched.path], "nothing else is left"


def test_a_first_download_stays_here(bench: Bench, clip: bytes) -> None:
    near = Near()
    with closing(Sent()) as remote, pytest.raises(ServiceFault, match="no longer works"):
        fetch(bench, Host(clip), remote, near, is_missing=False)
    assert remote.arguments == []
    assert near.keys == [JOB.key]


@pytest.mark.parametrize("case", ["lost", "damaged"])
def test_what_a_worker_cannot_fetch_is_fetched_here(bench: Bench, clip: bytes, case: str) -> None:
    near = Near()
    with closing(Sent(fails=case == "lost")) as remote, pytest.raises(ServiceFault, match="no longer works"):
        fetch(bench, Host(clip[:-100]), remote, near)
    assert near.keys == [JOB.key]
    assert list(bench.folder.iterdir()) == []
    assert not bench.folder.with_name("set_aside").exists(), "this machine keeps a rejected download, not a worker"


def test_what_killed_workers_left_is_removed(bench: Bench) -> None:
    (bench.folder / "sent-x" / "partial").mkdir(parents=True)
    (bench.folder / "sent-a-0.mp4").write_bytes(b"whole")
    (bench.folder / "mine").write_bytes(b"partial")
    with closing(Sent()) as remote:
        RemoteFetch(Near(), remote, bench.folder, "http://127.0.0.1", Checks(Here(), bench.executor))
    assert [path.name for path in bench.folder.iterdir()] == ["mine"]
