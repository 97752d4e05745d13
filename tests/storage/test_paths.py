"""Home folders: ``~`` is expanded in every place that takes a path."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from batchrunner import manifest
from batchrunner.app import setup as prepare
from batchrunner.engine.polling import duration_cache
from batchrunner.errors import ManifestError, UsageError
from batchrunner.storage import paths
from batchrunner.storage.run_directory import RunDir
from tests.conftest import MEDIA

NONE: Mapping[str, str] = MappingProxyType({})
JOB = "{id: a, video: https://example.com/1.mp4, image: https://example.com/1.png}"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder that is not the working directory."""
    created = tmp_path / "home"
    created.mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(created))
    return created


def loaded(text: str, environment: Mapping[str, str] = NONE, flags: Mapping[str, str] = NONE) -> prepare.Setup:
    Path("m.yaml").write_text(text)
    return prepare.load(Path("m.yaml"), dict(flags), environment)


def test_only_a_leading_tilde_is_expanded(home: Path) -> None:
    for text, path in (("~", home), ("~/a", home / "a"), ("a/~", "a/~"), ("./~/a", "./~/a"), ("a~", "a~")):
        assert paths.expanded(text) == str(path)
    assert Path(paths.expanded("~root/a")).is_absolute()
    assert paths.expanded("~nobody-of-this-name/a") == "~nobody-of-this-name/a"
    with pytest.raises(ValueError, match="no home folder for ~nobody-of-this-name"):
        paths.written("~nobody-of-this-name/a")


@pytest.mark.parametrize("place", ["manifest", "environment", "flag"])
def test_a_run_writes_to_the_home_folder(home: Path, place: str) -> None:
    names = {"output": "~/renders", "junit": "~/a.xml", "metrics_file": "~/a.prom"}
    written = "".join(f"{name}: {path}\n" for name, path in names.items() if place == "manifest")
    environment = {f"BATCHRUNNER_{name.upper()}": path for name, path in names.items() if place == "environment"}
    setup = loaded(f"{written}jobs: [{JOB}]", environment, names if place == "flag" else NONE)
    assert setup.rundir.path == home / "renders"
    assert (setup.settings.junit, setup.settings.metrics_file) == (str(home / "a.xml"), str(home / "a.prom"))


@pytest.mark.parametrize("name", ["output", "junit", "metrics_file"])
def test_nothing_is_written_to_an_unknown_users_folder(home: Path, name: str) -> None:
    with pytest.raises(ManifestError) as caught:
        loaded(f"{name}: ~nobody-of-this-name/x\njobs: [{JOB}]")
    assert "no home folder" in caught.value.diagnostics[0].message
    with pytest.raises(UsageError, match="no home folder"):
        loaded(f"jobs: [{JOB}]", flags={name: "~nobody-of-this-name/x"})


def test_a_manifest_reads_from_the_home_folder(home: Path) -> None:
    shutil.copy(MEDIA / "bunny.mp4", home / "v.mp4")
    shutil.copy(MEDIA / "bunny.mp4", home / "w.mp4")
    shutil.copy(MEDIA / "hopper.jpg", home / "i.jpg")
    (home / "t.csv").write_text("id,video,image\nfrom-table,~/v.mp4,i.jpg\n")
    (home / "lists").mkdir()
    (home / "lists" / "u.jsonl").write_text('{"id": "from-list", "video": "~/w.mp4", "image": "../i.jpg"}\n')
    batch = loaded(
        "jobs_from: ['~/t.csv', '~/lists/u.jsonl']\n"
        "jobs: [{id: job, video: ~/v.mp4, image: ~/i.jpg, resolution: 720p}]\n"
        "matrix: [{video: '~/*.mp4', image: ~/i.jpg, num_inference_steps: 7, exclude: [{video: '~/w*'}]}]\n"
    ).batch
    assert len(batch.entries) == 4
    assert {"job", "from-table", "from-list"} < {entry.id for entry in batch.entries}
    assert all(entry.job.inputs["video"].path is not None for entry in batch.entries)


def test_an_input_of_an_unknown_user_says_so(home: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        loaded("jobs: [{video: ~nobody-of-this-name/v.mp4, image: ~/i.jpg}]")
    assert {item.hint for item in caught.value.diagnostics if "nobody" in item.message} == {
        "there is no user nobody-of-this-name"
    }


def test_a_batch_in_a_folder_named_tilde_is_not_paid_again(home: Path) -> None:
    """As an earlier version created it."""
    old = RunDir(Path("~/renders"))
    old.internal_dir.mkdir(parents=True)
    old.journal.touch()
    for text in ("output: ~/renders\n", f"output: {home}/renders\n"):
        with pytest.raises(UsageError, match="took '~' for a name") as caught:
            loaded(f"{text}jobs: [{JOB}]")
        assert f"mv './~/renders' '{home}/renders'" in caught.value.hint
    assert loaded(f"output: ./~/renders\njobs: [{JOB}]").rundir.path == Path("./~/renders")
    Path("~/renders").rename(home / "renders")
    assert loaded(f"output: ~/renders\njobs: [{JOB}]").rundir.path == home / "renders"


def test_the_cache_is_in_the_home_folder(home: Path) -> None:
    wanted = home / ".c" / "batchrunner" / "durations.json"
    assert duration_cache.place({"XDG_CACHE_HOME": "~/.c", "HOME": str(home)}) == wanted


def test_arguments_that_no_shell_has_expanded_are_expanded(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from batchrunner import cli

    def call(*texts: str) -> int:
        monkeypatch.setattr("sys.argv", ["batchrunner", *texts])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0)

    shutil.copy(MEDIA / "bunny.mp4", home / "v.mp4")
    shutil.copy(MEDIA / "hopper.jpg", home / "i.jpg")
    (home / "faults.yaml").write_text("service: {duration: 100ms}\n")
    assert call("init", "~", "--to=~/m.yaml") == 0
    assert call("validate", "~/m.yaml") == 0
    rehearsal = ["--provider", "sandbox", "--fast", "--faults=~/faults.yaml", "--output=~/out"]
    assert call("plan", "~/m.yaml", *rehearsal) == 0
    assert call("status", "~/out") == 2
    assert "no such file: " in capsys.readouterr().err
    assert os.listdir() == []  # noqa: PTH208 (the working directory)
    assert manifest.load(home / "m.yaml").entries
