"""Creation of a first manifest from a folder: it is valid, readable, and overwrites nothing."""

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from batchrunner.cli import cli
from batchrunner.errors import ExitStatus, UsageError
from batchrunner.manifest import load
from tests.conftest import MEDIA


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["init", *arguments], standalone_mode=False)


def put(path: str, of: str, more: bytes = b"") -> None:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(MEDIA / of, target)
    with target.open("ab") as file:
        file.write(more)


def entries(path: str = "batch.yaml") -> list[tuple[str, str, str]]:
    batch = load(Path(path))
    assert batch.warnings == ()
    return [(entry.file, entry.job.inputs["video"].source, entry.job.inputs["image"].source) for entry in batch.entries]


def test_a_single_image_is_used_for_each_video(here: Path) -> None:
    put("clips/bunny.mp4", "bunny.mp4")
    put("clips/deep/Other One.mp4", "bunny.mp4", b"\0\0\0\x08free")
    put("clips/hero.jpg", "hopper.jpg")
    result = init("clips")
    assert result.exception is None
    assert "Wrote batch.yaml: 2 jobs, each video with the one image." in result.output
    assert entries() == [
        ("bunny.mp4", "clips/bunny.mp4", "clips/hero.jpg"),
        ("Other One.mp4", "clips/deep/Other One.mp4", "clips/hero.jpg"),
    ]
    assert "480x480, 2.4 s" in Path("batch.yaml").read_text("utf-8")


def test_several_images_give_a_matrix_and_its_example_exclusion_works(here: Path) -> None:
    put("bunny.mp4", "bunny.mp4")
    put("a.jpg", "astronaut.jpg")
    put("h.jpg", "hopper.jpg")
    assert "each video with each image" in init().output
    assert [file for file, *_ in entries()] == ["bunny-a.mp4", "bunny-h.mp4"]
    text = Path("batch.yaml").read_text("utf-8")
    Path("less.yaml").write_text(text.replace("# exclude:", "exclude:").replace("#   - {", "  - {"))
    assert [file for file, *_ in entries("less.yaml")] == ["bunny-a.mp4"]


def test_equal_names_are_paired(here: Path) -> None:
    put("a.mp4", "bunny.mp4")
    put("B.mp4", "bunny.mp4", b"\0\0\0\x08free")
    put("A.jpg", "astronaut.jpg")
    put("faces/b.jpg", "hopper.jpg")
    assert "each video with the image of the same name" in init(".").output
    assert entries() == [("a.mp4", "a.mp4", "A.jpg"), ("B.mp4", "B.mp4", "faces/b.jpg")]


def test_unusable_files_are_left_out_and_listed(here: Path) -> None:
    put("bunny.mp4", "bunny.mp4")
    put("copy.mp4", "bunny.mp4")
    put("hero.jpg", "hopper.jpg")
    for hidden in (".git/x.mp4", "output/night/x.mp4", "venv/x.jpg", "node_modules/x.jpg", ".x.jpg"):
        put(hidden, "bunny.mp4")
    Path("output/night/.batchrunner").mkdir()
    Path("venv/pyvenv.cfg").touch()
    Path("cut.mp4").write_bytes((MEDIA / "bunny.mp4").read_bytes()[:3000])
    Path("old.gif").write_bytes(b"GIF89a" + bytes(100))
    Path("empty.png").touch()
    Path("notes.txt").write_text("x")
    os.mkfifo("pipe.mp4")
    result = init()
    assert result.exception is None
    left_out = [
        line.removeprefix("Left out: ").split(" ")[0] for line in result.output.splitlines() if "Left out" in line
    ]
    assert left_out == ["copy.mp4", "cut.mp4", "empty.png", "old.gif", "pipe.mp4"]
    assert len(entries()) == 1


@pytest.mark.parametrize(
    "name", ["a: b #c", "${HOME}", "[1]*", "no", "1", "- x", '"q"', "'", "é 映", "a\\b", "%", "@x", "a ", "{x}"]
)
def test_unusual_names_are_quoted(here: Path, name: str) -> None:
    put(f"{name}.mp4", "bunny.mp4")
    put(f"{name}.jpg", "hopper.jpg")
    put("z.jpg", "astronaut.jpg")
    assert init().exception is None
    assert {video for _, video, _ in entries()} == {f"{name}.mp4"}
    assert f"{name}.jpg" in {image for _, _, image in entries()}


def test_names_with_control_characters_are_left_out(here: Path) -> None:
    put("bunny.mp4", "bunny.mp4")
    put("hero.jpg", "hopper.jpg")
    for name in ("a\nb.jpg", "\x1b[2J.jpg"):
        put(name, "astronaut.jpg")
    result = init()
    assert len(entries()) == 1
    assert "\x1b" not in result.output


def test_a_name_that_is_not_utf_8_is_left_out_and_shown_by_its_bytes(here: Path) -> None:
    put("bunny.mp4", "bunny.mp4")
    put("hero.jpg", "hopper.jpg")
    put(os.fsdecode(b"a\xff.jpg"), "astronaut.jpg")
    result = init()
    assert len(entries()) == 1
    assert r"$'a\xff.jpg': its name is not valid UTF-8" in result.output
    assert "udcff" not in result.output


def test_existing_files_are_not_overwritten_without_force(here: Path) -> None:
    put("bunny.mp4", "bunny.mp4")
    put("hero.jpg", "hopper.jpg")
    Path("batch.yaml").write_text("mine")
    assert isinstance(init().exception, UsageError)
    assert Path("batch.yaml").read_text() == "mine"
    assert init("-o", "other.yaml").exception is None
    assert init("--force").exception is None
    assert len(entries()) == len(entries("other.yaml")) == 1


@pytest.mark.parametrize("found", [(), ("bunny.mp4",), ("hopper.jpg",)])
def test_nothing_is_written_without_a_video_and_an_image(here: Path, found: tuple[str, ...]) -> None:
    for name in found:
        put(name, name)
    result = init()
    assert isinstance(result.exception, UsageError)
    assert result.exception.exit_status == ExitStatus.USAGE
    assert "A job needs a video" in result.exception.hint
    assert not Path("batch.yaml").exists()


def test_paths_that_are_not_folders_are_refused(here: Path) -> None:
    assert isinstance(init("gone").exception, UsageError)
    put("bunny.mp4", "bunny.mp4")
    put("hero.jpg", "hopper.jpg")
    assert isinstance(init("-o", "gone/batch.yaml").exception, UsageError)
    assert isinstance(init("-o", ".", "--force").exception, UsageError)


def test_too_many_files_are_an_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchrunner.manifest.scaffold._MAX_MEDIA", 3)
    for name in "abcd":
        Path(f"{name}.mp4").touch()
    assert "more than a first manifest" in str(init().exception)
