"""The state of a run as a person sees it, updated by events. Pure.

The screen, the text log, the final summary and `status` all read one `Model`, so they agree. The model counts and
stores; `phrases` has the wording and `screen` the layout. Moves are counted when somebody reads.
"""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

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
    Overrun,
    RunEnding,
    RunFinished,
    RunStarted,
    Stopping,
)
from batchrunner.formatting import short_names
from batchrunner.job import TRANSITIONS, Job, Move, Record, State
from batchrunner.plan.duration_estimate import Forecast
from batchrunner.plan.ledger import Budget, Ledger, Spend
from batchrunner.plan.prices import Prices

_Kind = tuple[str, str]  # model and resolution

_FROM = {move: state for state, move in TRANSITIONS}  # each move leaves one state only
_OPEN = {State.SUBMITTING, State.IN_FLIGHT, State.IN_DOUBT}
_PROBLEMS = (Move.FAIL, Move.GIVE_UP, Move.DOUBT)
_DONE = (State.SUCCEEDED, State.FAILED, State.IN_DOUBT)
_FINE, THROTTLED = "fine", "throttled"  # of batchrunner.engine.circuit_breaker.CallStatus
RATE_OVER_S = 1800.0
_RATE_ENOUGH_S = 20.0
_PROBLEMS_KEPT = 50
_MOST_CHANGED = 256
_MOST_UNLEARNED = 512  # enough for any estimate: it depends on the latest 64 of a kind
_UNKNOWN = Problem("unknown", "no reason is known")

# The phases of active jobs, the most important first.
PHASES = ("downloading", "generating", "uploading", "queued", "in doubt")


class OpenBreaker(NamedTuple):
    """An open circuit breaker. since, next_at (the next try, None if unknown): wall time, s."""

    status: str
    reason: str
    since: float
    next_at: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """An active job.

    since: wall time of its acceptance, s. kind: its model and resolution. received_bytes, total_bytes: of its download.
    """

    ids: tuple[str, ...]
    phase: str
    since: float
    record: Record
    kind: tuple[str, str]
    received_bytes: int | None = None
    total_bytes: int | None = None


class Incident(NamedTuple):
    """A problem. Equal problems share one incident. at, ids: of the latest one. times: their number."""

    at: float
    ids: tuple[str, ...]
    call: str  # "" if the job itself failed
    problem: Problem
    times: int = 1
    is_in_doubt: bool = False


