"""The listener that stores events of the whole batch in the journal, for the timeline of the report."""

from typing import Protocol

from batchrunner.events import CallHealthChanged, CapChanged, Event, Overrun
from batchrunner.job import TimelineEvent

_MOST_IDS = 3


class EventStore(Protocol):
    """Where timeline events are stored (`batchrunner.journal.journal.Journal`)."""

    def post(self, timeline_event: TimelineEvent) -> None:
        """Store an event without waiting for the disk."""
        ...


class TimelineWriter:
    """Stores each change of a call status and of the working cap, and each overrun. Subscribe it to the run's events.

    A longer wait for the same reason is announced too, but the status stays: it is not stored.
    """

    EVENTS = (CallHealthChanged, CapChanged, Overrun)

    def __init__(self, journal: EventStore) -> None:
        self._journal = journal
        self._statuses: dict[str, str] = {}  # by call, as stored last

    def __call__(self, event: Event) -> None:
        """Store `event` if it belongs to the timeline."""
        if isinstance(event, CallHealthChanged):
            if self._statuses.get(event.call, "fine") != event.status:
                self._statuses[event.call] = event.status
                self._journal.post(TimelineEvent(event.at, "call_health", event.call, event.status, event.reason))
        elif isinstance(event, CapChanged):
            message = f"working cap {event.cap} of {event.limit}"
            self._journal.post(TimelineEvent(event.at, "cap", "submit", str(event.cap), message))
        elif isinstance(event, Overrun):
            status = "over_budget" if event.exceeds_budget else "over_estimate"
            message = f"{', '.join(event.ids[:_MOST_IDS])}: {event.message}" if event.ids else event.message
            # Two events at one time differ by the job.
            self._journal.post(TimelineEvent(event.at, "overrun", event.record.job.key, status, message))
