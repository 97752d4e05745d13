"""A check of a manifest finds what a load finds, and keeps little of a row."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from batchrunner.errors import ManifestError
from batchrunner.manifest.loader import LoadOptions, load

CHECK = LoadOptions(only_check=True)
_WARM = 200  # rows that a first load reads, so that modules and caches are there
_ROWS = 2000
_MOST_BYTES = 600  # of a row: its id twice, its place, its fingerprint's start, and the tables' slots for them


def _jsonl(number: int) -> str:
    url = f"https://example.com/{number:07}"
    return json.dumps(
        {"id": f"job-{number:07}", "video": f"{url}.mp4", "image": f"{url}.png", "tags": {"n": str(number)}}
    )


def _csv(number: int) -> str:
    return f"job-{number:07},https://example.com/{number:07}.mp4,https://example.com/{number:07}.png,{number}"


@pytest.mark.parametrize(
    ("name", "head", "line"), [("t.jsonl", "", _jsonl), ("t.csv", "id,video,image,tags.n\n", _csv)]
)
def test_a_check_keeps_little_of_a_row(tmp_path: Path, name: str, head: str, line: Callable[[int], str]) -> None:
    path = tmp_path / name

    def peak(rows: int) -> int:
        path.write_text(head + "".join(f"{line(number)}\n" for number in range(rows)))
        tracemalloc.start()
        batch = load(path, options=CHECK)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (batch.count, batch.entries) == (rows, ())
        return used

    peak(_WARM)
    few = peak(_WARM)
    assert (peak(_WARM + _ROWS) - few) / _ROWS < _MOST_BYTES


@pytest.mark.parametrize(
    "rows",
    [
        [{"id": "a", "takes": 3}, {"id": "b"}, {"id": "c", "image": "https://example.com/b.png"}],
        [{"id": "a"}, {"id": "A"}],
        [{"id": "a", "takes": 2}, {"id": "a.t2", "video": "https://example.com/b.mp4"}],
        [{"file": "x"}, {"file": "X", "shift": 3.0}],
        [{"video": "https://drive.google.com/file/d/1/view"}] * 3,
        [{"video": "ftp://example.com/a.mp4"}] * 3,
        [{"id": "a", "video": "ftp://example.com/a.mp4"}, {"id": "b"}, {"id": "c"}],
        [{"id": "a", "video": "ftp://example.com/a.mp4"}, {"video": "https://drive.google.com/file/d/1/view"}],
    ],
)
def test_a_check_finds_what_a_load_finds(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    path = tmp_path / "t.jsonl"
    inputs = {"video": "https://example.com/a.mp4", "image": "https://example.com/a.png"}
    path.write_text("".join(json.dumps(inputs | row) + "\n" for row in rows))

    def found(options: LoadOptions) -> object:
        try:
            batch = load(path, options=options)
        except ManifestError as error:
            return error.message, error.diagnostics
        return batch.count, batch.warnings

    assert found(CHECK) == found(LoadOptions())
    assert found(CHECK)[1], "the rows give problems or warnings"  # type: ignore[index]  # both are pairs
