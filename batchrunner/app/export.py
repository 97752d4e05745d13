"""``export``: make a data set from the clips of one or more run directories.

Rules: nothing in a run directory is changed, and no run's lock is taken. What can be refused is refused before the
first byte is written. Each file that is left out is named, and the exit status says that something is missing.
"""

import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from batchrunner.app import process
from batchrunner.app.fetched_clips import fetched_batches, remove_fetched
from batchrunner.app.signs import require_trusted
from batchrunner.app.status import no_batch
from batchrunner.datasets.batches import Batch, read_batch
from batchrunner.datasets.collect import Choice, Collection, Refusal
from batchrunner.datasets.details import missing
from batchrunner.datasets.export import Exported, NothingToExport, compare, has_items, write
from batchrunner.datasets.formats import FORMATS, Format, FormatOptions
from batchrunner.datasets.splits import Splits
from batchrunner.datasets.workspace import Workspace, final_path, is_taken
from batchrunner.errors import BatchrunnerError, CallError, ExitStatus, UsageError
from batchrunner.formatting import count_text, parse_size, printable, shell_line, shell_path, size_text
from batchrunner.storage.durable_files import Disk
from batchrunner.storage.objects.address import ObjectAddress, is_address
from batchrunner.storage.run_directory import RunDir
from batchrunner.workers.engines import Workers

if TYPE_CHECKING:
    from batchrunner.app.bucket_export import BucketPlace
    from batchrunner.datasets.marking import Marker
    from batchrunner.storage.objects.blocking import ObjectReader

_NOTHING_WRITTEN = "Nothing was written."
_MOST_NAMED = 20
Put = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """The options of the command. split: as written, or None. only: ``accepted`` or None. version: of this program.

    mark: ``xmp``, ``c2pa`` or None. c2pa_key, c2pa_certificates: PEM files. blocks: the `dataset` block of the
    manifest, for each run directory that is named by its manifest: the block may have changed since the run. place: in
    a bucket, to which the data set is uploaded; its folder on this machine is then temporary.
    workers: write the files; None for this machine.
    """

    form: str = "folder"
    only: str | None = None
    split: str | None = None
    group_by: str = ""
    salt: str = ""
    options: FormatOptions = field(default_factory=FormatOptions)
    version: str = ""
    mark: str | None = None
    c2pa_key: Path | None = None
    c2pa_certificates: Path | None = None
    blocks: dict[Path, Mapping[str, Any] | None] = field(default_factory=dict)
    place: "BucketPlace | None" = None
    workers: Workers | None = None


def to_bucket(text: str, run_dir: Path, request: ExportRequest, objects: "ObjectReader") -> tuple[Path, ExportRequest]:
    """Return the folder in which a data set for a bucket is made, and the request with its place. Raises UsageError."""
    from batchrunner.app.bucket_export import BucketPlace, folder_of

    address = ObjectAddress.parse(text)
    if not address.key:
        raise UsageError(f"{address} is a whole bucket", f"{_NOTHING_WRITTEN} Add a prefix: {address.place}/PREFIX/")
    return folder_of(run_dir, address), replace(request, place=BucketPlace(address, objects))


def format_options(form: str, shard_size: str | None) -> FormatOptions:
    """Return the options of a format. shard_size: as written, or None. Raises UsageError."""
    if shard_size is None:
        return FormatOptions()
    if form == "folder":
        raise UsageError("--shard-size: the format folder has no shards", "Use it with webdataset or parquet.")
    try:
        size_bytes = parse_size(shard_size)
    except ValueError as error:
        raise UsageError(f"--shard-size {printable(shard_size)}: {error}") from None
    if size_bytes < 1:
        raise UsageError("--shard-size must be more than 0", "Write it as --shard-size 500MB")
    return FormatOptions(size_bytes)


def export(
    run_dirs: Sequence[Path],
    out: Path,
    request: ExportRequest,
    put: Put,
    warn: Put,
    disk: Disk | None = None,
    objects: "ObjectReader | None" = None,
) -> int:
    """Export, and return the exit status. put, warn: print a line. objects: reads buckets. Raises BatchrunnerError."""
    form = FORMATS[request.form](request.options)
    splits = None if request.split is None else Splits.parse(request.split)
    choice = Choice(request.only == "accepted", splits, request.group_by, request.salt)
    if request.place is not None:
        request.place.check()
    target = final_path(out)
    batches = _read(run_dirs, request, warn)
    _require_outside(target, out, batches)
    fetched = target.with_name(f"{target.name}.fetched")
    batches = fetched_batches(batches, fetched, objects, warn, only_accepted=choice.only_accepted)
    collection = _collect(batches, choice, request, target)
    try:
        exported = _export(collection, form, Workspace(target, disk or Disk(), request.workers))
    except NothingToExport:
        _warn_of_missing(collection, warn)
        return _nothing(collection, request)
    _warn_of_missing(collection, warn)
    remove_fetched(fetched)
    if request.place is not None:
        exported = _upload(request.place, target, exported)
    for line in _summary(collection, form, exported, str(request.place or out)):
        put(line)
    return ExitStatus.FAILED if collection.refusals else ExitStatus.OK


