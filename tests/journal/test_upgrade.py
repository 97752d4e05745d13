"""A run directory of journal version 1, killed with jobs in every state, continues with nothing paid again."""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from batchrunner.journal.journal import VERSION, read
from tests.conftest import ROOT

OLD = ROOT / "tests" / "runs" / "version1"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def test_it_is_of_version_1_with_jobs_in_every_state(place: Path) -> None:
    path = place / "run" / ".batchrunner" / "journal.db"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        states = {row[0] for row in connection.execute("SELECT state FROM jobs")}
    assert states == {"pending", "submitting", "in_flight", "in_doubt", "succeeded", "failed"}
    held = read(path)
    assert held is not None
    assert len(held.records) == 6


def test_it_continues_and_nothing_is_paid_for_twice(place: Path) -> None:
    command = [sys.executable, "-m", "batchrunner", "run", "night.yaml", "--output", "run", "--quiet"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    report = json.loads((place / "run" / "report.json").read_bytes())
    states = {row["id"]: row["state"] for row in report["jobs"]}
    assert states == dict.fromkeys(states, "succeeded") | {"failed": "failed"}
    ledger = (place / "run" / ".batchrunner" / "sandbox" / "ledger.jsonl").read_text().splitlines()
    accepted = Counter(row["fingerprint"] for row in map(json.loads, ledger) if row["event"] == "accepted")
    assert list(accepted.values()) == [1] * 6
    with closing(sqlite3.connect(place / "run" / ".batchrunner" / "journal.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
    assert (place / "run" / ".batchrunner.witness").exists()
