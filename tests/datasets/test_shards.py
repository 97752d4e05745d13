"""Shards: sizes, order, and the memory that they need."""

from pathlib import Path

import pytest

from batchrunner.datasets.items import Item, MediaFile
from batchrunner.datasets.shards import media_bytes, shards


def item(size_bytes: int, *inputs: int) -> Item:
    files = {
        f"input{number}": MediaFile(Path("x"), "", input_bytes, ".jpg") for number, input_bytes in enumerate(inputs)
    }
    return Item("ab", ("x",), "train", MediaFile(Path("x"), "", size_bytes, ".mp4"), files, {})


@pytest.mark.parametrize(
    ("sizes", "most_bytes", "expected"),
    [
        ([], 10, []),
        ([3], 10, [[3]]),
        ([5, 5, 1], 10, [[5, 5], [1]]),
        ([4, 50, 4, 4], 10, [[4], [50], [4, 4]]),
        ([0, 0, 0, 0], 1, [[0, 0, 0], [0]]),
        ([50, 60], 1, [[50], [60]]),
    ],
)
def test_a_shard_ends_before_it_is_too_large(sizes: list[int], most_bytes: int, expected: list[list[int]]) -> None:
    found = shards(map(item, sizes), media_bytes, most_bytes, most_items=3)
    assert [[one.clip.bytes for one in group] for group in found] == expected


def test_inputs_count() -> None:
    assert media_bytes(item(3, 4, 5)) == 12


def test_only_the_items_of_one_shard_are_taken_at_a_time() -> None:
    taken: list[int] = []

    def items() -> object:
        for number in range(100):
            taken.append(number)
            yield item(1)

    found = shards(items(), media_bytes, 10)  # type: ignore[arg-type]
    next(found)
    assert len(taken) == 11
