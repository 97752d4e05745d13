"""SHA256SUMS is read as GNU coreutils writes it, and no name leads outside."""

import hashlib

import pytest

from batchrunner.datasets import sums

A = hashlib.sha256(b"a").hexdigest()


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (f"{A}  plain\n", "plain"),
        (f"{A} *plain\n", "plain"),
        (f"{A}  plain", "plain"),
        (f"{A}  plain\r\n", "plain"),
        (f"{A.upper()}  plain\n", "plain"),
        (f"{A}   space\n", " space"),
        (f"{A}  *star\n", "*star"),
        (f"{A}  a  b *c\n", "a  b *c"),
        (f"{A}  train/clips/a.mp4\n", "train/clips/a.mp4"),
        (f"{A}  ä\n", "ä"),
        # Lines that sha256sum of coreutils 9.1 writes for these names:
        (f"\\{A}  back\\\\slash\n", "back\\slash"),
        (f"\\{A}  new\\nline\n", "new\nline"),
        (f"\\{A}  cr\\rname\n", "cr\rname"),
        (f"\\{A}  a\\\\nb\n", "a\\nb"),
    ],
)
def test_a_line_of_coreutils_is_read(line: str, name: str) -> None:
    assert list(sums.read([line.encode()])) == [sums.Listed(name, A)]
    assert sums.is_entry(line.encode())


@pytest.mark.parametrize(
    "line",
    ["hello", A, f"{A} ", f"{A}  ", f"{A}plain", f"{A[:-1]}  plain", f"g{A[1:]}  plain", f"\\{A}  a\\x", f"\\{A}  a\\"],
)
def test_another_line_is_named_by_its_number(line: str) -> None:
    first, second = sums.read([f"{A}  a\n".encode(), line.encode()])
    assert (first.problem, second.name) == ("", "line 2")
    assert second.problem


def test_comments_empty_lines_and_a_byte_order_mark_are_skipped() -> None:
    lines = ["\ufeff# made by hand\n", "\n", "  \n", f"{A}  a\n"]
    assert [item.name for item in sums.read([line.encode() for line in lines])] == ["a"]
    assert next(sums.read([f"\ufeff{A}  a\n".encode()])) == sums.Listed("a", A)


@pytest.mark.parametrize("name", ["a", "a b", "back\\slash", "new\nline", "cr\r", "\udcff", "*", "\\n", "ä/b.mp4"])
def test_every_name_survives_writing_and_reading(name: str) -> None:
    assert list(sums.read([sums.entry_line(name, A)])) == [sums.Listed(name, A)]


def test_a_line_that_is_too_long_is_a_problem() -> None:
    [item] = sums.read([f"{A}  {'a' * sums.LONGEST_LINE}\n".encode()])
    assert item.problem


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "..", "../a", "a/../b", "a/../../b", "./../a", "//a", ".", "./", "a\0b"]
)
def test_a_name_that_leads_outside_is_refused(name: str) -> None:
    assert sums.outside(name)


@pytest.mark.parametrize("name", ["a", "./a", "a//b", "a/./b", "..a", "a..", "...", "a/b\\..\\c"])
def test_a_name_that_stays_inside_is_not(name: str) -> None:
    assert sums.outside(name) == ""
