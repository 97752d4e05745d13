"""Text that is safe to print."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrunner.formatting import printable, printable_json

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
