"""A disk, built from a record of file operations: what is durable at each point, and what a power cut leaves.

The rules are those of POSIX, without the guarantees of any particular file system. Content is durable once a flush of
its file that began after the write has ended. A name is durable once such a flush of its folder has ended. Other
changes may be present or not, in pieces and in any order; a rename is atomic. The death of a process loses nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from random import Random

from tests.powercut.record import Act, Kind

_SECTOR_BYTES = 512  # the unit that a disk writes atomically
_PAGE_BYTES = 4096  # the largest unit that a system writes at once


class Cut(StrEnum):
    """How much of the changes that are not durable a cut leaves."""

    ALL = "all"  # as when only the process is killed
    NONE = "none"
    PREFIX = "prefix"  # a prefix of each file and of the names; the last write may be torn
    SOME = "some"  # any pages and names


@dataclass(frozen=True, slots=True)
class _Change:
    """A write at an offset, or a new size (data None). number: of the act."""

    number: int
    at: int
    data: bytes | None


@dataclass(slots=True, eq=False)
class _File:
    safe: bytearray = field(default_factory=bytearray)
    pending: list[_Change] = field(default_factory=list)

    def flush(self, before: int) -> None:
        """Writes before this act are durable."""
        for change in self.pending:
            if change.number < before:
                _apply(self.safe, change)
        self.pending = [change for change in self.pending if change.number >= before]

    def left(self, cut: Cut, rng: Random) -> bytes:
        content = bytearray(self.safe)
        for change in _chosen(self.pending, cut, rng):
            _apply(content, change)
        return bytes(content)


@dataclass(frozen=True, slots=True, eq=False)
class _Naming:
    """A change of names: what each path refers to from now on, or None. folder: whose flush makes it durable."""

    number: int
    folder: str
    names: dict[str, "_File | str | None"]


FOLDER = "folder"
_Name = tuple[int, _File | str | None]  # the act that assigned it, and its target
Found = tuple[int, bytes | None]  # inode and content; None: a folder


def found(root: Path) -> dict[str, Found]:
    """Return everything in `root`, by absolute path."""
    paths = [path for path in (root, *root.rglob("*")) if path.exists()]
    return {str(path): (path.stat().st_ino, None if path.is_dir() else path.read_bytes()) for path in paths}


class Disk:
    """The effect of a list of acts up to a point. Paths are absolute."""

    def __init__(self) -> None:
        self._inodes: dict[int, _File] = {}
        self._names: dict[str, _File | str | None] = {}  # as processes see them
        self._safe: dict[str, _Name] = {}
        self._pending: list[_Naming] = []
        self._flushes: dict[tuple[int, int], int] = {}
        self._number = 0

    @classmethod
    def holding(cls, found: Mapping[str, Found]) -> "Disk":
        """Make a disk on which all of this is durable."""
        disk = cls()
        for path, (inode, content) in found.items():
            node: _File | str = FOLDER if content is None else _File(bytearray(content))
            disk._names[path], disk._safe[path] = node, (0, node)
            if isinstance(node, _File):
                disk._inodes[inode] = node
        return disk

    def play(self, acts: Iterable[Act]) -> "Disk":
        """Apply further acts."""
        for act in acts:
            self._number += 1
            if act.kind in {Kind.WRITE, Kind.RESIZE}:
                change = _Change(self._number, act.at, act.data if act.kind is Kind.WRITE else None)
                self._inodes[act.inode].pending.append(change)
            elif act.kind is Kind.FLUSH_BEGINS:
                self._flushes[act.inode, act.at] = self._number
            elif act.kind is Kind.FLUSH_ENDS:
                self._flush(act, self._flushes.pop((act.inode, act.at)))
            else:
                self._rename(act)
        return self

    def _flush(self, act: Act, before: int) -> None:
        if not act.path:
            self._inodes[act.inode].flush(before)
            return
        for naming in self._pending:
            if naming.folder == act.path and naming.number < before:
                _name(self._safe, naming)
        self._pending = [pending for pending in self._pending if pending.folder != act.path or pending.number >= before]

    def _rename(self, act: Act) -> None:
        path, other = _clean(act.path), _clean(act.other) if act.other else ""
        names: dict[str, _File | str | None]
        if act.kind is Kind.CREATE:
            names = {path: _File()}
        elif act.kind is Kind.MKDIR:
            names = {path: FOLDER}
        elif act.kind in {Kind.UNLINK, Kind.RMDIR}:
            names = {path: None}
        else:
            file = self._names[path]
            assert isinstance(file, _File), f"a folder is renamed: {act}"
            # If both names are of one file, renaming one to the other does nothing.
            is_same = act.kind is Kind.RENAME and self._names.get(other) is file
            names = {other: file} if act.kind is Kind.LINK or is_same else {other: file, path: None}
        for name, file_ in names.items():
            self._names[name] = file_
            if act.kind is Kind.CREATE and isinstance(file_, _File):
                self._inodes[act.inode] = file_
        self._pending.append(_Naming(self._number, str(PurePosixPath(other or path).parent), names))

    def now(self, path: str) -> bytes:
        """Return a file as processes see it; empty if there is none."""
        file = self._names.get(path)
        return file.left(Cut.ALL, Random(0)) if isinstance(file, _File) else b""

    def left(self, root: str, cut: Cut, rng: Random) -> dict[str, bytes | None]:
        """Return the files under `root` after a power cut, by relative path; a folder is None."""
        safe = dict(self._safe)
        for naming in _kept(self._pending, cut, rng):
            _name(safe, naming)
        names = {path: file for path, (_, file) in safe.items()}
        files: dict[str, bytes | None] = {}
        for path, file in sorted(names.items()):
            inside = PurePosixPath(path)
            if file is None or not inside.is_relative_to(root):
                continue
            above = [parent for parent in inside.parents if parent.is_relative_to(root)]
            if any(names.get(str(parent)) != FOLDER for parent in above):
                continue  # a missing folder takes its content with it
            files[str(inside.relative_to(root))] = file.left(cut, rng) if isinstance(file, _File) else None
        return files


def put(files: dict[str, bytes | None], folder: Path) -> None:
    """Create these files in a new folder."""
    folder.mkdir()
    for name, content in files.items():
        path = folder / name
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.write_bytes(content)


def _clean(path: str) -> str:
    return str(PurePosixPath(path))


def _name(safe: dict[str, _Name], naming: _Naming) -> None:
    """Make a step durable unless a later one already is."""
    for path, file in naming.names.items():
        if safe.get(path, (0, None))[0] < naming.number:
            safe[path] = (naming.number, file)


def _apply(content: bytearray, change: _Change) -> None:
    if change.data is None:
        del content[change.at :]
        content.extend(bytes(change.at - len(content)))
        return
    content.extend(bytes(max(0, change.at - len(content))))
    content[change.at : change.at + len(change.data)] = change.data


def _kept(pending: list[_Naming], cut: Cut, rng: Random) -> list[_Naming]:
    if cut is Cut.ALL:
        return pending
    if cut is Cut.NONE:
        return []
    if cut is Cut.PREFIX:
        return pending[: rng.randint(0, len(pending))]
    return [naming for naming in pending if rng.random() < 0.5]


def _chosen(pending: list[_Change], cut: Cut, rng: Random) -> list[_Change]:
    if cut is Cut.ALL:
        return pending
    if cut is Cut.NONE or not pending:
        return []
    if cut is Cut.PREFIX:
        count = rng.randint(0, len(pending))
        torn = [_torn(pending[count], rng)] if count < len(pending) and pending[count].data else []
        return pending[:count] + torn
    pieces = [piece for change in pending for piece in _pages(change)]
    return [piece for piece in pieces if rng.random() < 0.5]


def _torn(change: _Change, rng: Random) -> _Change:
    """Return the first sectors of a write."""
    assert change.data is not None
    sectors = rng.randint(0, len(change.data) // _SECTOR_BYTES)
    end = (change.at // _SECTOR_BYTES + sectors) * _SECTOR_BYTES - change.at
    return _Change(change.number, change.at, change.data[: max(0, end)])


def _pages(change: _Change) -> list[_Change]:
    if change.data is None:
        return [change]
    pieces, start = [], 0
    while start < len(change.data):
        end = start + _PAGE_BYTES - (change.at + start) % _PAGE_BYTES
        pieces.append(_Change(change.number, change.at + start, change.data[start:end]))
        start = end
    return pieces
