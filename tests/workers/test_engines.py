"""The engines of this machine, and checks on an executor."""

import hashlib
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

import pytest

from batchrunner.app import verify_output
from batchrunner.app.verify_output import LIST, Target
from batchrunner.datasets.sums import entry_line
from batchrunner.errors import UsageError
from batchrunner.media import decoder_pool
from batchrunner.media.decoder_pool import WORKERS, Here
from batchrunner.workers.engines import Workers, open_workers
from batchrunner.workers.spec import parse
from batchrunner.workers.tasks import is_whole


def test_the_default_decodes_in_the_processes_of_this_program() -> None:
    with open_workers(parse("processes")) as workers:
        assert (workers.width, workers.remote) == (WORKERS, None)
        assert workers.decoders is workers.local is decoder_pool.pool()


def test_threads_share_the_decoder_processes() -> None:
    with open_workers(parse("threads:9")) as workers:
        assert (workers.width, workers.decoders) == (9, decoder_pool.pool())


def test_a_number_of_processes_is_a_pool_of_that_size() -> None:
    with open_workers(parse(f"processes:{WORKERS + 3}")) as workers:
        assert workers.width == WORKERS + 3
        assert workers.decoders is not decoder_pool.pool()


@pytest.mark.parametrize("text", ["dask://127.0.0.1:9", "slurm"])
def test_a_missing_extra_is_one_line_that_names_it(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("distributed", "dask_jobqueue"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match="is not installed") as caught, open_workers(parse(text)):
        pass
    assert caught.value.hint == "Nothing was submitted. pip install 'batchrunner[dask]'"


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor


def test_a_file_that_a_worker_finds_good_is_not_read_here(tmp_path: Path, clip: bytes, processes: Executor) -> None:
    """The second file is not good: this machine checks it itself, and says why."""
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(clip)
    (folder / "b.mp4").write_bytes(clip[:-9])
    digest = hashlib.sha256(clip).hexdigest()
    (folder / "SHA256SUMS").write_bytes(b"".join(entry_line(name, digest) for name in ("a.mp4", "b.mp4", "../c.mp4")))
    workers = Workers(NoDecoders(), 1, processes)
    found = {item.name: item for item in verify_output.check(Target(LIST, folder / "SHA256SUMS"), workers, deep=True)}
    assert (found["a.mp4"].kind, found["a.mp4"].clips) == ("", 1)
    assert found["b.mp4"].kind == "altered"
    assert found["../c.mp4"].kind == "refused"


class NoDecoders(Here):
    """Fails if this machine decodes."""

    def run_all(self, *_: object) -> list[object]:
        raise AssertionError("decoded here")


def test_a_worker_hashes_and_decodes_a_clip(tmp_path: Path, clip: bytes, processes: Executor) -> None:
    (path := tmp_path / "a.mp4").write_bytes(clip)
    place = (str(path), len(clip), hashlib.sha256(clip).hexdigest())
    workers = Workers(Here(), 1, processes)
    assert workers.confirm(is_whole, *place) is True
    path.write_bytes(clip + b"\0")
    assert workers.confirm(is_whole, *place) is None
    assert Workers(Here()).confirm(is_whole, *place) is None
