"""Jobs and their state machine. Pure: no I/O, no clock, no randomness.

A **job** is identified by its content: model, parameters, inputs (`Job.fingerprint`). A manifest's **entry** gives it
an id and a place. Equal entries share one job, so it is paid for once. Each submission is an **attempt**. An attempt
that the service accepted is a **generation**, identified by the service's opaque id.

The table `TRANSITIONS` is the state machine. `advance` makes all moves; an illegal move raises and changes
nothing. Records are frozen: a change creates a new record. The journal stores records.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from batchrunner.errors import Problem


class State(StrEnum):
    """The state of a job. report.json uses all of them except SUBMITTING."""

    PENDING = "pending"  # not submitted, or refused by the service and to be submitted again
    SUBMITTING = "submitting"  # the intent is on disk; the request may be in flight
    IN_FLIGHT = "in_flight"  # the service accepted it, and its id is on disk
    IN_DOUBT = "in_doubt"  # a submission may or may not have been accepted
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Move(StrEnum):
    """A transition of a job."""

    BEGIN_SUBMIT = "begin_submit"  # a submission is decided; on disk before the first byte is sent
    ACCEPT = "accept"  # the service replied with a generation id
    REFUSE = "refuse"  # the service refused it, or nothing was sent
    DOUBT = "doubt"  # bytes were sent without a usable reply, or the process died
    ADOPT = "adopt"  # evidence shows that the attempt in doubt was accepted
    RELEASE = "release"  # the user, or the user's policy, requested a resubmission despite the doubt
    CLEAR = "clear"  # the service's log shows that the attempt in doubt was not accepted
    DELIVER = "deliver"  # the checked file has its final name, and its copy in the bucket is confirmed
    FAIL = "fail"  # the service reported that the generation failed
    RETRY = "retry"  # the generation failed; the policy or the user requests another one
    GIVE_UP = "give_up"  # permanently refused
    RECHECK = "recheck"  # the service denied or withheld an accepted generation: poll again
    REUSE = "reuse"  # another batch of the account has paid for the job: take its generation
    FILE_MISSING = "file_missing"  # the delivered file is missing: download it again, never generate it again


TRANSITIONS: Mapping[tuple[State, Move], State] = {
    (State.PENDING, Move.BEGIN_SUBMIT): State.SUBMITTING,
    (State.PENDING, Move.GIVE_UP): State.FAILED,
    (State.PENDING, Move.REUSE): State.IN_FLIGHT,
    (State.SUBMITTING, Move.ACCEPT): State.IN_FLIGHT,
    (State.SUBMITTING, Move.REFUSE): State.PENDING,
    (State.SUBMITTING, Move.DOUBT): State.IN_DOUBT,
    (State.IN_DOUBT, Move.ADOPT): State.IN_FLIGHT,
    (State.IN_DOUBT, Move.RELEASE): State.PENDING,
    (State.IN_DOUBT, Move.CLEAR): State.PENDING,
    (State.IN_FLIGHT, Move.DELIVER): State.SUCCEEDED,
    (State.IN_FLIGHT, Move.FAIL): State.FAILED,
    (State.FAILED, Move.RETRY): State.PENDING,
    (State.FAILED, Move.RECHECK): State.IN_FLIGHT,
    (State.SUCCEEDED, Move.FILE_MISSING): State.IN_FLIGHT,
}

# An attempt's `outcome` after a move; None leaves it unchanged.
OUTCOMES: Mapping[Move, str | None] = {
    Move.ACCEPT: "accepted",
    Move.ADOPT: "accepted",
    Move.REFUSE: "refused",
    Move.DOUBT: "in_doubt",
    Move.CLEAR: "refused",
    Move.REUSE: "accepted",
    Move.DELIVER: "succeeded",
    Move.FAIL: "failed",
    Move.FILE_MISSING: "accepted",
    Move.RECHECK: "accepted",
}


_TAKE_NAME = re.compile(r"(.+)\.t([1-9][0-9]{0,8})", re.DOTALL)

# The request id of an attempt that takes the generation of another batch begins with this. It was never sent.
REUSED = "reused."


class IllegalMove(RuntimeError):
    """A move that is not in the table: a bug in this program, not an error in its input."""


class Media(NamedTuple):  # creating a frozen dataclass takes five times as long, for each row
    """One input of a job.

    kind: ``video`` or ``image``.
    source: for display: the path as written, the URL, or an abbreviated data URI. No credentials.
    path: the local file, or None. uri: the URL or data URI to send unchanged, or None for a local file.
    sha256: hex digest of the content (local files, data URIs), or None.
    size_bytes, mime: of local files and data URIs. mtime_ns: of a local file when it was hashed.
    width_px, height_px, duration_s, frames: from probing a local file or an object; None if unknown.
    etag: of an object in a bucket, or its version: it identifies the content. Then `uri` is the object's address.
    """

    kind: str
    source: str
    path: Path | None = None
    uri: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    mime: str | None = None
    mtime_ns: int | None = None
    width_px: int | None = None
    height_px: int | None = None
    duration_s: float | None = None
    frames: int | None = None
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One video to generate, identified by its content.

    fingerprint: ``sha256:<hex>`` over model, parameters and inputs (`batchrunner.manifest.fingerprint`).
    inputs: by the names of the model's spec (`batchrunner.providers.models`), in its order.
    params: the model's parameters as they are sent, documented defaults written out.
    take: 1, 2, …: jobs that differ only in it are different generations of the same request. It is not sent.
    """

    fingerprint: str
    model: str
    inputs: Mapping[str, Media]
    params: Mapping[str, Any]
    take: int = 1

    @property
    def key(self) -> str:
        """The fingerprint's first 16 hex digits: short, and valid in file names and request ids."""
        return key_of(self.fingerprint)

    @property
    def input_urls(self) -> tuple[str, ...]:
        """The URLs and data URIs that are submitted as they are."""
        return tuple(media.uri for media in self.inputs.values() if media.uri is not None)


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the manifest: the id under which a job's result is delivered.

    A job with three takes has three entries, with the ids ``a``, ``a.t2`` and ``a.t3`` (`take_name`).
    priority: higher ones are submitted first. output_name: the result's name without ``.mp4``; "" for the id.
    """

    position: int
    id: str
    job: Job
    tags: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    output_name: str = ""

    @property
    def file(self) -> str:
        """The result's name in the run directory."""
        return f"{self.output_name or self.id}.mp4"

    @property
    def take(self) -> int:
        """The number of the take, from 1."""
        return self.job.take

    @property
    def base(self) -> str:
        """The id that all takes of the job share: that of the first take."""
        return base_name(self.id, self.job.take)


