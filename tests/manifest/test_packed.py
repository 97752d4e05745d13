"""Packed entries are the entries of the manifest, in a fraction of their memory."""

import gc
import json
from pathlib import Path

import pytest

from batchrunner.job import Entry, Job
from batchrunner.manifest import load
from batchrunner.manifest.loader import LoadOptions
from batchrunner.manifest.packed import BLOCK

PACKED = LoadOptions(packs=True)


def table(folder: Path, rows: int, **further: object) -> Path:
    """Write a table of jobs. The fourth is the same job as the third."""
    lines = []
    for number in range(rows):
        clip = f"https://example.com/{2 if number == 3 else number}.mp4"
        row = {"id": f"job-{number}", "video": clip, "image": "https://example.com/face.png", **further}
        lines.append(
            json.dumps(row | ({"priority": 2, "tags": {"shot": "a"}, "file": "in/{id}"} if number == 1 else {}))
        )
    path = folder / "jobs.jsonl"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("rows", [4, BLOCK, BLOCK + 5])
def test_packed_entries_equal_those_of_a_run(tmp_path: Path, rows: int) -> None:
    path = table(tmp_path, rows)
    plain, packed = load(path), load(path, options=PACKED)
    assert tuple(packed.entries) == plain.entries
    assert tuple(packed.entries) == plain.entries, "they can be iterated again"
    assert (len(packed.entries), packed.count) == (rows, rows)
    assert packed.warnings == plain.warnings
    assert "same job" in packed.warnings[0].message


def test_packed_entries_can_be_indexed(tmp_path: Path) -> None:
    path = table(tmp_path, BLOCK + 5)
    plain, packed = load(path).entries, load(path, options=PACKED).entries
    for place in (0, 1, BLOCK - 1, BLOCK, BLOCK + 4, -1):
        assert packed[place] == plain[place]
    assert packed[BLOCK - 1 : BLOCK + 1] == plain[BLOCK - 1 : BLOCK + 1]
    with pytest.raises(IndexError):
        packed[BLOCK + 5]


def test_takes_are_entries_of_their_own(tmp_path: Path) -> None:
    path = table(tmp_path, 4, takes=2)
    assert tuple(load(path, options=PACKED).entries) == load(path).entries


def test_at_most_two_blocks_are_objects_at_a_time(tmp_path: Path) -> None:
    def alive() -> int:
        return sum(type(item) in (Entry, Job) for item in gc.get_objects())

    of_other_tests = alive()
    entries = load(table(tmp_path, 4 * BLOCK), options=PACKED).entries
    gc.collect()
    before = alive()
    assert before - of_other_tests < BLOCK
    most = max(alive() - before for number, _ in enumerate(entries) if number % BLOCK == BLOCK - 1)
    assert most <= 2 * 2 * BLOCK
