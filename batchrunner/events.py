"""What a run announces: frozen facts that progress listens to. Pure; nobody has to listen.

An event tells what has happened, never what to do, and it is announced after the journal holds it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from batchrunner.errors import Problem
from batchrunner.job import Job, Move, Record, State
from batchrunner.plan.ledger import Spend


@dataclass(frozen=True, slots=True)
class RemainderSummary:
    """Jobs of which a start tells in figures alone.

    spend: what they cost so far. waiting: jobs to be submitted, one for all that are alike, with their number and the
    price expected for each. ended_at: when those that succeeded did, wall time, s, in order.
    """

    spend: Spend = field(default_factory=Spend)
    waiting: tuple[tuple[Job, int, float | None], ...] = ()
    ended_at: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The batch is loaded and locked. states: how many jobs stand where at the start, equal entries counted once.

    records: every job's record at the start, by fingerprint. expected: what each job that is still to be submitted is
    expected to cost, credits by fingerprint, None where that is not known. bases: how those prices are known
    (`batchrunner.plan.prices`). ids: what each job is delivered under, by fingerprint. rest: jobs that are in none of
    these.
    """

    at: float
    name: str
    provider: str
    run_dir: str
    concurrency: int
    states: Mapping[State, int]
    records: Mapping[str, Record] = field(default_factory=dict)
    expected: Mapping[str, float | None] = field(default_factory=dict)
    bases: tuple[str, ...] = ()
    ids: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rest: RemainderSummary = field(default_factory=RemainderSummary)


@dataclass(frozen=True, slots=True)
class JobMoved:
    """A job made a move of the state machine. ids: what it is delivered under (none: an earlier manifest's)."""

    at: float
    ids: tuple[str, ...]
    move: Move
    record: Record


@dataclass(frozen=True, slots=True)
class CallFailed:
    """A call failed and will be made again in `retry_in_s` seconds. call: ``submit``, ``poll`` or ``download``.

    failures: how many in a row are this job's own. most: how many end it; None: it is tried without end.
    """

    at: float
    ids: tuple[str, ...]
    call: str
    problem: Problem
    retry_in_s: float
    failures: int = 0
    most: int | None = None


@dataclass(frozen=True, slots=True)
class JobSeen:
    """A poll saw the service working on a job for the first time."""

    at: float
    ids: tuple[str, ...]
    record: Record


@dataclass(frozen=True, slots=True)
class Fetching:
    """A clip is being downloaded: so many bytes of so many, as far as its host said. At most two a second a clip."""

    at: float
    ids: tuple[str, ...]
    fingerprint: str
    received_bytes: int
    total_bytes: int | None


@dataclass(frozen=True, slots=True)
class CallHealthChanged:
    """The status of one kind of call changed. call: ``submit``, ``poll`` or ``download``. next_at: of the next try."""

    at: float
    call: str
    status: str  # a `batchrunner.engine.circuit_breaker.CallStatus`
    reason: str
    next_at: float | None = None


@dataclass(frozen=True, slots=True)
class CapChanged:
    """The working cap moved. limit: the cap that the user set, which it never passes."""

    at: float
    cap: int
    limit: int


@dataclass(frozen=True, slots=True)
class Noticed:
    """Something a person may want to know that stops nothing: an unknown status word, an odd clip.

    routine: it is as it should be, and nobody need see to it. urgent: a person has to see to it, also where the log is
    quiet.
    """

    at: float
    ids: tuple[str, ...]
    message: str
    routine: bool = False
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class Stopping:
    """No more submissions from here on. reason: in words, for people."""

    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class Alive:
    """Time has passed, and the loop turns: a few times a second, so that what shows lengths of time can move them."""

    at: float


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run has ended and the report is written. states: how many jobs stand where now. reports: files written.

    report: what report.json holds (`batchrunner.report.build`).
    """

    at: float
    exit_status: int
    states: Mapping[State, int]
    reports: tuple[str, ...]
    summary: str
    report: Mapping[str, Any] = field(default_factory=dict)


Event = (
    RunStarted
    | JobMoved
    | JobSeen
    | CallFailed
    | Fetching
    | CallHealthChanged
    | CapChanged
    | Noticed
    | Stopping
    | Alive
    | RunFinished
)
Listener = Callable[[Event], None]
