"""The event bus: every listener receives every event in order, and one that raises is dropped and reported once."""

import pytest

from batchrunner.events import Alive, Event, EventBus, Listener, Noticed, RunEnding
from tests.conftest import NOW


class Failing:
    """A listener that raises at its `at`-th event, from 1."""

    def __init__(self, at: int = 1) -> None:
        self.received: list[Event] = []
        self._at = at

    def __call__(self, event: Event) -> None:
        self.received.append(event)
        if len(self.received) >= self._at:
            raise RuntimeError("a defect")


def bus_with(*listeners: Listener, shows_notices: bool = True) -> tuple[EventBus, list[str]]:
    """Return a bus and what it reports outside of its listeners."""
    reports: list[str] = []
    bus = EventBus(reports.append)
    for listener in listeners:
        bus.subscribe(listener, shows_notices=shows_notices)
    return bus, reports


def test_every_listener_receives_every_event_in_the_order_of_subscription() -> None:
    received: list[tuple[str, Event]] = []
    bus, reports = bus_with(lambda event: received.append(("a", event)), lambda event: received.append(("b", event)))
    events = [Alive(NOW), Alive(NOW + 1)]
    for event in events:
        bus.publish(event)
    assert received == [(name, event) for event in events for name in "ab"]
    assert reports == []


def test_a_listener_receives_only_the_types_of_events_that_it_asked_for() -> None:
    received: list[tuple[str, Event]] = []
    bus, _ = bus_with(lambda event: received.append(("all", event)))
    bus.publish(Alive(NOW))
    bus.subscribe(lambda event: received.append(("notices", event)), events=(Noticed, RunEnding))
    events: list[Event] = [Alive(NOW), Noticed(NOW, (), "odd"), RunEnding(NOW)]
    for event in events:
        bus.publish(event)
    assert received[1:] == [("all", events[0])] + [(name, event) for event in events[1:] for name in ("all", "notices")]


def test_an_event_without_listeners_is_dropped() -> None:
    bus, reports = bus_with()
    bus.publish(Alive(NOW))
    assert reports == []


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_listener_that_raises_is_dropped_and_the_others_continue(place: int) -> None:
    received: list[Event] = []
    failing = Failing(at=2)
    listeners: list[Listener] = [received.append, received.append]
    listeners.insert(place, failing)
    bus, reports = bus_with(*listeners)
    for number in range(4):
        bus.publish(Alive(NOW + number))
    assert failing.received == [Alive(NOW), Alive(NOW + 1)]
    assert sum(isinstance(event, Alive) for event in received) == 2 * 4
    assert reports == []


def test_a_dropped_listener_is_reported_once_to_those_that_show_notices() -> None:
    received: list[Event] = []
    bus, reports = bus_with(Failing(), received.append)
    for number in range(3):
        bus.publish(Alive(NOW + number))
    [notice] = [event for event in received if isinstance(event, Noticed)]
    assert notice.urgent
    assert notice.at == NOW
    assert "Failing" in notice.message
    assert "the run continues" in notice.message
    assert reports == []


def test_without_a_listener_that_shows_notices_the_report_goes_elsewhere() -> None:
    received: list[Event] = []
    bus, reports = bus_with()
    bus.subscribe(received.append)
    bus.subscribe(Failing(), name="the screen", shows_notices=True)
    bus.publish(Alive(NOW))
    bus.publish(Alive(NOW))
    [report] = reports
    assert report.startswith("the listener the screen failed")
    assert received == [Alive(NOW), Alive(NOW)]


def test_a_listener_that_fails_at_the_report_is_dropped_too() -> None:
    bus, reports = bus_with(Failing(at=1), Failing(at=2), Failing(at=2))
    for number in range(3):
        bus.publish(Alive(NOW + number))
    assert len(reports) == 1, "the last one has no listener that could show it"


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_an_exit_is_not_a_failure_of_a_listener(ending: type[BaseException]) -> None:
    def leave(_: Event) -> None:
        raise ending

    bus, _ = bus_with(leave)
    with pytest.raises(ending):
        bus.publish(Alive(NOW))


def test_a_listener_may_publish_an_event_itself() -> None:
    received: list[Event] = []
    bus, _ = bus_with()

    def answer(event: Event) -> None:
        if isinstance(event, Alive):
            bus.publish(Noticed(event.at, (), "still here"))

    bus.subscribe(answer)
    bus.subscribe(received.append)
    bus.publish(Alive(NOW))
    assert received == [Noticed(NOW, (), "still here"), Alive(NOW)]
