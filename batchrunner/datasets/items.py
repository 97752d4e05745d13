"""The items of a data set as values: a clip, its inputs, its row, and the columns that all rows share. Pure.

Rules: an item names files, and reads none. Every row has the same keys, in the same order.
`batchrunner.datasets.collect` makes items from run directories, and `batchrunner.datasets.formats` writes them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

REFERENCE, CHARACTER = "reference", "character"  # roles of inputs: the first video and the first image of a model
DEFAULT_SPLIT = "train"

# The type of a column: "string", "int64", "float64", "bool", "strings" (a list of strings), or a mapping of names to
# types for a nested column, which has at least one name. Every value may be None.
Dtype = str | Mapping[str, "Dtype"]
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A local file of an item. sha256: what its content must have, in hex. suffix: with its dot, as ``.mp4``."""

    path: Path
    sha256: str
    bytes: int
    suffix: str


@dataclass(frozen=True, slots=True)
class Item:
    """A clip of the data set.

    key: the fingerprint's 64 hex digits. It contains no dot, which WebDataset takes for the end of a key.
    ids: of all equal jobs, the exported one first. inputs: by role (REFERENCE, CHARACTER, or a further input's name);
    only files that are on this machine. values: the row, with the columns of the data set, without file names.
    """

    key: str
    ids: tuple[str, ...]
    split: str
    clip: MediaFile
    inputs: Mapping[str, MediaFile]
    values: Row

    @property
    def id(self) -> str:
        """The id of the exported job."""
        return self.ids[0]


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of the whole data set, for its card.

    name: of the batch, or of the first batch. details: the `dataset` block of the manifests, as the report shows it.
    reports: the head of each run directory's report (the keys of report.json without rows), in the command's order.
    """

    name: str
    details: Row = field(default_factory=dict)
    reports: tuple[Row, ...] = ()


class Dataset(Protocol):
    """A data set to be written. It can be iterated repeatedly, and makes each item anew.

    splits: every split that was named, in order, also empty ones. columns: name and type of each value of a row, in the
    order of the rows. roles: of the inputs that some item has as a file, sorted.
    """

    description: Description
    splits: tuple[str, ...]
    columns: Mapping[str, Dtype]
    roles: tuple[str, ...]

    def count(self, split: str) -> int:
        """Return the number of items of a split."""
        ...

    def items(self, split: str) -> Iterator[Item]:
        """Yield the items of a split, in the order of the run directories and their manifests."""
        ...
