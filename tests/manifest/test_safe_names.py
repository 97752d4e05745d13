"""Names stand as typed where every file system allows them; the others are refused, with the nearest valid name."""

import unicodedata

import pytest

from batchrunner.manifest.safe_names import cleaned, cleaned_path, fault, folded, path_fault


@pytest.mark.parametrize(
    "name",
    ["a", "Élodie danse", "E\u0301lodie", "映画 2", "(a) [b] #c & d's", "100 %", "x.y.z", "_a", "é" * 100, "🙂"],
)
def test_spaces_and_accents_stand_as_typed(name: str) -> None:
    assert fault(name) == ""
    assert cleaned(name) == name
    assert path_fault(f"{name}/{name}") == ""


@pytest.mark.parametrize(
    ("name", "message", "nearest"),
    [
        ("", "is empty", ""),
        ("..", "starts with '.'", ""),
        (".hidden", "starts with '.'", "hidden"),
        ("-rf", "starts with '-'", "rf"),
        ("~root", "starts with '~'", "root"),
        (" a", "starts with ' '", "a"),
        ("\u0301a", "starts with", ""),
        ("a.", "ends with a dot", "a"),
        ("a ", "ends with a space", "a"),
        ("a.MP4", "ends with .mp4", "a"),
        ("nul", "a device", "job-nul"),
        ("Com¹.x", "a device", "job-Com¹.x"),
        ("aux .txt", "a device", "job-aux .txt"),
        ("a/b", "contains '/'", "a-b"),
        ("a\\b", "contains", "a-b"),
        ("what?", "contains '?'", "what"),
        ("a:b", "contains ':'", "a-b"),
        ("a\nb", "contains", "a-b"),
        ("a\u202eb", "contains", "a-b"),
        ("a\ud800b", "contains", "a-b"),
        ("a\u00a0b", "contains", "a-b"),
        ("x" * 101, "101 characters", "x" * 100),
        ("映" * 70, "210 bytes", "映" * 66),
    ],
)
def test_unsafe_names_are_refused_with_the_nearest_valid_one(name: str, message: str, nearest: str) -> None:
    assert message in fault(name)
    assert cleaned(name) == nearest
    assert not nearest or fault(nearest) == ""


@pytest.mark.parametrize(
    "path", ["/a", "a/", "a//b", "../a", "a/..", "a/./b", "results.csv/a", "a.mp4/b", "nul/a", "a/" * 150 + "a"]
)
def test_unsafe_folders_are_refused(path: str) -> None:
    assert path_fault(path)
    assert path_fault(cleaned_path(path)) == "" or cleaned_path(path) == ""


def test_names_are_compared_as_file_systems_do() -> None:
    composed, decomposed = (unicodedata.normalize(form, "Élodie") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert folded(composed) == folded(decomposed) == folded(composed.upper())
    assert folded("A-1") == folded("a-1") != folded("a-2")
