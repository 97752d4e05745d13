"""Files are opened only below the run directory, without links, and ranges follow RFC 9110."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import pytest

from batchrunner.review.clips import Changed, Digests, Slice, Source, open_below, opened, require_unchanged, sliced

CONTENT = bytes(range(100))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "scene").mkdir(parents=True)
    (folder / "a.mp4").write_bytes(CONTENT)
    (folder / "scene" / "b c.mp4").write_bytes(CONTENT)
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link.mp4").symlink_to(tmp_path / "secret.txt")
    (folder / "inner.mp4").symlink_to(folder / "a.mp4")
    (folder / "away").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.mp4")
    return folder


@pytest.mark.parametrize("name", ["a.mp4", "scene/b c.mp4"])
def test_a_clip_is_opened(root: Path, name: str) -> None:
    with open_below(root, name) as file:
        assert file.read() == CONTENT


@pytest.mark.parametrize(
    "name",
    [
        "link.mp4",
        "inner.mp4",
        "away/secret.txt",
        "../secret.txt",
        "scene/../../secret.txt",
        "pipe.mp4",
        "scene",
        "",
        ".",
    ],
)
def test_links_pipes_and_names_outside_are_refused(root: Path, name: str) -> None:
    with pytest.raises(OSError, match=r"."):
        open_below(root, name)


def test_an_absolute_name_is_refused(root: Path) -> None:
    with pytest.raises(OSError, match="not a name below"):
        open_below(root, str(root.parent / "secret.txt"))


def test_the_run_directory_itself_may_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "shortcut").symlink_to(root)
    with open_below(tmp_path / "shortcut", "a.mp4") as file:
        assert file.read(3) == CONTENT[:3]


def test_no_descriptor_is_left_open(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (only the number is wanted)
    for name in ("scene/b c.mp4", "away/secret.txt", "pipe.mp4", "scene"):
        with suppress(OSError):
            open_below(root, name).close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 (only the number is wanted)


def test_a_file_with_another_size_is_not_served(root: Path) -> None:
    source = Source(root / "a.mp4", "", 99, root)
    with pytest.raises(Changed), opened(source):
        pass


def test_content_is_compared_with_the_journal_until_the_file_changes(root: Path) -> None:
    source = Source(root / "a.mp4", hashlib.sha256(CONTENT).hexdigest(), 100, root)
    digests = Digests()
    require_unchanged(source, digests)
    require_unchanged(source, digests)
    assert len(digests.known) == 1
    (root / "a.mp4").write_bytes(bytes(100))
    os.utime(root / "a.mp4", ns=(1, 1))
    with pytest.raises(Changed):
        require_unchanged(source, digests)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (None, (200, 0, 100)),
        ("bytes=0-", (206, 0, 100)),
        ("bytes=10-19", (206, 10, 10)),
        ("bytes=90-1000", (206, 90, 10)),
        ("bytes=99-", (206, 99, 1)),
        ("bytes=-10", (206, 90, 10)),
        ("bytes=-1000", (206, 0, 100)),
        ("bytes=100-", (416, 0, 0)),
        ("bytes=100-200", (416, 0, 0)),
        ("bytes=-0", (416, 0, 0)),
        ("bytes=-", (200, 0, 100)),
        ("bytes=9-3", (200, 0, 100)),
        ("bytes=0-1,5-6", (200, 0, 100)),
        ("bytes=a-b", (200, 0, 100)),
        ("items=0-1", (200, 0, 100)),
        ("bytes=" + "9" * 30 + "-", (200, 0, 100)),
    ],
)
def test_ranges(wanted: str | None, expected: tuple[int, int, int]) -> None:
    assert sliced(100, wanted, None, '"x"') == Slice(*expected)


def test_a_range_of_another_version_is_ignored() -> None:
    assert sliced(100, "bytes=5-9", '"x"', '"x"') == Slice(206, 5, 5)
    assert sliced(100, "bytes=5-9", '"y"', '"x"') == Slice(200, 0, 100)


def test_an_empty_file_has_no_range() -> None:
    assert sliced(0, "bytes=0-", None, '"x"') == Slice(416, 0, 0)
    assert sliced(0, None, None, '"x"') == Slice(200, 0, 0)


@pytest.mark.parametrize(
    ("name", "expected"), [("a.MP4", "video/mp4"), ("a.jpg", "image/jpeg"), ("a.svg", "application/octet-stream")]
)
def test_only_pictures_and_clips_have_a_type(name: str, expected: str) -> None:
    assert Source(Path(name), "", None).content_type == expected
