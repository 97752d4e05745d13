"""The loop's own decisions, on an engine whose calls are not made: what is started first. The rest is in the nights."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import Any, cast
from unittest.mock import Mock

import pytest

from batchrunner.clock import LoopClock
from batchrunner.engine.calls import CallHealth
from batchrunner.engine.job_queue import Scheduler
from batchrunner.engine.loop import Engine
from batchrunner.engine.ports import Dependencies, Policy
from batchrunner.engine.steps import Download, PollAgain, Steps
from batchrunner.job import Record, State
from batchrunner.plan.admission import Admission
from batchrunner.plan.duration_estimate import Forecast
from batchrunner.plan.ledger import Budget, Ledger
from batchrunner.plan.prices import Prices
from batchrunner.providers.base import Capabilities
from tests.conftest import NOW, make_record

SOONER = "https://files.example.com/b.mp4?Expires=1800000100"
LATER = "https://files.example.com/a.mp4?Expires=1800009999"
NEVER = "https://files.example.com/c.mp4"


def made(*records: Record, **policy: Any) -> tuple[Engine, list[tuple[str, str]]]:
    """An engine, and the calls that it would start: (call, fingerprint), in order."""
    nobody = cast(Any, None)
    provider = Mock(capabilities=Capabilities())
    parts = Dependencies(provider, nobody, nobody, nobody, LoopClock(NOW), Random(1), lambda _: None, lambda _: ("x",))
    bounds = Policy(concurrency=4, poll_interval_s=10.0, **policy)
    scheduler = Scheduler(bounds.concurrency)
    health = CallHealth(parts, scheduler)
    by_name = {record.job.fingerprint: record for record in records}
    admission = Admission(Prices({}), Ledger(Budget(), records), Forecast(records))
    engine = Engine(parts, bounds, Steps(parts, bounds, "run", by_name, health, admission), scheduler, health)
    started: list[tuple[str, str]] = []

    def spawn(call: str, fingerprint: str, _: Callable[[int], Awaitable[Any]]) -> None:
        started.append((call, fingerprint))
        engine._running[call] += 1

    engine._spawn = spawn  # type: ignore[method-assign, assignment]  # no call is made
    return engine, started


def in_a_loop(story: Callable[[], None]) -> None:
    async def main() -> None:
        story()

    asyncio.run(main())


def test_the_link_nearest_to_its_end_is_fetched_first() -> None:
    def story() -> None:
        a, b, c = (make_record(name, State.IN_FLIGHT) for name in "abc")
        engine, started = made(a, b, c, downloads=1)
        for record, url in ((c, NEVER), (a, LATER), (b, SOONER)):
            engine._fetch(record.job.fingerprint, Download(url))
        for _ in range(3):
            engine._start_what_may_go()
            engine._running["download"] = 0
        assert started == [("download", record.job.fingerprint) for record in (b, a, c)]

    in_a_loop(story)


def test_a_job_waits_while_the_disk_has_no_room_for_its_clip() -> None:
    def story() -> None:
        flying, fetched, new = make_record("f", State.IN_FLIGHT), make_record("d", State.IN_FLIGHT), make_record("n")
        engine, started = made(flying, fetched, new)
        room, asked = ["the disk is small"], []

        def lacks(clips: int) -> str:
            asked.append(clips)
            return room[0]

        engine._deps = replace(engine._deps, lacks_space=lacks)
        engine._take_places([record.job.fingerprint for record in (new, flying, fetched)])
        engine._fetch(fetched.job.fingerprint, Download(NEVER))
        engine._start_what_may_go()
        assert "submit" not in [call for call, _ in started]
        assert asked == [3], "the one in flight, the one that is being fetched, and this one"
        assert engine._obstacle() == "the disk is small"
        room[0] = ""
        engine._start_what_may_go()
        assert ("submit", new.job.fingerprint) in started
        assert engine._obstacle() == ""

    in_a_loop(story)


def test_without_a_job_that_waits_nobody_asks_for_room() -> None:
    def story() -> None:
        engine, _ = made(make_record("f", State.IN_FLIGHT))
        engine._deps = replace(engine._deps, lacks_space=lambda _: "the disk is small")
        engine._take_places([])
        engine._start_what_may_go()
        assert engine._obstacle() == ""

    in_a_loop(story)


@pytest.mark.parametrize("calls_per_s", [None, 2.0])
def test_what_is_paid_for_goes_before_new_submissions(calls_per_s: float | None) -> None:
    def story() -> None:
        flying, done, new = make_record("f", State.IN_FLIGHT), make_record("d", State.IN_FLIGHT), make_record("n")
        engine, started = made(flying, done, new, calls_per_s=calls_per_s)
        engine._take_places([record.job.fingerprint for record in (new, flying, done)])
        engine._poller.pop(float("inf"))
        engine._poller.pop(float("inf"))
        engine._look_again(flying.job.fingerprint, PollAgain(0.0))
        engine._fetch(done.job.fingerprint, Download(NEVER))
        engine._start_what_may_go()
        names = {record.job.fingerprint: name for record, name in ((flying, "f"), (done, "d"), (new, "n"))}
        assert [(call, names[each]) for call, each in started] == [("download", "d"), ("poll", "f"), ("submit", "n")]

    in_a_loop(story)


def test_the_pace_leaves_a_submission_for_later_and_never_a_download() -> None:
    def story() -> None:
        flying, done, new = make_record("f", State.IN_FLIGHT), make_record("d", State.IN_FLIGHT), make_record("n")
        engine, started = made(flying, done, new, calls_per_s=1.0)
        engine._take_places([record.job.fingerprint for record in (new, flying)])
        engine._fetch(done.job.fingerprint, Download(NEVER))
        engine._start_what_may_go()
        assert [call for call, _ in started] == ["download", "poll"]
        moment = engine._next_moment()
        assert moment is not None
        assert 0 < moment - asyncio.get_running_loop().time() <= 1.0

    in_a_loop(story)
