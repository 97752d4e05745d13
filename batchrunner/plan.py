"""What a run would do, entry by entry. Pure: a manifest's entries and the journal's snapshot in, rows out.

Rule: a plan tells what `run` does with the same manifest and the same journal, in the manifest's order.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from batchrunner.job import Entry, Job, Media, Record, Snapshot, State
from batchrunner.text import count_text

# What `run` does with a job found in each state. SUBMITTING means that a process died meanwhile, or is at it now.
ACTIONS: Mapping[State, tuple[str, str]] = {
    State.PENDING: ("new", "will be submitted"),
    State.SUBMITTING: ("in doubt", "being submitted, or held: submitted when its process died"),
    State.IN_FLIGHT: ("in flight", "will be polled and fetched; not submitted again"),
    State.IN_DOUBT: ("in doubt", "held: may have been accepted; --in-doubt resubmit submits it again"),
    State.SUCCEEDED: ("done", "nothing to do"),
    State.FAILED: ("failed", "held; --retry-failed submits it again"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One entry of the plan. changed: fields that differ from the job this id named before, ``field: old -> new``."""

    id: str
    action: str
    note: str
    fingerprint: str
    generation_id: str | None = None
    same_as: str | None = None
    changed: tuple[str, ...] = ()


def build(entries: Sequence[Entry], held: Snapshot | None) -> list[Row]:
    """The plan's rows in manifest order. held: what the journal holds, None before the first run."""
    records = held.records if held else {}
    before = {entry.id: entry.job for entry in held.entries} if held else {}
    first: dict[str, str] = {}
    rows = []
    for entry in entries:
        job = entry.job
        record = records.get(job.fingerprint, Record(job))
        action, note = ACTIONS[record.state]
        same_as = first.setdefault(job.fingerprint, entry.id)
        old = before.get(entry.id)
        rows.append(
            Row(
                id=entry.id,
                action=action,
                note=note,
                fingerprint=job.fingerprint,
                generation_id=record.generation_id,
                same_as=None if same_as == entry.id else same_as,
                changed=() if old is None else tuple(differences(old, job)),
            )
        )
    return rows


def differences(old: Job, new: Job) -> list[str]:
    """How a job's content differs, field by field; empty for the same job."""
    if old.fingerprint == new.fingerprint:
        return []
    before, after = _content(old), _content(new)
    changes = [
        f"{name}: {before.get(name, 'not set')} -> {after.get(name, 'not set')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    return changes or ["the query of an input's URL (not shown: it may hold a signature)"]


def summary(rows: Sequence[Row]) -> str:
    """One line: how many entries stand where, and how many submissions that makes."""
    counts = Counter(row.action for row in rows)
    submissions = len({row.fingerprint for row in rows if row.action == "new"})
    parts = ", ".join(f"{count} {action}" for action, count in counts.most_common())
    jobs, calls = count_text(len(rows), "job"), count_text(submissions, "submission")
    return f"{jobs}: {parts or 'none'}. A run would make {calls}."


def as_text(rows: Sequence[Row]) -> str:
    """The plan as a table for people, the summary last."""
    width = max((len(row.id) for row in rows), default=0)
    lines = []
    for row in rows:
        note = f"the same job as {row.same_as}: paid for once" if row.same_as else row.note
        lines.append(f"{row.id:<{width}}  {row.action:<9}  {note}")
        lines += [f"{'':<{width}}  {'':<9}  changed: {change}" for change in row.changed]
    return "\n".join([*lines, "", summary(rows)])


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """The plan for scripts."""
    return {
        "schema_version": 1,
        "submissions": len({row.fingerprint for row in rows if row.action == "new"}),
        "totals": dict(Counter(row.action for row in rows)),
        "jobs": [asdict(row) for row in rows],
    }


def _content(job: Job) -> dict[str, str]:
    return {"model": job.model, **{name: str(value) for name, value in job.params.items()}} | {
        name: _identity(media) for name, media in (("video", job.video), ("image", job.image))
    }


def _identity(media: Media) -> str:
    return f"{media.source} ({media.sha256[:12]})" if media.sha256 else media.source
