"""The format `folder`: a folder of clips and a metadata.jsonl for each split, as Hugging Face's VideoFolder reads it.

::

    train/metadata.jsonl          a row for each clip
    train/clips/<id>.mp4
    train/inputs/<sha16>.mp4      a reference video or a character image, once for each split

Names in a row are relative to its metadata.jsonl. A split without clips has an empty metadata.jsonl.
`character` is text: a loader would open a column `character_file_name` as a video.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, BinaryIO

from batchrunner.datasets.filenames import ClipNames
from batchrunner.datasets.formats import Unit, copy_media, json_line, recipe_of
from batchrunner.datasets.items import CHARACTER, REFERENCE, Dataset, Item, MediaFile

METADATA = "metadata.jsonl"


class FolderFormat:
    """See the module."""

    name = "folder"

    def units(self, dataset: Dataset) -> Iterator[Unit]:
        """Yield clips and inputs of each split, then its metadata.jsonl."""
        for split in dataset.splits:
            rows = []  # digests only
            shown: set[str] = set()
            for item, row in _rows(dataset, split):
                rows.append(recipe_of(row))
                yield _media_unit(f"{split}/{row['file_name']}", item.clip, clips=1)
                for media in item.inputs.values():
                    if (name := f"{split}/{_input_name(media)}") not in shown:
                        shown.add(name)
                        yield _media_unit(name, media)
            yield Unit(f"{split}/{METADATA}", recipe_of(rows), partial(_write_rows, dataset, split))

    def data_files(self, split: str) -> str:
        """Return the pattern of a split's files."""
        return f"{split}/**"


def _rows(dataset: Dataset, split: str) -> Iterator[tuple[Item, Mapping[str, Any]]]:
    names = ClipNames()
    for item in dataset.items(split):
        yield item, _row(dataset, item, f"clips/{names.take(item.id, item.key)}{item.clip.suffix}")


def _row(dataset: Dataset, item: Item, clip: str) -> Mapping[str, Any]:
    """Return the complete row of a clip. Every row of the data set has the same keys."""
    files = {role: _input_name(item.inputs[role]) if role in item.inputs else None for role in dataset.roles}
    further = {f"{role}_path": files[role] for role in dataset.roles if role not in {REFERENCE, CHARACTER}}
    reference, character = files.get(REFERENCE), files.get(CHARACTER)
    names = {"file_name": clip, "reference_file_name": reference, "character": character}
    return {**names, "video_path": clip, "control_path": reference, **further, **item.values}


def _input_name(media: MediaFile) -> str:
    return f"inputs/{media.sha256[:16]}{media.suffix}"


def _media_unit(name: str, media: MediaFile, clips: int = 0) -> Unit:
    return Unit(name, recipe_of(media.sha256), partial(copy_media, media), media.bytes, clips)


def _write_rows(dataset: Dataset, split: str, to: BinaryIO) -> None:
    to.writelines(json_line(row) for _, row in _rows(dataset, split))