def _upload(place: "BucketPlace", target: Path, exported: Exported) -> Exported:
    """Upload a complete data set, and remove its folder. Return it with whether it is new in the bucket."""
    from batchrunner.app import bucket_export

    try:
        with _Bar(sys.stderr) as bar:
            bar.begin(sum(file.bytes for file in exported.files.values()), "uploading")
            new = place.upload(target, exported.files, bar.add)
    except (KeyboardInterrupt, CallError):
        process.print_warning(f"the same command continues the upload from {printable(str(target))}")
        raise
    bucket_export.remove(target, exported.files)
    return replace(exported, is_new=new > 0, edited=())


def _collect(batches: Sequence[Batch], choice: Choice, request: ExportRequest, target: Path) -> Collection:
    """Return the data set. Its clips are marked if the command asks for it. Raises UsageError."""
    if request.mark != "c2pa" and (request.c2pa_key or request.c2pa_certificates):
        raise UsageError("--c2pa-key and --c2pa-certificates need --mark c2pa", _NOTHING_WRITTEN)
    if request.mark is None:
        return Collection(batches, choice)
    from batchrunner.datasets.marking import MarkedCollection, MarkedCopies

    marker = _marker(request)
    if marker.name == "c2pa" and is_taken(target):
        message = f"{printable(str(target))} exists: signatures differ each time, so it cannot be compared"
        raise UsageError(message, f"{_NOTHING_WRITTEN} Name a new folder.")
    copies = MarkedCopies(Workspace(target, Disk()).marked, marker, Disk())
    return MarkedCollection(batches, choice, copies)


def _marker(request: ExportRequest) -> "Marker":
    if request.mark == "c2pa":
        from batchrunner.datasets.c2pa_signing import C2paMarker

        return C2paMarker(request.c2pa_key, request.c2pa_certificates, request.version)
    from batchrunner.datasets.xmp import XmpMarker

    return XmpMarker()


def _read(run_dirs: Sequence[Path], request: ExportRequest, warn: Put) -> list[Batch]:
    """Read the batches; a run directory that is named twice once."""
    batches: dict[Path, Batch] = {}
    for path in run_dirs:
        if (real := Path(os.path.realpath(path))) in batches:
            continue
        rundir = RunDir(path)
        if rundir.journal.exists():
            require_trusted(rundir)
        if (batch := read_batch(rundir, request.version)) is None:
            raise no_batch(rundir)
        if path in request.blocks:
            batch = replace(batch, head={**batch.head, "dataset": request.blocks[path]})
        batches[real] = batch
        if batch.holder is not None:
            warn(f"{path} is running ({batch.holder}): the clips that are delivered by now are exported")
        elif batch.head.get("finished_at") is None:
            warn(f"{path}: the last run has not ended properly; the clips that are delivered are exported")
        if batch.warning:
            warn(batch.warning)
    return list(batches.values())


def _require_outside(target: Path, out: Path, batches: Sequence[Batch]) -> None:
    """Refuse a data set in a run directory, or around one. Raises UsageError."""
    for batch in batches:
        if target.is_relative_to(batch.path):
            message = f"{printable(str(out))} is inside the run directory {printable(str(batch.path))}"
            raise UsageError(message, f"{_NOTHING_WRITTEN} Name a folder outside.")
    for folder in (target, *target.parents):
        if (folder / ".batchrunner").is_dir():
            message = f"{printable(str(out))} is inside the run directory {printable(str(folder))}"
            raise UsageError(message, f"{_NOTHING_WRITTEN} Name a folder outside.")


def _export(collection: Collection, form: Format, workspace: Workspace) -> Exported:
    target = workspace.out
    with _Bar(sys.stderr) as bar:
        if not has_items(collection):
            raise NothingToExport
        if is_taken(target) and not collection.needs_workspace:
            exported = compare(collection, form, target, bar)
            workspace.remove_rest()
            return exported
        with workspace:
            try:
                return _write_or_compare(collection, form, workspace, bar)
            except NothingToExport:
                workspace.discard()
                raise
            except KeyboardInterrupt:
                process.print_warning(f"the same command continues from {printable(str(workspace.path))}")
                raise


