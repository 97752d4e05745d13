"""Mark the clips of a data set as synthetic media: copies, never the clips of a run directory.

The digital source type is IPTC's. A model that generates every picture gives ``trainedAlgorithmicMedia`` ("created
using generative AI"). A model that replaces a person in a captured video, and keeps the rest, gives
``compositeWithTrainedAlgorithmicMedia``, which IPTC added for composites made by inpainting or outpainting. Source:
IPTC NewsCodes, http://cv.iptc.org/newscodes/digitalsourcetype/. Each model's file says which one it is.

A mark is a statement of who exports. It does not show that a law or a standard is followed.
"""

import hashlib
import json
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from batchrunner.datasets.batches import Batch
from batchrunner.datasets.collect import Choice, Collection
from batchrunner.datasets.formats import MediaRefused, OnProgress, checked_chunks
from batchrunner.datasets.items import Dtype, Item, MediaFile
from batchrunner.errors import LocalFault
from batchrunner.media import mp4_structure, synthetic_marks
from batchrunner.providers import registry
from batchrunner.storage import durable_files
from batchrunner.storage.durable_files import Disk

COLUMNS: Mapping[str, Dtype] = {"mark": "string", "original_sha256": "string", "synthetic_marks": "string"}
_LINES = "marked.jsonl"


class Marker(Protocol):
    """Adds a mark to a file."""

    name: str

    def mark(self, copy: Path, source_type: str) -> str:
        """Mark a copy. Return why it stays as it is, or "". Raises ValueError, OSError, BatchrunnerError."""
        ...


@dataclass(frozen=True, slots=True)
class Marked:
    """A clip of the data set. media: the marked copy, or the clip itself. mark: the marker's name, or "".

    marks: all marks that it has now. why: why it has no new mark, or "".
    """

    media: MediaFile
    mark: str
    marks: tuple[str, ...]
    why: str = ""


class MarkedCopies:
    """Marked copies in the folder `marked` of the workspace, which removes them when the data set is complete.

    Each clip is marked once: a killed export finds its copies again. Only new files are written.
    """

    def __init__(self, folder: Path, marker: Marker, disk: Disk) -> None:
        self._folder = folder
        self._marker = marker
        self._disk = disk
        self._found: dict[str, Marked] = {}
        self._forgotten: set[Path] = set()

    def open(self) -> None:
        """Make the folder, or find the copies of an earlier export. Raises LocalFault."""
        try:
            self._folder.mkdir(exist_ok=True)
            self._remove_odd_lines()
            with suppress(FileNotFoundError), durable_files.open_plain(self._folder / _LINES) as file:
                for line in file:
                    with suppress(ValueError, KeyError, TypeError):
                        self._restore(json.loads(line))
        except OSError as error:
            raise durable_files.fault(error, f"clips could not be marked in {self._folder}") from error

    def of(self, item: Item) -> Marked:
        """Return the marked clip of an item. Raises MediaRefused if the clip is another one than recorded."""
        name = f"{item.clip.sha256}-{self._marker.name}-{source_type_of(item)}"
        if name not in self._found:
            try:
                self._found[name] = self._make(name, item)
                self._note(name, self._found[name])
            except OSError as error:
                raise durable_files.fault(error, f"a clip could not be marked in {self._folder}") from error
        return self._found[name]

    def forget(self, path: Path) -> bool:
        """Return whether `path` is a copy, which is then made again. Raises LocalFault if that has happened before."""
        if path.parent != self._folder:
            return False
        if path in self._forgotten:
            raise LocalFault("disk_error", f"{path} does not keep its content", "Check the disk.")
        self._forgotten.add(path)
        self._found = {name: item for name, item in self._found.items() if item.media.path != path}
        return True

    def unmarked(self) -> list[str]:
        """Return why clips have no new mark, once for each clip."""
        return [item.why for item in self._found.values() if item.why]

    def _make(self, name: str, item: Item) -> Marked:
        copy = self._folder / f"{name}.mp4"
        try:
            copy.unlink(missing_ok=True)
            with self._disk.open(copy, "xb") as file:
                file.writelines(checked_chunks(item.clip))
        except MediaRefused:
            copy.unlink()
            raise
        try:
            why = self._marker.mark(copy, source_type_of(item))
        except ValueError as error:
            why = f"it cannot be marked: {error}"
        size_bytes = copy.stat().st_size
        with durable_files.open_plain(copy) as file:
            marks = synthetic_marks.read(file, size_bytes)
            if why:
                copy.unlink()
                return Marked(item.clip, "", marks, why)
            if damage := mp4_structure.check_structure(file, size_bytes):
                raise LocalFault("disk_error", f"the marked copy of {item.id} is damaged: {damage}", "Check the disk.")
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Marked(MediaFile(copy, digest, size_bytes, item.clip.suffix), self._marker.name, marks)

    def _note(self, name: str, marked: Marked) -> None:
        if marked.mark:
            line = {"name": name, "sha256": marked.media.sha256, "bytes": marked.media.bytes, "marks": marked.marks}
            with self._disk.open(self._folder / _LINES, "ab") as file:
                file.write(b"\n" + json.dumps(line).encode() + b"\n")  # a torn line before it stays alone

    def _remove_odd_lines(self) -> None:
        """Remove the list of copies if it is a link, or a file with a second name, which a new line would change."""
        with suppress(FileNotFoundError):
            status = (self._folder / _LINES).lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                (self._folder / _LINES).unlink()

    def _restore(self, line: Mapping[str, Any]) -> None:
        """Use a copy of an earlier export. Its content is compared when it is copied to the data set."""
        path = self._folder / f"{line['name']}.mp4"
        media = MediaFile(path, str(line["sha256"]), int(line["bytes"]), ".mp4")
        if path.parent == self._folder and path.is_file() and path.stat().st_size == media.bytes:
            self._found[line["name"]] = Marked(media, self._marker.name, tuple(map(str, line["marks"])))


