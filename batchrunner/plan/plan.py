"""Compute the action of a run for each entry. Pure: from a manifest's entries and the journal's snapshot to rows.

A plan lists the actions of `run` for the same manifest, journal and settings, in the manifest's order. Both use
`resume.take_up` for the initial state of each job.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import compress
from typing import Any, NamedTuple, overload

from batchrunner.account.base import Hold, Reuse
from batchrunner.job import Entry, Job, Media, Record, Snapshot, State
from batchrunner.plan.kept_clips import KeptClip
from batchrunner.plan.prices import Estimate, Prices, billed_input
from batchrunner.plan.resume import take_up
from batchrunner.plan.selection import RetryFailed
from batchrunner.providers.models import Params

# The action of `run` for a job, by its state in the journal and its state at the start.
_ACTIONS: Mapping[tuple[State, State], tuple[str, str]] = {
    (State.PENDING, State.PENDING): ("new", "will be submitted"),
    (State.FAILED, State.PENDING): ("retry", "failed; will be submitted again, as requested"),
    (State.IN_DOUBT, State.PENDING): (
        "resubmit",
        "in doubt; will be submitted again, as requested, unless the log lists it; may be paid for twice",
    ),
    (State.SUBMITTING, State.PENDING): (
        "resubmit",
        "in doubt; will be submitted again, as requested, unless the log lists it",
    ),
    (State.SUBMITTING, State.IN_DOUBT): (
        "in doubt",
        "being submitted, or held because its process died during the submission",
    ),
    (State.IN_DOUBT, State.IN_DOUBT): (
        "in doubt",
        "held: may have been accepted; --in-doubt resubmit submits it again",
    ),
    (State.IN_FLIGHT, State.IN_FLIGHT): ("in flight", "will be polled and downloaded; not submitted again"),
    (State.FAILED, State.IN_FLIGHT): ("in flight", "the service withheld its result; will be polled again"),
    (State.FAILED, State.FAILED): ("failed", "held; --retry-failed submits it again"),
    (State.SUCCEEDED, State.SUCCEEDED): ("done", "nothing to do"),
}
_FETCH = ("fetch", "done, but its file is missing; will be downloaded again at no charge")
_CHANGED = ("changed", "this id named another job before; will be submitted; the old result is kept")
_NOT_CHOSEN = ("left", "not named by --only; stays as it is")
_RETAKE = "the next take, as requested; will be submitted"
SUBMITTED = ("new", "changed", "retry", "resubmit")


@dataclass(frozen=True, slots=True)
class Row:
    """One entry of the plan.

    job: the id that all takes of the job share.
    changed: differences from the job that this id named before, ``field: old -> new``. duration_s: of the billed input.
    input_bytes: of all inputs. Both are None if unknown. estimate: the cost, None if it costs nothing.
    """

    id: str
    job: str
    take: int
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
        """True if a run submits the entry, and pays for it."""
        return self.action in SUBMITTED and self.same_as is None


class ResumeOptions(NamedTuple):
    """The settings for jobs of earlier runs, and the jobs whose files are missing (gone: fingerprints).

    chosen: the only jobs that may be submitted (fingerprints); None: all. elsewhere: what other batches of the account
    have for jobs, by fingerprint. retakes: the takes that this run adds (fingerprints).
    """

    retry_failed: RetryFailed = False
    resubmit_in_doubt: bool = False
    gone: AbstractSet[str] = frozenset()
    chosen: AbstractSet[str] | None = None
    elsewhere: Mapping[str, Reuse | Hold] = {}
    retakes: AbstractSet[str] = frozenset()


class Rows(Sequence[Row]):
    """The rows of a plan in manifest order. Each is created when it is read, so a plan of many jobs is small.

    Call `survey` for each entry in order first. It remembers which rows a run submits and which have changed, so that
    these are found without creating all rows again.
    known: the journal's records. records: at the start of a run (`Plan.records`).
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        known: Mapping[str, Record],
        before: Mapping[str, Job],
        records: Mapping[str, Record],
        prices: Prices,
        options: ResumeOptions,
    ) -> None:
        self._entries = entries
        self._known = known
        self._before = before
        self._records = records
        self._prices = prices
        self._options = options
        self._first: dict[str, str] = {}  # by fingerprint: the id of the first row of that job
        self._estimates: dict[tuple[Any, ...], Estimate] = {}
        self._submits = bytearray()  # by position: 1 or 0
        self._changes = bytearray()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Row]:
        return map(self._row, self._entries)

    def survey(self, entry: Entry) -> Row:
        """Return the row of the next entry."""
        row = self._row(entry)
        self._submits.append(row.submits)
        self._changes.append(bool(row.changed))
        return row

    def submitted(self) -> Iterator[Entry]:
        """Yield the entries that a run submits."""
        return compress(self._entries, self._submits)

    def changed(self) -> Iterator[Row]:
        """Yield the rows of changed jobs."""
        return map(self._row, compress(self._entries, self._changes)) if any(self._changes) else iter(())

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | Sequence[Row]:
        if isinstance(place, slice):
            return [self._row(entry) for entry in self._entries[place]]
        return self._row(self._entries[place])

    def _row(self, entry: Entry) -> Row:
        """Return the row of an entry. The first calls are in the order of the entries (`survey`)."""
        job, old = entry.job, self._before.get(entry.id)
        record = self._records[job.fingerprint]
        found = self._known[job.fingerprint].state if job.fingerprint in self._known else State.PENDING
        changed = () if old is None else tuple(differences(old, job))
        action, note = _action(found, record, job.fingerprint, self._options, changed=bool(changed))
        first = self._first.setdefault(job.fingerprint, entry.id)
        return Row(
            id=entry.id,
            job=entry.base,
            take=entry.take,
            action=action,
            note=note,
            fingerprint=job.fingerprint,
            generation_id=record.generation_id,
            same_as=None if first == entry.id else first,
            changed=changed,
            duration_s=media.duration_s if (media := billed_input(job)) else None,
            input_bytes=_bytes(job),
            estimate=self._estimate(job) if action in SUBMITTED and first == entry.id else None,
        )

    def _estimate(self, job: Job) -> Estimate:
        likeness = likeness_of(job)
        if likeness not in self._estimates:
            self._estimates[likeness] = self._prices.estimate(job)
        return self._estimates[likeness]


