"""When to look at which generation. Pure: one heap of due times for all of them; `now` and jitter are arguments.

A generation that is being worked on is looked at when it is likely to be complete
(`batchrunner.engine.polling.poll_schedule`), by what was
learned of its kind: model and resolution. One that was seen in the service's queue counts from the first sight of it
being worked on, apart from those that never were: a queue says nothing about the work. While it is queued, and until
one of its kind is known, it is looked at once an interval; of a kind's first ones some sooner, each at another age, to
learn soon what is worth waiting for. What is learned moves due times that are set already, whenever twice as much is
known. Rules: a generation has one due time. Setting a new one leaves the old one stale in the heap, and it is dropped
when it comes up: nothing is ever searched or removed from the middle. Only what this run watched from its acceptance
on is learned from.
"""

import heapq
from dataclasses import dataclass

from batchrunner.engine.backoff import Rng
from batchrunner.engine.polling.duration_model import DurationKey, Durations
from batchrunner.engine.polling.poll_schedule import SHORTEST, PollSchedule
from batchrunner.job import Record, State
from batchrunner.plan.duration_estimate import kind_of

EARLY_PROBES = 8  # of a kind of which nothing is known
_NOT_BEFORE_S = 1.0  # a new plan costs some 2 ms
_OF_USE = 16  # it is worth that when so many times the news are no less than what it was made of


@dataclass(slots=True)
class _Watch:
    """A generation in flight. Monotonic, s: since when it counts, the last sight of it unfinished, the next look."""

    key: DurationKey
    since: float
    seen_at: float
    queued: bool = False
    due: float = 0.0


@dataclass(slots=True)
class _Plan:
    """A rhythm, when it was made (monotonic, s), of how many durations, and how many came since."""

    schedule: PollSchedule
    made_at: float
    known: int
    news: int = 0


class Poller:
    """Due times (monotonic, s) of the generations in flight, and the wait between two looks.

    interval_s: looks at one generation are as many as if they came once in so long. durations: what is known of them;
    it is added to.
    """

    def __init__(self, interval_s: float, rng: Rng, durations: dict[DurationKey, Durations]) -> None:
        self._durations = durations
        self._interval_s = interval_s
        self._rng = rng
        self._heap: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}
        self._watches: dict[str, _Watch] = {}
        self._plans: dict[DurationKey, _Plan] = {}
        self._moved = {key: len(each.spans) for key, each in durations.items()}  # how many were known then
        self._scouts: dict[DurationKey, int] = {}

    def __len__(self) -> int:
        return len(self._due)

    def at(self, fingerprint: str, due: float) -> None:
        """Look at this generation at `due`."""
        self._due[fingerprint] = due
        heapq.heappush(self._heap, (due, fingerprint))

    def after_poll(self, record: Record, now: float, *, first: bool = False) -> None:
        """It is in flight and not complete: look again when that is likely. first: it was accepted just now."""
        fingerprint = record.job.fingerprint
        if first:
            self._watches[fingerprint] = _Watch((kind_of(record.job), False), now, now)
        elif (watch := self._watches.get(fingerprint)) is not None:
            queued = record.last.generating_at is None
            if watch.queued and not queued:
                watch.key, watch.since = (watch.key[0], True), (watch.seen_at + now) / 2
            watch.queued, watch.seen_at = queued, now
        self.at(fingerprint, now + self._wait_s(fingerprint, now))
        if fingerprint in self._watches:
            self._watches[fingerprint].due = self._due[fingerprint]

    def observe(self, record: Record, now: float) -> None:
        """Take in what a step made of a job: one that is complete is learned from, what ended otherwise is not."""
        running = record.state is State.IN_FLIGHT
        if running and record.last.completed_at is None:
            return
        watch = self._watches.pop(record.job.fingerprint, None)
        if watch is None or watch.queued or not running:
            return
        durations = self._durations.setdefault(watch.key, Durations())
        durations.learn(max(0.0, watch.seen_at - watch.since), now - watch.since)
        if (plan := self._plans.get(watch.key)) is not None:
            plan.news += 1
        known, before = len(durations.spans), self._moved.get(watch.key, 0)
        if not before <= known < max(1, 2 * before):  # fewer: what was known is no longer true
            self._moved[watch.key] = known
            self._move(watch.key, now)

    def clear(self) -> list[str]:
        """Forget every due time, and say whose they were."""
        forgotten = list(self._due)
        self._due.clear()
        return forgotten

    def pop(self, now: float) -> str | None:
        """A generation that is due, now without a due time; None where none is."""
        while self._heap and self._heap[0][0] <= now:
            due, fingerprint = heapq.heappop(self._heap)
            if self._due.get(fingerprint) == due:
                del self._due[fingerprint]
                return fingerprint
        return None

    @property
    def next_due(self) -> float | None:
        """When the next generation is due, or None."""
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def _move(self, key: DurationKey, now: float) -> None:
        """Set the due times anew that were set when less was known; not those that something else has set."""
        schedule = self._made_anew(key, now)
        for fingerprint, watch in self._watches.items():
            if watch.key == key and not watch.queued and self._due.get(fingerprint) == watch.due:
                wait_s = schedule.wait_s(watch.seen_at - watch.since, self._rng.uniform(0.9, 1.1))
                watch.due = max(now, watch.seen_at + wait_s)
                self.at(fingerprint, watch.due)

    def _wait_s(self, fingerprint: str, now: float) -> float:
        """Give or take a tenth, so that looks of one burst spread out."""
        part = self._rng.uniform(0.9, 1.1)
        watch = self._watches.get(fingerprint)
        if watch is not None and not watch.queued:
            schedule = self._rhythm(watch.key, now)
            if schedule is not None:
                return schedule.wait_s(now - watch.since, part)
            sent = self._scouts.get(watch.key, 0)
            if now == watch.since and sent < EARLY_PROBES:  # its first look
                self._scouts[watch.key] = sent + 1
                part *= SHORTEST ** (1 - (sent + 1) / EARLY_PROBES)
        return part * self._interval_s

    def _rhythm(self, key: DurationKey, now: float) -> PollSchedule | None:
        """None while nothing is known. Made anew when there is news, but not more often than is of use."""
        durations, plan = self._durations.get(key), self._plans.get(key)
        if durations is None or not durations.spans:
            return None
        if plan is not None and (plan.news * _OF_USE < plan.known or now - plan.made_at < _NOT_BEFORE_S):
            return plan.schedule
        return self._made_anew(key, now)

    def _made_anew(self, key: DurationKey, now: float) -> PollSchedule:
        """By all that is known now: of what is in flight, what its last look told."""
        each, durations = self._watches.values(), self._durations[key]
        unfinished_s = [watch.seen_at - watch.since for watch in each if watch.key == key and not watch.queued]
        schedule = PollSchedule(durations.fit(unfinished_s), self._interval_s)
        self._plans[key] = _Plan(schedule, now, len(durations.spans))
        return schedule
