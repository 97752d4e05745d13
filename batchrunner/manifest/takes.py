"""Takes: several different results of one job. Each take is an entry and a job of its own. Pure.

A manifest asks for the takes 1 to N of a job (``takes: N``). ``run --retake`` adds one more at a time, and the journal
keeps these. The further takes of a job follow its first one, and have its tags and its priority.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from batchrunner.errors import UsageError
from batchrunner.job import Entry, Job, Retake, take_name
from batchrunner.manifest.fingerprint import take_of
from batchrunner.manifest.safe_names import folded


class _Takes:
    """Creates entries of takes. Equal jobs share their takes too."""

    def __init__(self) -> None:
        self._jobs: dict[tuple[str, int], Job] = {}

    def entry(self, first: Entry, take: int) -> Entry:
        """Return a take of the job of `first`, which is the entry of its first take."""
        key = (first.job.fingerprint, take)
        job = first.job if take == 1 else self._jobs.get(key) or take_of(first.job, take)
        self._jobs[key] = job
        output_name = first.output_name and take_name(first.output_name, take)
        return replace(first, id=take_name(first.id, take), job=job, output_name=output_name)


def with_takes(entries: Iterable[Entry], takes: Mapping[int, int]) -> tuple[Entry, ...]:
    """Return the entries with all takes that the manifest asks for. takes: their number, by position of the first."""
    maker = _Takes()
    found = (maker.entry(entry, take) for entry in entries for take in range(1, takes.get(entry.position, 1) + 1))
    return _numbered(found)


def with_retakes(entries: Sequence[Entry], retakes: Iterable[Retake]) -> Sequence[Entry]:
    """Return the entries with the takes that ``run --retake`` added. Those that are there already stay as they are.

    A retake belongs to every entry of its job; one whose job the manifest does not name any more is left out.
    Raises UsageError if another job of the manifest has the name of a retake.
    """
    by_job: dict[str, list[int]] = {}
    for retake in retakes:
        by_job.setdefault(retake.fingerprint, []).append(retake.take)
    firsts = {entry.id: entry for entry in entries if entry.take == 1 and entry.job.fingerprint in by_job}
    if not firsts:
        return entries
    known = {(entry.base, entry.take) for entry in entries}
    last = {entry.base: place for place, entry in enumerate(entries)}
    maker = _Takes()
    added: dict[int, list[Entry]] = {}
    for name, first in firsts.items():
        missing = [take for take in sorted(by_job[first.job.fingerprint]) if (name, take) not in known]
        added[last[name]] = [maker.entry(first, take) for take in missing]
    _require_free(entries, [entry for more in added.values() for entry in more])
    return _inserted(entries, added)


def jobs_of(entries: Sequence[Entry], retakes: Iterable[Retake]) -> set[str]:
    """Return the fingerprints of the jobs that these retakes are. entries: with the retakes."""
    added = {(retake.fingerprint, retake.take) for retake in retakes}
    firsts = {entry.id: entry.job.fingerprint for entry in entries if added and entry.take == 1}
    return {entry.job.fingerprint for entry in entries if added and (firsts[entry.base], entry.take) in added}


def _require_free(entries: Sequence[Entry], added: Sequence[Entry]) -> None:
    """Raise UsageError if an entry has the id or the file of an added take."""
    ids = {folded(entry.id): entry.id for entry in entries}
    files = {folded(entry.file): entry.id for entry in entries}
    for take in added:
        for kind, name, owner in (
            ("id", take.id, ids.get(folded(take.id))),
            ("file name", take.file, files.get(folded(take.file))),
        ):
            if owner is not None:
                raise UsageError(
                    f"the {kind} {name} of take {take.take} of the job {take.base} is already used by the job {owner}",
                    f"Rename the job {owner} in the manifest. Nothing was submitted.",
                )


def _inserted(entries: Sequence[Entry], added: Mapping[int, Sequence[Entry]]) -> tuple[Entry, ...]:
    """Return the entries with others behind them. The positions of later ones grow, and gaps between shards stay."""
    found, shift = [], 0
    for place, one in enumerate(entries):
        found.append(replace(one, position=one.position + shift))
        for more in added.get(place, ()):
            shift += 1
            found.append(replace(more, position=one.position + shift))
    return tuple(found)


def _numbered(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(replace(entry, position=position) for position, entry in enumerate(entries))
