"""Partial downloads: written in order, without holes, bounded in memory, vouched for only as far as they are safe."""

import asyncio
import errno
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, BinaryIO, Self

import pytest

from batchrunner.errors import LocalFault, ServiceFault
from batchrunner.media.decoder_pool import Here
from batchrunner.storage.durable_files import Disk
from batchrunner.transfer import partial_file
from batchrunner.transfer.downloader import Checks, Downloader
from batchrunner.transfer.partial_file import PartialFile
from batchrunner.transfer.url_guard import Guard
from tests.conftest import Opening
from tests.transfer.test_downloader import KEY, Bench, Gauge, Host

BATCH = partial_file._BATCH_BYTES


class Recorded(Opening):
    """Notes what is sent on its way. fails: which write, counted over all files, is refused with error `number`."""

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


class Held(Executor):
    """Threads that do nothing until they are let go."""

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
    parts = tmp_path / "parts"
    parts.mkdir()
    return Bench(parts, executor, Gauge(monkeypatch))


def content(size_bytes: int) -> bytes:
    """No two blocks of it are alike."""
    return b"".join(number.to_bytes(8) for number in range(size_bytes // 8 + 1))[:size_bytes]


def begun(folder: Path, files: Disk) -> PartialFile:
    made = PartialFile(folder / KEY, files, fresh=True)
    made.start(continued=False, etag='"v1"')
    return made


async def taken(gauge: Gauge, size_bytes: int) -> None:
    """Return when so much has come, or could have."""
    for _ in range(2000):
        if gauge.taken_bytes >= size_bytes:
            break
        await asyncio.sleep(0)


def note(folder: Path) -> Any:
    return json.loads((folder / f"{KEY}.json").read_text())


@pytest.mark.parametrize("block_bytes", [1000, 65_536, 100_001, 3 * BATCH])
def test_blocks_are_written_and_hashed_in_order(tmp_path: Path, executor: Executor, block_bytes: int) -> None:
    """However many drains are under way at once."""
    whole = content(5 * BATCH + 12_345)
    made = begun(tmp_path, Disk())
    drains = [
        executor.submit(made.drain)
        for at in range(0, len(whole), block_bytes)
        if made.take(whole[at : at + block_bytes])
    ]
    executor.submit(made.drain_all).result()
    made.close()
    assert len(drains) >= min(len(whole) // block_bytes, 4)
    assert all(each.result() is None for each in drains)
    assert made.path.read_bytes() == whole
    assert made.sha256 == hashlib.sha256(whole).hexdigest()


def test_a_slow_disk_bounds_what_is_gathered(bench: Bench) -> None:
    host = Host(content(8 * BATCH))
    held = Held(bench.executor)

    async def scenario(url: str) -> None:
        async with Downloader(bench.parts, held, Disk(), Guard(url), Checks(Here(), held)) as clips:
            task = asyncio.get_running_loop().create_task(clips.fetch(url + "/clip.mp4", KEY))
            await taken(bench.gauge, 3 * BATCH)
            assert 2 * BATCH <= bench.gauge.taken_bytes < 3 * BATCH
            held.let_go()
            await bench.gauge.reach(8 * BATCH)
            with pytest.raises(ServiceFault):  # it is no clip
                await task

    bench.run(host, scenario)


def test_receiving_goes_on_while_a_batch_is_written(bench: Bench) -> None:
    """Or the line would stand still for every write."""
    host = Host(content(4 * BATCH))
    held = Held(bench.executor)

    async def scenario(url: str) -> None:
        async with Downloader(bench.parts, held, Disk(), Guard(url), Checks(Here(), held)) as clips:
            task = asyncio.get_running_loop().create_task(clips.fetch(url + "/clip.mp4", KEY))
            await taken(bench.gauge, BATCH + 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            held.let_go()
            assert bench.gauge.taken_bytes > BATCH, "and none of it was written"

    bench.run(host, scenario)
    left = bench.left()
    assert left[f"{KEY}.part"] == host.content[: len(left[f"{KEY}.part"])]
    assert json.loads(left[f"{KEY}.json"])["size_bytes"] == len(left[f"{KEY}.part"]) > BATCH


@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, "disk_full"), (errno.EIO, "disk_error")])
@pytest.mark.parametrize("fails", [1, 6])
def test_a_write_that_fails_behind_the_back_is_told(bench: Bench, fails: int, number: int, kind: str) -> None:
    with pytest.raises(LocalFault) as caught:
        bench.fetch(Host(content(16 * BATCH)), Recorded(fails, number))
    assert caught.value.kind == kind
    assert f"{KEY}.json" not in bench.left()


def test_after_a_failed_write_nothing_more_is_written_nor_vouched_for(tmp_path: Path) -> None:
    made = begun(tmp_path, Recorded(fails=2))
    for number in range(3):
        assert made.take(bytes([number]) * BATCH)
    for _ in range(2):
        with pytest.raises(OSError, match="no"):
            made.drain()
    made.keep()
    made.close()
    assert made.path.read_bytes() == bytes(BATCH), "what came after the hole must not stand in it"
    assert not (tmp_path / f"{KEY}.json").exists()


def test_what_nobody_came_to_write_is_kept(tmp_path: Path) -> None:
    """A cancelled fetch takes the turns back that it asked for."""
    made = begun(tmp_path, Disk())
    whole = content(BATCH + 100)
    assert made.take(whole[:BATCH])
    assert not made.take(whole[BATCH:])
    made.keep()
    made.close()
    made.drain()  # the turn comes after all
    assert made.path.read_bytes() == whole
    assert note(tmp_path) == {"etag": '"v1"', "size_bytes": len(whole)}


def test_what_was_closed_to_be_checked_is_flushed_before_it_is_vouched_for(tmp_path: Path) -> None:
    files = Recorded()
    made = begun(tmp_path, files)
    made.take(b"whole")
    made.drain_all()
    made.close()
    made.keep()
    assert files.flushed == [made.path]
    assert note(tmp_path)["size_bytes"] == 5


def test_blocks_of_a_byte_do_not_pile_up(tmp_path: Path) -> None:
    made = begun(tmp_path, Disk())
    taken = next(number for number in range(1, BATCH) if made.take(b"x"))
    assert taken == partial_file._BATCH_BLOCKS


def test_a_large_file_is_on_its_way_to_the_disk_before_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial_file, "_STRETCH_BYTES", 2 * BATCH)
    files = Recorded()
    made = begun(tmp_path, files)
    for _ in range(7):
        made.take(bytes(BATCH))
        made.drain()
    made.drain_all()
    assert files.hastened == [(0, 2 * BATCH), (2 * BATCH, 2 * BATCH), (4 * BATCH, 2 * BATCH)]
    made.close()
    assert made.path.stat().st_size == 7 * BATCH
