"""A report is read piece by piece, and gives the same values as JSON read at once."""

import io
import json
from typing import Any

import pytest

from batchrunner.report import reader

REPORT: dict[str, Any] = {
    "schema_version": 2,
    "batchrunner_version": "0",
    "nothing": None,
    "number": 12.5,
    "manifest": {"files": {"a": "b"}, "text": 'brackets ] } and "quotes" \\'},
    "runs": [],
    "jobs": [{"id": f"job-{number}", "tags": {"a": ["]", "}"]}, "bytes": number} for number in range(50)],
    "timeline": [1, "two", None, [3], 1e3],
    "earlier_jobs": [],
    "last": 7,
}


class Slow(io.StringIO):
    """Text that arrives a few characters at a time."""

    step = 1

    def read(self, size: int | None = -1, /) -> str:
        return super().read(self.step)


def flattened(report: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(key, item) for key, value in report.items() for item in (value if isinstance(value, list) else [value])]


@pytest.mark.parametrize("indent", [None, 0, 4])
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_every_piece_is_read_whatever_the_layout(indent: int | None, step: int) -> None:
    text = Slow(json.dumps(REPORT, indent=indent))
    text.step = step
    assert list(reader.pieces(text)) == flattened(REPORT)


def test_an_empty_object_has_no_pieces() -> None:
    assert list(reader.pieces(io.StringIO(" {} "))) == []


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "null", "{", '{"a"', '{"a": ', '{"a": 1', '{"a": 1,', '{"a": 1,}', '{"a": [1', '{"a": [1,]}'),
        *(
            '{"a": tru}',
            "{a: 1}",
            "{1: 2}",
            '{"a" 1}',
            '{"a": [1 2]}',
            "\udcff",
            f'{{"a": {"[" * 100_000}',
            '{"a": 1 "b"}',
        ),
    ],
)
def test_every_fault_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        list(reader.pieces(io.StringIO(text)))


def test_a_value_without_an_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_MOST_CHARS", 1000)
    monkeypatch.setattr(reader, "_CHUNK_CHARS", 100)
    text = io.StringIO('{"a": "' + "x" * 100_000)
    with pytest.raises(ValueError, match="too long"):
        list(reader.pieces(text))
    assert text.tell() < 3000


def test_one_row_at_a_time_is_read() -> None:
    rows = ", ".join('{"id": "x"}' for _ in range(100_000))
    text = io.StringIO(f'{{"jobs": [{rows}]}}')
    assert next(reader.pieces(text)) == ("jobs", {"id": "x"})
    assert text.tell() < 100_000


@pytest.mark.parametrize(
    ("head", "is_report"),
    [
        (b'{\n "schema_version": 2,', True),
        (b'{"batchrunner_version":"0"', True),
        (b'\xef\xbb\xbf{ "schema_version" : 1', True),
        (b'{"version": 1, "jobs": []}', False),
        (b"version: 1\n", False),
        (b"", False),
    ],
)
def test_a_report_is_known_by_its_head(head: bytes, *, is_report: bool) -> None:
    assert reader.is_report(head) is is_report
