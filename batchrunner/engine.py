"""The loop that drives a batch. The only place where tasks are born.

One street: admit, journal the intent, POST, journal the id, poll until it ends, download, journal the result. What may
start is decided synchronously, in `_start_what_may_go`; then the loop sleeps until a task has ended or something is
due. A step makes one call and one move; it never waits for its next turn, so no task sleeps for a job.

Rules: a record is stored before anything that follows from it is done, and announced after that. A job in doubt is
never submitted again here. `except Exception` stands only at the job border, where it becomes a notice.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from batchrunner import retry
from batchrunner.api.wire import Accepted, Generation, Phase
from batchrunner.clock import Clock
from batchrunner.downloader import Fetched
from batchrunner.errors import AccountFault, CallError, LocalFault, Problem
from batchrunner.events import CallFailed, JobMoved, Listener, Noticed, Stopping
from batchrunner.job import Job, Move, Record, State, advance
from batchrunner.poller import Poller
from batchrunner.scheduler import Admit, Scheduler, WaitUntil


class Service(Protocol):
    """The generation service (`batchrunner.api.client`)."""

    async def submit(self, job: Job, request_id: str) -> Accepted:
        """Submit once. Raises CallError."""
        ...

    async def generation(self, generation_id: str) -> Generation:
        """Look once. Raises CallError."""
        ...


class Journal(Protocol):
    """Durable records (`batchrunner.journal`)."""

    async def save(self, record: Record) -> None:
        """Store; durable on return."""
        ...


class Clips(Protocol):
    """Downloads (`batchrunner.downloader`)."""

    async def fetch(self, url: str, key: str) -> Fetched:
        """Download and check. Raises CallError."""
        ...


class Store(Protocol):
    """Final names (`batchrunner.store`)."""

    async def deliver(self, job: Job, fetched: Fetched) -> None:
        """Give the clip its names. Raises LocalFault."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What the engine drives. ids: the manifest ids of each fingerprint, for announcements."""

    service: Service
    journal: Journal
    clips: Clips
    store: Store
    clock: Clock
    rng: retry.Rng
    announce: Listener
    ids: Callable[[str], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Policy:
    """Bounds and waits. Seconds where named so.

    not_found_grace_s: how long after acceptance a 404 for the id is taken for "not visible yet".
    urlless_looks: how often a completed generation without a link is looked at again before it counts as failed.
    """

    concurrency: int
    poll_interval_s: float
    job_timeout_s: float = 3600.0
    submissions: int = 8
    polls: int = 16
    downloads: int = 4
    not_found_grace_s: float = 120.0
    urlless_looks: int = 5
    closing_grace_s: float = 30.0


class Engine:
    """One run of one batch.

    records: every job's record by fingerprint, brought up to date in place of the caller's. order: fingerprints in
    the order in which pending ones are submitted; jobs in flight are followed whether they stand in it or not.
    """

    def __init__(self, parts: Parts, policy: Policy, run_id: str, records: dict[str, Record]) -> None:
        self.records = records
        self.stopped = ""  # why no more is submitted, in words; "" while nothing stands against it
        self._parts = parts
        self._policy = policy
        self._run_id = run_id
        self._scheduler = Scheduler(policy.concurrency)
        self._poller = Poller(policy.poll_interval_s, parts.rng)
        self._downloads: deque[tuple[str, str]] = deque()  # (fingerprint, url)
        self._order: dict[str, int] = {}
        self._followed: set[str] = set()  # in flight, and not left for the next run
        self._failures: Counter[tuple[str, str]] = Counter()  # in a row, by (call, fingerprint)
        self._warned: set[str] = set()
        self._tasks: dict[asyncio.Task[None], str] = {}  # and what each is doing: submit, poll or download
        self._running: Counter[str] = Counter()
        self._wake = asyncio.Event()
        self._closing_until: float | None = None

    async def run(self, order: Sequence[str]) -> None:
        """Drive every job to its end, or until stopped."""
        self._take_places(order)
        while not self._finished():
            self._wake.clear()
            self._start_what_may_go()
            if self._finished():
                break
            await self._parts.clock.wait(self._wake, self._next_moment())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stop(self, reason: str) -> None:
        """Submit nothing more; finish what is paid for."""
        if not self.stopped:
            self.stopped = reason
            self._parts.announce(Stopping(self._parts.clock.now(), reason))
        self._wake.set()

    def close(self, reason: str) -> None:
        """Submit and poll nothing more; let calls in the air end, for a bounded time. Called again: end at once."""
        now = self._parts.clock.monotonic()
        again = self._closing_until is not None
        self._closing_until = now if again else now + self._policy.closing_grace_s
        self.stop(reason)

    # Where things stand

    def _take_places(self, order: Sequence[str]) -> None:
        self._order = {fingerprint: place for place, fingerprint in enumerate(order)}
        now = self._parts.clock.monotonic()
        for fingerprint, place in self._order.items():
            if self.records[fingerprint].state is State.PENDING:
                self._scheduler.add(fingerprint, place)
        for fingerprint, record in self.records.items():
            if record.state is State.IN_FLIGHT:
                self._scheduler.occupy(fingerprint)
                self._follow(fingerprint, now)

    def _finished(self) -> bool:
        if self._closing_until is not None:
            over = self._parts.clock.monotonic() >= self._closing_until
            return over or not (self._running["submit"] or self._running["download"])
        waiting = 0 if self.stopped else self._scheduler.waiting
        return not self._tasks and not self._followed and not waiting

    def _next_moment(self) -> float | None:
        if self._closing_until is not None:
            return self._closing_until
        moments = [self._poller.next_due] if self._running["poll"] < self._policy.polls else []
        if not self.stopped and self._running["submit"] < self._policy.submissions:
            step = self._scheduler.next(self._parts.clock.monotonic())
            assert not isinstance(step, Admit)  # admitted jobs were started before
            moments.append(step.at if isinstance(step, WaitUntil) else None)
        return min((moment for moment in moments if moment is not None), default=None)

    def _start_what_may_go(self) -> None:
        """Downloads and polls of what is paid for come before new submissions."""
        if self._closing_until is not None:
            return
        now = self._parts.clock.monotonic()
        while self._downloads and self._running["download"] < self._policy.downloads:
            fingerprint, url = self._downloads.popleft()
            self._spawn("download", fingerprint, self._download(fingerprint, url))
        while self._running["poll"] < self._policy.polls and (due := self._poller.pop(now)) is not None:
            self._spawn("poll", due, self._poll(due))
        while not self.stopped and self._running["submit"] < self._policy.submissions:
            step = self._scheduler.next(now)
            if not isinstance(step, Admit):
                break
            self._spawn("submit", step.fingerprint, self._submit(step.fingerprint))

    def _spawn(self, call: str, fingerprint: str, step: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._border(call, fingerprint, step))
        self._tasks[task] = call
        self._running[call] += 1
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running[self._tasks.pop(task)] -= 1
        self._wake.set()

    async def _border(self, call: str, fingerprint: str, step: Awaitable[None]) -> None:
        """The job border: whatever goes wrong in a step concerns this job, or stops the batch with words."""
        try:
            await step
        except LocalFault as fault:
            self._leave(fingerprint, fault.message)
            self.stop(fault.message)
        except Exception as error:  # noqa: BLE001 (the one place: a defect in one step must not end the night)
            self._leave(fingerprint, f"a defect in batchrunner while doing the {call}: {error!r}; please report it")

    # Moves

    async def _move(self, fingerprint: str, move: Move, *, error: Problem | None = None, **attempt: Any) -> Record:
        record = advance(self.records[fingerprint], move, error=error, **attempt)
        await self._parts.journal.save(record)
        self.records[fingerprint] = record
        parts = self._parts
        parts.announce(JobMoved(parts.clock.now(), parts.ids(fingerprint), move, record))
        return record

    def _follow(self, fingerprint: str, due: float | None = None) -> None:
        """Poll this generation: at `due`, or an interval from now."""
        self._followed.add(fingerprint)
        if due is None:
            self._poller.after_a_look(fingerprint, self._parts.clock.monotonic())
        else:
            self._poller.at(fingerprint, due)

    def _leave(self, fingerprint: str, why: str) -> None:
        """Follow this job no more in this run; the journal keeps it for the next."""
        self._followed.discard(fingerprint)
        parts = self._parts
        parts.announce(Noticed(parts.clock.now(), parts.ids(fingerprint), why))

    def _warn_once(self, fingerprint: str, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            self._parts.announce(Noticed(self._parts.clock.now(), self._parts.ids(fingerprint), message))

    def _wait(self, call: str, fingerprint: str, error: CallError, backoff: retry.Backoff) -> float | None:
        """Seconds until the call may be made again, announced; None to give up."""
        self._failures[call, fingerprint] += 1
        wait_s = retry.wait_s(backoff, self._failures[call, fingerprint], error, self._parts.rng)
        if wait_s is not None:
            parts = self._parts
            parts.announce(CallFailed(parts.clock.now(), parts.ids(fingerprint), call, error.problem, wait_s))
        return wait_s

    # Submissions

    async def _submit(self, fingerprint: str) -> None:
        clock = self._parts.clock
        record = self.records[fingerprint]
        request_id = f"{self._run_id}.{record.job.key}.{len(record.attempts) + 1}"
        try:
            record = await self._move(fingerprint, Move.INTEND, request_id=request_id, submitted_at=clock.now())
        except LocalFault:
            self._scheduler.release(fingerprint)  # nothing was sent
            raise
        try:
            accepted = await self._parts.service.submit(record.job, request_id)
        except CallError as error:
            await self._not_accepted(fingerprint, error)
            return
        self._failures.pop(("submit", fingerprint), None)
        await self._move(
            fingerprint,
            Move.ACCEPT,
            generation_id=accepted.generation_id,
            accepted_at=clock.now(),
            credits=accepted.credits,
        )
        self._follow(fingerprint)

    async def _not_accepted(self, fingerprint: str, error: CallError) -> None:
        now = self._parts.clock.now()
        if error.in_doubt:
            # Its slot stays taken: it may well be in flight.
            await self._move(fingerprint, Move.DOUBT, error=error.problem)
            return
        await self._move(fingerprint, Move.REFUSE, error=error.problem, ended_at=now)
        self._scheduler.release(fingerprint)
        place = self._order[fingerprint]
        if isinstance(error, AccountFault):
            self._scheduler.add(fingerprint, place)
            self.stop(error.message)
        elif isinstance(error, LocalFault):
            await self._move(fingerprint, Move.GIVE_UP, error=error.problem)
        elif (wait_s := self._wait("submit", fingerprint, error, retry.SUBMISSIONS)) is None:
            await self._move(fingerprint, Move.GIVE_UP, error=error.problem)
        else:
            self._scheduler.add(fingerprint, place, self._parts.clock.monotonic() + wait_s)

    # Polls

    async def _poll(self, fingerprint: str) -> None:
        record = self.records[fingerprint]
        assert record.generation_id is not None
        try:
            seen = await self._parts.service.generation(record.generation_id)
        except CallError as error:
            await self._poll_failed(fingerprint, error)
            return
        self._failures.pop(("poll", fingerprint), None)
        record = record.with_attempt(polls=record.last.polls + 1, credits=seen.credits or record.last.credits)
        self.records[fingerprint] = record
        if not seen.known:
            self._warn_once(fingerprint, f"the service uses a status this program does not know: {seen.word!r}")
        if seen.phase is Phase.FAILED:
            self._scheduler.release(fingerprint)
            self._followed.discard(fingerprint)
            await self._move(fingerprint, Move.SPOIL, error=seen.error, ended_at=self._parts.clock.now())
        elif seen.phase is Phase.COMPLETED:
            await self._completed(fingerprint, record, seen)
        else:
            await self._still_working(fingerprint, record, seen.phase)

    async def _still_working(self, fingerprint: str, record: Record, phase: Phase) -> None:
        now = self._parts.clock.now()
        since = record.last.generating_at
        if phase is Phase.GENERATING and since is None:
            record = record.with_attempt(generating_at=now)
            self.records[fingerprint] = record
            await self._parts.journal.save(record)
        elif since is not None and now - since > self._policy.job_timeout_s:
            self._leave(fingerprint, f"still generating after {now - since:.0f} s; the next run looks again")
            return
        self._follow(fingerprint)

    async def _completed(self, fingerprint: str, record: Record, seen: Generation) -> None:
        # The service is done with it, so it is in flight no longer, however long the download takes.
        self._scheduler.release(fingerprint)
        now = self._parts.clock.now()
        if record.last.completed_at is None:
            self.records[fingerprint] = record.with_attempt(completed_at=now)
        if seen.video_url is not None:
            self._downloads.append((fingerprint, seen.video_url))
            return
        self._failures["link", fingerprint] += 1
        if self._failures["link", fingerprint] <= self._policy.urlless_looks:
            self._follow(fingerprint)
            return
        problem = Problem(
            "no_link",
            f"the service calls generation {record.generation_id} completed and gives no link to it",
            "Ask the service's support with this id; --retry-failed pays for another generation.",
        )
        self._followed.discard(fingerprint)
        await self._move(fingerprint, Move.SPOIL, error=problem, ended_at=now)

    async def _poll_failed(self, fingerprint: str, error: CallError) -> None:
        record = self.records[fingerprint]
        age_s = self._parts.clock.now() - (record.last.accepted_at or record.last.submitted_at)
        if isinstance(error, AccountFault):
            self._leave(fingerprint, error.message)
            self.stop(error.message)
        elif error.kind == "unknown_generation" and age_s > self._policy.not_found_grace_s:
            self._scheduler.release(fingerprint)
            self._followed.discard(fingerprint)
            problem = replace(error.problem, message=f"{error.message} (generation {record.generation_id})")
            await self._move(fingerprint, Move.SPOIL, error=problem, ended_at=self._parts.clock.now())
        else:
            wait_s = self._wait("poll", fingerprint, error, retry.POLLS)
            self._follow(fingerprint, self._parts.clock.monotonic() + (wait_s or 0.0))

    # Downloads

    async def _download(self, fingerprint: str, url: str) -> None:
        record = self.records[fingerprint]
        try:
            fetched = await self._parts.clips.fetch(url, record.job.key)
        except LocalFault:
            raise
        except CallError as error:
            await self._download_failed(fingerprint, error)
            return
        await self._parts.store.deliver(record.job, fetched)
        self.records[fingerprint] = replace(self.records[fingerprint], result=fetched.result)
        self._followed.discard(fingerprint)
        await self._move(fingerprint, Move.DELIVER, ended_at=self._parts.clock.now())

    async def _download_failed(self, fingerprint: str, error: CallError) -> None:
        """Look at the generation again: that gives a fresh link, and never another generation."""
        wait_s = self._wait("download", fingerprint, error, retry.DOWNLOADS)
        if wait_s is not None:
            self._follow(fingerprint, self._parts.clock.monotonic() + wait_s)
        elif error.kind == "bad_file":
            self._followed.discard(fingerprint)
            await self._move(fingerprint, Move.SPOIL, error=error.problem, ended_at=self._parts.clock.now())
        else:
            self._leave(fingerprint, f"{error.message}; it is paid for, and the next run fetches it")
