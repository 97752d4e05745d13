"""Notices from threads: the event loop publishes them, because listeners belong to it."""

import queue
from collections.abc import Callable

from batchrunner.events import Alive, Event, EventBus, Noticed


def from_threads(bus: EventBus) -> Callable[[str], None]:
    """Return a function that any thread may call with a notice. The event loop publishes it."""
    pending: queue.SimpleQueue[str] = queue.SimpleQueue()

    def publish(event: Event) -> None:
        while not pending.empty():
            bus.publish(Noticed(event.at, (), pending.get()))

    bus.subscribe(publish, name="workers", events=(Alive,))
    return pending.put
