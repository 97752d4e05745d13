"""The rows of the report: one per entry of the manifest. Pure.

Rules: rows are in manifest order, and their keys are in the contract's order. A job that did not succeed has a reason
and a next step. Rows and their values are created on access: 100,000 complete rows would take a gigabyte. The values of
the whole batch are in `batchrunner.report.build`.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from batchrunner.errors import Problem
from batchrunner.formatting import rfc3339
from batchrunner.job import Attempt, Entry, Job, Media, Record, Result, Run, State
from batchrunner.plan.duration_estimate import Forecast
from batchrunner.plan.endings import ending_of
from batchrunner.plan.ledger import Spend, spend_of
from batchrunner.plan.prices import Prices, usd
from batchrunner.plan.selection import NOT_SELECTED, selects
from batchrunner.providers.models import Params
from batchrunner.quality import marks

if TYPE_CHECKING:
    from batchrunner.review.verdicts import Verdict

_RESOLVE_DOUBT = (
    "Search for the request id at the service, and wait: it may still appear there. To submit the job again, run the "
    "same command with --in-doubt resubmit: if the first submission was accepted, the job is paid for twice."
)
_WHY: Mapping[str, Problem] = {
    "pending": Problem("not_submitted", "was not submitted before the run ended", "Run the same command again."),
    "in_flight": Problem(
        "not_finished",
        "the service had not finished it before the run ended",
        "Run the same command again: it is polled and downloaded, and not paid for again.",
    ),
    "in_doubt": Problem("in_doubt", "the submission may or may not have been accepted by the service", _RESOLVE_DOUBT),
    "failed": Problem(
        "failed", "failed for an unknown reason", "Run the same command with --retry-failed to submit it again."
    ),
}
_UNDELIVERED = Problem(
    "not_delivered",
    "its clip is not in the bucket yet",
    "Run the same command again: it is copied to the bucket, and not paid for again.",
)
_UNSELECTED = Problem(NOT_SELECTED, "was not selected with --only", "Run the same command without --only.")
_WHY_OPEN: Mapping[str, Problem] = {
    "pending": Problem(
        "not_submitted", "has not been submitted yet", "If no run is under way, run the same command again."
    ),
    "in_flight": Problem(
        "not_finished",
        "has been submitted and is not finished yet",
        "If no run is under way, run the same command again: accepted jobs are not paid for again.",
    ),
}

_MOST_SEEN = 4096  # kinds of jobs in `RowContext.seen`
_STATE_NAMES = {state: state.value for state in State}  # faster than `value`


@dataclass(frozen=True, slots=True)
class RowContext:
    """The context of the rows: the latest run, prices, and expected generation times.

    only: ids and patterns of the jobs that the run chose; () for all. actions: what to do about marks, by kind. owners:
    fingerprint and id of the first job with a clip, by `clip_keys`. verdicts: by the row's id and the clip's SHA-256.
    runs: all runs, oldest first. deliver: the place in a bucket to which the run copies clips, or "". seen: a cache of
    usual times and estimates, because many jobs are similar.
    """

    run: Run
    prices: Prices
    forecast: Forecast
    only: Sequence[str] = ()
    actions: Mapping[str, str] = field(default_factory=dict)
    owners: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    verdicts: Mapping[tuple[str, str], "Verdict"] = field(default_factory=dict)
    runs: Sequence[Run] = ()
    deliver: str = ""
    seen: dict[tuple[Any, ...], "_Expectation"] = field(default_factory=dict)

    def expected(self, job: Job) -> "_Expectation":
        """Return what is expected of a generation of `job`."""
        lengths = [(name, media.kind, media.frames, media.duration_s) for name, media in job.inputs.items()]
        like = (job.model, job.params.json if isinstance(job.params, Params) else repr(job.params), *lengths)
        found = self.seen.get(like)
        if found is None:
            if len(self.seen) >= _MOST_SEEN:
                self.seen.clear()
            estimate = self.prices.estimate(job)
            cost = {"credits": number(estimate.credits), "basis": estimate.basis, "billed_s": number(estimate.seconds)}
            found = self.seen[like] = _Expectation(number(self.forecast.expected_s(job)), cost)
        return found

    def run_at(self, at: float) -> Run:
        """Return the run that was under way at `at` (wall time, s)."""
        if self.runs and at >= self.runs[-1].started_at:
            return self.runs[-1]
        later = bisect_right(self.runs, at, key=lambda run: run.started_at)
        return self.runs[later - 1] if later else self.run


class _Expectation(NamedTuple):
    """What is expected of a generation. time_s: usual for similar jobs. estimate: of its charge, ready for JSON."""

    time_s: float | int | None
    estimate: Mapping[str, Any]


class _NoFile:
    """The file of a row without a delivered result: it has no properties."""

    size_bytes = sha256 = width_px = height_px = duration_s = None
    warnings = ()


class Row(Mapping[str, Any]):
    """The row of an entry. Each access computes a value. All values together (`complete`) are ready for JSON.

    result: the delivered result if it still exists. clip: the same, or `_NoFile`.
    """

    __slots__ = ("_expectation", "clip", "context", "entry", "job", "record", "result")
    KEYS: ClassVar[Mapping[str, Callable[["Row"], Any]]]  # in order

    def __init__(self, job: Job, record: Record, context: RowContext, entry: Entry | None = None) -> None:
        self.job = job
        self.record = record
        self.context = context
        self.entry = entry
        self.result: Result | None = record.result if record.state is State.SUCCEEDED else None
        self.clip = self.result or _NoFile
        self._expectation: _Expectation | None = None

    def __getitem__(self, key: str) -> Any:
        return self.KEYS[key](self)

    def __iter__(self) -> Iterator[str]:
        return iter(self.KEYS)

    def __len__(self) -> int:
        return len(self.KEYS)

    def complete(self) -> dict[str, Any]:
        """Return all values."""
        return {key: value_of(self) for key, value_of in self.KEYS.items()}

    @property
    def expectation(self) -> _Expectation:
        """What is expected of a generation of the job."""
        if self._expectation is None:
            self._expectation = self.context.expected(self.job)
        return self._expectation

    @property
    def state(self) -> str:
        """The state, as the contract names it."""
        return shown(self.record.state, self.context.run)


class EarlierRow(Row):
    """The row of a former job, which the manifest no longer contains."""

    __slots__ = ()


class Rows:
    """A sequence of rows that are created on access."""

    def __init__(self, sources: Sequence[Any], make: Callable[[Any], Row]) -> None:
        self._sources = sources
        self._make = make

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, number: int) -> Row:
        return self._make(self._sources[number])

    def __iter__(self) -> Iterator[Row]:
        return map(self._make, self._sources)


def complete(row: Any) -> dict[str, Any]:
    """Return all values of a row. It is faster than `dict`, which asks for each value by its name.

    row: one of `Rows`, of a merged report, or of report.json.
    """
    values: dict[str, Any] = row if isinstance(row, dict) else row.complete()
    return values


def owners_of(entries: Iterable[Entry], records: Mapping[str, Record]) -> dict[str, tuple[str, str]]:
    """Return the first job with each measured clip, for `RowContext`."""
    owners: dict[str, tuple[str, str]] = {}
    for entry in entries:
        record = records.get(entry.job.fingerprint)
        if record and record.state is State.SUCCEEDED and record.result and record.result.quality is not None:
            for key in clip_keys(record.result):
                owners.setdefault(key, (entry.job.fingerprint, entry.id))
    return owners


def rows(entries: Sequence[Entry], records: Mapping[str, Record], context: RowContext) -> Rows:
    """Return the rows of `entries`. records: by fingerprint; an entry without one is pending."""

    def make(entry: Entry) -> Row:
        return Row(entry.job, records.get(entry.job.fingerprint) or Record(entry.job), context, entry)

    return Rows(entries, make)


def earlier_rows(records: Sequence[Record], context: RowContext) -> Rows:
    """Return the rows of former jobs."""
    return Rows(records, lambda record: EarlierRow(record.job, record, context))


def shown(state: State, run: Run) -> str:
    """Return the state as the contract names it.

    A submission under way is in flight during the run, and in doubt after it.
    """
    if state is State.SUBMITTING:
        return "in_flight" if run.finished_at is None else "in_doubt"
    return _STATE_NAMES[state]


def time(at: float | None) -> str | None:
    """Return a time as RFC 3339; None if it is unknown."""
    return None if at is None else rfc3339(at)


def number(value: float | None) -> float | int | None:
    """Return a number for JSON, rounded to a thousandth: integers without a fraction, None for infinity and NaN."""
    if value is None or not -inf < value < inf:
        return None
    value = round(value, 3)
    return int(value) if value == int(value) else value


def cost_kinds(spend: Spend) -> dict[str, Any]:
    """Return the parts of a cost, reserved amounts included, by how they are known, in US dollars."""
    kinds = {"settled_usd": spend.settled, "quoted_usd": spend.quoted, "estimated_usd": spend.estimated}
    return {name: in_usd(amount) for name, amount in kinds.items()}


def in_usd(credits_: float) -> float | int:
    """Return an amount of credits in US dollars for JSON, rounded to a millionth."""
    value = round(usd(credits_), 6) if -inf < credits_ < inf else 0
    return int(value) if value == int(value) else value


@lru_cache(maxsize=4096)
def _cost_of(spend: Spend) -> Mapping[str, Any]:
    """Return a job's cost. Cached: most jobs cost the same."""
    return {"usd": in_usd(spend.worst), **cost_kinds(spend)}


