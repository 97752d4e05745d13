"""File names of clips are safe on every file system, and unique."""

import pytest

from batchrunner.datasets.filenames import ClipNames, safe_stem

KEY, OTHER = "ab" * 32, "cd" * 32


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("hero-walk.t2", "hero-walk.t2"),
        ("a train/test?*[x]", "a-train-test-x-"),
        (".hidden", "hidden"),
        ("__private", "private"),
        ("über", "über"),
        ("u\u0308ber", "über"),
        ("a#b%20c", "a-b-20c"),
        ("x" * 300, "x" * 150),
        ("é" * 100, "é" * 75),
        ("...", ""),
        ("a. ", "a-"),
    ],
)
def test_names_are_made_safe(name: str, stem: str) -> None:
    assert safe_stem(name) == stem.rstrip("-._")


def test_names_that_some_file_system_takes_for_one_get_their_key() -> None:
    names = ClipNames()
    assert names.take("Walk", KEY) == "Walk"
    assert names.take("walk", OTHER) == f"walk-{OTHER[:8]}"
    assert names.take("WALK", OTHER[:8] + KEY) == f"WALK-{OTHER[:8]}{KEY}"
    assert names.take("über", KEY) == "über"
    assert names.take("u\u0308ber", KEY) == f"über-{KEY[:8]}"
    assert names.take("...", KEY) == f"clip-{KEY[:8]}"
