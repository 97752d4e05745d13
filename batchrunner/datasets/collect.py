"""Collect the items of a data set from batches: which clips, in which split, with which row.

Rules: jobs with the same fingerprint are one item with all their ids. The first one with a usable clip is exported. A
file that is not what the batch recorded is refused with a reason, and never stands for another one. Only positions of
rows are stored: an item is made when it is needed.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from batchrunner.datasets.batches import Batch, clip_fault, file_fault
from batchrunner.datasets.columns import ROW_KEYS, Columns, public_source
from batchrunner.datasets.description import describe, run_of
from batchrunner.datasets.formats import OnProgress
from batchrunner.datasets.items import DEFAULT_SPLIT, Dtype, Item, MediaFile
from batchrunner.datasets.splits import Splits, check_name
from batchrunner.errors import UsageError
from batchrunner.formatting import printable
from batchrunner.providers import registry

_TAG = "tags."
_SPLIT_TAG = "split"
_USUAL_ORDER = ("train", "validation", "val", "dev", "test")
_SUFFIXES = {
    "video/mp4": ".mp4",
    "video/quicktime": ".mov",
    "video/webm": ".webm",
    "video/x-matroska": ".mkv",
    "video/x-msvideo": ".avi",
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/webp": ".webp",
    "image/bmp": ".bmp",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """What the command asks for. group_by: the name of an input, or ``tags.NAME``; "" for the reference video."""

    only_accepted: bool = False
    splits: Splits | None = None
    group_by: str = ""
    salt: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A file that was left out. item: the job's id. is_clip: otherwise it is an input, and the clip is exported."""

    item: str
    path: Path
    why: str
    is_clip: bool


class _Source(NamedTuple):
    """A row: the number of its batch, and its number there."""

    batch: int
    row: int


@dataclass(slots=True)
class _Group:
    """Equal jobs. split: set when the split is known."""

    sources: list[_Source] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    split: str = ""


class _Spread:
    """The splits of each reference video, and those that have a clip whose tag names its split."""

    def __init__(self) -> None:
        self._splits: dict[str, str] = {}
        self._several: set[str] = set()
        self._tagged: set[str] = set()

    def add(self, reference: str, split: str, *, by_tag: bool) -> None:
        """Add a clip."""
        if self._splits.setdefault(reference, split) != split:
            self._several.add(reference)
        if by_tag:
            self._tagged.add(reference)

    def causes(self) -> Counter[str]:
        """Return the number of reference videos in several splits, by cause."""
        return Counter("tag" if reference in self._tagged else "group_by" for reference in self._several)


