"""The shards of a batch in a folder: which ones there are, and whether a run may add its own directory to them.

Rule: a folder holds one whole batch, or the shards of one number. Shards of another number, or a whole batch beside
shards, would have the same jobs twice and pay for them twice.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from batchrunner.errors import JournalError, LocalFault, UsageError
from batchrunner.formatting import printable, shell_line, shell_path
from batchrunner.journal import journal, reader
from batchrunner.manifest.shards import Shard, read_folder
from batchrunner.storage.run_directory import RunDir

if TYPE_CHECKING:
    from batchrunner.app.setup import Setup


def find(folder: Path) -> dict[Shard, RunDir]:
    """Return the shards in `folder` that were started, in order. A directory without a sign of a run is none."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 (a Path for each of 100,000 clips takes 0.2 s)
    except OSError:
        return {}
    likely = (name for name in names if not name.endswith(".mp4"))
    named = [shard for name in likely if (shard := read_folder(name)) is not None]
    found = {shard: RunDir(folder / shard.folder) for shard in sorted(named, key=lambda one: (one.count, one.index))}
    return {shard: rundir for shard, rundir in found.items() if _was_started(rundir) or _is_copy(rundir)}


def _is_copy(rundir: RunDir) -> bool:
    """Return whether it has a report of a run: it may be a copy without the journal."""
    return os.path.lexists(rundir.path / "report.json")


def _was_started(rundir: RunDir) -> bool:
    return rundir.journal.exists() or rundir.witness.exists() or rundir.holder() is not None


def folders_of(paths: Sequence[Path]) -> list[Path]:
    """Return the run directories, each once: those named, and the shards in a folder of shards. Raises UsageError."""
    found: dict[Path, Path] = {}
    for path in paths:
        is_own = RunDir(path).journal.exists()
        shards = [] if is_own else [rundir.path for rundir in find(path).values()]
        for folder in shards or [path]:
            found.setdefault(Path(os.path.realpath(folder)), folder)
    return list(found.values())


def where_else(folder: Path) -> str:
    """Return the next step for a command on one run directory if `folder` has shards instead, or ""."""
    found = find(folder)
    if not found:
        return ""
    shard, rundir = next(iter(found.items()))
    return (
        f"It has the {named(found)}: name one, as {rundir.path}, or add --shard {shard} to the manifest. "
        f"One report of all: {merge_command(folder)}."
    )


def merge_command(folder: Path) -> str:
    """Return the command that merges the shards in a folder to one report there."""
    path = shell_path(str(folder))
    return shell_line(["batchrunner", "report", "--merge", path, path])


def require_fitting(setup: "Setup") -> None:
    """Refuse a run whose directory does not fit what is in the batch's folder. Raises UsageError.

    A run calls it again under its lock: of two runs that start at one time, at least one then sees the other.
    """
    shard, path = setup.shard, setup.rundir.path
    _require_same_shard(setup.rundir, shard)
    if shard is None:
        if found := find(path):
            raise UsageError(f"{path} has the {named(found)} of this batch", _instead_of_whole(path, found))
        return
    folder = path.parent
    if _was_started(RunDir(folder)):
        hint = "the clips that it has paid for are copied at no charge on a machine whose account knows that batch"
        raise UsageError(
            f"{folder} has the whole batch, so shard {shard} cannot be in it",
            f"Continue it without --shard, or name another folder with --output: {hint}. Nothing was submitted.",
        )
    other = next((one for one in find(folder) if one.count != shard.count), None)
    if other is not None:
        raise UsageError(
            f"{folder} has shards of {other.count}, so shard {shard} cannot be in it: jobs would be paid for twice",
            f"Use --shard I/{other.count}, or name another folder with --output. Nothing was submitted.",
        )


def _require_same_shard(rundir: RunDir, shard: Shard | None) -> None:
    """Refuse the run directory of another shard, or of the whole batch, under this name. Raises UsageError."""
    run = None
    with suppress(JournalError, LocalFault, ValueError):  # the run itself says what is wrong with the journal
        run = journal.view(rundir.journal, reader.latest_run)
    stored = json.loads(run.settings_json).get("shard") if run is not None else None
    wanted = str(shard) if shard is not None else None
    if run is not None and stored != wanted:
        owner = f"shard {printable(str(stored), 20)}" if stored else "the whole batch"
        asked = f"shard {wanted}" if wanted else "the whole batch"
        option = f"with --shard {printable(str(stored), 20)}" if stored else "without --shard"
        raise UsageError(
            f"{rundir.path} is the run directory of {owner}, not of {asked}: jobs would be paid for twice",
            f"Run {option}, with its folder as --output, or give the directory its old name. Nothing was submitted.",
        )


def _instead_of_whole(path: Path, found: Mapping[Shard, RunDir]) -> str:
    count = next(iter(found)).count
    return (
        f"Continue each with --shard 1/{count} to {count}/{count}, or name another folder with --output. "
        f"One report of all: {merge_command(path)}. Nothing was submitted."
    )


def named(found: Mapping[Shard, RunDir]) -> str:
    """Return shards as text: ``shards 1/4, 2/4, 3/4``."""
    names = [str(shard) for shard in found]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"{'shard' if len(names) == 1 else 'shards'} {shown}"
