"""Decoders on an executor: only this machine says that a clip is damaged."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

from batchrunner.media.decoder import CheckLimit
from batchrunner.media.decoder_pool import Here, Outcome, one
from batchrunner.workers.executor_decoders import ExecutorDecoders
from batchrunner.workers.tasks import perform


class Replying(Executor):
    """Gives one reply to all tasks, and keeps what it got. reply: None for no reply at all."""

    def __init__(self, reply: dict[str, Any] | None) -> None:
        self.reply = reply
        self.items: list[Mapping[str, Any]] = []

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **_: Any) -> "Future[Any]":
        assert function is perform
        self.items.append(arguments[1])
        future: Future[Any] = Future()
        if self.reply is not None:
            future.set_result(self.reply)
        return future


class Counting(Here):
    """Counts the tasks of this machine."""

    def __init__(self) -> None:
        self.count = 0

    def run_all(
        self, task: str, items: Sequence[Mapping[str, Any]], enough: Callable[[], bool] = lambda: False
    ) -> list[Outcome]:
        self.count += len(items)
        return super().run_all(task, items, enough)


def item_of(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"path": str(path), "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.fixture
def whole(tmp_path: Path, clip: bytes) -> Path:
    (path := tmp_path / "whole.mp4").write_bytes(clip)
    return path


def test_a_good_result_is_not_repeated_here(whole: Path) -> None:
    here = Counting()
    assert one(ExecutorDecoders(Replying({"done": {"frames": 8}}), here, print), "clip", item_of(whole)) == {
        "frames": 8
    }
    assert here.count == 0


def test_a_worker_that_cannot_read_a_clip_does_not_condemn_it(whole: Path) -> None:
    notices: list[str] = []
    here = Counting()
    decoders = ExecutorDecoders(Replying({"failed": "[Errno 2] No such file"}), here, notices.append)
    assert [found["frames"] for found in decoders.run_all("clip", [item_of(whole)] * 2)] == [8, 8]
    assert here.count == 2
    assert len(notices) == 1
    assert "No such file" in notices[0]


def test_a_damaged_clip_is_damaged_here_too(tmp_path: Path, clip: bytes) -> None:
    (torn := tmp_path / "torn.mp4").write_bytes(clip[:-100])
    notices: list[str] = []
    [outcome] = ExecutorDecoders(Replying({"failed": "torn"}), Here(), notices.append).run_all("clip", [item_of(torn)])
    assert str(outcome) == str(Here().run_all("clip", [item_of(torn)])[0])
    assert notices == []


def test_the_end_of_the_run_ends_the_wait(whole: Path) -> None:
    calls = iter([False, False, True, True])
    decoders = ExecutorDecoders(Replying(None), Counting(), print)
    [outcome] = decoders.run_all("clip", [item_of(whole)], lambda: next(calls, True))
    assert isinstance(outcome, CheckLimit)


def test_paths_are_sent_complete(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker runs in another directory."""
    monkeypatch.chdir(whole.parent)
    executor = Replying({"done": None})
    ExecutorDecoders(executor, Here(), print).run_all("poster", [{"path": "whole.mp4", "folder": "posters"}])
    assert executor.items == [{"path": str(whole), "folder": str(whole.parent / "posters")}]


def test_a_worker_decodes_only_the_content_that_it_was_sent_for(whole: Path) -> None:
    """Another machine may see an older file for some seconds."""
    item = item_of(whole)
    assert perform("clip", item)["done"]["frames"] == 8
    whole.write_bytes(whole.read_bytes() + b"\0")
    assert perform("clip", item) == {"failed": "the file has other content there"}
    assert "No such file" in perform("clip", {**item, "path": f"{whole}.none"})["failed"]
