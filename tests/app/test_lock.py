"""The lock command and --locked: files on a disk, exit statuses and next steps."""

import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import batchrunner
from batchrunner.app import lock
from batchrunner.cli import cli
from batchrunner.errors import LocalFault, ManifestError, UsageError
from batchrunner.storage.durable_files import Disk
from tests.conftest import ROOT

MEDIA = ROOT / "manifests" / "media"
REMOTE = "https://example.com"
ROW = {"id": "a", "video": f"{REMOTE}/a.mp4", "image": f"{REMOTE}/hero.png"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write("batch.yaml", {"jobs": [ROW]})
    return tmp_path


def write(name: str, content: object) -> Path:
    path = Path(name)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def ran(*arguments: str) -> tuple[int, str, str]:
    """Run a command and return its exit status (that of an error, if it raises one), stdout and stderr."""
    done = CliRunner().invoke(cli, arguments, standalone_mode=False)
    if isinstance(done.exception, batchrunner.BatchrunnerError):
        error = done.exception
        found = "".join(f"{item.message}\n" for item in getattr(error, "diagnostics", ()))
        return int(error.exit_status), done.stdout, f"{found}{error.message}\n{error.hint}"
    assert done.exception is None, done.exception
    return int(done.return_value), done.stdout, done.stderr


def test_a_second_lock_leaves_the_file_alone(here: Path) -> None:
    assert ran("lock", "batch.yaml")[:2] == (0, "Wrote batch.yaml.lock: 1 job, 2 inputs, 0 tables\n")
    before = (here / "batch.yaml.lock").stat()
    assert ran("lock", "batch.yaml")[:2] == (0, "batch.yaml.lock is up to date: 1 job, 2 inputs, 0 tables\n")
    after = (here / "batch.yaml.lock").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert ran("lock", "--check", "batch.yaml")[:2] == (0, "batch.yaml.lock fits: 1 job\n")
    assert [path.name for path in sorted(here.iterdir())] == ["batch.yaml", "batch.yaml.lock"]


@pytest.mark.parametrize(
    "command", [("validate", "--locked"), ("plan", "--locked"), ("run", "--locked"), ("lock", "--check")], ids=" ".join
)
@pytest.mark.usefixtures("here")
def test_a_difference_is_refused_with_status_2(command: tuple[str, ...]) -> None:
    options = () if command[0] in ("validate", "lock") else ("--provider", "sandbox")
    status, _, message = ran(*command, "batch.yaml", *options)
    assert (status, "there is no lock file batch.yaml.lock" in message) == (2, True)
    assert "Write it with: batchrunner lock batch.yaml" in message
    ran("lock", "batch.yaml")
    write("batch.yaml", {"jobs": [ROW, {**ROW, "id": "b"}]})
    status, _, message = ran(*command, "batch.yaml", *options)
    assert (status, "1 job was added since the lock (b)" in message) == (2, True)
    assert not Path("output").exists()


@pytest.mark.usefixtures("here")
def test_the_next_step_has_the_options_of_the_command() -> None:
    write("batch.yaml", {"jobs": [{**ROW, "resolution": "${RES}"}]})
    assert ran("lock", "batch.yaml", "--set", "RES=480p")[0] == 0
    assert ran("validate", "--locked", "batch.yaml", "--set", "RES=480p")[0] == 0
    _, _, message = ran("validate", "--locked", "batch.yaml", "--set", "RES=720p")
    assert "accept it with: batchrunner lock batch.yaml --set RES=720p" in message


def test_local_inputs_are_compared_by_content_from_any_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "clips").mkdir()
    shutil.copy(MEDIA / "bunny.mp4", "clips/wälk.mp4")
    shutil.copy(MEDIA / "hopper.jpg", "clips/hero.jpg")
    write("batch.yaml", {"matrix": [{"video": "clips/*.mp4", "image": "clips/*.jpg"}]})
    ran("lock", "batch.yaml")
    document = json.loads((here / "batch.yaml.lock").read_text("utf-8"))
    assert document["inputs"]["clips/wälk.mp4"]["bytes"] == (MEDIA / "bunny.mp4").stat().st_size
    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert ran("validate", "--locked", "../batch.yaml")[0] == 0
    (here / "clips" / "hero.jpg").write_bytes((MEDIA / "astronaut.jpg").read_bytes())
    _, _, message = ran("validate", "--locked", "../batch.yaml")
    assert "the input clips/hero.jpg changed since the lock" in message
    assert ran("validate", "--locked", "--no-inputs", "../batch.yaml")[0] == 0, "contents are not compared"
    shutil.rmtree(here / "clips")
    status, out, _ = ran("validate", "--locked", "--no-inputs", "../batch.yaml")
    assert (status, out) == (0, "../batch.yaml: 1 job, no problems; inputs were not read\n")


