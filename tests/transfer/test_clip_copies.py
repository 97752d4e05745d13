"""Copies of other batches' clips: only with the recorded content, and with this batch's measures."""

import asyncio
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from batchrunner.account.base import Clip, Source
from batchrunner.media.decoder import CheckLimit
from batchrunner.storage.durable_files import Disk
from batchrunner.transfer.clip_copies import ClipCopies
from batchrunner.transfer.downloader import Checks, Fetched
from tests.conftest import Inline
from tests.media.test_synthetic_marks import c2pa_box

CONTENT = b"a clip"
MEASURES = {"black": 20}
SOURCE = Source("b1", "first", "/runs/first")


class Measuring:
    """Decoders with one prepared outcome. tasks: what they were asked."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome
        self.tasks: list[Mapping[str, Any]] = []

    def run_all(
        self, task: str, items: Sequence[Mapping[str, Any]], enough: Callable[[], bool] = lambda: False
    ) -> list[Any]:
        self.tasks += items
        return [self.outcome]

    def ready(self) -> None: ...

    def stop(self) -> None: ...


def copied(
    folder: Path, decoders: Measuring, *, measures: Mapping[str, Any], content: bytes = CONTENT
) -> Fetched | None:
    (folder / "theirs.mp4").write_bytes(content)
    clip = Clip(folder / "theirs.mp4", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), SOURCE)
    copies = ClipCopies(folder, Inline(), Disk(), Checks(decoders, Inline(), lambda key: measures))
    return asyncio.run(copies.copy("key", [clip]))


def test_a_copy_is_measured_for_this_batch(tmp_path: Path) -> None:
    decoders = Measuring({"quality": MEASURES})
    copy = copied(tmp_path, decoders, measures={"measure": True})
    assert copy is not None
    assert copy.path.read_bytes() == CONTENT
    assert copy.result.quality == MEASURES
    item = {"path": str(copy.path), "size_bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}
    assert decoders.tasks == [{"measure": True, **item}]


def test_a_copy_is_not_decoded_where_nothing_is_measured(tmp_path: Path) -> None:
    decoders = Measuring({})
    copy = copied(tmp_path, decoders, measures={})
    assert copy is not None
    assert copy.result.quality is None
    assert decoders.tasks == []


@pytest.mark.parametrize("outcome", [CheckLimit("too long"), ValueError("damaged")])
def test_a_copy_with_the_recorded_content_counts_without_measures(tmp_path: Path, outcome: Exception) -> None:
    copy = copied(tmp_path, Measuring(outcome), measures={"measure": True})
    assert copy is not None
    assert copy.result.quality is None


def test_a_copy_with_other_content_is_removed(tmp_path: Path) -> None:
    assert copied(tmp_path, Measuring({}), measures={"measure": True}, content=b"edited") is None
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.mp4"]


def test_a_copy_is_read_for_what_it_says_of_its_origin(
    tmp_path: Path, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = clip + c2pa_box()
    monkeypatch.setattr(sys.modules[__name__], "CONTENT", content)
    copy = copied(tmp_path, Measuring({}), measures={}, content=content)
    assert copy is not None
    assert copy.result.synthetic_marks == ("c2pa",)
