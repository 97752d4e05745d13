"""The command `verify` recognizes what a path is, and prints what was found."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from batchrunner import cli
from batchrunner.app import verify_output
from batchrunner.app.verify_output import DATASET, LIST, REPORT, RUN_DIR, Progress, Target
from batchrunner.datasets import sums
from batchrunner.errors import UsageError
from batchrunner.media.decoder_pool import Here
from batchrunner.workers.engines import Workers
from tests.app.test_verify_files import dataset, delivered, flip, report_of

__all__ = ["dataset", "delivered"]  # fixtures


def verify(path: Path, *options: str) -> tuple[int, str]:
    """Run the command. Return exit status and output."""
    done = CliRunner().invoke(cli.cli, ["verify", str(path), *options], standalone_mode=False)
    if isinstance(done.exception, UsageError):
        return done.exception.exit_status, done.exception.message
    assert done.exception is None
    return int(done.return_value), done.stdout


def test_a_path_is_recognized(dataset: Path, delivered: Path, tmp_path: Path) -> None:
    run = tmp_path / "with journal"
    (run / ".batchrunner").mkdir(parents=True)
    (run / ".batchrunner" / "journal.db").touch()
    (run / "report.json").write_text(report_of([]))
    manifest = tmp_path / "batch.yaml"
    manifest.write_text("jobs: []")
    as_json = tmp_path / "batch.json"
    as_json.write_text('{"version": 1, "jobs": []}')
    hand_made = tmp_path / "hashes.txt"
    hand_made.write_text(f"# a note\n\n{'0' * 64}  a\n")
    for path, expected in {
        dataset: Target(DATASET, dataset / sums.SUMS),
        dataset / sums.SUMS: Target(LIST, dataset / sums.SUMS),
        delivered: Target(REPORT, delivered / "report.json"),
        delivered / "report.json": Target(REPORT, delivered / "report.json"),
        run: Target(RUN_DIR, run),
        hand_made: Target(LIST, hand_made),
        manifest: None,
        as_json: None,
        tmp_path / "nothing": None,
    }.items():
        assert verify_output.recognize(path) == expected


def test_a_folder_without_a_list_is_refused_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to check against") as caught:
        verify_output.recognize(tmp_path)
    assert "batchrunner export" in caught.value.hint


def test_exit_statuses(dataset: Path, tmp_path: Path) -> None:
    assert verify(dataset)[0] == 0
    flip(dataset / "README.md")
    assert verify(dataset)[0] == 1
    (tmp_path / "empty").mkdir()
    assert verify(tmp_path / "empty")[0] == 2


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_list_of_nothing_proves_nothing(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / sums.SUMS).write_text("# nothing\n")
    assert verify(tmp_path / sums.SUMS, *options)[0] == 2
    assert verify(tmp_path, *options)[0] == 2


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize(
    "text", ['{"schema_version": 2', '{"schema_version": 2}', '{"schema_version": 99, "jobs": [1]}']
)
def test_a_report_that_cannot_be_read_is_status_2(tmp_path: Path, text: str, options: list[str]) -> None:
    (tmp_path / "report.json").write_text(text)
    status, message = verify(tmp_path / "report.json", *options)
    assert status == 2
    assert "report" in message


def test_a_report_without_clips_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(report_of([{"id": "a", "file": None}]))
    assert verify(tmp_path)[0] == 0


def test_the_text_names_each_problem_and_counts_them(dataset: Path) -> None:
    flip(dataset / "README.md")
    (dataset / "train" / "clips" / "a.mp4").unlink()
    (dataset / "new").touch()
    _, text = verify(dataset)
    lines = text.splitlines()
    assert lines[:-1] == [
        "README.md: altered: its content has changed: the SHA-256 differs",
        "train/clips/a.mp4: missing",
        "new: extra: SHA256SUMS does not name it",
    ]
    assert lines[-1].startswith("7 files checked, 3 bad: 1 altered, 1 missing, 1 extra. With --deep")


def test_deep_says_what_was_decoded_and_what_was_not(dataset: Path) -> None:
    _, text = verify(dataset, "--deep")
    assert text == "7 files checked, 0 bad. 3 clips decoded. Clips inside 1 parquet file were not decoded.\n"


def test_json_is_one_document(dataset: Path) -> None:
    flip(dataset / "README.md")
    status, text = verify(dataset, "--json")
    found: dict[str, Any] = json.loads(text)
    assert status == 1
    assert found == {
        "target": str(dataset / sums.SUMS),
        "kind": DATASET,
        "problems": [
            {
                "file": "README.md",
                "kind": "altered",
                "message": "altered: its content has changed: the SHA-256 differs",
            }
        ],
        "files": 7,
        "clips_decoded": 0,
        "bad": 1,
    }
    flip(dataset / "README.md")
    assert json.loads(verify(dataset, "--json")[1])["problems"] == []


def test_a_name_from_outside_cannot_control_the_terminal(tmp_path: Path) -> None:
    (tmp_path / sums.SUMS).write_bytes(sums.entry_line("\x1b[2J\n\udcff", "0" * 64))
    status, text = verify(tmp_path / sums.SUMS)
    assert status == 1
    assert "\x1b" not in text
    assert len(text.splitlines()) == 2
    assert json.loads(verify(tmp_path / sums.SUMS, "--json")[1])["bad"] == 1


def test_progress_is_shown_on_a_terminal_and_cleared(delivered: Path) -> None:
    target = Target(REPORT, delivered / "report.json")
    stream, lines = io.StringIO(), list[str]()
    flip(delivered / "a.mp4")
    verify_output.run(target, verify_output.check(target, Workers(Here()), deep=False), lines.append, Progress(stream))
    assert "2 files checked, 1 bad" in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[2K")
    assert len(lines) == 1