class Collection:
    """The data set of some batches (`batchrunner.datasets.items.Dataset`). Raises UsageError.

    refusals: files that were left out so far. skipped: number of rows without a clip to export, by state or verdict.
    spread: number of reference videos whose clips are in several splits, by cause: "tag" or "group_by".
    ungrouped: number of clips that lack the value of group_by, and are grouped by their reference video.
    needs_workspace: whether `prepared` writes to the workspace.
    """

    needs_workspace = False

    def __init__(self, batches: Sequence[Batch], choice: Choice) -> None:
        self._batches = batches
        self._choice = choice
        self._columns = Columns(registry.models())
        self._refused: dict[Path, str] = {}
        self._checked: set[Path] = set()
        self.skipped: Counter[str] = Counter()
        self.spread: Counter[str] = Counter()
        self.ungrouped = 0
        runs: list[set[str | None]] = [set() for _ in batches]
        self._groups = self._find(runs)
        self.description = describe([batch.head for batch in batches], runs)
        self.splits = self._set_splits()
        self.columns: Mapping[str, Dtype] = self._columns.types()
        self.roles: tuple[str, ...] = ()
        self.refusals: list[Refusal] = []
        self._chosen: dict[str, list[tuple[_Source, _Group]]] = {}
        self._choose()

    def count(self, split: str) -> int:
        """Return the number of items of a split."""
        return len(self._chosen[split])

    def items(self, split: str) -> Iterator[Item]:
        """Yield the items of a split."""
        for source, group in self._chosen[split]:
            yield self._item(source, group)

    @contextmanager
    def prepared(self, progress: OnProgress) -> Iterator[None]:
        """Have what the items need while the context lasts. progress: of the preparation."""
        yield

    def unmarked(self) -> list[str]:
        """Return why clips have no mark that was asked for, once for each clip."""
        return []

    def refuse(self, path: Path, why: str) -> None:
        """Leave out a file that turned out to be another one than recorded."""
        self._refused[path] = why
        self._choose()

    def _row(self, source: _Source) -> Mapping[str, Any]:
        return self._batches[source.batch].rows[source.row]

    def _find(self, runs: Sequence[set[str | None]]) -> dict[str, _Group]:
        """Return the groups of equal jobs with a clip, in order. runs: gets the runs that rendered each batch's."""
        groups: dict[str, _Group] = {}
        for number, batch in enumerate(self._batches):
            for place, row in enumerate(batch.rows):
                if why := self._unfit(row):
                    self.skipped[why] += 1
                    continue
                group = groups.setdefault(row["fingerprint"], _Group())
                group.sources.append(_Source(number, place))
                if row["id"] not in group.ids:
                    group.ids.append(row["id"])
                self._columns.add(row)
                runs[number].add(run_of(row))
        return groups

    def _unfit(self, row: Mapping[str, Any]) -> str:
        """Return the state or the verdict for which a row is not exported, or ""."""
        state = str(row["state"])
        if state != "succeeded" or row["file"] is None:
            return state
        if self._choice.only_accepted:
            verdict = (row["verdict"] or {}).get("verdict")
            return "" if verdict == "accept" else "rejected" if verdict == "reject" else "without a verdict"
        return ""

    def _set_splits(self) -> tuple[str, ...]:
        """Give each group its split, and return the names of all splits."""
        splits, used = self._choice.splits, set[str]()
        spread = _Spread()
        self._check_group_by()
        for group in self._groups.values():
            named = group.split = self._named_split(group)
            if not named and splits is not None:
                group.split = splits.of(self._group_value(self._row(group.sources[0])), self._choice.salt)
            group.split = group.split or DEFAULT_SPLIT
            used.add(group.split)
            spread.add(self._reference(self._row(group.sources[0])), group.split, by_tag=bool(named))
        self.spread = spread.causes()
        if splits is not None:
            return splits.names
        rank = {name: number for number, name in enumerate(_USUAL_ORDER)}
        return tuple(sorted(used or {DEFAULT_SPLIT}, key=lambda name: (rank.get(name, len(rank)), name)))

    def _named_split(self, group: _Group) -> str:
        """Return the split that the tag `split` of equal jobs names, or "". Raises UsageError."""
        named: dict[str, str] = {}
        for source in group.sources:
            row = self._row(source)
            if name := str(row["tags"].get(_SPLIT_TAG) or ""):
                named.setdefault(name, row["id"])
        if len(named) > 1:
            shown = " and ".join(f"{printable(where)} ({printable(name)})" for name, where in named.items())
            hint = "They are the same clip. Give them the same tag, and run the batch again: it pays for nothing."
            raise UsageError(f"equal jobs have different tags 'split': {shown}", hint)
        for name, where in named.items():
            check_name(name, f"the tag 'split' of {printable(where)}")
            if self._choice.splits is not None and name not in self._choice.splits.names:
                known = ", ".join(self._choice.splits.names)
                message = f"the tag 'split' of {printable(where)} is {name!r}, which --split does not name ({known})"
                raise UsageError(message, f"Add it with the share 0: --split …,{name}=0")
            return name
        return ""

    def _check_group_by(self) -> None:
        """Refuse to group by what no clip has. Raises UsageError."""
        name = self._choice.group_by
        if not name or not self._groups:
            return
        rows = [self._row(source) for group in self._groups.values() for source in group.sources[:1]]
        known = {key for row in rows for key in (*row["inputs"], *(f"{_TAG}{tag}" for tag in row["tags"]))}
        if name not in known:
            shown = ", ".join(map(printable, sorted(known)[:20]))
            raise UsageError(f"--group-by: no clip has {printable(name)}", f"The clips have: {shown}")

    def _group_value(self, row: Mapping[str, Any]) -> str:
        """Return what clips share that must be in one split: an input's content or address, or a tag's value."""
        name = self._choice.group_by
        if name.startswith(_TAG) and (value := row["tags"].get(name.removeprefix(_TAG))) is not None:
            return str(value)
        if name in row["inputs"]:
            return _identity(row["inputs"][name])
        self.ungrouped += bool(name)
        return self._reference(row)

    def _reference(self, row: Mapping[str, Any]) -> str:
        """Return the content or the address of the reference video, or of the first input if there is none."""
        roles = self._columns.roles(row)
        first = min(row["inputs"], key=lambda item: (roles[item] != "reference", item), default=None)
        return str(row["fingerprint"]) if first is None else _identity(row["inputs"][first])

    def _choose(self) -> None:
        """Choose the row of each group that is exported: the first one with a usable clip."""
        self.refusals = []
        self._chosen = {split: [] for split in self.splits}
        roles: set[str] = set()
        for group in self._groups.values():
            if (source := next(filter(self._has_clip, group.sources), None)) is not None:
                self._chosen[group.split].append((source, group))
                roles.update(self._input_files(source, note=True))
        self.roles = tuple(sorted(roles))

    def _has_clip(self, source: _Source) -> bool:
        batch, row = self._batches[source.batch], self._row(source)
        path = batch.clip(row)
        if path not in self._checked:
            self._checked.add(path)
            if why := clip_fault(batch, path, row["bytes"]):
                self._refused.setdefault(path, why)
        if path in self._refused:
            self.refusals.append(Refusal(row["id"], path, self._refused[path], is_clip=True))
        return path not in self._refused

    def _input_files(self, source: _Source, *, note: bool = False) -> dict[str, MediaFile]:
        """Return the local inputs of a row by role, as far as they are usable. note: add the others to `refusals`."""
        batch, row = self._batches[source.batch], self._row(source)
        files: dict[str, MediaFile] = {}
        inputs = row["inputs"]
        for name, role in self._columns.roles_of(row["request"]["model"], tuple(inputs)).items():
            item = inputs[name]
            suffix = _SUFFIXES.get(item["mime"] or "")
            is_known = bool(suffix and item["sha256"] and item["bytes"] is not None)
            paths = batch.input_paths(row, name, item["source"]) if is_known else ()
            usable = next((path for path in paths if self._is_usable(path, item["bytes"])), None)
            if usable is not None and suffix:
                files[role] = MediaFile(usable, item["sha256"], item["bytes"], suffix)
            elif paths and note:
                self.refusals.append(Refusal(row["id"], paths[0], self._refused[paths[0]], is_clip=False))
        return dict(sorted(files.items()))

    def _is_usable(self, path: Path, size_bytes: int) -> bool:
        if path not in self._checked:
            self._checked.add(path)
            if why := file_fault(path, size_bytes):
                self._refused.setdefault(path, why)
        return path not in self._refused

    def _item(self, source: _Source, group: _Group) -> Item:
        batch, row = self._batches[source.batch], self._row(source)
        files = self._input_files(source)
        row = {key: row[key] for key in ROW_KEYS}  # a row of the journal makes a value at each access
        ids = (row["id"], *(name for name in group.ids if name != row["id"]))
        clip = MediaFile(batch.clip(row), row["sha256"], row["bytes"], ".mp4")
        values = self._columns.values(row, ids, batch.head)
        key = row["fingerprint"].removeprefix("sha256:")
        return Item(key, ids, group.split, clip, files, values)


def _identity(item: Mapping[str, Any]) -> str:
    return str(item["sha256"] or public_source(item["source"]))
