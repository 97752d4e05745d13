"""What a person wants to know of a run, kept up event by event: the state of the screen. Pure.

Everything that is shown, live, in plain lines, at the end or by `status`, is read off one `Model`, so that they agree.
Rule: it counts and remembers; how things are worded is the business of `words`, and where they stand that of `screen`.
"""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

from batchrunner.errors import Problem
from batchrunner.events import (
    CallFailed,
    CallHealthChanged,
    CapChanged,
    Event,
    Fetching,
    JobMoved,
    JobSeen,
    Noticed,
    RunFinished,
    RunStarted,
    Stopping,
)
from batchrunner.job import TRANSITIONS, Job, Move, Record, State
from batchrunner.plan.duration_estimate import Forecast
from batchrunner.plan.ledger import Budget, Ledger, Spend

_Kind = tuple[str, str]  # model and resolution

_FROM = {move: state for state, move in TRANSITIONS}  # each move leaves one state only
_OPEN = {State.SUBMITTING, State.IN_FLIGHT, State.IN_DOUBT}
_DONE = (State.SUCCEEDED, State.FAILED, State.IN_DOUBT)
_FINE, _THROTTLED = "fine", "throttled"  # of batchrunner.engine.circuit_breaker.Word
RATE_OVER_S = 1800.0
_RATE_ENOUGH_S = 20.0
_PROBLEMS_KEPT = 50
_UNKNOWN = Problem("unknown", "no reason is known")

# What the service, or this machine, is doing for a job, the most telling first.
PHASES = ("downloading", "generating", "uploading", "queued", "in doubt")


