"""Every implementation of `batchrunner.media.decoder_pool.Decoders` gives the same outcomes.

The third one runs the tasks on any `concurrent.futures.Executor`, as a cluster would: here threads and processes.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from batchrunner.errors import BatchrunnerError
from batchrunner.media.decoder import CheckLimit
from batchrunner.media.decoder_pool import Decoders, Here, Outcome, Pool, one
from tests.conftest import MEDIA


class OnExecutor:
    """Runs each task as a call on an executor."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def ready(self) -> None:
        self._executor.submit(_ready).result()

    def run_all(
        self, task: str, items: Sequence[Mapping[str, Any]], enough: Callable[[], bool] = lambda: False
    ) -> list[Outcome]:
        return [
            CheckLimit("the run has ended") if enough() else self._executor.submit(_run, task, dict(item)).result()
            for item in items
        ]

    def stop(self) -> None:
        """Nothing runs between the calls of these tests."""


def _ready() -> None:
    Here().ready()


def _run(task: str, item: dict[str, Any]) -> Outcome:
    return Here().run_all(task, [item])[0]


@pytest.fixture(scope="module", params=["here", "pool", "threads", "processes"])
def decoders(request: pytest.FixtureRequest) -> Iterator[Decoders]:
    if request.param == "here":
        yield Here()
    elif request.param == "pool":
        with closing(Pool(1)) as pool:
            yield pool
    elif request.param == "threads":
        with ThreadPoolExecutor(max_workers=1) as threads:
            yield OnExecutor(threads)
    else:
        with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as processes:
            yield OnExecutor(processes)


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
