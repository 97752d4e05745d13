"""``stage --clean`` removes only what no batch needs, and only after the user agrees."""

from pathlib import Path
from typing import Any

import pytest

from batchrunner.account import runs_log
from batchrunner.app import setup as prepare
from batchrunner.app import staged_inputs
from batchrunner.app.staged_inputs import Needed, clean, needed, prefix_in
from batchrunner.errors import UsageError
from batchrunner.storage.objects.store import Access
from tests.conftest import MEDIA
from tests.storage.objects.test_staging import Bucket

NEEDED, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Any:
    found: Any = Bucket()
    found.objects = {f"staged/{digest}.mp4": b"1234" for digest in (NEEDED, OTHER)} | {"staged/own.mp4": b"1"}

    async def delete(key: str) -> None:
        del found.objects[key]

    found.delete = delete
    monkeypatch.setattr(staged_inputs, "open_store", lambda *_: found)
    return found


@pytest.mark.parametrize("agrees", [True, False])
def test_it_lists_then_asks_then_removes(bucket: Any, agrees: bool) -> None:
    lines: list[str] = []
    asked: list[str] = []

    def agree(question: str) -> bool:
        asked.append(question)
        assert lines[-1] == f"s3://clips/staged/{OTHER}.mp4  4 bytes"
        assert len(bucket.objects) == 3, "nothing is removed before the answer"
        return agrees

    known = Needed(frozenset([NEEDED]), ("/gone/run",))
    clean("s3://clips/staged/", Access(None), known, lines.append, agree)  # type: ignore[arg-type] # not used here
    assert asked[0].startswith("Remove 1 staged input, 4 bytes?")
    assert "not found: the run directory /gone/run" in lines[0]
    assert (f"staged/{OTHER}.mp4" in bucket.objects) is not agrees
    assert len(bucket.objects) == (2 if agrees else 3)


def test_a_batch_that_has_not_started_needs_all_its_inputs(tmp_path: Path) -> None:
    for name in ("bunny.mp4", "hopper.jpg"):
        (tmp_path / name).write_bytes((MEDIA / name).read_bytes())
    manifest = tmp_path / "batch.yaml"
    manifest.write_text("provider: sandbox\njobs: [{video: bunny.mp4, image: hopper.jpg}]")
    environment = {"BATCHRUNNER_STATE": str(tmp_path / "state")}
    setup = prepare.load(manifest, {"output": str(tmp_path / "out")}, environment)
    inputs = setup.batch.entries[0].job.inputs
    assert needed(environment, setup) == Needed(frozenset(str(media.sha256) for media in inputs.values()))
    assert needed(environment, None) == Needed(frozenset())


def test_run_directories_that_are_not_found_are_named(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    gone = str(tmp_path / "gone")
    runs_log.append(state, [runs_log.Line("id", "account", gone, "name", "service")])
    assert needed({"BATCHRUNNER_STATE": str(state)}, None) == Needed(frozenset(), (gone,))


def test_a_place_must_be_named() -> None:
    assert prefix_in(None, "s3://clips/a/", {"BATCHRUNNER_STAGE": "s3://clips/b/"}) == "s3://clips/a/"
    assert prefix_in(None, None, {"BATCHRUNNER_STAGE": "s3://clips/b/"}) == "s3://clips/b/"
    with pytest.raises(UsageError, match="no bucket is named"):
        prefix_in(None, None, {})
