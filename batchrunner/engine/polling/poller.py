"""When to poll which generation. Pure: one heap of due times; `now` and jitter are arguments.

An active generation is polled when it is likely to be complete (`batchrunner.engine.polling.poll_schedule`), from the
durations of its kind (model and resolution) and its work. One that was seen in the service's queue counts from the
first poll that finds it active, apart from those that were never seen there: a queue says nothing about the work. While
it is queued, and until a duration of its kind is known, it is polled once an interval. The first ones of a kind are
polled sooner, each at another age, to learn quickly. New durations move existing due times whenever twice as much is
known, unless all of them are less than a second away.

A generation has one due time. A new one leaves the old one stale in the heap, which drops it when it comes up: nothing
is searched or removed from the middle. Only generations that this run watched from acceptance on are learned from.
"""

import heapq
from dataclasses import dataclass

from batchrunner.engine.backoff import Rng
from batchrunner.engine.polling.duration_model import DurationKey, Durations
from batchrunner.engine.polling.poll_schedule import LONGEST, SHORTEST, PollSchedule
from batchrunner.job import Record, State
from batchrunner.plan.duration_estimate import kind_of
from batchrunner.plan.duration_trend import work_of

EARLY_PROBES = 8  # of a kind without known durations
_NOT_BEFORE_S = 1.0  # a new schedule costs about 1 ms
_OF_USE = 16  # a new schedule is worth it when this many times the news are no fewer than its durations


@dataclass(slots=True)
class _Watch:
    """A generation in flight. Monotonic, s: the start of its duration, the last unfinished poll, the next poll."""

    key: DurationKey
    since: float
    seen_at: float
    work: float | None
    queued: bool = False
    due: float = 0.0


@dataclass(slots=True)
class _Plan:
    """A schedule, when it was computed (monotonic, s), from how many durations, and how many came since."""

    schedule: PollSchedule
    made_at: float
    known: int
    news: int = 0


class Poller:
    """Due times (monotonic, s) of the generations in flight, and the waits between polls.

    interval_s: the average number of polls is that of this interval. durations: the known ones, to which new ones are
    added.
    """

    def __init__(self, interval_s: float, rng: Rng, durations: dict[DurationKey, Durations]) -> None:
        self._durations = durations
        self._interval_s = interval_s
        self._rng = rng
        self._heap: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}
        self._watches: dict[str, _Watch] = {}
        self._plans: dict[DurationKey, _Plan] = {}
        self._moved = {key: len(watches.spans) for key, watches in durations.items()}  # how many were known then
        self._early: dict[DurationKey, int] = {}

    def __len__(self) -> int:
        return len(self._due)

    def at(self, fingerprint: str, due: float) -> None:
        """Poll this generation at `due`."""
        self._due[fingerprint] = due
        heapq.heappush(self._heap, (due, fingerprint))

    def after_poll(self, record: Record, now: float, *, first: bool = False) -> None:
        """Schedule the next poll of an unfinished generation, when it is likely to be complete.

        first: it was just accepted.
        """
        fingerprint = record.job.fingerprint
        if first:
            self._watches[fingerprint] = _Watch((kind_of(record.job), False), now, now, work_of(record.job))
        elif (watch := self._watches.get(fingerprint)) is not None:
            queued = record.last.generating_at is None
            if watch.queued and not queued:
                watch.key, watch.since = (watch.key[0], True), (watch.seen_at + now) / 2
            watch.queued, watch.seen_at = queued, now
        self.at(fingerprint, now + self._wait_s(fingerprint, now))
        if fingerprint in self._watches:
            self._watches[fingerprint].due = self._due[fingerprint]

    def observe(self, record: Record, now: float) -> None:
        """Record the result of a step: a complete generation is learned from, any other end is not."""
        running = record.state is State.IN_FLIGHT
        if running and record.last.completed_at is None:
            return
        watch = self._watches.pop(record.job.fingerprint, None)
        if watch is None or watch.queued or not running:
            return
        if (durations := self._durations.get(watch.key)) is None:
            durations = self._durations[watch.key] = Durations()
        durations.learn(max(0.0, watch.seen_at - watch.since), now - watch.since, watch.work)
        if (plan := self._plans.get(watch.key)) is not None:
            plan.news += 1
        known, before = len(durations.spans), self._moved.get(watch.key, 0)
        if not before <= known < max(1, 2 * before):  # fewer: older durations were dropped as outdated
            self._moved[watch.key] = known
            if LONGEST * self._interval_s >= _NOT_BEFORE_S:  # otherwise they are due soon, and a schedule costs more
                self._move(watch.key, now)

    def clear(self) -> list[str]:
        """Remove every due time, and return the jobs."""
        forgotten = list(self._due)
        self._due.clear()
        return forgotten

    def pop(self, now: float) -> str | None:
        """Return a generation that is due and remove its due time; None if none is due."""
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
        """Recompute the due times that were set with less knowledge; not those that another component has set."""
        schedule = self._computed(key, now)
        for fingerprint, watch in self._watches.items():
            if watch.key == key and not watch.queued and self._due.get(fingerprint) == watch.due:
                wait_s = schedule.wait_s(watch.seen_at - watch.since, self._rng.uniform(0.9, 1.1), watch.work)
                watch.due = max(now, watch.seen_at + wait_s)
                self.at(fingerprint, watch.due)

    def _wait_s(self, fingerprint: str, now: float) -> float:
        """Return a wait with a jitter of a tenth, so that polls of one burst spread out."""
        factor = self._rng.uniform(0.9, 1.1)
        watch = self._watches.get(fingerprint)
        if watch is not None and not watch.queued:
            schedule = self._schedule(watch.key, now)
            if schedule is not None:
                return schedule.wait_s(now - watch.since, factor, watch.work)
            sent = self._early.get(watch.key, 0)
            if now == watch.since and sent < EARLY_PROBES:  # its first poll
                self._early[watch.key] = sent + 1
                factor *= SHORTEST ** (1 - (sent + 1) / EARLY_PROBES)
        return factor * self._interval_s

    def _schedule(self, key: DurationKey, now: float) -> PollSchedule | None:
        """Return None while nothing is known. A new schedule is computed on news, but not more often than is useful."""
        durations, plan = self._durations.get(key), self._plans.get(key)
        if durations is None or not durations.spans:
            return None
        if plan is not None and (plan.news * _OF_USE < plan.known or now - plan.made_at < _NOT_BEFORE_S):
            return plan.schedule
        return self._computed(key, now)

    def _computed(self, key: DurationKey, now: float) -> PollSchedule:
        """Compute a schedule from all known durations and the ages of running generations at their last polls."""
        watches, durations = self._watches.values(), self._durations[key]
        unfinished = [watch for watch in watches if watch.key == key and not watch.queued]
        ages_s = [watch.seen_at - watch.since for watch in unfinished]
        schedule = PollSchedule(durations.fit(ages_s, [watch.work for watch in unfinished]), self._interval_s)
        self._plans[key] = _Plan(schedule, now, len(durations.spans))
        return schedule