@dataclass(frozen=True, slots=True)
class OpenBreaker:
    """Calls of one kind that are held back: why, since and until when. Wall time, s; next_at: None where unknown."""

    word: str
    reason: str
    since: float
    next_at: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """A job that is under way.

    since: wall time of its acceptance, s. kind: its model and resolution. received_bytes, total_bytes: of its download.
    """

    ids: tuple[str, ...]
    phase: str
    since: float
    record: Record
    kind: tuple[str, str]
    received_bytes: int | None = None
    total_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that went wrong, equal ones together. at, ids: of the last of them. times: how often."""

    at: float
    ids: tuple[str, ...]
    call: str  # "" where the job itself has failed
    problem: Problem
    times: int = 1


class Model:
    """The state of the screen. Times are wall time, seconds since the epoch; `at` is the latest event's.

    started: how the run began, or None before it has. records: of every job, by fingerprint, as last announced.
    states: how many jobs of the manifest stand where. closed: calls that are held back, by kind. trouble_since: since
    when any are. outages: how many times that was so, and lost_s: for how long in all, apart from one that lasts.
    """

    def __init__(self) -> None:
        self.started: RunStarted | None = None
        self.finished: RunFinished | None = None
        self.at = 0.0
        self.records: dict[str, Record] = {}
        self.states: Counter[State] = Counter()
        self.rows: dict[str, Row] = {}
        self.closed: dict[str, OpenBreaker] = {}
        self.trouble_since: float | None = None
        self.outages = 0
        self.lost_s = 0.0
        self.cap = self.limit = 0
        self.stopping = ""
        self._forecast = Forecast()
        self._ledger = Ledger(Budget())
        self._named: Mapping[str, tuple[str, ...]] = {}
        self._expected_s: dict[_Kind, float | None] = {}
        self._waiting: Counter[_Kind] = Counter()  # jobs still to be submitted, by kind
        self._sample: dict[_Kind, Job] = {}
        self._to_come: dict[str, float | None] = {}  # and what they are expected to cost, credits
        self._to_come_credits = 0.0
        self._to_come_unpriced = 0
        self._problems: dict[tuple[str, str], Incident] = {}
        self._ends: deque[float] = deque()

    def take(self, event: Event) -> None:
        """Take in what has happened."""
        self.at = event.at
        match event:
            case RunStarted():
                self._start(event)
            case JobMoved() | JobSeen():
                self._job(event)
            case Fetching():
                self._fetching(event)
            case CallFailed():
                self._trouble(event.at, event.ids, event.call, event.problem)
            case Noticed(routine=False):
                self._trouble(event.at, event.ids, "", Problem("noticed", event.message))
            case CallHealthChanged():
                self._weather(event)
            case CapChanged():
                self.cap, self.limit = event.cap, event.limit
            case Stopping():
                self.stopping = event.reason
            case RunFinished():
                self.finished = event
                self.states = Counter(event.states)

    # What is read off it

    @property
    def jobs(self) -> int:
        """How many jobs the manifest has, equal ones counted once."""
        return sum(self.states.values())

    @property
    def done(self) -> int:
        """How many of them need nothing more: succeeded, failed, or held in doubt."""
        return sum(self.states[state] for state in _DONE)

    @property
    def in_flight(self) -> int:
        """How many the service has, or is just getting."""
        return self.states[State.IN_FLIGHT] + self.states[State.SUBMITTING]

    @property
    def is_held_back(self) -> bool:
        """Whether calls are held back for longer than a service that asks for fewer does."""
        return any(closed.word != _THROTTLED for closed in self.closed.values())

    @property
    def waits_for_doubts(self) -> bool:
        """Whether jobs wait, and nothing is in flight because submissions in doubt hold every slot."""
        return not self.in_flight and self.states[State.PENDING] > 0 and self.states[State.IN_DOUBT] >= self.cap > 0

    @property
    def spend(self) -> Spend:
        """What was, and may be, paid for what was submitted."""
        return self._ledger.total

    @property
    def expected_credits(self) -> float:
        """What the batch is expected to have cost at the end, as far as prices are known."""
        return self.spend.worst + self._to_come_credits

    @property
    def unpriced(self) -> int:
        """How many generations, made or to come, have no known price."""
        return self.spend.unpriced + self._to_come_unpriced

    @property
    def problems(self) -> list[Incident]:
        """What went wrong lately, the latest last."""
        return list(self._problems.values())

    def per_hour(self) -> float | None:
        """Clips an hour, over the last half hour; None where too little was seen."""
        start = max(self.started.at if self.started else self.at, self.at - RATE_OVER_S)
        while self._ends and self._ends[0] < start:
            self._ends.popleft()
        recent = len(self._ends)
        long_s = self.at - start
        return recent / long_s * 3600 if recent and long_s >= _RATE_ENOUGH_S else None

    def expected_s(self, job: Job) -> float | None:
        """How long a generation of this kind takes, from its acceptance, as far as was seen."""
        return self._takes_s(_kind(job), job)

    def _takes_s(self, kind: _Kind, job: Job) -> float | None:
        if kind not in self._expected_s:
            self._expected_s[kind] = self._forecast.expected_s(job)
        return self._expected_s[kind]

    def left_s(self) -> float | None:
        """About how long until every job is done, at the working cap; None where that is not known.

        The work that is left is shared evenly among the slots, and as the last ones do not end all at once, half a
        generation comes on top; never less than the longest that is under way.
        """
        if self.is_held_back or self.stopping or self.finished or self.waits_for_doubts:
            return None
        left_s: list[float] = []
        waiting_s = longest_s = 0.0
        for row in self.rows.values():
            takes_s = self._takes_s(row.kind, row.record.job)
            if takes_s is None:
                return None
            if row.phase not in {"in doubt", "downloading"}:
                left_s.append(max(0.0, row.since + takes_s - self.at))
        for kind, count in self._waiting.items():
            takes_s = self._takes_s(kind, self._sample[kind])
            if takes_s is None:
                return None
            waiting_s, longest_s = waiting_s + count * takes_s, max(longest_s, takes_s)
        under_way_s = max(left_s, default=0.0)
        if not waiting_s:
            return under_way_s or None
        return max(under_way_s, (sum(left_s) + waiting_s) / max(1, self.cap) + longest_s / 2)

    def phases(self) -> Counter[str]:
        """How many jobs are in each phase."""
        return Counter(row.phase for row in self.rows.values())

    # How it is kept up

    def _start(self, event: RunStarted) -> None:
        self.started = replace(event, records={})  # with many jobs they are large, and grow old
        self.states = Counter(event.states)
        self.cap = self.limit = event.concurrency
        self.records = dict(event.records)
        self._named = event.ids
        self._forecast = Forecast(self.records.values())
        self._ledger = Ledger(Budget(), self.records.values())
        self._ledger.total += event.remainder.spend
        for fingerprint, record in self.records.items():
            self._set_row(fingerprint, record, event.ids.get(fingerprint, ()))
            self._set_to_come(fingerprint, record)
        for job, number, price in event.remainder.waiting:
            self._sample[_kind(job)] = job
            self._count_to_come(_kind(job), price, number)
        self._recall_failures()
        delivered = (record for record in self.records.values() if record.state is State.SUCCEEDED)
        ends = (record.last.ended_at for record in delivered if record.attempts)
        recent = (end for end in ends if end is not None and end >= event.at)
        self._ends.extend(sorted([*event.remainder.ended_at, *recent]))

    def _recall_failures(self) -> None:
        """What failed in earlier runs, or is in doubt since then, is a problem still."""
        failed = [record for record in self.records.values() if record.state in {State.FAILED, State.IN_DOUBT}]
        for record in sorted(failed, key=_last_moved_at):
            ids = self._named.get(record.job.fingerprint, ())
            self._trouble(_last_moved_at(record), ids, "", record.error or _UNKNOWN)

    def _job(self, event: JobMoved | JobSeen) -> None:
        record, fingerprint = event.record, event.record.job.fingerprint
        self.records[fingerprint] = record
        self._ledger.update(record)
        self._set_row(fingerprint, record, event.ids)
        if not isinstance(event, JobMoved):
            return
        self._set_to_come(fingerprint, record)
        if event.ids:
            self.states[_FROM[event.move]] -= self.states[_FROM[event.move]] > 0
            self.states[record.state] += 1
        if event.move is Move.DELIVER:
            self._forecast.learn(record)
            self._expected_s.clear()
            self._ends.append(event.at)
        elif event.move in {Move.FAIL, Move.GIVE_UP, Move.DOUBT}:
            self._trouble(event.at, event.ids, "", record.error or _UNKNOWN)

    def _set_row(self, fingerprint: str, record: Record, ids: tuple[str, ...]) -> None:
        if record.state not in _OPEN or not record.attempts:
            self.rows.pop(fingerprint, None)
            return
        attempt = record.last
        since = attempt.submitted_at if attempt.accepted_at is None else attempt.accepted_at
        self.rows[fingerprint] = Row(ids, _phase(record), since, record, _kind(record.job))

    def _fetching(self, event: Fetching) -> None:
        row = self.rows.get(event.fingerprint)
        if row is not None:
            self.rows[event.fingerprint] = replace(
                row, phase="downloading", received_bytes=event.received_bytes, total_bytes=event.total_bytes
            )

    def _set_to_come(self, fingerprint: str, record: Record) -> None:
        """Keep the sums over jobs that are still to be submitted."""
        kind = _kind(record.job)
        if fingerprint in self._to_come:
            self._count_to_come(kind, self._to_come.pop(fingerprint), -1)
        if record.state is State.PENDING and self.started is not None and fingerprint in self._named:
            price = self.started.expected.get(fingerprint, record.last.estimate if record.attempts else None)
            self._to_come[fingerprint] = price
            self._sample[kind] = record.job
            self._count_to_come(kind, price, 1)

    def _count_to_come(self, kind: _Kind, price: float | None, number: int) -> None:
        self._waiting[kind] += number
        self._to_come_credits += number * (price or 0.0)
        self._to_come_unpriced += number * (price is None)

    def _trouble(self, at: float, ids: tuple[str, ...], call: str, problem: Problem) -> None:
        key = (call, problem.message)
        before = self._problems.pop(key, None)
        self._problems[key] = Incident(at, ids, call, problem, before.times + 1 if before else 1)
        if len(self._problems) > _PROBLEMS_KEPT:
            del self._problems[next(iter(self._problems))]

    def _weather(self, event: CallHealthChanged) -> None:
        if event.status == _FINE:
            self.closed.pop(event.call, None)
            if not self.closed and self.trouble_since is not None:
                self.lost_s += max(0.0, event.at - self.trouble_since)
                self.trouble_since = None
            return
        before = self.closed.get(event.call)
        since = before.since if before else event.at
        self.closed[event.call] = OpenBreaker(event.status, event.reason, since, event.next_at)
        if self.trouble_since is None:
            self.trouble_since = event.at
            self.outages += 1


def _phase(record: Record) -> str:
    if record.state is State.SUBMITTING:
        return "uploading"
    if record.state is State.IN_DOUBT:
        return "in doubt"
    if record.last.completed_at is not None:
        return "downloading"
    return "queued" if record.last.generating_at is None else "generating"


def _last_moved_at(record: Record) -> float:
    return (record.last.ended_at or record.last.submitted_at) if record.attempts else 0.0


def _kind(job: Job) -> _Kind:
    return job.model, str(job.params.get("resolution", ""))
