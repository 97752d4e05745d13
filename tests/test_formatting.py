"""Text that is safe to print."""

import json
import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.formatting import parse_size, printable, printable_json, shell_line, shell_path, short_names

CODES = [
    "\x00",
    "\x1b[2J",
    "\x7f",
    "\x85",
    "\x9b31m",
    "\u061c",
    "\u200b",
    "\u200e",
    "\u202e",
    "\u2066",
    "\u2069",
    "\ufeff",
]


@pytest.mark.parametrize("code", CODES, ids=ascii)
def test_control_characters_and_bidirectional_marks_are_escaped(code: str) -> None:
    assert printable(f"a{code}b").isprintable()
    assert printable_json(json.dumps(f"a{code}b", ensure_ascii=False)).isprintable()


@given(st.text(), st.booleans())
def test_escaped_json_has_the_same_value(text: str, ascii_only: bool) -> None:
    written = printable_json(json.dumps({text: [text]}, ensure_ascii=ascii_only, indent=1))
    assert json.loads(written) == {text: [text]}
    assert all(line.isprintable() for line in written.split("\n"))


def test_a_command_can_be_pasted_into_a_shell_whatever_it_contains() -> None:
    arguments = [
        "printf",
        "%s|",
        "a b",
        "it's",
        "Zoë",
        "",
        "*",
        "a\nb",
        "\x1b[2J\\",
        "\u202e",
        os.fsdecode(b"\xff.yaml"),
        "$HOME",
    ]
    line = shell_line(arguments)
    assert line.isprintable()
    shown = subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout
    assert shown == b"".join(os.fsencode(argument) + b"|" for argument in arguments[2:])


def test_a_path_is_not_read_as_an_option() -> None:
    assert shell_path("-night.yaml") == "./-night.yaml"
    assert shell_path("night.yaml") == "night.yaml"


@given(
    st.lists(st.text("ab-.t2", min_size=1, max_size=90), max_size=30), st.integers(16, 50), st.sampled_from(["…", "~"])
)
def test_short_names_differ_from_each_other_and_from_whole_names(names: list[str], most: int, cut: str) -> None:
    short = short_names(names, most, cut)
    shown = [short.get(name, name) for name in dict.fromkeys(names)]
    assert len(set(shown)) == len(shown)
    assert all(len(text) <= most and len(name) > most for name, text in short.items())


def test_names_that_differ_in_the_middle_only_show_their_difference() -> None:
    names = [f"{'a' * 40}-{number:02d}-{'z' * 40}" for number in range(20)]
    short = short_names(names, 40)
    assert len(set(short.values())) == 20
    assert all(len(text) <= 40 for text in short.values())
    assert any("…1" in text for text in short.values())


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("0", 0), ("500kB", 500_000), ("8MB", 8_000_000), ("1.5 GB", 1_500_000_000), ("64MiB", 64 << 20), ("7b", 7)],
)
def test_a_size_has_a_unit(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "8", "MB", "-1MB", "1e3MB", "8 M", "8MBs", "nan"])
def test_a_size_without_a_known_unit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="unit"):
        parse_size(text)
