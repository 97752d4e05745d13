"""What a person wants to know of a run, kept up event by event: the state of the screen. Pure.

Everything that is shown, live, in plain lines, at the end or by `status`, is read off one `Model`, so that they agree.
Rule: it counts and remembers; how things are worded is the business of `words`, and where they stand that of `screen`.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from batchrunner.errors import Problem
from batchrunner.events import (
    CallFailed,
    CapChanged,
    Event,
    Fetching,
    JobMoved,
    JobSeen,
    Noticed,
    RunFinished,
    RunStarted,
    Stopping,
    WeatherChanged,
)
from batchrunner.forecast import Forecast
from batchrunner.job import TRANSITIONS, Move, Record, State, count_states
from batchrunner.money import Budget, Ledger, Spend

_FROM = {move: state for state, move in TRANSITIONS}  # each move leaves one state only
_OPEN = {State.SUBMITTING, State.IN_FLIGHT, State.IN_DOUBT}
_DONE = (State.SUCCEEDED, State.FAILED, State.IN_DOUBT)
_FINE = "fine"  # of batchrunner.gate.Word
_RATE_OVER_S = 1800.0
_RATE_ENOUGH_S = 20.0
_PROBLEMS_KEPT = 50

# What the service, or this machine, is doing for a job, the most telling first.
PHASES = ("downloading", "generating", "uploading", "queued", "in doubt")


@dataclass(frozen=True, slots=True)
class Closed:
    """Calls of one kind that are held back: why, since and until when. Wall time, s; next_at: None where unknown."""

    word: str
    reason: str
    since: float
    next_at: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """A job that is under way. since: wall time of its submission, s. received_bytes, total_bytes: of its download."""

    ids: tuple[str, ...]
    phase: str
    since: float
    record: Record
    received_bytes: int | None = None
    total_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that went wrong, equal ones together. at: when last. ids: of the first of them. jobs: how often."""

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
        self.closed: dict[str, Closed] = {}
        self.trouble_since: float | None = None
        self.outages = 0
        self.lost_s = 0.0
        self.cap = self.limit = 0
        self.stopping = ""
        self.forecast = Forecast()
        self._ledger = Ledger(Budget())
        self._to_come: dict[str, float | None] = {}
        self._to_come_credits = 0.0
        self._to_come_unpriced = 0
        self._problems: dict[tuple[str, str], Trouble] = {}
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
            case Noticed():
                self._trouble(event.at, event.ids, "", Problem("noticed", event.message))
            case WeatherChanged():
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
    def problems(self) -> list[Trouble]:
        """What went wrong lately, the latest last."""
        return list(self._problems.values())

    def per_hour(self) -> float | None:
        """Clips an hour, over the last half hour; None where too little was seen."""
        start = max(self.started.at if self.started else self.at, self.at - _RATE_OVER_S)
        recent = sum(1 for end in self._ends if end >= start)
        long_s = self.at - start
        return recent / long_s * 3600 if recent and long_s >= _RATE_ENOUGH_S else None

    def expected_s(self, record: Record) -> float | None:
        """How long a generation of this kind takes, from its acceptance, as far as was seen."""
        return self.forecast.expected_s(record.job)

    def left_s(self) -> float | None:
        """About how long until every job is done, at the working cap; None where that is not known.

        All the work that is left, shared evenly among the slots, but never less than the longest that is under way;
        half a generation more where jobs wait, since they do not end all at once.
        """
        if self.finished or self.closed or self.stopping:
            return None
        work_s = longest_s = 0.0
        for row in self.rows.values():
            if row.phase in {"in doubt", "downloading"}:
                continue
            takes_s = self.expected_s(row.record)
            if takes_s is None:
                return None
            left_s = max(0.0, row.since + takes_s - self.at)
            work_s, longest_s = work_s + left_s, max(longest_s, left_s)
        for kind, (count, sample) in self._waiting_kinds().items():
            takes_s = self.expected_s(sample)
            if takes_s is None:
                return None
            work_s, longest_s = work_s + count * takes_s, max(longest_s, takes_s / 2 if kind else 0.0)
        slots = max(1, self.cap)
        more_s = longest_s if self.states[State.PENDING] else 0.0
        return max(longest_s, work_s / slots + more_s) if work_s or not self._unfinished() else None

    def failures(self) -> list[tuple[Problem, list[str]]]:
        """What failed or is in doubt now, by cause, the most frequent first: the problem, and the ids concerned."""
        causes: dict[tuple[str, str], tuple[Problem, list[str]]] = {}
        for fingerprint, record in self.records.items():
            if record.state not in {State.FAILED, State.IN_DOUBT} or fingerprint not in self._named:
                continue
            problem = record.error or Problem("unknown", "no reason is known")
            found = causes.setdefault((problem.kind, problem.message), (problem, []))
            found[1].extend(self._named[fingerprint][:1])
        return sorted(causes.values(), key=lambda cause: -len(cause[1]))

    def phases(self) -> Counter[str]:
        """How many jobs are in each phase."""
        return Counter(row.phase for row in self.rows.values())

    # How it is kept up

    _named: Mapping[str, tuple[str, ...]] = {}

    def _start(self, event: RunStarted) -> None:
        self.started = event
        self.states = Counter(event.states)
        self.cap = self.limit = event.concurrency
        self.records = dict(event.records)
        self._named = event.ids
        self.forecast = Forecast(self.records.values())
        self._ledger = Ledger(Budget(), self.records.values())
        for fingerprint, record in self.records.items():
            self._set_row(fingerprint, record, event.ids.get(fingerprint, ()))
            self._set_to_come(fingerprint, record)
        ends = (record.last.ended_at for record in self.records.values() if record.state is State.SUCCEEDED)
        self._ends.extend(sorted(end for end in ends if end is not None and end >= event.at))

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
            self.forecast.learn(record)
            self._ends.append(event.at)
            while self._ends[0] < event.at - _RATE_OVER_S:
                self._ends.popleft()
        elif event.move in {Move.SPOIL, Move.GIVE_UP, Move.DOUBT}:
            self._trouble(event.at, event.ids, "", record.error or Problem("unknown", "no reason is known"))

    def _set_row(self, fingerprint: str, record: Record, ids: tuple[str, ...]) -> None:
        if record.state not in _OPEN:
            self.rows.pop(fingerprint, None)
            return
        attempt = record.last
        since = attempt.submitted_at if attempt.accepted_at is None else attempt.accepted_at
        self.rows[fingerprint] = Row(ids, _phase(record), since, record)

    def _fetching(self, event: Fetching) -> None:
        row = self.rows.get(event.fingerprint)
        if row is not None:
            sizes = {"received_bytes": event.received_bytes, "total_bytes": event.total_bytes}
            self.rows[event.fingerprint] = replace(row, phase="downloading", **sizes)

    def _set_to_come(self, fingerprint: str, record: Record) -> None:
        """Keep the sum over jobs that are still to be submitted."""
        if fingerprint in self._to_come:
            before = self._to_come.pop(fingerprint)
            self._to_come_credits -= before or 0.0
            self._to_come_unpriced -= before is None
        if record.state is State.PENDING and self.started is not None:
            price = self.started.expected.get(fingerprint, record.attempts[-1].estimate if record.attempts else None)
            self._to_come[fingerprint] = price
            self._to_come_credits += price or 0.0
            self._to_come_unpriced += price is None

    def _trouble(self, at: float, ids: tuple[str, ...], call: str, problem: Problem) -> None:
        key = (call, problem.message)
        before = self._problems.pop(key, None)
        first = before.ids if before else ids
        self._problems[key] = Trouble(at, first, call, problem, before.times + 1 if before else 1)
        if len(self._problems) > _PROBLEMS_KEPT:
            del self._problems[next(iter(self._problems))]

    def _weather(self, event: WeatherChanged) -> None:
        if event.word == _FINE:
            self.closed.pop(event.call, None)
            if not self.closed and self.trouble_since is not None:
                self.lost_s += max(0.0, event.at - self.trouble_since)
                self.trouble_since = None
            return
        before = self.closed.get(event.call)
        since = before.since if before else event.at
        self.closed[event.call] = Closed(event.word, event.reason, since, event.next_at)
        if self.trouble_since is None:
            self.trouble_since = event.at
            self.outages += 1

    def _waiting_kinds(self) -> dict[tuple[str, str], tuple[int, Record]]:
        kinds: dict[tuple[str, str], tuple[int, Record]] = {}
        for fingerprint in self._to_come:
            record = self.records[fingerprint]
            kind = (record.job.model, str(record.job.params.get("resolution", "")))
            kinds[kind] = (kinds.get(kind, (0, record))[0] + 1, record)
        return kinds

    def _unfinished(self) -> Iterator[Row]:
        return (row for row in self.rows.values() if row.phase not in {"in doubt", "downloading"})


def _phase(record: Record) -> str:
    if record.state is State.SUBMITTING:
        return "uploading"
    if record.state is State.IN_DOUBT:
        return "in doubt"
    if record.last.completed_at is not None:
        return "downloading"
    return "queued" if record.last.generating_at is None else "generating"


def counted(records: Mapping[str, Record]) -> dict[State, int]:
    """How many records stand in each state."""
    return count_states(records.values())
