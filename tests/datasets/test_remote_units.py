"""Data sets whose files other processes write: the bytes are those of an export without them."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from batchrunner.datasets.export import write
from batchrunner.datasets.folder import FolderFormat
from batchrunner.datasets.formats import Format, FormatOptions
from batchrunner.datasets.remote_units import write_unit
from batchrunner.datasets.webdataset import WebDatasetFormat
from batchrunner.datasets.workspace import Workspace
from batchrunner.media.decoder_pool import Here
from batchrunner.storage.durable_files import Disk
from batchrunner.workers.engines import Workers
from tests.datasets.sample_batches import make_batch, tree_of
from tests.datasets.test_export import SAMPLES, NoProgress, alter, collection_of


class Counting(Executor):
    """Passes tasks on, and keeps the names of their files. executor: None to fail them all."""

    def __init__(self, executor: Executor | None) -> None:
        self._executor = executor
        self.names: list[str] = []

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **_: Any) -> "Future[Any]":
        assert function is write_unit
        self.names.append(Path(arguments[2]).name)
        if self._executor is not None:
            return self._executor.submit(function, *arguments)
        future: Future[Any] = Future()
        future.set_result(None)
        return future


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with ProcessPoolExecutor(max_workers=2, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_batch(tmp_path, SAMPLES).path


def exported(run_dir: Path, out: Path, form: Format, remote: Executor | None) -> dict[str, bytes]:
    collection = collection_of(run_dir)
    with Workspace(out, Disk(), Workers(Here(), 2, remote)) as workspace:
        write(collection, form, workspace, NoProgress())
    return tree_of(out)


@pytest.mark.parametrize(
    "form", [FolderFormat(), WebDatasetFormat(FormatOptions(20_000))], ids=["folder", "webdataset"]
)
def test_the_bytes_are_those_of_a_local_export(
    form: Format, run_dir: Path, tmp_path: Path, processes: Executor
) -> None:
    remote = Counting(processes)
    assert exported(run_dir, tmp_path / "far", form, remote) == exported(run_dir, tmp_path / "near", form, None)
    assert len(remote.names) > 1
    assert not list(tmp_path.glob("*.partial"))


def test_this_machine_writes_what_workers_cannot_write(run_dir: Path, tmp_path: Path) -> None:
    remote = Counting(None)
    found = exported(run_dir, tmp_path / "far", FolderFormat(), remote)
    assert found == exported(run_dir, tmp_path / "near", FolderFormat(), None)
    assert remote.names


def test_an_altered_clip_is_left_out(run_dir: Path, tmp_path: Path, processes: Executor) -> None:
    alter(next(run_dir.rglob("clip-1*.mp4"), None) or next(run_dir.rglob("*.mp4")))
    far = exported(run_dir, tmp_path / "far", FolderFormat(), processes)
    assert far == exported(run_dir, tmp_path / "near", FolderFormat(), None)


def test_a_worker_leaves_no_growing_file(tmp_path: Path) -> None:
    def fail(to: Any) -> None:
        to.write(b"some")
        raise OSError("full")

    assert write_unit(fail, str(tmp_path), str(tmp_path / "a")) is None
    assert write_unit(lambda to: None, str(tmp_path), str(tmp_path / "none" / "a")) is None
    assert list(tmp_path.iterdir()) == []
