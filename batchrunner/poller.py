"""When to look at which generation. Pure: one heap of due times for all of them; `now` and jitter are arguments.

A generation that is being worked on is looked at when it is likely to be complete (`batchrunner.rhythm`), by what was
learned of its kind: model and resolution. One that was seen in the service's queue counts from the first sight of it
being worked on, apart from those that never were: a queue says nothing about the work. While it is queued, and until a
handful of its kind is known, it is looked at once an interval. Rules: a generation has one due time. Setting a new one
leaves the old one stale in the heap, and it is dropped when it comes up: nothing is ever searched or removed from the
middle. Only what this run watched from its acceptance on is learned from.
"""

import heapq
from dataclasses import dataclass

from batchrunner.durations import Course, Durations
from batchrunner.forecast import kind_of
from batchrunner.job import Record, State
from batchrunner.retry import Rng
from batchrunner.rhythm import Rhythm

ENOUGH = 5  # of a course; fewer say too little
_NOT_BEFORE_S = 1.0  # a new plan costs some 3 ms


@dataclass(slots=True)
class _Watch:
    """A generation in flight. Monotonic, s: since when it counts, and the last sight of it unfinished."""

    course: Course
    since: float
    seen_at: float
    queued: bool = False


@dataclass(slots=True)
class _Plan:
    """The rhythm made of so many durations, and when (monotonic, s)."""

    rhythm: Rhythm
    made_at: float
    stale: bool = False


class Poller:
    """Due times (monotonic, s) of the generations in flight, and the wait between two looks.

    interval_s: looks at one generation are as many as if they came once in so long. durations: what is known of them;
    it is added to.
    """

    def __init__(self, interval_s: float, rng: Rng, durations: dict[Course, Durations]) -> None:
        self._durations = durations
        self._interval_s = interval_s
        self._rng = rng
        self._heap: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}
        self._watches: dict[str, _Watch] = {}
        self._plans: dict[Course, _Plan] = {}

    def __len__(self) -> int:
        return len(self._due)

    def at(self, fingerprint: str, due: float) -> None:
        """Look at this generation at `due`."""
        self._due[fingerprint] = due
        heapq.heappush(self._heap, (due, fingerprint))

    def after_a_look(self, record: Record, now: float, *, first: bool = False) -> None:
        """It is in flight and not complete: look again when that is likely. first: it was accepted just now."""
        fingerprint = record.job.fingerprint
        if first:
            self._watches[fingerprint] = _Watch((kind_of(record.job), False), now, now)
        elif (watch := self._watches.get(fingerprint)) is not None:
            queued = record.last.generating_at is None
            if watch.queued and not queued:
                watch.course, watch.since = (watch.course[0], True), (watch.seen_at + now) / 2
            watch.queued, watch.seen_at = queued, now
        self.at(fingerprint, now + self._wait_s(fingerprint, now))

    def heed(self, record: Record, now: float) -> None:
        """Take in what a step made of a job: one that is complete is learned from, what ended otherwise is not."""
        running = record.state is State.IN_FLIGHT
        if running and record.last.completed_at is None:
            return
        watch = self._watches.pop(record.job.fingerprint, None)
        if watch is None or watch.queued or not running:
            return
        durations = self._durations.setdefault(watch.course, Durations())
        durations.learn(max(0.0, watch.seen_at - watch.since), now - watch.since)
        if watch.course in self._plans:
            self._plans[watch.course].stale = True

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

    def _wait_s(self, fingerprint: str, now: float) -> float:
        """Give or take a tenth, so that looks of one burst spread out."""
        part = self._rng.uniform(0.9, 1.1)
        watch = self._watches.get(fingerprint)
        if watch is not None and not watch.queued:
            rhythm = self._rhythm(watch.course, now)
            if rhythm is not None:
                return rhythm.wait_s(now - watch.since, part)
        return part * self._interval_s

    def _rhythm(self, course: Course, now: float) -> Rhythm | None:
        """None while too little is known. Made anew when there is news, but not more often than is of use."""
        durations, plan = self._durations.get(course), self._plans.get(course)
        if durations is None or len(durations.spans) < ENOUGH:
            return None
        if plan is None or (plan.stale and now - plan.made_at >= max(_NOT_BEFORE_S, self._interval_s / 2)):
            each = self._watches.values()
            running_s = [now - watch.since for watch in each if watch.course == course and not watch.queued]
            plan = self._plans[course] = _Plan(Rhythm(durations.fit(running_s), self._interval_s), now)
        return plan.rhythm
