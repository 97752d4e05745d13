"""The events of a run, and the bus that passes them to listeners such as progress. Pure; listeners are optional.

An event reports what has happened and is not a command. It is announced after it is in the journal.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from batchrunner.errors import Problem
from batchrunner.job import Job, Move, Record, State
from batchrunner.plan.ledger import Budget, Spend
from batchrunner.plan.prices import Prices, dollars, overrun


class RemainderSummary(NamedTuple):
    """Jobs that the start of a run reports only as totals.

    spend: their cost so far. waiting: jobs to be submitted, one example per group of similar jobs, with the group's
    size and the expected price per job. ended_at: when jobs succeeded, wall time, s, in order.
    """

    spend: Spend = Spend()
    waiting: tuple[tuple[Job, int, float | None], ...] = ()
    ended_at: tuple[float, ...] = ()


class PlannedEnd(NamedTuple):
    """When a run stops at the latest. at: wall time, s. setting: the setting that says so."""

    at: float
    setting: str


class RunStarted(NamedTuple):
    """The batch is loaded and locked. states: the number of jobs in each state, equal entries counted once.

    records: each job's record at the start, by fingerprint. expected: the expected cost of each job that is still to
    be submitted, in credits by fingerprint, None if unknown. bases: the sources of these prices
    (`batchrunner.plan.prices`). ids: the ids of each job, by fingerprint. remainder: jobs that are in none of
    these. unselected: fingerprints of the jobs that ``--only`` left out.
    """

    at: float
    name: str
    provider: str
    run_dir: str
    concurrency: int
    states: Mapping[State, int]
    records: Mapping[str, Record] = {}
    expected: Mapping[str, float | None] = {}
    bases: tuple[str, ...] = ()
    ids: Mapping[str, tuple[str, ...]] = {}
    remainder: RemainderSummary = RemainderSummary()
    planned_end: PlannedEnd | None = None
    budget: Budget = Budget()
    unselected: frozenset[str] = frozenset()


class JobMoved(NamedTuple):
    """A job made a move of the state machine. ids: the job's ids (none for a job of an earlier manifest)."""

    at: float
    ids: tuple[str, ...]
    move: Move
    record: Record


class CallFailed(NamedTuple):
    """A call failed and is repeated in `retry_in_s` seconds. call: ``submit``, ``poll`` or ``download``.

    failures: this job's own failures in a row. most: the number of failures that ends the job; None: no limit.
    """

    at: float
    ids: tuple[str, ...]
    call: str
    problem: Problem
    retry_in_s: float
    failures: int = 0
    most: int | None = None


class JobSeen(NamedTuple):
    """A poll reported for the first time that the service is working on a job."""

    at: float
    ids: tuple[str, ...]
    record: Record


class Fetching(NamedTuple):
    """A clip is being downloaded. total_bytes: None if its host did not say. At most two events per second and clip."""

    at: float
    ids: tuple[str, ...]
    fingerprint: str
    received_bytes: int
    total_bytes: int | None


class CallHealthChanged(NamedTuple):
    """The status of one kind of call changed. call: ``submit``, ``poll`` or ``download``. next_at: of the next try."""

    at: float
    call: str
    status: str  # a `batchrunner.engine.circuit_breaker.CallStatus`
    reason: str
    next_at: float | None = None


class CapChanged(NamedTuple):
    """The working cap changed. limit: the user's cap, which the working cap never exceeds."""

    at: float
    cap: int
    limit: int


class Noticed(NamedTuple):
    """A notice that stops nothing, such as an unknown status or an unusual clip.

    routine: it is expected, and nobody has to act. urgent: a person has to act, so it is also shown when the log is
    quiet.
    """

    at: float
    ids: tuple[str, ...]
    message: str
    routine: bool = False
    urgent: bool = False


