"""Notices from threads are published by the thread that publishes the time."""

import threading

from batchrunner.app.thread_notices import from_threads
from batchrunner.events import Alive, Event, EventBus, Noticed


def test_a_notice_of_a_thread_is_published_with_the_next_tick() -> None:
    seen: list[tuple[Event, int]] = []
    bus = EventBus(print)
    notify = from_threads(bus)
    bus.subscribe(lambda event: seen.append((event, threading.get_ident())))
    thread = threading.Thread(target=notify, args=("the scheduler does not answer",))
    thread.start()
    thread.join()
    assert seen == []
    bus.publish(Alive(5.0))
    notices = [event for event, _ in seen if isinstance(event, Noticed)]
    assert [(event.at, event.message) for event in notices] == [(5.0, "the scheduler does not answer")]
    assert {ident for _, ident in seen} == {threading.get_ident()}
    bus.publish(Alive(6.0))
    assert len([event for event, _ in seen if isinstance(event, Noticed)]) == 1
