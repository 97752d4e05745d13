"""Write a data set: all units of its format, its card, and SHA256SUMS; or compare them with a data set that exists.

Rules: what is written depends on the batches and the options alone. A media file that turns out to be another one than
recorded is left out, and the plan is made again without it; units that stay equal are not written again.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from batchrunner.datasets import card, sums
from batchrunner.datasets.collect import Collection
from batchrunner.datasets.croissant import croissant
from batchrunner.datasets.formats import Format, MediaRefused, OnProgress, Unit, recipe_of
from batchrunner.datasets.hashing_file import HashingFile
from batchrunner.datasets.items import Dataset
from batchrunner.datasets.sums import SUMS
from batchrunner.datasets.workspace import Workspace, WrittenFile
from batchrunner.errors import UsageError
from batchrunner.formatting import printable
from batchrunner.storage import durable_files

_COPY_BYTES = 1 << 20
_CHOOSE = "Nothing was written. Name a new folder."
_REPLACE = "Nothing was written. Export to a new folder, or remove this data set and export again."


@dataclass(frozen=True, slots=True)
class Exported:
    """An export that ended. is_new: False if the data set existed already. edited: its files that a person edited."""

    files: Mapping[str, WrittenFile]
    is_new: bool
    edited: tuple[str, ...] = ()


def write(collection: Collection, form: Format, workspace: Workspace, progress: OnProgress) -> Exported:
    """Write the data set, and give it its final name. Raises UsageError, LocalFault, NothingToExport."""
    while True:
        try:
            if not has_items(collection):
                workspace.discard()
                raise NothingToExport
            media_bytes = _media_bytes(form, collection)
            workspace.require_space(media_bytes)
            progress.begin(media_bytes)
            workspace.files.clear()
            workspace.write(form.units(collection), progress.add)
            break
        except MediaRefused as refused:
            collection.refuse(refused.media.path, refused.why)
    files = workspace.files
    workspace.write(closing_units(collection, form, files), lambda _: None)
    workspace.write([sums_unit(files)], lambda _: None)
    workspace.publish(files)
    return Exported(files, is_new=True)


class NothingToExport(Exception):
    """No clip is left."""


def has_items(dataset: Dataset) -> bool:
    """Return whether some split has a clip."""
    return any(map(dataset.count, dataset.splits))


def _media_bytes(form: Format, dataset: Dataset) -> int:
    """Return the bytes of all media. Raises an error if a format names two files equally, which is a bug."""
    names: set[str] = set()
    total = 0
    for unit in form.units(dataset):
        assert unit.name not in names, unit.name
        names.add(unit.name)
        total += unit.media_bytes
    return total


def closing_units(dataset: Dataset, form: Format, files: Mapping[str, WrittenFile]) -> Iterator[Unit]:
    """Yield the files that describe the data set. files: all files of its format; the caller may add to it."""
    files = dict(files)
    yield content_unit("README.md", card.card(dataset, form))
    yield content_unit("croissant.json", croissant(dataset, form.name, files))


def content_unit(name: str, content: bytes) -> Unit:
    """Return a unit with this content."""
    return Unit(name, recipe_of(content.decode("utf-8", "surrogateescape")), partial(_write_content, content))


def _write_content(content: bytes, to: BinaryIO) -> None:
    to.write(content)


def sums_unit(files: Mapping[str, WrittenFile]) -> Unit:
    """Return SHA256SUMS, as ``sha256sum -c`` reads it: sorted by name, without itself."""
    lines = sorted((item.name, item.sha256) for item in files.values() if item.name != SUMS)
    return content_unit(SUMS, b"".join(sums.entry_line(name, digest) for name, digest in lines))


def compare(collection: Collection, form: Format, out: Path, progress: OnProgress) -> Exported:
    """Compare the export with the data set in `out`. Writes nothing. Raises UsageError, NothingToExport."""
    listed = _read_sums(out)
    while True:
        try:
            if not has_items(collection):
                raise NothingToExport
            progress.begin(2 * _media_bytes(form, collection))
            files = _compare_units(form.units(collection), out, listed, progress.add)
            break
        except MediaRefused as refused:
            collection.refuse(refused.media.path, refused.why)
    closing = [_hashed(unit, lambda _: None) for unit in closing_units(collection, form, files)]
    files |= {file.name: file for file in closing}
    if others := sorted(listed.keys() ^ files.keys()):
        raise _other(out, f"{others[0]} is in one of them only")
    if outdated := [file.name for file in closing if file.sha256 != listed[file.name]]:
        raise _outdated(out, outdated)
    edited = (file.name for file in closing if _digest_of(out / file.name, lambda _: None) != file.sha256)
    return Exported(files, is_new=False, edited=tuple(edited))


def _compare_units(
    units: Iterator[Unit], out: Path, listed: Mapping[str, str], on_bytes: Callable[[int], None]
) -> dict[str, WrittenFile]:
    files = {}
    for unit in units:
        file = _hashed(unit, on_bytes)  # first: a unit may not be in the data set because its media is refused
        if unit.name not in listed:
            raise _other(out, f"it has no {unit.name}")
        if file.sha256 != listed[unit.name]:
            raise _other(out, f"{unit.name} differs")
        if _digest_of(out / unit.name, on_bytes) != file.sha256:
            raise UsageError(
                f"{printable(str(out / unit.name))} was changed or removed after the export: its SHA-256 is not "
                f"that in {SUMS}",
                _REPLACE,
            )
        files[unit.name] = file
    return files


def _hashed(unit: Unit, on_bytes: Callable[[int], None]) -> WrittenFile:
    sink = HashingFile(None, on_bytes)
    unit.write(sink)  # type: ignore[arg-type]  # a raw file that only takes bytes
    return WrittenFile(unit.name, sink.sha256, sink.size_bytes)


def _digest_of(path: Path, on_bytes: Callable[[int], None]) -> str:
    """Return the SHA-256 of a file in hex; "" if it cannot be read."""
    sink = HashingFile(None, on_bytes)
    try:
        with durable_files.open_plain(path) as file:
            while chunk := file.read(_COPY_BYTES):
                sink.write(chunk)
    except OSError:
        return ""
    return sink.sha256


def _read_sums(out: Path) -> dict[str, str]:
    """Return the SHA-256 of each file by its name. Raises UsageError if `out` is not an exported data set."""
    try:
        with durable_files.open_plain(out / SUMS) as file:
            return {item.name: item.sha256 for item in sums.read(file)}
    except OSError:
        raise UsageError(f"{printable(str(out))} exists, and is not an exported data set", _CHOOSE) from None


def _other(out: Path, why: str) -> UsageError:
    return UsageError(f"{printable(str(out))} is another data set: {printable(why)}", _CHOOSE)


def _outdated(out: Path, names: list[str]) -> UsageError:
    shown = " and ".join(names)
    why = "the manifest's dataset block, the manifest or the runs have changed since the export"
    return UsageError(
        f"{printable(str(out))} has the same clips, but its {shown} would be different now: {why}", _REPLACE
    )