class Overrun(NamedTuple):
    """The service's quote or charge for a generation is above its estimate. Similar jobs are priced at it from now on.

    worst_credits: spent and reserved by the whole batch, with this charge. budget: of the batch. prices: of what is
    not submitted yet, from now on.
    """

    at: float
    ids: tuple[str, ...]
    record: Record
    worst_credits: float
    budget: Budget
    prices: Prices = Prices({})

    @property
    def exceeds_budget(self) -> bool:
        """Whether the batch may now cost more than its budget."""
        return self.budget.limit is not None and self.worst_credits > self.budget.limit

    @property
    def over_credits(self) -> float:
        """By how much it is above its estimate, in credits."""
        return overrun(self.record.last)

    @property
    def message(self) -> str:
        """The event for people, without the job's ids."""
        cost, estimate = (dollars(value or 0.0) for value in (self.record.last.charge, self.record.last.estimate))
        text = f"the service charges {cost}, above the estimate of {estimate}"
        text = f"{text}; similar jobs are priced at this rate from now on"
        if not self.exceeds_budget:
            return text
        limit = f"{self.budget.setting} ({dollars(self.budget.limit or 0.0)})"
        return f"{text}. {limit} is exceeded: {dollars(self.worst_credits)} is spent or reserved"


class Stopping(NamedTuple):
    """The run makes no more submissions. reason: for people. kind: a key of `batchrunner.plan.endings.ENDINGS`."""

    at: float
    reason: str
    kind: str = ""


class Alive(NamedTuple):
    """The loop is running. Announced a few times per second, to update displayed times."""

    at: float


class RunEnding(NamedTuple):
    """No job is active any more, and the report is being written. `RunFinished` follows. at: the end of the run."""

    at: float


class RunFinished(NamedTuple):
    """The run has ended and the report is written. states: the number of jobs in each state. reports: files written.

    report: the content of report.json (`batchrunner.report.build`), summed up (`batchrunner.report.closing`).
    """

    at: float
    exit_status: int
    states: Mapping[State, int]
    reports: tuple[str, ...]
    summary: str
    report: Mapping[str, Any] = {}


Event = (
    RunStarted
    | JobMoved
    | JobSeen
    | CallFailed
    | Fetching
    | CallHealthChanged
    | CapChanged
    | Noticed
    | Overrun
    | Stopping
    | Alive
    | RunEnding
    | RunFinished
)
Listener = Callable[[Event], None]


@dataclass(slots=True, eq=False)
class _Subscription:
    listener: Listener
    name: str
    shows_notices: bool
    events: tuple[type, ...]
    is_dropped: bool = False

    def receives(self, kind: type) -> bool:
        return not self.events or kind in self.events


class EventBus:
    """Passes the events of a run to listeners, in the order of their subscription.

    A listener that raises an exception is dropped: it receives no more events, and the run continues. This is reported
    once, by a `Noticed` event. report: is called with the message instead, if no remaining listener shows notices.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._subscriptions: list[_Subscription] = []
        self._receivers: dict[type, tuple[_Subscription, ...]] = {}  # by type of event, as far as they were published
        self._report = report

    def subscribe(
        self, listener: Listener, *, name: str = "", shows_notices: bool = False, events: tuple[type, ...] = ()
    ) -> None:
        """Add a listener. name: for the report. shows_notices: whether it shows `Noticed` events to a person.

        events: the types of the events that it receives; () for all.
        """
        name = name or getattr(listener, "__qualname__", type(listener).__qualname__)
        self._subscriptions.append(_Subscription(listener, name, shows_notices, events))
        self._receivers.clear()

    def publish(self, event: Event) -> None:
        """Pass an event to every listener that receives its type. Raises nothing."""
        kind = type(event)
        receivers = self._receivers.get(kind)
        if receivers is None:
            receivers = tuple(item for item in self._subscriptions if item.receives(kind))
            self._receivers[kind] = receivers
        for subscription in receivers:
            if subscription.is_dropped:
                continue
            try:
                subscription.listener(event)
            except Exception as error:  # noqa: BLE001 (a defect in a listener must not end the run)
                self._drop(subscription, event.at, error)

    def _drop(self, subscription: _Subscription, at: float, error: Exception) -> None:
        if subscription.is_dropped:  # it raised again, for an event that it published itself
            return
        subscription.is_dropped = True
        self._subscriptions.remove(subscription)
        self._receivers.clear()
        message = f"the listener {subscription.name} failed and receives no more events; the run continues: {error!r}"
        if any(other.shows_notices for other in self._subscriptions):
            self.publish(Noticed(at, (), message, urgent=True))
        else:
            self._report(message)
