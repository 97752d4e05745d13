"""The files that a run writes at its end, by real processes: whole runs, interrupted ones, and `report` afterwards."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

from tests.conftest import MEDIA, encoded
from tests.soak.processes import Command, call, environment, execute

OUTPUTS = {"report.json", "report.html", "results.csv"}
WITNESS = ".batchrunner.witness"
FRAMES = 12  # of the reference clip
TINY = ("--faults", "tiny.yaml")  # the sandbox makes small plain clips, for tests of the files beside them


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a manifest of two jobs for the sandbox, beside its inputs."""
    (tmp_path / "walk.mp4").write_bytes(encoded(FRAMES))
    shutil.copy(MEDIA / "hopper.jpg", tmp_path / "hopper.jpg")
    jobs = [{"id": f"job-{size}", "resolution": f"{size}p"} for size in (480, 580)]
    manifest = {
        "version": 1, "name": "night", "provider": "sandbox", "poll_interval": "200ms", "jobs": jobs,
        "defaults": {"video": "walk.mp4", "image": "hopper.jpg"}, "junit": "ci/junit.xml",
    }  # fmt: skip
    (tmp_path / "night.yaml").write_text(yaml.safe_dump(manifest), "utf-8")
    (tmp_path / "tiny.yaml").write_text("service: {render: tiny}\n", "utf-8")
    return tmp_path


def test_a_run_writes_every_file_and_report_writes_the_same(folder: Path) -> None:
    done = call("run", "night.yaml", cwd=folder, BATCHRUNNER_METRICS_FILE="batch.prom")
    assert done.returncode == 0, done.stderr
    run_dir = folder / "output" / "night"
    assert {path.name for path in run_dir.iterdir() if path.is_file()} == {*OUTPUTS, WITNESS} | {
        "job-480.mp4",
        "job-580.mp4",
    }
    assert ET.parse(folder / "ci" / "junit.xml").getroot().get("tests") == "2"
    assert 'batchrunner_jobs{batch="night",state="succeeded"} 2' in (folder / "batch.prom").read_text("utf-8")
    files = {name: (run_dir / name).read_bytes() for name in OUTPUTS}
    found = [job["quality"] for job in json.loads(files["report.json"])["jobs"]]
    assert [(item["measures"]["frames"], item["marks"], item["verdict"]) for item in found] == [(FRAMES, [], None)] * 2
    assert all(item["measures"]["echo_distance"] > 50 for item in found), "they were compared with the reference"
    page = files["report.html"]
    posters = run_dir / ".batchrunner" / "posters"
    # Two clips, their reference clip and their character, in three sizes, made during the run.
    assert len(list(posters.glob("*.webp"))) == (2 + 1 + 1) * 3
    assert page.count(b"data:image/webp;base64,") == 4

    shutil.rmtree(posters)
    for name in OUTPUTS:
        (run_dir / name).unlink()
    again = call("report", run_dir, "--junit", "again.xml", "--metrics-file", "again.prom", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert {name: (run_dir / name).read_bytes() for name in OUTPUTS} == files, "the run and its journal agree"
    assert {Path(line).name for line in again.stdout.splitlines()[1:]} == OUTPUTS | {"again.xml", "again.prom"}
    assert (folder / "again.xml").read_bytes() == (folder / "ci" / "junit.xml").read_bytes()


def test_nothing_is_measured_if_quality_is_off(folder: Path) -> None:
    done = call("run", "night.yaml", "--only", "job-480", "--quality", "off", *TINY, cwd=folder)
    assert done.returncode in (0, 1), done.stderr
    jobs = json.loads((folder / "output" / "night" / "report.json").read_bytes())["jobs"]
    assert [(job["state"], job["quality"]) for job in jobs] == [("succeeded", None), ("pending", None)]


def test_an_interrupted_run_writes_every_file(folder: Path) -> None:
    (folder / "faults.yaml").write_text("service: {duration: 10m}\n", "utf-8")
    arguments: list[str | Path] = ["run", "night.yaml", "--faults", "faults.yaml", "--metrics-file", "batch.prom"]
    with Command(arguments, folder, folder / "log") as run:
        run.says("accepted")
        run.signal_group(signal.SIGTERM)
        assert run.end() == 143
    run_dir = folder / "output" / "night"
    assert {path.name for path in run_dir.iterdir() if path.is_file()} == {*OUTPUTS, WITNESS}
    assert json.loads((run_dir / "report.json").read_bytes())["exit_status"] == 143
    assert ET.parse(folder / "ci" / "junit.xml").getroot().get("skipped") == "2"
    assert 'batchrunner_run_exit_status{batch="night"} 143' in (folder / "batch.prom").read_text("utf-8")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--junit", "file/junit.xml"), "--junit: file/junit.xml cannot be written"),
        (("--metrics-file", "fifo"), "--metrics-file: fifo cannot be written: it is not a regular file"),
        (("--junit", "one", "--metrics-file", "./one"), "--metrics-file: ./one is also the path of --junit"),
        (("--metrics-file", "output/night/report.json"), "output/night/report.json is also the path of report.json"),
        (("--metrics-file", "walk.mp4"), "--metrics-file: walk.mp4 has the name of a clip"),
        (("--metrics-file", "hopper.jpg"), "--metrics-file: hopper.jpg cannot be written: the existing file is not"),
        (("--junit", "night.yaml"), "--junit: night.yaml cannot be written: the existing file is not JUnit XML"),
        (("--junit", "/dev/fd/1"), "--junit: /dev/fd/1 cannot be written: no file can be created in /proc/"),
    ],
)
def test_an_unwritable_place_is_refused_before_a_run(folder: Path, options: tuple[str, ...], complaint: str) -> None:
    (folder / "file").write_text("")
    os.mkfifo(folder / "fifo")
    run = execute if "/dev/fd/1" in options else call  # the standard output of an executed command is a pipe
    done = run("run", "night.yaml", *options, cwd=folder)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Nothing was done" in done.stderr
    assert not (folder / "output").exists()
    assert (folder / "fifo").is_fifo()
    assert (folder / "hopper.jpg").read_bytes() == (MEDIA / "hopper.jpg").read_bytes()


