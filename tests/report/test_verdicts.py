"""Verdicts in report.json and results.csv."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchrunner.errors import LocalFault
from batchrunner.job import Result, Snapshot, State
from batchrunner.report import writer
from batchrunner.review.verdicts import Verdict, VerdictLog
from batchrunner.storage.run_directory import RunDir
from tests.report.test_report import CLIP, record, snapshot, validated

AT = "2027-01-15T08:00:00.000Z"
OTHER: Result = replace(CLIP, sha256="cd" * 32)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    RunDir(tmp_path).make()
    return tmp_path


def batch() -> Snapshot:
    return snapshot(
        record("a", State.SUCCEEDED), record("b", State.SUCCEEDED, result=OTHER), record("c", State.PENDING)
    )


def store(run_dir: Path, *lines: tuple[str, str, str], **more: Any) -> None:
    with VerdictLog(run_dir) as log:
        for name, sha256, to in lines:
            log.append(Verdict(name, 1, "", sha256, to, at=AT, by="ann", **more))


def written(run_dir: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return report.json, and the column verdict of results.csv by id."""
    writer.write(batch(), run_dir, "0.1.0")
    report = validated(json.loads((run_dir / "report.json").read_text("utf-8")))
    table = csv.DictReader(io.StringIO((run_dir / "results.csv").read_text("utf-8-sig")))
    return report, {row["id"]: row["verdict"] for row in table}


def test_rows_have_the_verdict_on_their_clip(run_dir: Path) -> None:
    store(run_dir, ("job-0", CLIP.sha256, "reject"), reasons=("hands",), rating=2, note="six fingers")
    store(run_dir, ("job-1", OTHER.sha256, "accept"))
    report, column = written(run_dir)
    first, second, third = (row["verdict"] for row in report["jobs"])
    assert first == {
        "verdict": "reject", "reasons": ["hands"], "rating": 2, "note": "six fingers", "at": AT, "by": "ann",
    }  # fmt: skip
    assert second["verdict"] == "accept"
    assert third is None
    assert column == {"job-0": "reject", "job-1": "accept", "job-2": ""}
    assert (report["totals"]["accepted"], report["totals"]["rejected"]) == (1, 1)


def test_a_verdict_on_another_clip_does_not_count(run_dir: Path) -> None:
    store(
        run_dir, ("job-0", OTHER.sha256, "accept"), ("job-2", CLIP.sha256, "accept"), ("job-9", CLIP.sha256, "accept")
    )
    report, column = written(run_dir)
    assert [row["verdict"] for row in report["jobs"]] == [None, None, None]
    assert set(column.values()) == {""}
    assert report["totals"]["accepted"] == 0


def test_a_withdrawn_verdict_is_gone_but_its_note_stays(run_dir: Path) -> None:
    store(run_dir, ("job-0", CLIP.sha256, "reject"), ("job-0", CLIP.sha256, "none"))
    assert written(run_dir)[0]["jobs"][0]["verdict"] is None
    store(run_dir, ("job-0", CLIP.sha256, "none"), note="ask Élodie")
    assert written(run_dir)[0]["jobs"][0]["verdict"]["note"] == "ask Élodie"


def test_unreadable_verdicts_do_not_stop_the_report(run_dir: Path) -> None:
    (run_dir / "review.jsonl").mkdir()
    with pytest.raises(LocalFault, match=r"review\.jsonl could not be read"):
        writer.write(batch(), run_dir, "0.1.0")
    assert len(json.loads((run_dir / "report.json").read_text("utf-8"))["jobs"]) == 3
