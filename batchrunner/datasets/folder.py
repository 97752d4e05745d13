"""The format `folder`: a folder of clips and a metadata.jsonl for each split, as Hugging Face's VideoFolder reads it.

::

    train/metadata.jsonl          a row for each clip
    train/clips/<id>.mp4
    train/inputs/<sha16>.mp4      a reference video or a character image, once for each split

Names in a row are relative to its metadata.jsonl. A split without clips has an empty metadata.jsonl.
`character` is text: a loader would open a column `character_file_name` as a video.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

from batchrunner.datasets.filenames import ClipNames
from batchrunner.datasets.formats import Unit, copy_media, json_line, recipe_of
from batchrunner.datasets.inferred_types import encoded, inferred_types
from batchrunner.datasets.items import CHARACTER, REFERENCE, Dataset, Dtype, Item, MediaFile

METADATA = "metadata.jsonl"
_USUAL_ROLES = {REFERENCE, CHARACTER}


class FolderFormat:
    """See the module."""

    name = "folder"

    def units(self, dataset: Dataset) -> Iterator[Unit]:
        """Yield clips and inputs of each split, then its metadata.jsonl."""
        table = _Table(dataset, inferred_types(dataset), _common_roles(dataset))
        for split in dataset.splits:
            rows = hashlib.sha256()
            shown: set[str] = set()
            for item, row in table.rows(split):
                rows.update(json_line(row))
                yield _media_unit(f"{split}/{row['file_name']}", item.clip, clips=1)
                for media in item.inputs.values():
                    if (name := f"{split}/{_input_name(media)}") not in shown:
                        shown.add(name)
                        yield _media_unit(name, media)
            yield Unit(f"{split}/{METADATA}", rows.hexdigest(), partial(table.write, split))

    def data_files(self, split: str) -> str:
        """Return the pattern of a split's files."""
        return f"{split}/**"

    def features(self, dataset: Dataset) -> Mapping[str, Dtype]:
        """Return nothing: a loader infers them, and adds columns of its own."""
        return {}


@dataclass(frozen=True, slots=True)
class _Table:
    """The rows of all splits. types: as for `inferred_types`. opened: roles whose files a loader opens."""

    dataset: Dataset
    types: Mapping[str, Dtype]
    opened: Collection[str]

    def rows(self, split: str) -> Iterator[tuple[Item, Mapping[str, Any]]]:
        """Yield the items of a split with their complete rows. Every row of the data set has the same keys."""
        names = ClipNames()
        for item in self.dataset.items(split):
            clip = f"clips/{names.take(item.id, item.key)}{item.clip.suffix}"
            values = {name: encoded(item.values[name], kind) for name, kind in self.types.items()}
            yield item, {**self._names(item, clip), **values}

    def _names(self, item: Item, clip: str) -> dict[str, Any]:
        def missing(role: str) -> str | None:
            return "" if role in self.dataset.roles else None

        files = {role: _input_name(media) for role, media in item.inputs.items()}
        further = {f"{role}_path": files.get(role, "") for role in self.dataset.roles if role not in _USUAL_ROLES}
        return {
            "file_name": clip,  # first: a loader takes it for the first file
            "reference_file_name": files.get(REFERENCE) if REFERENCE in self.opened else None,
            "character": files.get(CHARACTER, missing(CHARACTER)),
            "video_path": clip,
            "control_path": files.get(REFERENCE, missing(REFERENCE)),
            **further,
        }

    def write(self, split: str, to: BinaryIO) -> None:
        """Write metadata.jsonl."""
        to.writelines(json_line(row) for _, row in self.rows(split))


def _common_roles(dataset: Dataset) -> set[str]:
    """Return the roles of which each split has a file. A loader refuses a column of files that one split lacks."""
    found = set(dataset.roles)
    for split in dataset.splits:
        if dataset.count(split):
            found &= {role for item in dataset.items(split) for role in item.inputs}
    return found


def _input_name(media: MediaFile) -> str:
    return f"inputs/{media.sha256[:16]}{media.suffix}"


def _media_unit(name: str, media: MediaFile, clips: int = 0) -> Unit:
    return Unit(name, recipe_of(media.sha256), partial(copy_media, media), media.bytes, clips, is_portable=True)
