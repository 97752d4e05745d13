"""What a run would do, entry by entry. Pure: a manifest's entries and the journal's snapshot in, rows out.

Rule: a plan tells what `run` does with the same manifest, journal and settings, in the manifest's order; where each job
starts from is asked of the same `resume.take_up`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from batchrunner.job import Entry, Job, Media, Record, Snapshot, State
from batchrunner.plan.prices import Estimate, Prices
from batchrunner.plan.resume import take_up

# What `run` does with a job that is found in one state and starts from another.
_ACTIONS: Mapping[tuple[State, State], tuple[str, str]] = {
    (State.PENDING, State.PENDING): ("new", "will be submitted"),
    (State.FAILED, State.PENDING): ("retry", "failed; will be submitted again, as asked"),
    (State.IN_DOUBT, State.PENDING): (
        "resubmit",
        "in doubt; will be submitted again, as asked, unless the log lists it; may be paid for twice",
    ),
    (State.SUBMITTING, State.PENDING): (
        "resubmit",
        "in doubt; will be submitted again, as asked, unless the log lists it",
    ),
    (State.SUBMITTING, State.IN_DOUBT): ("in doubt", "being submitted, or held: submitted when its process died"),
    (State.IN_DOUBT, State.IN_DOUBT): (
        "in doubt",
        "held: may have been accepted; --in-doubt resubmit submits it again",
    ),
    (State.IN_FLIGHT, State.IN_FLIGHT): ("in flight", "will be polled and fetched; not submitted again"),
    (State.FAILED, State.IN_FLIGHT): ("in flight", "the service withheld its result; will be asked for it again"),
    (State.FAILED, State.FAILED): ("failed", "held; --retry-failed submits it again"),
    (State.SUCCEEDED, State.SUCCEEDED): ("done", "nothing to do"),
}
_FETCH = ("fetch", "done, but its file is gone: will be fetched again, at no charge")
_CHANGED = ("changed", "another job than the one this id named: will be submitted; the old result is kept")
SUBMITTED = ("new", "changed", "retry", "resubmit")


@dataclass(frozen=True, slots=True)
class Row:
    """One entry of the plan.

    changed: fields that differ from the job this id named before, ``field: old -> new``. duration_s: of the reference
    clip; input_bytes: of both inputs; None where they are not known. estimate: what it would cost, None if nothing.
    """

    id: str
    action: str
    note: str
    fingerprint: str
    generation_id: str | None = None
    same_as: str | None = None
    changed: tuple[str, ...] = ()
    duration_s: float | None = None
    input_bytes: int | None = None
    estimate: Estimate | None = None

    @property
    def submits(self) -> bool:
        """Whether a run submits it, and pays for it."""
        return self.action in SUBMITTED and self.same_as is None


@dataclass(frozen=True, slots=True)
class ResumeOptions:
    """What the settings say about jobs of earlier runs, and which of their files are gone (fingerprints)."""

    retry_failed: bool = False
    resubmit_in_doubt: bool = False
    gone: AbstractSet[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Plan:
    """The rows in manifest order, and each job's record as a run would start from it."""

    rows: tuple[Row, ...]
    records: Mapping[str, Record] = field(default_factory=dict)

    @property
    def submissions(self) -> int:
        """How many submissions the rows ask for, before money and time are asked."""
        return sum(row.submits for row in self.rows)

    @property
    def totals(self) -> Mapping[str, int]:
        """How many entries there are of each action, the most frequent first."""
        return dict(Counter(row.action for row in self.rows).most_common())


def build(
    entries: Sequence[Entry], held: Snapshot | None, prices: Prices, options: ResumeOptions | None = None
) -> Plan:
    """The plan. held: what the journal holds, None before the first run."""
    options = options or ResumeOptions()
    known = held.records if held else {}
    records, _ = take_up(known, entries, retry_failed=options.retry_failed, resubmit_in_doubt=options.resubmit_in_doubt)
    before = {entry.id: entry.job for entry in held.entries} if held else {}
    first: dict[str, str] = {}
    rows = []
    for entry in entries:
        job, old = entry.job, before.get(entry.id)
        record = records[job.fingerprint]
        found = known[job.fingerprint].state if job.fingerprint in known else State.PENDING
        changed = () if old is None else tuple(differences(old, job))
        action, note = _ACTIONS[found, record.state]
        if job.fingerprint in options.gone and record.state is State.SUCCEEDED:
            action, note = _FETCH
        elif changed and action == "new":
            action, note = _CHANGED
        same_as = first.setdefault(job.fingerprint, entry.id)
        rows.append(
            Row(
                id=entry.id,
                action=action,
                note=note,
                fingerprint=job.fingerprint,
                generation_id=record.generation_id,
                same_as=None if same_as == entry.id else same_as,
                changed=changed,
                duration_s=job.video.duration_s,
                input_bytes=_bytes(job),
                estimate=prices.estimate(job) if action in SUBMITTED and same_as == entry.id else None,
            )
        )
    return Plan(tuple(rows), records)


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


def _bytes(job: Job) -> int | None:
    sizes = [job.video.size_bytes, job.image.size_bytes]
    known = [size for size in sizes if size is not None]
    return sum(known) if known else None


def _content(job: Job) -> dict[str, str]:
    return {"model": job.model, **{name: str(value) for name, value in job.params.items()}} | {
        name: _identity(media) for name, media in (("video", job.video), ("image", job.image))
    }


def _identity(media: Media) -> str:
    return f"{media.source} ({media.sha256[:12]})" if media.sha256 else media.source