def _request(row: Row) -> dict[str, Any]:
    job = row.job
    inputs = {name: media.source for name, media in job.inputs.items()}
    return {"model": job.model, **inputs, **dict(sorted(job.params.items()))}


def _rendered_by(row: Row) -> dict[str, Any] | None:
    """Return who rendered the clip, and the run that submitted it; None for a clip that another batch submitted."""
    if row.result is None or not row.record.attempts:
        return None
    last = row.record.attempts[-1]
    if last.is_reused:
        run = row.context.run
        return {"service": run.service or run.provider, "run_id": None}
    run = row.context.run_at(last.submitted_at)
    return {"service": run.service or run.provider, "run_id": run.run_id}


def _sorted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Sort by name: the order must not depend on whether a value comes from a manifest or a journal."""
    return dict(sorted(values.items()))


def clip_keys(result: Result) -> tuple[str, ...]:
    """Return the names under which an equal clip of another job is found."""
    digest = (result.quality or {}).get("digest")
    return (result.sha256, digest) if digest else (result.sha256,)


def _quality(row: Row) -> dict[str, Any] | None:
    """Return the measures of the clip, its marks and the verdict that they ask for; None if it was not measured."""
    result = row.result
    if result is None or result.quality is None:
        return None
    owners = (row.context.owners[key] for key in clip_keys(result) if key in row.context.owners)
    other = next((name for fingerprint, name in owners if fingerprint != row.job.fingerprint), "")
    found = marks.marks_of(result.quality, row.context.actions, other)
    return {
        "measures": _sorted(result.quality),
        "marks": [{"kind": mark.kind, "action": mark.action, "message": mark.message} for mark in found],
        "verdict": marks.verdict_of(found),
    }


def _synthetic_marks(row: Row) -> list[str] | None:
    """Return what the clip says of its origin; None if that was not read."""
    found = row.result.synthetic_marks if row.result is not None else None
    return None if found is None else list(found)


def _object(row: Row) -> dict[str, Any] | None:
    """Return the clip's copy in the bucket; None if there is none. A former job has the one of its last name."""
    if row.result is None or not row.result.objects:
        return None
    objects = row.result.objects
    ending = f"/{row.entry.file}" if row.entry is not None else ""
    named = [address for address in objects if address.endswith(ending)]
    if row.entry is not None and row.context.deliver:
        named = [address for address in named if address == f"{row.context.deliver.rstrip('/')}{ending}"]
    return {"address": named[-1], "etag": objects[named[-1]]} if named else None


