"""Checks before a run submits anything."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batchrunner.app import runner
from batchrunner.job import Record, Result, State
from batchrunner.journal.journal import LOG_BYTES
from batchrunner.storage import durable_files
from batchrunner.storage.disk_space import DiskSpaceGuard
from tests.conftest import make_record
from tests.storage.test_disk_space import Hand

RESULT = Result(5_000_000, "ab" * 32, 480, 480, 2.0)


def shortage(monkeypatch: pytest.MonkeyPatch, folder: Path, free_bytes: int, *states: State) -> str:
    monkeypatch.setattr(durable_files, "free_bytes", lambda _: free_bytes + LOG_BYTES)
    records: dict[str, Record] = {
        str(number): make_record(str(number), state, result=RESULT if state is State.SUCCEEDED else None)
        for number, state in enumerate(states)
    }
    stops: list[str] = []
    engine: Any = SimpleNamespace(stop=stops.append)
    runner._stop_without_disk_space(engine, DiskSpaceGuard(folder, Hand(), records.values()), records)
    return "".join(stops)


def test_a_submission_needs_disk_space_for_the_paid_clips_and_one_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = State.SUCCEEDED, State.IN_FLIGHT, State.IN_FLIGHT, State.PENDING
    wanted_bytes = 3 * (RESULT.size_bytes + 32 * 1024)
    assert "too little" in shortage(monkeypatch, tmp_path, wanted_bytes - 1, *states)
    assert shortage(monkeypatch, tmp_path, wanted_bytes, *states) == ""


def test_a_batch_without_submissions_needs_no_disk_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shortage(monkeypatch, tmp_path, 0, State.SUCCEEDED, State.IN_FLIGHT) == ""
    assert "too little for the clips" in shortage(monkeypatch, tmp_path, 0, State.PENDING)
