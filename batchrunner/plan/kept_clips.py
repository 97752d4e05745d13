"""Find the delivered clips that a run moves to the folder for kept files. Pure.

A clip moves if the manifest does not give its job this name any more: the row was removed, or its id now means another
job. A clip whose job only got another name is renamed. `batchrunner.transfer.delivery` does both. Nothing is deleted.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from batchrunner.job import Entry, Snapshot, State

FOLDER = ".batchrunner/kept"


class KeptClip(NamedTuple):
    """A clip that will move. id: of its entry in the last run, or "". file: its name now. fingerprint: of its job."""

    id: str
    file: str
    fingerprint: str


def kept_clips(
    entries: Iterable[Entry],
    snapshot: Snapshot,
    owners: Mapping[str, str],
    size_of: Callable[[str], int | None],
) -> tuple[KeptClip, ...]:
    """Return the clips that a run with `entries` moves, in order of their names.

    snapshot: the journal's content. owners: the job of each delivered file, by the file's name. size_of: returns the
    size of a file in the run directory in bytes, None if there is none.
    """
    names: dict[str, set[str]] = {}
    for entry in entries:
        names.setdefault(entry.job.fingerprint, set()).add(entry.file)
    ids = {entry.file: entry.id for entry in snapshot.entries}
    placed: dict[str, list[str]] = {}
    for name, fingerprint in owners.items():
        if not name.startswith(f"{FOLDER}/"):
            placed.setdefault(fingerprint, []).append(name)
    found = []
    for fingerprint, files in placed.items():
        record = snapshot.records.get(fingerprint)
        if record is None or record.state is not State.SUCCEEDED or record.result is None:
            continue
        size_bytes = record.result.size_bytes
        own = names.get(fingerprint, set())
        former = [name for name in files if name not in own and size_of(name) == size_bytes]
        target = f"{FOLDER}/{record.job.key}.mp4"
        has_target = size_of(target) == size_bytes
        if own and not has_target and not any(size_of(name) == size_bytes for name in own & set(files)):
            former = former[1:]  # the first one gets the job's new name
        found += [KeptClip(ids.get(name, ""), name, fingerprint) for name in former]
    return tuple(sorted(found, key=lambda clip: clip.file))
