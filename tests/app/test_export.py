"""The command `export`: what it prints, its exit statuses, and what it refuses."""

import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

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
    assert console.err == ["not exported: 1 failed"]
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


MANIFEST = """
name: heroes
output: run
provider: sandbox
dataset:
  license: {license}
jobs:
  - {{id: a, video: media/gone.mp4, image: media/gone.jpg}}
  - {{video: "media/none-*.mp4", image: media/gone.jpg}}
"""


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.cli, arguments, standalone_mode=False)


def test_the_manifest_states_the_licence_now_and_its_inputs_may_be_gone(
    rundir: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run recorded no block. The files of the manifest's jobs do not exist any more."""
    monkeypatch.chdir(tmp_path)
    manifest = tmp_path / "batch.yaml"
    for name in ("mit", "cc-by-4.0"):
        manifest.write_text(MANIFEST.format(license=name))
        done = invoke("export", "batch.yaml", f"set-{name}", "--format", "folder")
        assert done.return_value == ExitStatus.OK, done.output
        assert f"license: {name}" in (tmp_path / f"set-{name}" / "README.md").read_text()
        assert "the card lacks pretty_name" in done.output
    done = invoke("export", "batch.yaml", "set-mit", "--format", "folder")
    assert isinstance(done.exception, UsageError)
    assert "would be different now" in done.exception.message
    assert invoke("verify", "batch.yaml").exception is None
    assert invoke("export", "run", "set-of-the-run", "--format", "folder").return_value == ExitStatus.OK
    assert "license" not in (tmp_path / "set-of-the-run" / "README.md").read_text().split("---")[1]


@pytest.mark.parametrize("name", [".", "", "..", "/", "/dev/null", "mine", "../here", "mine/../mine", "notes.txt"])
def test_no_hint_advises_to_remove_what_is_not_an_export(
    console: Console, rundir: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    here = tmp_path / "here"
    (here / "mine").mkdir(parents=True)
    (here / "mine" / "clip.mp4").write_text("mine")
    (here / "notes.txt").write_text("mine")
    monkeypatch.chdir(here)
    before = tree_of(tmp_path)
    with pytest.raises(UsageError) as error:
        console.export(rundir.path, to=Path(name))
    assert error.value.hint == "Nothing was written. Name a new folder."
    assert tree_of(tmp_path) == before


@pytest.mark.parametrize(
    ("tags", "request_", "why"),
    [
        (["test", "train"], ExportRequest(split="train=1,test=0"), "the tag split wins over the grouping"),
        (["test", ""], ExportRequest(split="train=1,test=0"), "the tag split wins over the grouping"),
        (
            ["", ""],
            ExportRequest(split="train=.5,test=.5", group_by="image", salt="3"),
            "--group-by has another property",
        ),
        (["test", "test"], ExportRequest(split="train=1,test=0"), ""),
        (["", ""], ExportRequest(split="train=.5,test=.5"), ""),
    ],
)
def test_reference_videos_in_several_splits_are_counted(
    console: Console, tmp_path: Path, tags: list[str], request_: ExportRequest, why: str
) -> None:
    samples = [
        Sample(f"{number}", image=f"i{number}".encode(), tags={"split": tag} if tag else {})
        for number, tag in enumerate(tags * 8)
    ]
    run = make_batch(tmp_path, [*samples, Sample("alone", reference=b"run", tags={"split": "test"})])
    assert console.export(run.path, to=tmp_path / "set", request=request_) == ExitStatus.OK
    found = [line for line in console.err if "several splits" in line]
    expected = f"1 reference video is in several splits, so test data may resemble training data: {why}"
    assert found == ([expected] if why else [])


def test_a_clip_that_was_replaced_is_to_be_moved_away(console: Console, rundir: RunDir, tmp_path: Path) -> None:
    (rundir.path / "a.mp4").write_bytes(b"x")
    (rundir.path / "b.mp4").unlink()
    with pytest.raises(BatchrunnerError):
        console.export(rundir.path, to=tmp_path / "set")
    by_id = {line[0]: line for line in console.err}
    assert by_id["a"].endswith("at no charge, move it away and run the batch again")
    assert by_id["b"].endswith("at no charge, run the batch again")


def test_the_line_to_check_the_data_set_works(console: Console, rundir: RunDir, tmp_path: Path) -> None:
    console.export(rundir.path, to=tmp_path / "my set")
    (line,) = [line for line in console.out if line.startswith("check ")]
    program, *arguments = shlex.split(line.removeprefix("check "))
    assert program == "batchrunner"
    assert invoke(*arguments).return_value == ExitStatus.OK
    (tmp_path / "my set" / "more.txt").write_text("x")
    assert invoke(*arguments).return_value == ExitStatus.FAILED