def _verdict(row: Row) -> dict[str, Any] | None:
    """Return the verdict on the clip; None if there is none, or if it was withdrawn without a remark."""
    if not row.context.verdicts or row.result is None or row.entry is None:
        return None
    found = row.context.verdicts.get((row.entry.id, row.result.sha256))
    if not found or (found.verdict == "none" and not (found.reasons or found.note or found.rating is not None)):
        return None
    return {
        "verdict": found.verdict,
        "reasons": list(found.reasons),
        "rating": found.rating,
        "note": found.note,
        "at": found.at,
        "by": found.by,
    }


def _times(row: Row) -> dict[str, Any]:
    """Return the phases of the latest attempt and the usual time of similar jobs, in seconds."""
    record = row.record
    attempts = record.attempts or (Attempt(0, "", 0.0),)
    last = attempts[-1]
    ended_at = last.ended_at if record.state is State.SUCCEEDED else None
    phases = (
        ("queue_s", last.accepted_at, last.generating_at),
        ("generating_s", last.generating_at, last.completed_at),
        ("generation_s", last.accepted_at, last.completed_at),
        ("download_s", last.completed_at, ended_at),
        ("total_s", attempts[0].submitted_at, ended_at),
    )
    times = {"expected_s": row.expectation.time_s}
    for name, start, end in phases:
        # Unknown if a time is unknown, or if the wall clock was set back.
        times[name] = None if start is None or end is None or end < start else number(end - start)
    return times


