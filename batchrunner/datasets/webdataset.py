"""The format `webdataset`: tars of samples, as WebDataset and Hugging Face read them.

::

    train-000000.tar
        <key>.mp4                 the clip
        <key>.character.jpg       inputs by role, with the suffixes that they have
        <key>.reference.mp4
        <key>.json                the row

The tars are USTAR: time, user and group are 0, so equal samples give equal bytes. The key is the fingerprint: it has no
dot, where a reader ends the key. A split without clips has no tar.
"""

import hashlib
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, BinaryIO

from batchrunner.datasets import features
from batchrunner.datasets.formats import FormatOptions, MediaRefused, Unit, clean_row, copy_media, json_line, recipe_of
from batchrunner.datasets.items import Dataset, Dtype, Item, MediaFile
from batchrunner.datasets.shards import media_bytes, shards

_BLOCK_BYTES = 512
_END = bytes(2 * _BLOCK_BYTES)
_MOST_BYTES = 8**11  # of a file: its size has eleven octal digits
_PLAIN_ROLE = re.compile(r"[a-z0-9_-]{1,20}")  # a name in USTAR has at most 100 bytes, and a reader lowers its case
_DIGITS = 6


class WebDatasetFormat:
    """See the module."""

    name = "webdataset"

    def __init__(self, options: FormatOptions) -> None:
        self._shard_bytes = options.shard_bytes

    def units(self, dataset: Dataset) -> Iterator[Unit]:
        """Yield the tars of each split."""
        for split in dataset.splits:
            for number, items in enumerate(shards(dataset.items(split), _sample_bytes, self._shard_bytes)):
                name = f"{split}-{number:0{_DIGITS}}.tar"
                total = sum(map(media_bytes, items))
                yield Unit(name, _recipe(items), partial(_write, items), total, len(items), is_portable=True)

    def data_files(self, split: str) -> str:
        """Return the pattern of a split's tars."""
        return f"{split}-{'[0-9]' * _DIGITS}.tar"

    def features(self, dataset: Dataset) -> Mapping[str, Dtype]:
        """Return the fields of a sample. A loader infers them from few samples otherwise, which may lack an input."""
        fields: dict[str, Dtype] = {"mp4": features.VIDEO}
        for role, suffixes in features.suffixes_of_roles(dataset).items():
            fields |= {f"{_role(role)}{suffix}": features.kind_of_suffix(suffix) for suffix in sorted(suffixes)}
        return {**fields, "json": clean_row(dataset.columns), "__key__": "string", "__url__": "string"}


def _role(role: str) -> str:
    """Return a role as a part of a member's name."""
    if _PLAIN_ROLE.fullmatch(role):
        return role
    return f"input-{hashlib.sha256(role.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def _files(item: Item) -> dict[str, MediaFile]:
    """Return the media of a sample by the names of their members."""
    inputs = {f"{item.key}.{_role(role)}{media.suffix}": media for role, media in item.inputs.items()}
    return {f"{item.key}{item.clip.suffix}": item.clip, **inputs}


def _sample_bytes(item: Item) -> int:
    """Return the bytes of a sample in its tar."""
    sizes = [len(json_line(item.values)), *(media.bytes for media in _files(item).values())]
    return sum(_BLOCK_BYTES + size_bytes + len(_padding(size_bytes)) for size_bytes in sizes)


def _recipe(items: tuple[Item, ...]) -> str:
    digest = hashlib.sha256()
    for item in items:
        files = [(name, media.sha256, media.bytes) for name, media in _files(item).items()]
        digest.update(recipe_of(item.key, files).encode() + json_line(item.values))
    return digest.hexdigest()


def _write(items: tuple[Item, ...], to: BinaryIO) -> None:
    """Write a tar. Raises MediaRefused, OSError."""
    for item in items:
        for name, media in _files(item).items():
            if media.bytes >= _MOST_BYTES:
                raise MediaRefused(media, "has 8 GiB or more, for which a tar (USTAR) has no room")
            _member(to, name, media.bytes, partial(copy_media, media))
        row = json_line(item.values)
        _member(to, f"{item.key}.json", len(row), partial(_write_row, row))
    to.write(_END)


def _member(to: BinaryIO, name: str, size_bytes: int, write: Callable[[BinaryIO], Any]) -> None:
    header = tarfile.TarInfo(name)  # time, user and group are 0
    header.size, header.mode = size_bytes, 0o644
    to.write(header.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict"))
    write(to)
    to.write(_padding(size_bytes))


def _write_row(row: bytes, to: BinaryIO) -> None:
    to.write(row)


def _padding(size_bytes: int) -> bytes:
    return bytes(-size_bytes % _BLOCK_BYTES)
