"""Every implementation of `batchrunner.media.decoder_pool.Decoders` gives the same outcomes.

`ExecutorDecoders` runs the tasks on any `concurrent.futures.Executor`: here threads and processes, in tests/dask a
cluster.
"""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from batchrunner.errors import BatchrunnerError
from batchrunner.media.decoder import CheckLimit
from batchrunner.media.decoder_pool import Decoders, Here, Pool, one
from batchrunner.workers.executor_decoders import ExecutorDecoders
from tests.conftest import MEDIA


@pytest.fixture(scope="module", params=["here", "pool", "threads", "processes"])
def decoders(request: pytest.FixtureRequest) -> Iterator[Decoders]:
    if request.param == "here":
        yield Here()
    elif request.param == "pool":
        with closing(Pool(1)) as pool:
            yield pool
    elif request.param == "threads":
        with ThreadPoolExecutor(max_workers=1) as threads:
            yield ExecutorDecoders(threads, Here(), print)
    else:
        with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as processes:
            yield ExecutorDecoders(processes, Here(), print)


@pytest.fixture
def whole(tmp_path: Path, clip: bytes) -> Path:
    (path := tmp_path / "whole.mp4").write_bytes(clip)
    return path


def clip_item(path: Path, size_bytes: int | None = None) -> dict[str, Any]:
    return {"path": str(path), "size_bytes": path.stat().st_size if size_bytes is None else size_bytes}


def test_it_is_ready_more_than_once(decoders: Decoders) -> None:
    decoders.ready()
    decoders.ready()


def test_a_whole_clip_is_measured(decoders: Decoders, whole: Path) -> None:
    found = one(decoders, "clip", clip_item(whole))
    assert (found["frames"], found["width_px"], found["height_px"]) == (8, 480, 480)


def test_each_item_has_its_own_outcome_in_its_place(decoders: Decoders, whole: Path, tmp_path: Path) -> None:
    (torn := tmp_path / "torn.mp4").write_bytes(whole.read_bytes()[:-100])
    items = [clip_item(torn), clip_item(whole), clip_item(tmp_path / "none.mp4", 5), clip_item(whole)]
    outcomes = decoders.run_all("clip", items)
    assert [type(outcome) for outcome in outcomes] == [ValueError, dict, FileNotFoundError, dict]
    assert outcomes[1] == outcomes[3]
    assert str(outcomes[0]) == str(Here().run_all("clip", items[:1])[0])


def test_an_input_is_inspected_and_a_refused_one_says_what_to_do(decoders: Decoders, tmp_path: Path) -> None:
    picture = {"path": str(MEDIA / "hopper.jpg"), "kind": "image", "shown": "hopper.jpg"}
    assert one(decoders, "input", picture)["width_px"]
    (tmp_path / "a").write_text("just words")
    with pytest.raises(BatchrunnerError, match="looks like text") as caught:
        one(decoders, "input", {"path": str(tmp_path / "a"), "kind": "video", "shown": "a"})
    assert "MP4" in caught.value.hint


def test_when_it_is_enough_nothing_more_is_decoded(decoders: Decoders, whole: Path) -> None:
    outcomes = decoders.run_all("clip", [clip_item(whole), clip_item(whole)], lambda: True)
    assert [type(outcome) for outcome in outcomes] == [CheckLimit, CheckLimit]


def test_without_items_there_is_no_outcome(decoders: Decoders) -> None:
    assert decoders.run_all("clip", []) == []
