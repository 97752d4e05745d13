"""Files are read below one folder only."""

import os
from pathlib import Path

import pytest

from batchrunner.storage.beneath import Folder, IsLink


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "far" / "deep" / "a").write_text("secret")
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    (root / "deep" / "a").write_text("a")
    (root / "b").write_text("b")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "own link").symlink_to("b")
    (root / "broken").symlink_to("nothing")
    (root / "linked").symlink_to(tmp_path / "far")
    os.mkfifo(root / "pipe")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "c").write_text("c")
    return root


def test_a_file_is_opened(root: Path) -> None:
    with Folder(root) as folder, folder.open(["deep", "a"]) as file:
        assert file.read() == b"a"


@pytest.mark.parametrize("steps", [["link"], ["own link"], ["broken"], ["linked", "deep", "a"], ["linked", "nothing"]])
def test_a_link_is_refused(root: Path, steps: list[str]) -> None:
    with Folder(root) as folder, pytest.raises(IsLink):
        folder.open(steps)


@pytest.mark.parametrize(
    ("steps", "error"),
    [
        (["nothing"], FileNotFoundError),
        (["deep", "nothing"], FileNotFoundError),
        (["nothing", "a"], FileNotFoundError),
        (["b", "a"], NotADirectoryError),
        (["deep"], OSError),
        (["pipe"], OSError),
    ],
)
def test_anything_else_is_an_error_at_once(root: Path, steps: list[str], error: type[OSError]) -> None:
    with Folder(root) as folder, pytest.raises(error):
        folder.open(steps)


def test_names_do_not_go_through_links_or_into_hidden_folders(root: Path) -> None:
    with Folder(root) as folder:
        assert sorted(folder.names()) == ["b", "broken", "deep/a", "link", "linked", "own link", "pipe"]


def test_no_descriptor_stays_open(root: Path) -> None:
    before = len(list(Path("/dev/fd").iterdir()))
    with Folder(root) as folder:
        folder.open(["deep", "a"]).close()
        for steps in (["link"], ["deep"], ["pipe"], ["linked", "a"], ["deep", "nothing"]):
            with pytest.raises(OSError, match=r"."):
                folder.open(steps)
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_the_folder_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "to root").symlink_to(root)
    with Folder(tmp_path / "to root") as folder, folder.open(["b"]) as file:
        assert file.read() == b"b"