def key_of(fingerprint: str) -> str:
    """Return the `Job.key` of a fingerprint."""
    return fingerprint.removeprefix("sha256:")[:16]


class JobNames(Mapping[str, tuple[str, ...]]):
    """The ids of each job's entries, by the job's fingerprint, and the names of its files, in the manifest's order.

    It refers to the entries. Sequences and file names of 100,000 jobs would take 20 MB.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._firsts: dict[str, Entry] = {}
        self._further: dict[str, list[Entry]] = {}  # of the few jobs with several entries
        for entry in entries:
            fingerprint = entry.job.fingerprint
            if self._firsts.setdefault(fingerprint, entry) is not entry:
                self._further.setdefault(fingerprint, []).append(entry)

    def __getitem__(self, fingerprint: str) -> tuple[str, ...]:
        return (self._firsts[fingerprint].id, *[entry.id for entry in self._further.get(fingerprint, ())])

    def __contains__(self, fingerprint: object) -> bool:
        return fingerprint in self._firsts

    def __iter__(self) -> Iterator[str]:
        return iter(self._firsts)

    def __len__(self) -> int:
        return len(self._firsts)

    def ids(self, fingerprint: str) -> tuple[str, ...]:
        """Return the ids of a job; none for a job without an entry. It makes few calls: each event asks for them."""
        first = self._firsts.get(fingerprint)
        if first is None:
            return ()
        return self[fingerprint] if fingerprint in self._further else (first.id,)

    def files(self, fingerprint: str) -> list[str]:
        """Return the `Entry.file` of each entry of a job."""
        first = self._firsts.get(fingerprint)
        if first is None:
            return []
        return [first.file, *[entry.file for entry in self._further.get(fingerprint, ())]]


def take_name(name: str, take: int) -> str:
    """Return the id or file name of a take: ``a`` for the first one of ``a``, then ``a.t2``, ``a.t3``, …"""
    return name if take == 1 else f"{name}.t{take}"


def base_name(name: str, take: int) -> str:
    """Do the reverse of `take_name`."""
    return name if take == 1 else name.removesuffix(f".t{take}")


def named_take(name: str) -> tuple[str, int] | None:
    """Return first take and number for a name that a take above the first may have; None for other names."""
    found = _TAKE_NAME.fullmatch(name)
    return None if found is None or found[2] == "1" else (found[1], int(found[2]))


@dataclass(frozen=True, slots=True)
class Retake:
    """A take that ``run --retake`` added. It stays part of the batch beside the manifest's own takes.

    fingerprint: of the job's first take. run_id: the run that added it; "" for the run that starts now.
    """

    fingerprint: str
    take: int
    run_id: str = ""


class Attempt(NamedTuple):  # it changes often, and a frozen dataclass takes five times as long
    """One submission of a job, and its outcome.

    number: 1, 2, … over the life of the job. request_id: sent as X-Client-Request-Id, unique to the attempt.
    outcome: None while open, then a value of OUTCOMES. Times are wall time in seconds since the epoch.
    generating_at: when the service was first seen working on it. completed_at: when it was first seen complete.
    credits: the charge that the service quoted in a reply, or None. estimate: the expected charge
    from the price table at the time of the submission; None if unknown. settled: the charge by the service's
    transactions, refunds subtracted, or None; settled_at: the time of the latest of these transactions.
    """

    number: int
    request_id: str
    submitted_at: float
    generation_id: str | None = None
    outcome: str | None = None
    error: Problem | None = None
    accepted_at: float | None = None
    generating_at: float | None = None
    completed_at: float | None = None
    ended_at: float | None = None
    credits: float | None = None
    estimate: float | None = None
    polls: int = 0
    settled: float | None = None
    settled_at: float | None = None

    @property
    def charge(self) -> float | None:
        """The charge in credits: the settled one, else the quoted one, else None."""
        return self.credits if self.settled is None else self.settled

    @property
    def is_reused(self) -> bool:
        """Whether another batch of the account has submitted it, and pays for it."""
        return self.request_id.startswith(REUSED)


@dataclass(frozen=True, slots=True)
class Result:
    """A delivered file: its size, hex SHA-256, picture size, length, and warnings about unusual properties.

    quality: measures of its frames and sound (`batchrunner.quality.measures.numbers_of`); None if not measured.
    synthetic_marks: what it says of its origin (`batchrunner.media.synthetic_marks`); None if that was not read.
    objects: the ETags of its copies in a bucket by their addresses, as they were confirmed; None without any.
    """

    size_bytes: int
    sha256: str
    width_px: int | None = None
    height_px: int | None = None
    duration_s: float | None = None
    warnings: tuple[str, ...] = ()
    quality: Mapping[str, Any] | None = None
    synthetic_marks: tuple[str, ...] | None = None
    objects: Mapping[str, str] | None = None


class PlacedFile(NamedTuple):
    """The owner of a file in the run directory: the job's fingerprint, the content's hex SHA-256 and size."""

    fingerprint: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Record:
    """The complete record of a job, as stored in the journal and shown in the report."""

    job: Job
    state: State = State.PENDING
    attempts: tuple[Attempt, ...] = ()
    error: Problem | None = None
    result: Result | None = None

    @property
    def last(self) -> Attempt:
        """The latest attempt. Access without an attempt is a bug."""
        return self.attempts[-1]

    @property
    def generation_id(self) -> str | None:
        """The latest attempt's generation id, or None."""
        return self.attempts[-1].generation_id if self.attempts else None

    def with_attempt(self, **changes: Any) -> "Record":
        """Return the record with changed fields of its latest attempt."""
        attempts = (*self.attempts[:-1], self.attempts[-1]._replace(**changes))
        return Record(self.job, self.state, attempts, self.error, self.result)

    def with_result(self, result: Result) -> "Record":
        """Return the record with this result."""
        return Record(self.job, self.state, self.attempts, self.error, result)