def test_a_report_replaces_no_other_file(folder: Path) -> None:
    run_dir = folder / "output" / "night"
    assert call("run", "night.yaml", *TINY, cwd=folder).returncode == 0
    os.mkfifo(folder / "fifo")
    journal, clip = run_dir / ".batchrunner" / "journal.db", run_dir / "job-480.mp4"
    before = journal.read_bytes(), clip.read_bytes()
    for place in (folder / "fifo", journal, run_dir / ".batchrunner" / "lock", clip, "/dev/null"):
        done = call("report", run_dir, "--junit", place, cwd=folder)
        assert (done.returncode, done.stdout) == (2, "")
        assert "submitted" not in done.stderr
    assert (folder / "fifo").is_fifo()
    assert (journal.read_bytes(), clip.read_bytes()) == before


# Runs the command lines of a JSON list one after the other. The first item of each is a text: names of files with this
# text cannot be flushed; None: all can. Prints the status and the messages of each as JSON.
ON_A_FULL_DISK = """
import contextlib, errno, io, json, sys
from batchrunner import cli
from batchrunner.report import writer as report
class Full(report.Disk):
    def flush(self, file):
        if no_space is not None and no_space in str(file.name):
            raise OSError(errno.ENOSPC, "no space")
        super().flush(file)
report.Disk, found = Full, []
for no_space, *arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    with contextlib.redirect_stderr(io.StringIO()) as messages, contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main()
        except SystemExit as end:
            found.append((end.code or 0, messages.getvalue()))
print(json.dumps(found))
"""


def test_a_report_that_cannot_be_written_is_reported_with_the_older_one(folder: Path) -> None:
    run = ["run", "night.yaml", *TINY]
    command_lines = [["", *run], [None, "report", "output/night"], ["", *run], ["junit", *run]]
    program = [sys.executable, "-c", ON_A_FULL_DISK, json.dumps(command_lines)]
    done = subprocess.run(program, cwd=folder, env=environment(), capture_output=True, text=True, check=True)
    first, report, second, third = json.loads(done.stdout)
    assert report[0] == 0
    for status, messages in (first, second, third):
        assert status == 5, messages
        assert "the report could not be written: " in messages
    assert "older" not in first[1], "there is none yet"
    assert "these files are from an earlier run: report.html, report.json, results.csv" in second[1]
    assert "older" not in third[1], "only the extra file is missing"
