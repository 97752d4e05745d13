"""Measures and marks in report.json, results.csv and report.html."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batchrunner.job import Result, State
from batchrunner.report import gallery, writer
from tests.report.test_report import CLIP, RUN, built, record, snapshot

MEASURES: dict[str, Any] = {"version": 1, "frames": 150, "measured_frames": 150, "duration_s": 6.0, "digest": "d1"}


def clip(**measures: Any) -> Result:
    return replace(CLIP, quality=MEASURES | measures)


def rows(*clips: Result, quality: dict[str, str] | None = None) -> list[dict[str, Any]]:
    records = [record(f"{number}", State.SUCCEEDED, result=item) for number, item in enumerate(clips)]
    run = replace(RUN, settings_json=json.dumps({"quality": quality} if quality else {}))
    return list(built(snapshot(*records, run=run))["jobs"])


def kinds(row: dict[str, Any]) -> list[str]:
    return [mark["kind"] for mark in row["quality"]["marks"]]


def test_a_job_has_its_measures_and_marks() -> None:
    [row] = rows(clip(black_frames=20, black_at_s=1.6))
    assert row["quality"] == {
        "measures": MEASURES | {"black_frames": 20, "black_at_s": 1.6},
        "marks": [{"kind": "black", "action": "warn", "message": "20 black frames from 1.60 s"}],
        "verdict": None,
    }


def test_a_clip_that_was_not_measured_has_none() -> None:
    [plain] = rows(CLIP)
    assert plain["quality"] is None
    report = built(snapshot(record("a", State.PENDING)))
    assert report["jobs"][0]["quality"] is None


def test_report_csv_and_page_show_what_a_clip_says_of_its_origin(tmp_path: Path) -> None:
    found = ("c2pa", "xmp:trainedAlgorithmicMedia")
    results = [replace(CLIP, synthetic_marks=found), replace(CLIP, synthetic_marks=()), CLIP]
    records = [record(f"{number}", State.SUCCEEDED, result=item) for number, item in enumerate(results)]
    records.append(record("3", State.PENDING))
    writer.write(snapshot(*records), tmp_path, "0")
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["synthetic_marks"] for row in report["jobs"]] == [list(found), [], None, None]
    cells = [row["synthetic_marks"] for row in csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text()))]
    assert cells == ["c2pa; xmp:trainedAlgorithmicMedia", "", "", ""]
    shown = [dict(gallery.details(row)["rows"]).get("Synthetic marks") for row in report["jobs"]]
    assert shown == ["c2pa, xmp:trainedAlgorithmicMedia", "none", None, None]


def test_the_settings_of_the_run_decide_about_marks() -> None:
    [row] = rows(clip(black_frames=20, frozen_frames=89), quality={"frozen": "reject", "black": "off"})
    assert kinds(row) == ["frozen"]
    assert row["quality"]["verdict"] == "reject"
    assert (row["state"], row["file"]) == ("succeeded", "job-0.mp4"), "a verdict changes nothing else"


@pytest.mark.parametrize("same", ["sha256", "digest"])
def test_a_duplicate_names_the_first_job_with_the_clip(same: str) -> None:
    first, other = clip(digest="d1"), clip(digest="d1" if same == "digest" else "d2")
    found = rows(first, other if same == "sha256" else replace(other, sha256="cd" * 32))
    assert [kinds(row) for row in found] == [[], ["duplicate"]]
    assert found[1]["quality"]["marks"][0]["message"] == "the same clip as that of job-0"


def test_a_second_name_of_a_job_is_no_duplicate() -> None:
    report = built(snapshot(record("a", State.SUCCEEDED, result=clip()), again={"second": 0}))
    assert [kinds(row) for row in report["jobs"]] == [[], []]


def test_clips_without_a_motif_are_compared_by_their_files() -> None:
    found = rows(clip(digest=None), replace(clip(digest=None), sha256="cd" * 32))
    assert [kinds(row) for row in found] == [[], []]


def test_marks_are_in_the_table_and_on_the_page(tmp_path: Path) -> None:
    length = "lasts 2.00 s, the reference clip 4.00 s"
    result = replace(
        clip(frozen_frames=89, duration_s=2.0, reference_duration_s=4.0, black_frames=5), warnings=(length,)
    )
    run = replace(RUN, settings_json='{"quality": {"frozen": "reject"}}')
    writer.write(snapshot(record("a", State.SUCCEEDED, result=result), run=run), tmp_path, "0.1.0")
    [row] = csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text("utf-8-sig")))
    assert row["marks"] == "black; frozen; length"
    page = (tmp_path / "report.html").read_text("utf-8")
    assert '<p class="warning">5 black frames</p>' in page
    assert '<p class="warning">89 frames repeat the frame before them (reject)</p>' in page
    assert page.count(f'<p class="warning">{length}</p>') == 1, "a warning and a mark with the same text"
