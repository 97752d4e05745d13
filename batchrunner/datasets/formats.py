"""The seam of the formats: a format turns a data set into units, and the export writes each unit to a file.

Rules: a unit's bytes depend on its recipe alone: not on time, machine, order of a set, or earlier exports. So a unit
that is complete is not written again, and two exports are equal byte for byte. A format plans its units without
reading media; `copy_media` checks each file while it copies it.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from batchrunner.datasets.items import Dataset, Dtype, MediaFile
from batchrunner.storage import durable_files

_COPY_BYTES = 1 << 20
_LINE_ENDS = re.compile("[\x85\u2028\u2029]")


class MediaRefused(Exception):
    """A media file is not what the batch recorded. It is left out of the data set."""

    def __init__(self, media: MediaFile, why: str) -> None:
        super().__init__(f"{media.path}: {why}")
        self.media = media
        self.why = why


@dataclass(frozen=True, slots=True)
class Unit:
    """A file of the data set.

    name: its path inside the data set, with "/". recipe: a digest of what determines its bytes (`recipe_of`).
    write: writes the bytes to a file that cannot seek (it counts and hashes them; `tell` works). Raises MediaRefused.
    media_bytes: the size of the media that it contains, for the progress bar. clips: how many clips it contains.
    is_portable: `write` has plain values only, so that another process can run it.
    """

    name: str
    recipe: str
    write: Callable[[BinaryIO], None]
    media_bytes: int = 0
    clips: int = 0
    is_portable: bool = False


@dataclass(frozen=True, slots=True)
class FormatOptions:
    """Options of the command that a format may use. shard_bytes: the size at which a shard ends."""

    shard_bytes: int = 1_000_000_000


class OnProgress(Protocol):
    """Receives the progress of an export."""

    def begin(self, total_bytes: int, label: str = "exporting") -> None:
        """A pass over the media begins. label: what it does."""
        ...

    def add(self, size_bytes: int) -> None:
        """So many bytes more are done."""
        ...


class Format(Protocol):
    """A format of data sets."""

    name: str

    def units(self, dataset: Dataset) -> Iterator[Unit]:
        """Yield the files of the data set without card, Croissant file and SHA256SUMS, always in the same order."""
        ...

    def data_files(self, split: str) -> str:
        """Return the pattern of the files of a split, as the card's `configs` names them."""
        ...

    def features(self, dataset: Dataset) -> Mapping[str, Dtype]:
        """Return the columns whose types the card states. "video" and "image" are types too. Empty: none."""
        ...


def _folder(options: FormatOptions) -> Format:
    from batchrunner.datasets.folder import FolderFormat

    return FolderFormat()


def _webdataset(options: FormatOptions) -> Format:
    from batchrunner.datasets.webdataset import WebDatasetFormat

    return WebDatasetFormat(options)


def _parquet(options: FormatOptions) -> Format:
    from batchrunner.datasets.parquet import ParquetFormat

    return ParquetFormat(options)


# By the name on the command line. Each imports its module when it is used.
FORMATS: Mapping[str, Callable[[FormatOptions], Format]] = {
    "folder": _folder,
    "webdataset": _webdataset,
    "parquet": _parquet,
}


def recipe_of(*values: Any) -> str:
    """Return a digest of values that are ready for JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def json_line(row: Mapping[str, Any]) -> bytes:
    """Return a row as a line of JSON in UTF-8. Lone surrogates, which UTF-8 lacks, become U+FFFD.

    Characters that some readers take for line ends are escaped.
    """
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = _LINE_ENDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode() + b"\n"


def clean_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as `json_line` writes it: without lone surrogates."""
    clean: dict[str, Any] = json.loads(json_line(row))
    return clean


def copy_media(media: MediaFile, to: BinaryIO) -> None:
    """Copy a media file, and check its size and SHA-256 on the way. Raises MediaRefused, or OSError of `to`.

    After a refusal, what was written is to be thrown away.
    """
    to.writelines(checked_chunks(media))


def checked_chunks(media: MediaFile) -> Iterator[bytes]:
    """Yield the content of a media file. Raises MediaRefused, at the latest after the last chunk."""
    digest, size_bytes = hashlib.sha256(), 0
    try:
        with durable_files.open_plain(media.path) as file:
            while chunk := file.read(_COPY_BYTES):
                digest.update(chunk)
                size_bytes += len(chunk)
                if size_bytes > media.bytes:
                    break
                yield chunk
    except FileNotFoundError as error:
        raise MediaRefused(media, "is missing") from error
    except OSError as error:
        raise MediaRefused(media, f"cannot be read: {error.strerror or error}") from error
    if size_bytes != media.bytes:
        raise MediaRefused(media, "has another size than the batch recorded")
    if digest.hexdigest() != media.sha256:
        raise MediaRefused(media, "has another content than the batch recorded: its SHA-256 differs")
