"""Partial downloads: written in order, without holes, bounded in memory, recorded only as far as they are durable."""

import asyncio
import errno
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, BinaryIO, Self

import aiohttp
import pytest

from batchrunner.errors import LocalFault, ServiceFault
from batchrunner.media.decoder_pool import Here
from batchrunner.storage.durable_files import Disk
from batchrunner.transfer import partial_file
from batchrunner.transfer.downloader import Checks, Downloader
from batchrunner.transfer.partial_file import PartialFile
from batchrunner.transfer.url_guard import Guard
from tests.conftest import Inline, Opening
from tests.transfer.test_downloader import KEY, Bench, Gauge, Host

BATCH = partial_file._BATCH_BYTES


class Recorded(Opening):
    """Records the order of writes. fails: the number of the write, over all files, that fails with error `number`."""

    def __init__(self, fails: int = 0, number: int = errno.EIO) -> None:
        self.fails, self.number, self.writes = fails, number, 0
        self.hastened: list[tuple[int, int]] = []
        self.flushed: list[Path] = []

    def open(self, path: Path, mode: str) -> BinaryIO:
        return Counted(path.open(mode, buffering=0), self)  # type: ignore[return-value]  # a stand-in

    def start_writeback(self, file: BinaryIO, start_bytes: int, length_bytes: int) -> None:
        super().start_writeback(file, start_bytes, length_bytes)
        self.hastened.append((start_bytes, length_bytes))

    def flush_all(self, paths: Any) -> None:
        super().flush_all(paths)
        self.flushed += paths


class Counted:
    def __init__(self, file: Any, files: Recorded) -> None:
        self.file, self.files = file, files

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, block: bytes) -> int:
        self.files.writes += 1
        if self.files.writes == self.files.fails:
            raise OSError(self.files.number, "no")
        return int(self.file.write(block))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


class Blocked(Executor):
    """Threads that do nothing until they are released."""

    def __init__(self, threads: Executor) -> None:
        self.threads = threads
        self.waiting: list[tuple[Future[Any], Callable[[], Any]]] | None = []

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **more: Any) -> "Future[Any]":
        if self.waiting is None:
            return self.threads.submit(function, *arguments, **more)
        future: Future[Any] = Future()
        self.waiting.append((future, lambda: function(*arguments, **more)))
        return future

    def let_go(self) -> None:
        waiting, self.waiting = self.waiting or [], None
        for future, work in waiting:
            if future.set_running_or_notify_cancel():
                future.set_result(work())


@pytest.fixture
def bench(tmp_path: Path, executor: Executor, monkeypatch: pytest.MonkeyPatch) -> Bench:
    folder = tmp_path / "parts"
    folder.mkdir()
    return Bench(folder, executor, Gauge(monkeypatch))


