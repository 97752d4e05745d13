"""Files that a run never overwrites: other files with a report's name, and the inputs of its manifest."""

import os
import shutil
from pathlib import Path

import pytest

from batchrunner.app import setup as prepare
from batchrunner.app import start
from batchrunner.app.signs import signs
from batchrunner.errors import UsageError
from batchrunner.events import Event, Noticed
from batchrunner.storage.run_directory import RunDir
from tests.conftest import MEDIA

TABLE = "id,video,image\na,bunny.mp4,hopper.jpg\n"
FOREIGN = {"report.json": '{"schema_version": 1, "valid": true}', "report.html": "<html>mine", "results.csv": TABLE}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("bunny.mp4", "hopper.jpg"):
        shutil.copy(MEDIA / name, name)
    Path("out").mkdir()


def begun(text: str, **flags: object) -> tuple[prepare.Setup, list[Event], int]:
    Path("m.yaml").write_text(f"provider: sandbox\noutput: out\n{text}")
    setup = prepare.load(Path("m.yaml"), flags, {})
    said: list[Event] = []
    return setup, said, start.run_batch(setup, {}, said.append)


NOTHING = "matrix: [{video: none/*.mp4, image: none/*.png, allow_empty: true}]\n"
JOB = "jobs: [{id: a, video: %s, image: %s}]\n"


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_with_a_reports_name_is_moved(name: str) -> None:
    Path("out", name).write_text(FOREIGN[name])
    _, said, status = begun(NOTHING)
    assert status == 0
    kept = Path("out/.batchrunner/kept")
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 (a name, not a path)
    assert (kept / f"{stem}.1{suffix}").read_text() == FOREIGN[name]
    assert Path("out", name).read_text() != FOREIGN[name]
    assert any(isinstance(event, Noticed) and f"out/{name} is not a report" in event.message for event in said)
    begun(NOTHING + "concurrency: 5\n")
    assert [path.name for path in kept.iterdir()] == [f"{stem}.1{suffix}"], "its own reports are replaced"


def test_a_link_or_a_folder_with_a_reports_name_is_moved() -> None:
    Path("mine.html").write_text("mine")
    Path("out/report.html").symlink_to("../mine.html")
    Path("out/results.csv").mkdir()
    assert begun(NOTHING)[2] == 0
    assert Path("mine.html").read_text() == "mine"
    assert Path("out/.batchrunner/kept/results.1.csv").is_dir()
    assert Path("out/.batchrunner/kept/report.1.html").is_symlink()


def refused(text: str, **flags: object) -> str:
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file() and path.name != "m.yaml"}
    with pytest.raises(UsageError) as caught:
        begun(text, **flags)
    assert "Nothing was submitted" in caught.value.hint
    assert {path: path.read_bytes() for path in before} == before
    return caught.value.message


def test_a_table_is_not_overwritten() -> None:
    for name in ("bunny.mp4", "hopper.jpg"):
        shutil.copy(name, Path("out", name))
    Path("out/results.csv").write_text(TABLE)
    assert "the batch reads out/results.csv" in refused("jobs_from: out/results.csv\n")
    Path("elsewhere").symlink_to("out")
    assert "out/results.csv" in refused("jobs_from: elsewhere/results.csv\n")
    Path("t.csv").symlink_to("out/results.csv")
    Path("out/bunny.mp4").rename("out/b.mp4")
    Path("out/results.csv").write_text(TABLE.replace("bunny", str(Path("bunny").resolve())))
    assert "out/results.csv" in refused("jobs_from: t.csv\n")


def test_an_input_is_not_overwritten() -> None:
    shutil.copy("bunny.mp4", "out/a.mp4")
    assert "out/a.mp4" in refused(JOB % ("out/a.mp4", "hopper.jpg"))
    Path("link.mp4").symlink_to("out/a.mp4")
    assert "out/a.mp4" in refused(JOB % ("link.mp4", "hopper.jpg"))
    shutil.copy("bunny.mp4", "out/other.mp4")
    prepare.require_inputs_unwritten(_loaded(JOB % ("out/other.mp4", "hopper.jpg")))
    Path("out/train").mkdir()
    Path("out/other.mp4").rename("out/train/a.mp4")
    named = "defaults: {file: 'train/{id}'}\n" + JOB % ("out/train/a.mp4", "hopper.jpg")
    assert "out/train/a.mp4" in refused(named)


@pytest.mark.parametrize("name", ["a.mp4", "train/a.mp4"])
def test_a_clip_without_a_journal_is_a_sign_of_an_earlier_run(name: str) -> None:
    text = f"defaults: {{file: '{name.removesuffix('.mp4')}'}}\n" + JOB % ("bunny.mp4", "hopper.jpg")
    Path("out/train").mkdir()
    Path("out/notes.txt").touch()
    assert signs(RunDir(Path("out")), _loaded(text).batch.entries) == []
    Path("out", name).symlink_to("nowhere")
    assert signs(RunDir(Path("out")), _loaded(text).batch.entries) == [name]
    assert f"no journal that records its payments: {name}" in refused(text)


def _loaded(text: str) -> prepare.Setup:
    Path("m.yaml").write_text(f"provider: sandbox\noutput: out\n{text}")
    return prepare.load(Path("m.yaml"), {}, {})


@pytest.mark.parametrize("option", ["junit", "metrics_file"])
def test_an_extra_report_cannot_replace_an_input(option: str) -> None:
    """An empty file may be replaced unless the batch reads it."""
    Path("t.csv").touch()
    message = refused("jobs_from: t.csv\nallow_empty: true\n", **{option: "t.csv"})
    assert message == f"--{option.replace('_', '-')}: the batch reads t.csv"


def test_the_manifest_is_not_overwritten() -> None:
    Path("out/report.json").write_text('{"jobs": [{"id": "a", "video": "../bunny.mp4", "image": "../hopper.jpg"}]}')
    setup = prepare.load(Path("out/report.json"), {"output": "out", "provider": "sandbox"}, {})
    with pytest.raises(UsageError, match=r"the batch reads out/report\.json"):
        start.run_batch(setup, {}, lambda _: None)


def test_a_listener_that_raises_is_reported_on_stderr_and_changes_no_exit_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("m.yaml").write_text(f"provider: sandbox\noutput: out\n{NOTHING}")

    def fail(_: Event) -> None:
        raise ValueError("a defect in a listener")

    assert start.run_batch(prepare.load(Path("m.yaml"), {}, {}), {}, fail) == 0
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("batchrunner: the listener ")
    assert "the run continues: ValueError('a defect in a listener')" in line
    assert Path("out/report.json").exists()