class Plan(NamedTuple):
    """The rows in manifest order, each job's record at the start of a run, and the clips that it moves away.

    records: by fingerprint. The jobs without a record in the journal share one record for all that are expected to cost
    and to take the same (`likeness_of`). submissions: their number, before limits of money and time. totals: the number
    of entries per action, the most frequent first.
    """

    rows: Rows
    records: Mapping[str, Record] = {}
    kept: tuple[KeptClip, ...] = ()
    submissions: int = 0
    totals: Mapping[str, int] = {}


def build(
    entries: Sequence[Entry], snapshot: Snapshot | None, prices: Prices, options: ResumeOptions | None = None
) -> Plan:
    """Build the plan. snapshot: the journal's content, None before the first run."""
    options = options or ResumeOptions()
    known = snapshot.records if snapshot else {}
    records, _ = take_up(
        known,
        [entry for entry in entries if entry.job.fingerprint in known] if known else (),
        retry_failed=options.retry_failed,
        resubmit_in_doubt=options.resubmit_in_doubt,
        chosen=options.chosen,
    )
    before = {entry.id: entry.job for entry in snapshot.entries} if snapshot else {}
    rows = Rows(entries, known, before, records, prices, options)
    similar: dict[tuple[Any, ...], Record] = {}
    totals, submissions = Counter[str](), 0
    for entry in entries:
        if entry.job.fingerprint not in records:
            records[entry.job.fingerprint] = similar.setdefault(likeness_of(entry.job), Record(entry.job))
        row = rows.survey(entry)
        totals[row.action] += 1
        submissions += row.submits
    return Plan(rows, records, submissions=submissions, totals=dict(totals.most_common()))


def likeness_of(job: Job) -> tuple[Any, ...]:
    """Return the same value for jobs that are expected to cost and to take the same."""
    params = job.params.json if isinstance(job.params, Params) else repr(sorted(job.params.items()))
    media = [value for item in job.inputs.values() for value in (item.frames, item.duration_s)]
    return (job.model, params, *job.inputs, *media)


def _submission(fingerprint: str, options: ResumeOptions) -> tuple[str, str] | None:
    """Return action and note of a job that is not submitted although it would be without these options."""
    if options.chosen is not None and fingerprint not in options.chosen:
        return _NOT_CHOSEN
    answer = options.elsewhere.get(fingerprint)
    if answer is None:
        return None
    if isinstance(answer, Hold):
        return "held", answer.problem.message
    return "reuse", f"{answer.how}; nothing is submitted"


def _action(
    found: State, record: Record, fingerprint: str, options: ResumeOptions, *, changed: bool
) -> tuple[str, str]:
    """Return what a run does with a job, and a note for the user. found: its state in the journal."""
    action, note = _ACTIONS[found, record.state]
    if fingerprint in options.gone and record.state is State.SUCCEEDED:
        action, note = _FETCH
    elif changed and action == "new":
        action, note = _CHANGED
    elif action == "new" and fingerprint in options.retakes:
        note = _RETAKE
    if action in SUBMITTED:
        return _submission(fingerprint, options) or (action, note)
    if action == "failed" and record.error is not None:
        note = f"{record.error.kind}; {note}"
    return action, note


def differences(old: Job, new: Job) -> list[str]:
    """Return the differences between two jobs, field by field; empty for the same job."""
    if old.fingerprint == new.fingerprint:
        return []
    before, after = _content(old), _content(new)
    changes = [
        f"{name}: {before.get(name, 'not set')} -> {after.get(name, 'not set')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    return changes or ["the query of an input's URL (not shown, because it may contain a signature)"]


def _bytes(job: Job) -> int | None:
    known = [media.size_bytes for media in job.inputs.values() if media.size_bytes is not None]
    return sum(known) if known else None


def _content(job: Job) -> dict[str, str]:
    take = {"take": str(job.take)} if job.take > 1 else {}
    return {"model": job.model, **take, **{name: str(value) for name, value in job.params.items()}} | {
        name: _identity(media) for name, media in job.inputs.items()
    }


def _identity(media: Media) -> str:
    return f"{media.source} ({media.sha256[:12]})" if media.sha256 else media.source