def content(size_bytes: int) -> bytes:
    """Bytes in which no two blocks are equal."""
    return b"".join(number.to_bytes(8) for number in range(size_bytes // 8 + 1))[:size_bytes]


def begun(folder: Path, disk: Disk, executor: Executor | None = None) -> PartialFile:
    partial = PartialFile(f"{folder}/{KEY}.part", disk, executor or Inline(), fresh=True)
    partial.start(continued=False, etag='"v1"')
    return partial


async def taken(gauge: Gauge, size_bytes: int) -> None:
    """Return when this many bytes have arrived, or could have."""
    for _ in range(2000):
        if gauge.taken_bytes >= size_bytes:
            break
        await asyncio.sleep(0)


def note(folder: Path) -> Any:
    return json.loads((folder / f"{KEY}.json").read_text())


@pytest.mark.parametrize("block_bytes", [1000, 65_536, 100_001, 3 * BATCH])
def test_blocks_are_written_and_hashed_in_order(tmp_path: Path, executor: Executor, block_bytes: int) -> None:
    whole = content(5 * BATCH + 12_345)
    partial = begun(tmp_path, Disk(), executor)

    async def receive() -> int:
        drains = 0
        for start in range(0, len(whole), block_bytes):
            if partial.take(whole[start : start + block_bytes]):
                await partial.drain()
                drains += 1
        return drains

    assert asyncio.run(receive()) >= min(len(whole) // block_bytes, 4)
    executor.submit(partial.drain_all).result()
    partial.close()
    assert partial.path.read_bytes() == whole
    assert partial.sha256 == hashlib.sha256(whole).hexdigest()


def test_batches_are_written_in_the_downloads_executor(tmp_path: Path) -> None:
    """aiofiles would use the loop's own threads, which other work may fill."""
    blocked = Blocked(Inline())
    partial = begun(tmp_path, Disk(), blocked)

    async def receive() -> None:
        assert partial.take(bytes(BATCH))
        task = asyncio.get_running_loop().create_task(partial.drain())
        await asyncio.sleep(0)
        assert len(blocked.waiting or []) == 1
        assert not partial.path.exists()
        blocked.let_go()
        await task

    asyncio.run(receive())
    partial.close()
    assert partial.path.read_bytes() == bytes(BATCH)


def test_a_link_in_place_of_the_partial_file_is_not_followed(tmp_path: Path, executor: Executor) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"kept")
    partial = begun(tmp_path, Disk(), executor)
    partial.path.symlink_to(target)
    partial.take(bytes(BATCH))
    with pytest.raises(OSError, match=r"."):
        asyncio.run(partial.drain())
    partial.close()
    assert target.read_bytes() == b"kept"


class Received:
    """Counts the bytes that aiohttp takes from the connection, read or not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.total_bytes = 0
        feed = aiohttp.StreamReader.feed_data

        def counted(reader: aiohttp.StreamReader, data: bytes, *more: Any) -> Any:
            self.total_bytes += len(data)
            return feed(reader, data, *more)

        monkeypatch.setattr(aiohttp.StreamReader, "feed_data", counted)

    async def settle(self) -> int:
        """Return how many bytes have arrived once no more do."""
        quiet, before = 0, -1
        while quiet < 200:
            await asyncio.sleep(0)
            quiet = quiet + 1 if self.total_bytes == before else 0
            before = self.total_bytes
        return self.total_bytes


def test_a_slow_disk_bounds_the_received_bytes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection continues to receive while a batch is written."""
    host = Host(content(16 * BATCH))
    received = Received(monkeypatch)
    blocked = Blocked(bench.executor)

    async def scenario(url: str) -> None:
        async with Downloader(bench.folder, blocked, Disk(), Guard(url), Checks(Here(), blocked)) as clips:
            task = asyncio.get_running_loop().create_task(clips.fetch(url + "/clip.mp4", KEY))
            await taken(bench.gauge, BATCH)
            gathered_bytes = bench.gauge.taken_bytes
            arrived_bytes = await received.settle()
            assert bench.gauge.taken_bytes == gathered_bytes < 3 * BATCH
            assert gathered_bytes + BATCH // 2 <= arrived_bytes < gathered_bytes + 2 * BATCH
            blocked.let_go()
            await bench.gauge.reach(16 * BATCH)
            with pytest.raises(ServiceFault):  # it is no clip
                await task

    bench.run(host, scenario)


def test_a_download_that_is_cancelled_during_a_write_keeps_its_bytes(bench: Bench) -> None:
    host = Host(content(4 * BATCH))
    blocked = Blocked(bench.executor)

    async def scenario(url: str) -> None:
        async with Downloader(bench.folder, blocked, Disk(), Guard(url), Checks(Here(), blocked)) as clips:
            task = asyncio.get_running_loop().create_task(clips.fetch(url + "/clip.mp4", KEY))
            await taken(bench.gauge, BATCH)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            blocked.let_go()
            assert bench.gauge.taken_bytes >= BATCH

    bench.run(host, scenario)
    left = bench.left()
    assert left[f"{KEY}.part"] == host.content[: len(left[f"{KEY}.part"])]
    assert json.loads(left[f"{KEY}.json"])["size_bytes"] == len(left[f"{KEY}.part"]) >= BATCH


@pytest.mark.parametrize("is_written", [False, True])
def test_a_batch_that_a_cancel_interrupts_is_stored_once(tmp_path: Path, *, is_written: bool) -> None:
    blocked = Blocked(Inline())
    partial = begun(tmp_path, Disk(), blocked)
    whole = content(BATCH + 100)

    async def receive() -> None:
        assert partial.take(whole[:BATCH])
        task = asyncio.get_running_loop().create_task(partial.drain())
        await asyncio.sleep(0)
        if is_written:
            blocked.let_go()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(receive())
    assert not partial.take(whole[BATCH:])
    partial.keep()
    partial.close()
    assert partial.path.read_bytes() == whole
    assert note(tmp_path) == {"etag": '"v1"', "size_bytes": len(whole)}


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, "disk_full"), (errno.EIO, "disk_error")])
@pytest.mark.parametrize("fails", [1, 6])
def test_a_failed_background_write_is_reported(bench: Bench, fails: int, number: int, kind: str) -> None:
    with pytest.raises(LocalFault) as caught:
        bench.fetch(Host(content(16 * BATCH)), Recorded(fails, number))
    assert caught.value.kind == kind
    assert f"{KEY}.json" not in bench.left()


def test_nothing_is_written_or_recorded_after_a_failed_write(tmp_path: Path) -> None:
    partial = begun(tmp_path, Recorded(fails=2))

    async def receive() -> None:
        assert partial.take(bytes(BATCH))
        await partial.drain()
        for number in (1, 2):
            assert partial.take(bytes([number]) * BATCH)
            with pytest.raises(OSError, match="no"):
                await partial.drain()

    asyncio.run(receive())
    partial.keep()
    partial.close()
    assert partial.path.read_bytes() == bytes(BATCH), "later bytes must not fill the hole"
    assert not (tmp_path / f"{KEY}.json").exists()


def test_a_batch_without_a_drain_is_kept(tmp_path: Path) -> None:
    partial = begun(tmp_path, Disk())
    whole = content(BATCH + 100)
    assert partial.take(whole[:BATCH])
    partial.take(whole[BATCH:])
    partial.keep()
    partial.close()
    asyncio.run(partial.drain())  # a late write changes nothing
    assert partial.path.read_bytes() == whole
    assert note(tmp_path) == {"etag": '"v1"', "size_bytes": len(whole)}


def test_a_file_closed_for_its_check_is_flushed_before_it_is_recorded(tmp_path: Path) -> None:
    files = Recorded()
    created = begun(tmp_path, files)
    created.take(b"whole")
    created.drain_all()
    created.close()
    created.keep()
    assert files.flushed == [created.path]
    assert note(tmp_path)["size_bytes"] == 5


def test_blocks_of_one_byte_do_not_accumulate(tmp_path: Path) -> None:
    created = begun(tmp_path, Disk())
    taken = next(number for number in range(1, BATCH) if created.take(b"x"))
    assert taken == partial_file._BATCH_BLOCKS


def test_a_large_file_is_written_back_before_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial_file, "_STRETCH_BYTES", 2 * BATCH)
    files = Recorded()
    created = begun(tmp_path, files)

    async def receive() -> None:
        for _ in range(7):
            created.take(bytes(BATCH))
            await created.drain()

    asyncio.run(receive())
    created.drain_all()
    assert files.hastened == [(0, 2 * BATCH), (2 * BATCH, 2 * BATCH), (4 * BATCH, 2 * BATCH)]
    created.close()
    assert created.path.stat().st_size == 7 * BATCH
