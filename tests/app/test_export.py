"""The command `export`: what it prints, its exit statuses, and what it refuses."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner

from batchrunner import cli
from batchrunner.app.export import ExportRequest, export
from batchrunner.errors import BatchrunnerError, ExitStatus, UsageError
from batchrunner.storage.run_directory import Lock, RunDir
from tests.conftest import NOW, ROOT
from tests.datasets.sample_batches import Sample, accept, make_batch, tree_of


@dataclass
class Console:
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)

    def export(self, *run_dirs: Path, to: Path, request: ExportRequest | None = None) -> int:
        return export(run_dirs, to, request or ExportRequest(), self.out.append, self.err.append)


@pytest.fixture
def console() -> Console:
    return Console()


@pytest.fixture
def rundir(tmp_path: Path) -> RunDir:
    return make_batch(tmp_path, [Sample("a"), Sample("b", reference=b"run"), Sample("failed", content=None)])


def test_it_says_what_it_wrote_and_how_to_publish(console: Console, rundir: RunDir, tmp_path: Path) -> None:
    out = tmp_path / "my set"
    request = ExportRequest(split="train=1,test=0")
    assert console.export(rundir.path, to=out, request=request) == ExitStatus.OK
    assert console.out[:3] == [
        "train: 2 clips",
        "test: 0 clips",
        "no clip fell to test: the card leaves the empty split out",
    ]
    assert f"publish  hf upload-large-folder --repo-type dataset NAMESPACE/NAME '{out}'" in console.out
    assert any("the card lacks license" in line for line in console.out)
    assert console.err == ["without a clip to export: 1 failed"]
    assert (out / "test" / "metadata.jsonl").read_bytes() == b""
    assert "test" not in (out / "README.md").read_text().split("---")[1]


def test_a_second_export_says_that_it_is_up_to_date(console: Console, rundir: RunDir, tmp_path: Path) -> None:
    out = tmp_path / "set"
    console.export(rundir.path, to=out)
    before = tree_of(out)
    assert console.export(rundir.path, to=out) == ExitStatus.OK
    assert any("is up to date: 2 clips" in line for line in console.out)
    assert tree_of(out) == before


def test_a_data_set_whose_card_would_be_different_now_is_refused(tmp_path: Path, console: Console) -> None:
    for name, license_name in (("before", "mit"), ("after", "cc-by-4.0")):
        (tmp_path / name).mkdir()
        make_batch(tmp_path / name, [Sample("a")], settings={"dataset": {"license": license_name}})
    out = tmp_path / "set"
    console.export(tmp_path / "before" / "run", to=out)
    before = tree_of(out)
    with pytest.raises(UsageError, match=r"its README\.md and croissant\.json would be different now") as error:
        console.export(tmp_path / "after" / "run", to=out)
    assert "dataset block" in error.value.message
    assert error.value.hint == "Nothing was written. Export to a new folder, or remove this data set and export again."
    assert tree_of(out) == before


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["README.md"], "(README.md was edited since the export)"),
        (["README.md", "croissant.json"], "(README.md and croissant.json were edited since the export)"),
    ],
)
def test_files_that_a_person_edited_are_named(
    console: Console, rundir: RunDir, tmp_path: Path, names: list[str], shown: str
) -> None:
    console.export(rundir.path, to=tmp_path / "set")
    for name in names:
        (tmp_path / "set" / name).write_text("edited")
    console.out.clear()
    assert console.export(rundir.path, to=tmp_path / "set") == ExitStatus.OK
    assert any(shown in line for line in console.out)


def test_a_missing_clip_is_named_and_the_status_is_1(console: Console, rundir: RunDir, tmp_path: Path) -> None:
    (rundir.path / "a.mp4").unlink()
    assert console.export(rundir.path, to=tmp_path / "set") == ExitStatus.FAILED
    (line,) = [line for line in console.err if line.startswith("a: ")]
    assert "a.mp4 is missing. The clip is left out" in line
    assert "run the batch again" in line
    assert console.export(rundir.path, to=tmp_path / "set") == ExitStatus.FAILED  # up to date, and still incomplete


def test_if_every_clip_is_refused_nothing_is_written(console: Console, rundir: RunDir, tmp_path: Path) -> None:
    for path in rundir.path.glob("*.mp4"):
        path.unlink()
    with pytest.raises(BatchrunnerError, match="no clip can be exported") as error:
        console.export(rundir.path, to=tmp_path / "set")
    assert error.value.exit_status == ExitStatus.FAILED
    assert len(console.err) == 3
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("place", ["run", "run/set", "run/.batchrunner/set", "link/set", "other/set"])
def test_a_data_set_in_a_run_directory_is_refused(console: Console, rundir: RunDir, tmp_path: Path, place: str) -> None:
    (tmp_path / "link").symlink_to(rundir.path)
    (tmp_path / "other" / ".batchrunner").mkdir(parents=True)
    before = tree_of(rundir.path)
    with pytest.raises(UsageError, match="is inside the run directory"):
        console.export(rundir.path, to=tmp_path / place)
    assert tree_of(rundir.path) == before


def test_a_running_batch_is_exported_as_far_as_it_is(console: Console, tmp_path: Path) -> None:
    rundir = make_batch(tmp_path, [Sample("a")], finished=False)
    with Lock(rundir, NOW):
        assert console.export(rundir.path, to=tmp_path / "set") == ExitStatus.OK
    assert "is running (pid" in console.err[0]
    console.export(rundir.path, to=tmp_path / "other")
    assert "has not ended properly" in console.err[1]


@pytest.mark.parametrize(
    ("samples", "request_", "message", "hint"),
    [
        ([Sample("a", content=None)], ExportRequest(), "there is no clip to export", "Run the batch to its end"),
        ([Sample("a")], ExportRequest(only="accepted"), "there is no clip to export", "batchrunner review"),
        ([Sample("a")], ExportRequest(split="a=2"), "the share of a, 2, is above 1", "--split train=.8"),
    ],
)
def test_nothing_to_export_is_refused(
    console: Console, tmp_path: Path, samples: list[Sample], request_: ExportRequest, message: str, hint: str
) -> None:
    rundir = make_batch(tmp_path, samples)
    with pytest.raises(UsageError) as error:
        console.export(rundir.path, to=tmp_path / "set", request=request_)
    assert message in error.value.message
    assert hint in error.value.hint
    assert not list(tmp_path.glob("set*"))


def test_a_folder_without_a_batch_is_refused(console: Console, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(UsageError, match="contains no batch"):
        console.export(tmp_path / "run", to=tmp_path / "set")


def test_a_run_directory_that_is_named_twice_counts_once(console: Console, rundir: RunDir, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(rundir.path)
    console.export(rundir.path, tmp_path / "link", to=tmp_path / "set")
    assert (tmp_path / "set/train/metadata.jsonl").read_bytes().count(b"\n") == 2


def test_the_command_takes_a_run_directory_and_options(rundir: RunDir, tmp_path: Path) -> None:
    accept(rundir, "a")
    out = tmp_path / "set"
    arguments = ["export", str(rundir.path), str(out), "--format", "folder", "--only", "accepted", "--salt", "x"]
    done = CliRunner().invoke(cli.cli, arguments, standalone_mode=False)
    assert done.return_value == ExitStatus.OK, done.output
    assert [path.name for path in (out / "train" / "clips").iterdir()] == ["a.mp4"]


_KILLED = """
import os, signal, sys
from pathlib import Path
from batchrunner.app.export import ExportRequest, export
from batchrunner.storage.durable_files import Disk

class Deadly(Disk):
    def flush_all(self, paths):
        super().flush_all(paths[:1])
        os.kill(os.getpid(), signal.SIGKILL)

class DeadlyAtTheEnd(Disk):
    def rename_all(self, names):
        super().rename_all(names)
        os.kill(os.getpid(), signal.SIGKILL)

disk = (Deadly if sys.argv[1] == "early" else DeadlyAtTheEnd)()
export([Path(sys.argv[2])], Path(sys.argv[3]), ExportRequest(), print, print, disk)
"""


@pytest.mark.parametrize("moment", ["early", "late"])
def test_a_killed_process_leaves_a_folder_that_the_next_one_continues(
    console: Console, rundir: RunDir, tmp_path: Path, moment: str
) -> None:
    out = tmp_path / "set"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _KILLED, moment, str(rundir.path), str(out)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert out.exists() == (moment == "late")
    assert console.export(rundir.path, to=out) == ExitStatus.OK
    console.export(rundir.path, to=tmp_path / "fresh")
    assert tree_of(out) == tree_of(tmp_path / "fresh")
    assert not (tmp_path / "set.partial").exists()