class Model:
    """The state of the screen. Times are wall time, seconds since the epoch; `at` is the latest event's.

    started: the start of the run; None before it. is_ending: whether its report is being written. records: the latest
    record of every job, by fingerprint. closed: open circuit breakers, by kind of call. outage_since: the start of
    the present outage, or None. outages: their number. lost_s: their total length without the present one.
    """

    def __init__(self) -> None:
        self.started: RunStarted | None = None
        self.finished: RunFinished | None = None
        self.at = 0.0
        self.records: dict[str, Record] = {}
        self._states: Counter[State] = Counter()
        self._rows: dict[str, Row] = {}
        # Jobs whose row and sums are not updated: their state before, and their ids.
        self._changed: dict[str, tuple[State, tuple[str, ...]]] = {}
        self.closed: dict[str, OpenBreaker] = {}
        self.outage_since: float | None = None
        self.outages = 0
        self.lost_s = 0.0
        self.cap = self.limit = 0
        self.stopping = ""
        self.is_ending = False
        self._forecast = Forecast()
        self._unlearned: deque[Record] = deque(maxlen=_MOST_UNLEARNED)  # succeeded since somebody asked for an estimate
        self._ledger = Ledger(Budget())
        self._named: Mapping[str, tuple[str, ...]] = {}
        self._short_names: dict[tuple[int, str], Mapping[str, str]] = {}
        self._expected_s: dict[_Kind, float | None] = {}
        self._waiting: Counter[_Kind] = Counter()  # jobs still to be submitted, by kind
        self._sample: dict[_Kind, Job] = {}
        self._to_come: dict[str, float | None] = {}  # and what they are expected to cost, credits
        self._to_come_credits = 0.0
        self._to_come_unpriced = 0
        self._prices: Prices | None = None  # after an overrun: of jobs that are not submitted yet
        self._problems: dict[tuple[str, str], Incident] = {}
        self._ends: deque[float] = deque()

    def take(self, event: Event) -> None:
        """Update the state by an event."""
        self.at = event.at
        self.is_ending = self.is_ending or type(event) is RunEnding
        match event:
            case RunStarted():
                self._start(event)
            case JobMoved() | JobSeen():
                self._job(event)
            case Fetching():
                self._fetching(event)
            case CallFailed():
                self._add_problem(event.at, event.ids, event.call, event.problem)
            case Noticed(routine=False) | Overrun():
                self._notice(event)
            case CallHealthChanged():
                self._call_health(event)
            case CapChanged():
                self.cap, self.limit = event.cap, event.limit
            case Stopping():
                self.stopping = event.reason
            case RunFinished():
                self.finished = event
                self._catch_up()
                self._states = Counter(event.states)

    # Values to show

    def short_names(self, most: int, cut: str) -> Mapping[str, str]:
        """Return a short form of each id of the batch with more than `most` characters."""
        if (most, cut) not in self._short_names:
            every = (name for ids in self._named.values() for name in ids)
            self._short_names[most, cut] = short_names(every, most, cut)
        return self._short_names[most, cut]

    @property
    def states(self) -> Counter[State]:
        """The number of jobs of the manifest in each state."""
        self._catch_up()
        return self._states

    @property
    def jobs(self) -> int:
        """The number of jobs of the manifest; equal jobs count once."""
        return sum(self.states.values())

    @property
    def done(self) -> int:
        """The number of jobs that succeeded, failed or are in doubt."""
        return sum(self.states[state] for state in _DONE)

    @property
    def in_flight(self) -> int:
        """The number of jobs that are in flight or being submitted."""
        return self.states[State.IN_FLIGHT] + self.states[State.SUBMITTING]

    @property
    def is_held_back(self) -> bool:
        """True if a circuit breaker is open for another reason than throttling."""
        return any(closed.status != THROTTLED for closed in self.closed.values())

    @property
    def waits_for_in_doubt(self) -> bool:
        """True if jobs wait because submissions in doubt occupy every slot."""
        return not self.in_flight and self.states[State.PENDING] > 0 and self.states[State.IN_DOUBT] >= self.cap > 0

    @property
    def rows(self) -> dict[str, Row]:
        """The active jobs, by fingerprint."""
        self._catch_up()
        return self._rows

    @property
    def spend(self) -> Spend:
        """The cost and the possible cost of all submissions."""
        self._catch_up()
        return self._ledger.total

    @property
    def expected_credits(self) -> float:
        """The expected cost of the whole batch, as far as prices are known."""
        return self.spend.worst + self._to_come_credits

    @property
    def unpriced(self) -> int:
        """The number of past and future generations without a known price."""
        return self.spend.unpriced + self._to_come_unpriced

    @property
    def problems(self) -> list[Incident]:
        """The recent problems, the latest last."""
        return list(self._problems.values())

    def per_hour(self) -> float | None:
        """Return clips per hour over the last half hour; None with too little data."""
        start = max(self.started.at if self.started else self.at, self.at - RATE_OVER_S)
        while self._ends and self._ends[0] < start:
            self._ends.popleft()
        recent = len(self._ends)
        long_s = self.at - start
        return recent / long_s * 3600 if recent and long_s >= _RATE_ENOUGH_S else None

    def expected_s(self, job: Job) -> float | None:
        """Return how long a generation of this kind takes from its acceptance, s; None if not known yet."""
        self._catch_up()
        return self._takes_s(_kind(job), job)

    def _takes_s(self, kind: _Kind, job: Job) -> float | None:
        if self._unlearned:
            self._expected_s.clear()
        while self._unlearned:
            self._forecast.learn(self._unlearned.popleft())
        if kind not in self._expected_s:
            self._expected_s[kind] = self._forecast.expected_s(job)
        return self._expected_s[kind]

    def left_s(self) -> float | None:
        """Return the estimated time until every job is done, at the working cap, s; None if not known.

        The remaining work is divided by the slots. Half a generation is added, because the last ones do not end at the
        same time. The result is at least the remaining time of the longest active generation.
        """
        if self.is_held_back or self.stopping or self.finished or self.waits_for_in_doubt:
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

    @property
    def is_too_small_to_estimate(self) -> bool:
        """True if too few jobs are left for an estimate before the last one ends."""
        self._catch_up()
        return 0 < self._waiting.total() + self.in_flight <= self._forecast.lacking

    def planned_stop(self) -> tuple[float, str] | None:
        """Return the time (wall time, s) and the setting of a stop before all jobs are done, by the estimate.

        A budget that does not cover all jobs stops the run when it is used up, at an unknown time: now is returned.
        """
        left_s = self.left_s()
        if left_s is None or self.started is None:
            return None
        end = self.started.planned_end
        if end is not None and end.at < self.at + left_s:
            return end.at, end.setting
        limit = self.started.budget.limit
        if limit is not None and self.expected_credits > limit:
            return self.at, self.started.budget.setting
        return None

    def phases(self) -> Counter[str]:
        """Return the number of jobs in each phase."""
        return Counter(row.phase for row in self.rows.values())

    # Updates

    def _start(self, event: RunStarted) -> None:
        self.started = event._replace(records={}, expected={})  # these are large and become outdated
        self._states = Counter(event.states)
        self.cap = self.limit = event.concurrency
        self.records = dict(event.records)
        self._changed.clear()
        self._named = event.ids
        self._short_names.clear()
        self._forecast = Forecast(self.records.values())
        self._unlearned.clear()
        self._ledger = Ledger(Budget(), self.records.values())
        self._ledger.add(event.remainder.spend)
        for fingerprint, record in self.records.items():
            if record.attempts:
                self._set_row(fingerprint, record, event.ids.get(fingerprint, ()))
        self._start_to_come(event)
        for job, number, price in event.remainder.waiting:
            self._sample[_kind(job)] = job
            self._count_to_come(_kind(job), price, number)
        self._recall_failures()
        delivered = (record for record in self.records.values() if record.state is State.SUCCEEDED)
        ends = (record.last.ended_at for record in delivered if record.attempts)
        recent = (end for end in ends if end is not None and end >= event.at)
        self._ends.extend(sorted([*event.remainder.ended_at, *recent]))

    def _start_to_come(self, event: RunStarted) -> None:
        """Sum up the jobs that wait. This loop makes no calls, because it is the longest of the start."""
        self._to_come.clear()
        self._waiting.clear()
        self._to_come_credits, self._to_come_unpriced = 0.0, 0
        groups: dict[tuple[_Kind, float | None], int] = {}
        selected = frozenset(event.ids) - event.unselected
        for fingerprint, record in self.records.items():
            if record.state is State.PENDING and fingerprint in selected:
                job, price = record.job, None
                if fingerprint in event.expected:
                    price = event.expected[fingerprint]
                elif record.attempts:
                    price = record.attempts[-1].estimate
                params = job.params
                kind = job.model, str(params["resolution"]) if "resolution" in params else ""
                self._to_come[fingerprint] = price
                self._sample[kind] = job
                groups[kind, price] = groups.get((kind, price), 0) + 1
        for (kind, price), number in groups.items():
            self._count_to_come(kind, price, number)

    def _recall_failures(self) -> None:
        """Add failures and jobs in doubt of earlier runs to the problems."""
        problems = State.FAILED, State.IN_DOUBT  # a tuple: the hash of a state is slow
        failed = [record for record in self.records.values() if record.state in problems]
        for record in sorted(failed, key=_last_moved_at):
            ids = self._named.get(record.job.fingerprint, ())
            in_doubt = record.state is State.IN_DOUBT
            self._add_problem(_last_moved_at(record), ids, "", record.error or _UNKNOWN, in_doubt)

    def _job(self, event: JobMoved | JobSeen) -> None:
        record, fingerprint = event.record, event.record.job.fingerprint
        move = event.move if type(event) is JobMoved else None
        self.records[fingerprint] = record
        if fingerprint not in self._changed:
            self._changed[fingerprint] = (_FROM[move] if move else record.state), event.ids
            if len(self._changed) > _MOST_CHANGED:
                self._catch_up()
        if move is Move.DELIVER:
            self._ends.append(event.at)
        elif move in _PROBLEMS:
            self._add_problem(event.at, event.ids, "", record.error or _UNKNOWN, move is Move.DOUBT)

    def _catch_up(self) -> None:
        """Update the rows and the sums. Until somebody reads them, several moves of a job cost one update."""
        if not self._changed:
            return
        changed, self._changed = self._changed, {}
        for fingerprint, (before, ids) in changed.items():
            record = self.records[fingerprint]
            if ids:
                self._states[before] -= self._states[before] > 0
                self._states[record.state] += 1
            if record.state is State.SUCCEEDED:
                self._unlearned.append(record)
            self._ledger.update(record)
            self._set_row(fingerprint, record, ids)
            self._set_to_come(fingerprint, record)

    def _set_row(self, fingerprint: str, record: Record, ids: tuple[str, ...]) -> None:
        if record.state not in _OPEN or not record.attempts:
            self._rows.pop(fingerprint, None)
            return
        attempt = record.last
        since = attempt.submitted_at if attempt.accepted_at is None else attempt.accepted_at
        self._rows[fingerprint] = Row(ids, _phase(record), since, record, _kind(record.job))

    def _fetching(self, event: Fetching) -> None:
        row = self.rows.get(event.fingerprint)
        if row is not None:
            self._rows[event.fingerprint] = replace(
                row, phase="downloading", received_bytes=event.received_bytes, total_bytes=event.total_bytes
            )

    def _set_to_come(self, fingerprint: str, record: Record) -> None:
        """Update the sums over jobs that are not submitted yet."""
        kind = _kind(record.job)
        if fingerprint in self._to_come:
            self._count_to_come(kind, self._to_come.pop(fingerprint), -1)
        if record.state is State.PENDING and self._is_selected(fingerprint):
            price = self._price_of(record)
            self._to_come[fingerprint] = price
            self._sample[kind] = record.job
            self._count_to_come(kind, price, 1)

    def _is_selected(self, fingerprint: str) -> bool:
        """Return whether the run submits this job if it is waiting."""
        return self.started is not None and fingerprint in self._named and fingerprint not in self.started.unselected

    def _price_of(self, record: Record) -> float | None:
        """Return the expected cost of a job that is to be submitted again, in credits."""
        if self._prices is not None:
            return self._prices.estimate(record.job).credits
        return record.last.estimate if record.attempts else None

    def _set_prices(self, prices: Prices) -> None:
        """Price the jobs that are not submitted yet anew."""
        if prices != self._prices:
            self._catch_up()
            self._prices = prices
            for fingerprint in list(self._to_come):
                self._set_to_come(fingerprint, self.records[fingerprint])

    def _count_to_come(self, kind: _Kind, price: float | None, number: int) -> None:
        self._waiting[kind] += number
        self._to_come_credits += number * (price or 0.0)
        self._to_come_unpriced += number * (price is None)

    def _notice(self, event: Noticed | Overrun) -> None:
        self._add_problem(event.at, event.ids, "", Problem("noticed", event.message))
        if isinstance(event, Overrun):
            self._set_prices(event.prices)

    def _add_problem(
        self, at: float, ids: tuple[str, ...], call: str, problem: Problem, is_in_doubt: bool = False
    ) -> None:
        key = (call, problem.message)
        before = self._problems.pop(key, None)
        self._problems[key] = Incident(at, ids, call, problem, before.times + 1 if before else 1, is_in_doubt)
        if len(self._problems) > _PROBLEMS_KEPT:
            del self._problems[next(iter(self._problems))]

    def _call_health(self, event: CallHealthChanged) -> None:
        if event.status == _FINE:
            self.closed.pop(event.call, None)
            if not self.closed and self.outage_since is not None:
                self.lost_s += max(0.0, event.at - self.outage_since)
                self.outage_since = None
            return
        before = self.closed.get(event.call)
        since = before.since if before else event.at
        self.closed[event.call] = OpenBreaker(event.status, event.reason, since, event.next_at)
        if self.outage_since is None:
            self.outage_since = event.at
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