def _error(row: Row) -> dict[str, Any] | None:
    if row.record.state is State.SUCCEEDED:
        return None
    state, run = row.state, row.context.run
    usual = _WHY[state]
    if state == "pending" and row.entry is not None and not selects(row.entry.id, row.entry.base, row.context.only):
        usual = _UNSELECTED
    elif state == "in_flight" and row.context.deliver and row.record.result is not None:
        usual = _UNDELIVERED
    elif run.finished_at is None:
        usual = _WHY_OPEN.get(state, usual)
    elif run.stopped and state in ("pending", "in_flight"):
        usual = left_by_stop(state, run.stopped, run.stop_kind)
    error = row.record.error or usual
    hint = error.hint or usual.hint
    if state == "in_doubt" and "--in-doubt" not in hint:
        hint = f"{hint.rstrip()} {_RESOLVE_DOUBT}"
    return _problem(Problem(error.kind, error.message or usual.message, hint, error.fault))


def left_by_stop(state: str, stopped: str, kind: str) -> Problem:
    """Return the problem of a job that is pending or in flight because the run stopped. kind: of the stop, or ""."""
    usual = _WHY[state]
    advice = ending_of(kind).advice if kind else ""
    return Problem(usual.kind, f"{usual.message}: {stopped}", advice or usual.hint)


def _problem(problem: Problem) -> dict[str, Any]:
    return {"kind": problem.kind, "message": problem.message, "hint": problem.hint, "fault": problem.fault}


def _attempt(attempt: Attempt) -> dict[str, Any]:
    accepted_at, generating_at, completed_at, ended_at, settled_at = [
        None if at is None else rfc3339(at)
        for at in (
            attempt.accepted_at,
            attempt.generating_at,
            attempt.completed_at,
            attempt.ended_at,
            attempt.settled_at,
        )
    ]
    return {
        "number": attempt.number,
        "generation_id": attempt.generation_id,
        "request_id": attempt.request_id,
        "submitted_at": rfc3339(attempt.submitted_at),
        "accepted_at": accepted_at,
        "generating_at": generating_at,
        "completed_at": completed_at,
        "ended_at": ended_at,
        "outcome": attempt.outcome,
        "credits": number(attempt.credits),
        "estimate": number(attempt.estimate),
        "settled": number(attempt.settled),
        "settled_at": settled_at,
        "polls": attempt.polls,
        "error": attempt.error and _problem(attempt.error),
    }


def _media(media: Media) -> dict[str, Any]:
    return {
        "source": media.source,
        "sha256": media.sha256,
        "bytes": media.size_bytes,
        "mime": media.mime,
        "width_px": media.width_px,
        "height_px": media.height_px,
        "duration_s": media.duration_s,
        **({"etag": media.etag} if media.etag else {}),
    }


EarlierRow.KEYS = {
    "fingerprint": attrgetter("job.fingerprint"),
    "state": attrgetter("state"),
    "request": _request,
    "generation_id": attrgetter("record.generation_id"),
    "file": lambda row: row.entry.file if row.entry and row.result else None,
    "bytes": attrgetter("clip.size_bytes"),
    "sha256": attrgetter("clip.sha256"),
    "width_px": attrgetter("clip.width_px"),
    "height_px": attrgetter("clip.height_px"),
    "duration_s": attrgetter("clip.duration_s"),
    "warnings": lambda row: list(row.clip.warnings),
    "object": _object,
    "synthetic_marks": _synthetic_marks,
    "quality": _quality,
    "inputs": lambda row: {name: _media(media) for name, media in row.job.inputs.items()},
    "parameters": lambda row: dict(sorted(row.job.params.items())),
    "rendered_by": _rendered_by,
    "cost": lambda row: {**_cost_of(spend_of(row.record))},
    "attempts": lambda row: [_attempt(attempt) for attempt in row.record.attempts],
    "error": _error,
}
Row.KEYS = {
    "id": attrgetter("entry.id"),
    "job": attrgetter("entry.base"),
    "take": attrgetter("job.take"),
    "position": attrgetter("entry.position"),
    **EarlierRow.KEYS,
    "verdict": _verdict,
    "estimate": lambda row: {**row.expectation.estimate},
    "times": _times,
    "priority": attrgetter("entry.priority"),
    "tags": lambda row: _sorted(row.entry.tags) if row.entry and row.entry.tags else {},
}
