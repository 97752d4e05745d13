"""Each change of a call status and of the cap is stored once for the timeline."""

from batchrunner.events import Alive, CallHealthChanged, CapChanged, Event, Overrun
from batchrunner.job import Attempt, Record, State, TimelineEvent
from batchrunner.journal.timeline import TimelineWriter
from batchrunner.plan.ledger import Budget
from tests.conftest import NOW, make_job


class Posted:
    """A journal that keeps what is posted."""

    def __init__(self) -> None:
        self.events: list[TimelineEvent] = []

    def post(self, timeline_event: TimelineEvent) -> None:
        self.events.append(timeline_event)


def stored(*events: Event) -> list[TimelineEvent]:
    journal = Posted()
    writer = TimelineWriter(journal)
    for event in events:
        writer(event)
    return journal.events


def test_a_change_of_status_is_stored_and_a_longer_wait_is_not() -> None:
    assert stored(
        CallHealthChanged(NOW, "poll", "down", "502", NOW + 5),
        CallHealthChanged(NOW + 5, "poll", "down", "502 again", NOW + 20),
        CallHealthChanged(NOW + 20, "submit", "down", "503", NOW + 25),
        CallHealthChanged(NOW + 30, "poll", "fine", ""),
        CallHealthChanged(NOW + 40, "poll", "paused", "out of credits", NOW + 50),
    ) == [
        TimelineEvent(NOW, "call_health", "poll", "down", "502"),
        TimelineEvent(NOW + 20, "call_health", "submit", "down", "503"),
        TimelineEvent(NOW + 30, "call_health", "poll", "fine", ""),
        TimelineEvent(NOW + 40, "call_health", "poll", "paused", "out of credits"),
    ]


def test_calls_that_wait_longer_and_were_always_fine_are_not_stored() -> None:
    assert stored(CallHealthChanged(NOW, "poll", "fine", "")) == []


def test_each_change_of_the_cap_is_stored() -> None:
    assert stored(CapChanged(NOW, 4, 8), CapChanged(NOW + 9, 5, 8), Alive(NOW)) == [
        TimelineEvent(NOW, "cap", "submit", "4", "working cap 4 of 8"),
        TimelineEvent(NOW + 9, "cap", "submit", "5", "working cap 5 of 8"),
    ]


def test_an_overrun_is_stored_in_money_and_two_at_one_time_are_two_events() -> None:
    jobs = [make_job("a"), make_job("b")]
    records = [Record(job, State.IN_FLIGHT, (Attempt(1, "r", NOW, "g", credits=872e3, estimate=8e5),)) for job in jobs]
    first, second = stored(
        Overrun(NOW, ("a",), records[0], 872e3, Budget()), Overrun(NOW, (), records[1], 2e6, Budget(usd=0.5))
    )
    assert (first.kind, first.status, second.status) == ("overrun", "over_estimate", "over_budget")
    assert first.message.startswith("a: the service charges $0.44, above the estimate of $0.40")
    assert "max_cost ($0.50) is exceeded: $1.00 is spent or reserved" in second.message
    assert first.call != second.call