@pytest.mark.usefixtures("here")
def test_without_inputs_everything_else_is_checked() -> None:
    write("batch.yaml", {"jobs": [{**ROW, "video": "gone.mp4"}], "matrix": [{"video": "x/*.mp4", "image": "y.png"}]})
    status, out, _ = ran("validate", "--no-inputs", "batch.yaml")
    assert (status, out) == (
        0,
        "batch.yaml: 1 job, no problems; inputs were not read; 1 pattern without a file, so without jobs\n",
    )
    [file] = json.loads(ran("validate", "--no-inputs", "--format", "json", "batch.yaml")[1])["files"]
    assert (file["inputs_read"], file["unmatched_patterns"]) == (False, 1)
    write("batch.yaml", {"jobs": [{**ROW, "video": "gone.mp4", "resolution": "1p"}]})
    assert ran("validate", "--no-inputs", "batch.yaml")[0] == 2
    write("batch.yaml", {"jobs": [{**ROW, "video": "same.mp4"}, {**ROW, "id": "b", "video": "other.mp4"}]})
    assert "no problems" in ran("validate", "--no-inputs", "batch.yaml")[1], "unknown contents are not equal"


@pytest.mark.usefixtures("here")
def test_a_missing_manifest_is_named_before_its_lock_file() -> None:
    for arguments in (["plan", "--locked", "bach.yaml"], ["lock", "--check", "bach.yaml"]):
        status, _, message = ran(*arguments)
        assert (status, message) == (2, "no such file: bach.yaml\ndid you mean batch.yaml?")


@pytest.mark.usefixtures("here")
def test_standard_input_has_no_lock_file() -> None:
    for arguments in (["lock", "-"], ["plan", "--locked", "-"]):
        status, _, message = ran(*arguments)
        assert (status, "a manifest on standard input has no lock file" in message) == (2, True)


@pytest.mark.parametrize("content", ["{}", "[[package]]\nname = 'x'\n", '{"lock_version": 9}'])
def test_a_file_of_another_program_is_not_replaced(here: Path, content: str) -> None:
    write("batch.yaml.lock", content)
    assert ran("lock", "batch.yaml")[0] == 2
    assert (here / "batch.yaml.lock").read_text() == content


@pytest.mark.parametrize("content", ["", '{\n  "lock_version": 1,\n<<<<<<< HEAD\n', '{"lock_version": 1, "jo'])
def test_a_damaged_lock_file_is_replaced_by_the_named_command(here: Path, content: str) -> None:
    write("batch.yaml.lock", content)
    status, _, message = ran("validate", "--locked", "batch.yaml")
    assert (status, "write it again with: batchrunner lock batch.yaml" in message) == (2, True)
    assert ran("lock", "batch.yaml")[0] == 0
    assert ran("validate", "--locked", "batch.yaml")[0] == 0


def test_a_link_is_read_but_not_written_through(here: Path) -> None:
    ran("lock", "batch.yaml")
    (here / "batch.yaml.lock").rename("kept.lock")
    (here / "batch.yaml.lock").symlink_to("kept.lock")
    assert ran("validate", "--locked", "batch.yaml")[0] == 0
    status, _, message = ran("lock", "batch.yaml")
    assert (status, "batch.yaml.lock is a symbolic link" in message) == (2, True)
    (here / "batch.yaml.lock").unlink()
    (here / "batch.yaml.lock").mkdir()
    assert "not a regular file" in ran("lock", "batch.yaml")[2]
    assert ran("validate", "--locked", "batch.yaml")[0] == 2


class FailingDisk(Disk):
    """A disk that fails while a new file is written."""

    errno = 0

    def create(self, path: Path | str, content: bytes) -> None:
        super().create(path, content[:10])
        raise OSError(self.errno, os.strerror(self.errno))


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.ENOSPC, LocalFault, "the disk is full"),
        (errno.EACCES, UsageError, "cannot write the lock file batch.yaml.lock: Permission denied"),
        (errno.EROFS, UsageError, "cannot write the lock file batch.yaml.lock: Read-only file system"),
    ],
)
def test_a_disk_that_fails_leaves_the_old_lock_file(
    here: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception], message: str
) -> None:
    ran("lock", "batch.yaml")
    before = (here / "batch.yaml.lock").read_bytes()
    write("batch.yaml", {"jobs": [{**ROW, "id": "b"}]})
    monkeypatch.setattr(FailingDisk, "errno", number)
    monkeypatch.setattr(lock, "Disk", FailingDisk)
    with pytest.raises(kind, match=re.escape(message)):
        lock.write(Path("batch.yaml"), {}, {}, ())
    assert (here / "batch.yaml.lock").read_bytes() == before
    assert sorted(path.name for path in here.iterdir()) == ["batch.yaml", "batch.yaml.lock"]


def test_the_lock_of_a_name_that_is_too_long_gives_a_plain_message(here: Path) -> None:
    name = "b" * 250 + ".yaml"
    (here / "batch.yaml").rename(here / name)
    assert ran("lock", name)[0] == 2
    assert ran("validate", "--locked", name)[0] == 2


@pytest.mark.usefixtures("here")
def test_the_python_api_takes_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"provider": "sandbox", "locked": True, "environment": {}}
    ran("lock", "batch.yaml")
    assert batchrunner.load("batch.yaml", **options).name == "batch"
    write("batch.yaml", {"jobs": [{**ROW, "id": "b"}]})
    with pytest.raises(ManifestError, match="does not match"):
        batchrunner.load("batch.yaml", **options)
