"""The entries of a batch in little memory, for a command that reads them in order and keeps none. Pure.

An entry takes about a kilobyte as objects, and a quarter of that here. Its id and its fingerprint stay texts; the rest
is packed in blocks of many rows, whose texts repeat. Each iteration creates the entries anew, so equal jobs are equal
objects, not the same one.
"""

import pickle
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from batchrunner.job import Entry, Job, Media

BLOCK = 500  # rows

# Of one row: model, inputs, parameters, tags, priority.
Content = tuple[str, Mapping[str, Media], Mapping[str, Any], Mapping[str, str], int]


def pack(rows: Sequence[Content]) -> bytes:
    """Return the content of rows, packed."""
    return zlib.compress(pickle.dumps(rows, pickle.HIGHEST_PROTOCOL), 1)


class PackedEntries(Sequence[Entry]):
    """The entries of a batch.

    blocks: of `pack`, with BLOCK rows each; the last one may have fewer. names, fingerprints: of all rows, in order.
    file_names: those that differ from the id, by position.
    """

    def __init__(
        self, blocks: Sequence[bytes], names: Sequence[str], fingerprints: Sequence[str], file_names: Mapping[int, str]
    ) -> None:
        self._blocks = blocks
        self._names = names
        self._fingerprints = fingerprints
        self._file_names = file_names

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Entry]:
        for number in range(len(self._blocks)):
            yield from self._unpacked(number)

    @overload
    def __getitem__(self, place: int) -> Entry: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Entry]: ...
    def __getitem__(self, place: int | slice) -> Entry | Sequence[Entry]:
        if isinstance(place, slice):
            return tuple(self[number] for number in range(*place.indices(len(self))))
        number = range(len(self))[place]
        return self._unpacked(number // BLOCK)[number % BLOCK]

    def _unpacked(self, number: int) -> list[Entry]:
        """Return the entries of a block."""
        first = number * BLOCK
        packed = zlib.decompress(self._blocks[number])
        rows: Sequence[Content] = pickle.loads(packed)  # noqa: S301 (from this process's memory, never from a file)
        return [
            Entry(
                position,
                self._names[position],
                Job(self._fingerprints[position], model, inputs, params),
                tags,
                priority,
                self._file_names.get(position, ""),
            )
            for position, (model, inputs, params, tags, priority) in enumerate(rows, first)
        ]
