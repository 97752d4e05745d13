"""Copy clips that are only in a bucket back to this machine, for a data set.

The copies are beside the data set (``OUT.fetched``), each under the name of its content. A copy is complete when it has
its name, so an export that was interrupted copies only the remaining clips. They are removed when the data set is
complete. Only new files are written, and only copies are removed.
"""

import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrunner.datasets.batches import Batch
from batchrunner.errors import CallError, UsageError
from batchrunner.formatting import count_text, printable, size_text
from batchrunner.storage import durable_files

if TYPE_CHECKING:
    from batchrunner.storage.objects.blocking import ObjectReader

_COPY = re.compile(r"[0-9a-f]{64}\.(mp4|part)")
_MISSING = {"object_missing", "object_differs"}


def fetched_batches(
    batches: Sequence[Batch],
    folder: Path,
    objects: "ObjectReader | None",
    warn: Callable[[str], None],
    *,
    only_accepted: bool,
) -> list[Batch]:
    """Return the batches with copies of those clips that only a bucket has. Raises BatchrunnerError.

    warn: shows a line for each clip that cannot be copied; it is then left out as one that is missing.
    """
    complete = []
    for batch in batches:
        wanted = {row["sha256"]: row for row in _only_in_bucket(batch, only_accepted=only_accepted)}
        if wanted and objects is not None:
            size = size_text(sum(row["bytes"] for row in wanted.values()))
            warn(f"{count_text(len(wanted), 'clip')}, {size}, copied back from the bucket to {printable(str(folder))}")
            complete.append(replace(batch, fetched=_fetch_all(wanted, folder, objects, warn)))
        else:
            complete.append(batch)
    return complete


def remove_fetched(folder: Path) -> None:
    """Remove the copies, and the folder if nothing else is in it."""
    with suppress(OSError):
        if not folder.is_symlink():
            for path in folder.iterdir():
                if _COPY.fullmatch(path.name):
                    path.unlink()
            folder.rmdir()


def _only_in_bucket(batch: Batch, *, only_accepted: bool) -> Iterator[Mapping[str, Any]]:
    for row in batch.rows:
        if row["state"] != "succeeded" or row["file"] is None or row["object"] is None:
            continue
        if only_accepted and (row["verdict"] or {}).get("verdict") != "accept":
            continue
        if not (batch.path / row["file"]).exists():
            yield row


def _fetch_all(
    wanted: Mapping[str, Mapping[str, Any]], folder: Path, objects: "ObjectReader", warn: Callable[[str], None]
) -> dict[str, Path]:
    for row in wanted.values():
        objects.require_allowed(row["object"]["address"])
    if folder.is_symlink():
        raise UsageError(f"{printable(str(folder))} is a symbolic link", "Nothing was written. Remove the link.")
    fetched = {}
    try:
        folder.mkdir(exist_ok=True)
        for sha256, row in wanted.items():
            path = folder / f"{sha256}.mp4"
            if not _is_copy(path, row["bytes"]):
                partial = path.with_suffix(".part")
                try:
                    objects.fetch(row["object"]["address"], sha256, partial)
                except CallError as error:
                    if error.kind not in _MISSING:
                        raise
                    warn(f"{row['id']}: {error.message}")
                    continue
                partial.rename(path)
            fetched[sha256] = path
    except OSError as error:
        raise durable_files.fault(error, f"clips could not be copied to {folder}") from error
    return fetched


def _is_copy(path: Path, size_bytes: int) -> bool:
    """Return whether `path` is a complete copy, as far as its size tells. The export compares its content."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_size == size_bytes