class MarkedCollection(Collection):
    """A data set whose clips are marked. A row has both hashes: of the exported file, and of the original."""

    needs_workspace = True

    def __init__(self, batches: Sequence[Batch], choice: Choice, copies: MarkedCopies) -> None:
        super().__init__(batches, choice)
        self.copies = copies
        self.columns = {**self.columns, **COLUMNS}

    @contextmanager
    def prepared(self, progress: OnProgress) -> Iterator[None]:
        """Mark all clips. The workspace must exist."""
        self.copies.open()
        while True:
            try:
                progress.begin(sum(item.clip.bytes for item in self._originals()), "marking")
                for item in self._originals():
                    self.copies.of(item)
                    progress.add(item.clip.bytes)
                break
            except MediaRefused as refused:
                super().refuse(refused.media.path, refused.why)
        yield

    def _originals(self) -> Iterator[Item]:
        for split in self.splits:
            yield from super().items(split)

    def unmarked(self) -> list[str]:
        """Return why clips have no new mark, once for each clip."""
        return self.copies.unmarked()

    def items(self, split: str) -> Iterator[Item]:
        """Yield the items of a split. Raises MediaRefused if a clip is another one than recorded."""
        for item in super().items(split):
            marked = self.copies.of(item)
            values = {
                **item.values,
                "bytes": marked.media.bytes,
                "sha256": marked.media.sha256,
                "mark": marked.mark,
                "original_sha256": item.clip.sha256,
                "synthetic_marks": "; ".join(marked.marks),
            }
            yield replace(item, clip=marked.media, values=values)

    def refuse(self, path: Path, why: str) -> None:
        """Leave out a file that turned out to be another one than recorded. A marked copy is made again instead."""
        if not self.copies.forget(path):
            super().refuse(path, why)


def source_type_of(item: Item) -> str:
    """Return IPTC's digital source type of the clips of an item's model."""
    spec = registry.models().get(str(item.values["model"]))
    return (spec or registry.default_model()).result.source_type
