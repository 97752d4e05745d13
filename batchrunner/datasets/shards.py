"""Shards of a split: consecutive items that one file of the data set contains. Pure.

Rules: the plan depends on recorded sizes alone; no media is read. A shard ends before the item that exceeds its size,
and at MOST_ITEMS, so the memory of an export does not grow with the data set.
"""

from collections.abc import Callable, Iterable, Iterator

from batchrunner.datasets.items import Item

MOST_ITEMS = 1_000


def shards(
    items: Iterable[Item], bytes_of: Callable[[Item], int], most_bytes: int, most_items: int = MOST_ITEMS
) -> Iterator[tuple[Item, ...]]:
    """Yield the items in groups of at most `most_bytes`. An item that is larger is alone in its group."""
    group: list[Item] = []
    size_bytes = 0
    for item in items:
        added_bytes = bytes_of(item)
        if group and (size_bytes + added_bytes > most_bytes or len(group) >= most_items):
            yield tuple(group)
            group, size_bytes = [], 0
        group.append(item)
        size_bytes += added_bytes
    if group:
        yield tuple(group)


def media_bytes(item: Item) -> int:
    """Return the bytes of clip and inputs."""
    return item.clip.bytes + sum(media.bytes for media in item.inputs.values())