def advance(record: Record, move: Move, *, error: Problem | None = None, **attempt: Any) -> Record:
    """Return the record after `move`.

    error: the reason of a failure. It is on the attempt, and on the record until the next move.
    attempt: further fields of the latest attempt. BEGIN_SUBMIT and REUSE start a new one and need request_id and
    submitted_at.
    Raises IllegalMove if the table does not contain the move.
    """
    state = TRANSITIONS.get((record.state, move))
    if state is None:
        raise IllegalMove(f"job {record.job.key} is {record.state}: it cannot {move}")
    attempts, outcome = record.attempts, OUTCOMES.get(move)
    if move in {Move.BEGIN_SUBMIT, Move.REUSE}:
        attempts = (*attempts, Attempt(number=len(attempts) + 1, outcome=outcome, **attempt))
    elif attempts and (outcome or attempt or error):
        last = attempts[-1]
        last = last._replace(outcome=outcome or last.outcome, error=error or last.error, **attempt)
        attempts = (*attempts[:-1], last)
    return Record(record.job, state, attempts, error, record.result)


def count_states(records: Iterable[Record]) -> dict[State, int]:
    """Return the number of records in each state, including states with none."""
    counts = Counter(map(attrgetter("state"), records))
    return {state: counts[state] for state in State}


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a batch.

    Times are wall time in seconds since the epoch. finished_at and exit_status are None while it runs, and stay None
    if it is killed. stopped: why the run ended before all jobs did, or ""; stop_kind: a key of
    `batchrunner.plan.endings.ENDINGS`. service: the service's host.
    settings_json: the effective settings and prices, as JSON (`batchrunner.settings.as_facts`).
    """

    run_id: str
    name: str
    provider: str
    manifest_path: str
    manifest_sha256: str
    concurrency: int
    started_at: float
    finished_at: float | None = None
    exit_status: int | None = None
    stopped: str = ""
    service: str = ""
    settings_json: str = "{}"
    stop_kind: str = ""


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """An event of the whole batch, for the timeline.

    kind: ``call_health`` (call: ``submit``, ``poll`` or ``download``; status: of these calls from now on), ``cap``
    (status: the working cap), ``overrun`` (call: the job's key; status: ``over_estimate`` or ``over_budget``) or
    ``stopping``. at: wall time, s. message: for people.
    """

    at: float
    kind: str
    call: str
    status: str
    message: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a batch in the journal: its latest run, the manifest's entries in order, and each job's record.

    records: by fingerprint, including jobs of earlier manifests, which are never removed.
    runs: every run so far, oldest first. timeline_events: of all runs, oldest first. retakes: those of all runs.
    """

    run: Run
    entries: Sequence[Entry]
    records: Mapping[str, Record]
    runs: tuple[Run, ...] = ()
    timeline_events: tuple[TimelineEvent, ...] = ()
    retakes: tuple[Retake, ...] = ()