def _write_or_compare(collection: Collection, form: Format, workspace: Workspace, bar: "_Bar") -> Exported:
    with collection.prepared(bar):
        if not is_taken(workspace.out):
            return write(collection, form, workspace, bar)
        exported = compare(collection, form, workspace.out, bar)
        workspace.discard()
        return exported


def _nothing(collection: Collection, request: ExportRequest) -> int:
    """Raise UsageError if there is no clip to export; return the status if all clips were refused."""
    if any(refusal.is_clip for refusal in collection.refusals):
        raise AllRefused("no clip can be exported: none is what its batch recorded", _NOTHING_WRITTEN)
    hint = "Run the batch to its end first."
    if request.only and collection.skipped["without a verdict"] + collection.skipped["rejected"]:
        hint = "Accept clips with: batchrunner review RUN_DIR. Or export without --only accepted."
    raise UsageError("there is no clip to export", f"{_NOTHING_WRITTEN} {hint}")


class AllRefused(BatchrunnerError):
    """Every clip was refused."""

    exit_status = ExitStatus.FAILED


def _warn_of_missing(collection: Collection, warn: Put) -> None:
    if collection.skipped:
        shown = ", ".join(f"{count:,} {why.replace('_', ' ')}" for why, count in sorted(collection.skipped.items()))
        warn(f"not exported: {shown}")
    if collection.spread:
        why = "the tag split wins over the grouping" if collection.spread["tag"] else "--group-by has another property"
        number = collection.spread.total()
        noun = f"{count_text(number, 'reference video')} {'is' if number == 1 else 'are'}"
        warn(f"{noun} in several splits, so test data may resemble training data: {why}")
    if collection.ungrouped:
        warn(f"{count_text(collection.ungrouped, 'clip')} without the value of --group-by: grouped by reference video")
    for why, count in sorted(Counter(collection.unmarked()).items()):
        warn(f"{count_text(count, 'clip')} without a new mark: {why}")
    for refusal in collection.refusals[:_MOST_NAMED]:
        warn(_refusal_text(refusal))
    if (more := len(collection.refusals) - _MOST_NAMED) > 0:
        warn(f"and {more:,} more files were left out")


def _refusal_text(refusal: Refusal) -> str:
    where = f"{refusal.item}: {refusal.path} {refusal.why}"
    if refusal.is_clip:
        do = "run the batch again" if refusal.why == "is missing" else "move it away and run the batch again"
        return f"{where}. The clip is left out. To fetch it again at no charge, {do}"
    return f"{where}. The clip is exported without this input"


def _summary(collection: Collection, form: Format, exported: Exported, out: str) -> list[str]:
    """Return the lines that close the command. out: the folder, or the place in a bucket."""
    total = sum(map(collection.count, collection.splits))
    size = size_text(sum(file.bytes for file in exported.files.values()))
    shown = shell_path(out)
    lines = [f"{split}: {count_text(collection.count(split), 'clip')}" for split in collection.splits]
    empty = [split for split in collection.splits if not collection.count(split)]
    if empty:
        lines.append(f"no clip fell to {', '.join(empty)}: the card leaves the empty split out")
    if lacking := missing(collection.description.details):
        names = ", ".join(lacking)
        step = (
            "add them to the manifest's dataset block, then export the manifest, not its run directory, to a new folder"
        )
        lines.append(f"the card lacks {names}: {step}")
    if not exported.is_new:
        edited = " and ".join(exported.edited)
        note = f" ({edited} {'were' if len(exported.edited) > 1 else 'was'} edited since the export)" if edited else ""
        lines.append(f"{printable(out)} is up to date: {count_text(total, 'clip')}, {size}{note}")
    else:
        lines.append(f"{printable(out)}: {count_text(total, 'clip')}, {size}, format {form.name}")
    if is_address(out):
        allowed = ["--allow-bucket", ObjectAddress.parse(out).place]
        return [*lines, f"check    batchrunner verify {shell_line([out, *allowed])}"]
    lines.append(f"check    batchrunner verify {shell_line([shown])}")
    lines.append(f"publish  hf upload-large-folder --repo-type dataset NAMESPACE/NAME {shell_line([shown])}")
    return lines


class _Bar:
    """The progress bar, on a terminal only. Use as a context manager."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.render_finish()
            self._bar = None

    def begin(self, total_bytes: int, label: str = "exporting") -> None:
        """Begin a pass over the media."""
        import click

        self._close()
        if self._stream.isatty():
            self._bar = click.progressbar(length=max(1, total_bytes), file=self._stream, label=label)
            self._bar.render_progress()

    def add(self, size_bytes: int) -> None:
        """Show that so many bytes more are done."""
        if self._bar is not None:
            self._bar.update(size_bytes)
