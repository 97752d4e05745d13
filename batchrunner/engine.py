"""The loop that drives a batch. The only place where tasks are born.

One street: admit, journal the intent, POST, journal the id, poll until it ends, download, journal the result. What may
start is decided synchronously, in `_start_what_may_go`; then the loop sleeps until a task has ended or something is
due. A task is one step (`batchrunner.steps`): it makes one call and never waits for its next turn, so no task sleeps
for a job, and what follows a step is a value that `_apply` turns into queues and slots.

Rule: `except Exception` stands only at the job border, where it becomes a notice.
"""

import asyncio
import heapq
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from batchrunner.errors import LocalFault
from batchrunner.events import Stopping
from batchrunner.job import State
from batchrunner.links import expires_at
from batchrunner.poller import Poller
from batchrunner.ports import Parts, Policy
from batchrunner.scheduler import Admit, Scheduler
from batchrunner.steps import Doubt, End, Fetch, Leave, Look, Next, Steps, Stop, Submit, slot_left_s


class Engine:
    """One run of one batch.

    steps: what is done to a job; its records are brought up to date. stopped: why no more is submitted, in words;
    "" while nothing stands against it. Jobs in flight are followed whether or not the manifest still names them.
    """

    def __init__(self, parts: Parts, policy: Policy, steps: Steps) -> None:
        self.stopped = ""
        self._parts = parts
        self._policy = policy
        self._steps = steps
        self._scheduler = Scheduler(policy.concurrency)
        self._poller = Poller(policy.poll_interval_s, parts.rng)
        self._downloads: list[tuple[float, str, str]] = []  # heap: (link's expiry, fingerprint, url)
        self._order: dict[str, int] = {}
        self._followed: set[str] = set()  # in flight, and not left for the next run
        self._doubts: dict[str, float] = {}  # and until when (monotonic, s) each holds its slot
        self._review_at: float | None = None
        self._review_wait_s = policy.review_s
        self._last_review_done = False
        self._tasks: dict[asyncio.Task[None], str] = {}  # and what each is doing
        self._running: Counter[str] = Counter()
        self._wake = asyncio.Event()
        self._closing_until: float | None = None
        self._abort = False

    async def run(self, order: Sequence[str]) -> None:
        """Drive every job to its end, or until stopped. order: fingerprints in the order of submission."""
        self._take_places(order)
        while True:
            self._wake.clear()
            self._start_what_may_go()
            if self._finished():
                break
            await self._parts.clock.wait(self._wake, self._next_moment())
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self, reason: str) -> None:
        """Submit nothing more; finish what is paid for."""
        if not self.stopped:
            self.stopped = reason
            self._parts.announce(Stopping(self._parts.clock.now(), reason))
        self._wake.set()

    def close(self, reason: str) -> None:
        """Submit and poll nothing more; let submissions in the air end, and downloads for a bounded time.

        Called again: end at once. Whatever is cut off then is in the journal as it stands.
        """
        self._abort = self._closing_until is not None
        self._closing_until = self._parts.clock.monotonic() + self._policy.closing_grace_s
        self.stop(reason)

    # What may go

    def _take_places(self, order: Sequence[str]) -> None:
        self._order = {fingerprint: place for place, fingerprint in enumerate(order)}
        now, wall = self._parts.clock.monotonic(), self._parts.clock.now()
        for fingerprint, place in self._order.items():
            if self._steps.records[fingerprint].state is State.PENDING:
                self._scheduler.add(fingerprint, place)
        for fingerprint, record in self._steps.records.items():
            if slot_left_s(record, wall, self._policy) > 0:
                self._scheduler.occupy(fingerprint)
            if record.state is State.IN_FLIGHT:
                self._follow(fingerprint, now)
            elif record.state is State.IN_DOUBT:
                self._doubts[fingerprint] = now + slot_left_s(record, wall, self._policy)
                self._review_at = now

    def _finished(self) -> bool:
        if self._closing_until is not None:
            grace_over = self._parts.clock.monotonic() >= self._closing_until
            return self._abort or not (self._running["submit"] or (self._running["download"] and not grace_over))
        if self._tasks or self._followed:
            return False
        if self._scheduler.waiting and not self.stopped and self._blocked():
            self.stop("every slot is held by a generation that was left for the next run")
        return bool(self.stopped) or not self._scheduler.waiting

    def _blocked(self) -> bool:
        """Whether no slot will come free in this run: those of doubts do, those of generations left behind do not."""
        return self._scheduler.full and not any(self._scheduler.holds(fingerprint) for fingerprint in self._doubts)

    def _next_moment(self) -> float | None:
        """When the loop has to look again even if nothing ends (monotonic, s)."""
        if self._closing_until is not None:
            grace_over = self._parts.clock.monotonic() >= self._closing_until
            return None if grace_over else self._closing_until
        moments = [self._review_at] if not self._running["review"] else []
        if self._running["poll"] < self._policy.polls:
            moments.append(self._poller.next_due)
        if not self.stopped and self._running["submit"] < self._policy.submissions:
            moments.append(self._scheduler.next_at(self._parts.clock.monotonic()))
        return min((moment for moment in moments if moment is not None), default=None)

    def _start_what_may_go(self) -> None:
        """Downloads and polls of what is paid for come before new submissions."""
        if self._closing_until is not None:
            return
        now = self._parts.clock.monotonic()
        while self._downloads and self._running["download"] < self._policy.downloads:
            _, fingerprint, url = heapq.heappop(self._downloads)  # the link nearest to its end goes first
            self._spawn("download", fingerprint, self._steps.download(fingerprint, url))
        while self._running["poll"] < self._policy.polls and (due := self._poller.pop(now)) is not None:
            self._spawn("poll", due, self._steps.poll(due))
        while not self.stopped and self._running["submit"] < self._policy.submissions:
            step = self._scheduler.next(now)
            if not isinstance(step, Admit):
                break
            self._last_review_done = False
            self._spawn("submit", step.fingerprint, self._steps.submit(step.fingerprint))
        self._start_review(now)

    def _start_review(self, now: float) -> None:
        """Search for submissions in doubt when it is time, and once more when nothing else is left to do."""
        last = self._doubts and self._finished() and not self._last_review_done
        due = self._review_at is not None and self._review_at <= now
        if (last or due) and not self._running["review"]:
            self._last_review_done = bool(last)
            self._review_at = None
            self._task("review", self._review())

    # Tasks

    def _spawn(self, call: str, fingerprint: str, step: Coroutine[Any, Any, Next]) -> None:
        self._task(call, self._border(call, fingerprint, step))

    def _task(self, call: str, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks[task] = call
        self._running[call] += 1
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running[self._tasks.pop(task)] -= 1
        self._wake.set()

    async def _border(self, call: str, fingerprint: str, step: Awaitable[Next]) -> None:
        """The job border: whatever goes wrong in a step concerns this job, or stops the batch with words."""
        following: Next
        try:
            following = await step
        except LocalFault as fault:
            self.stop(fault.message)
            following = Leave(fault.message)
        except Exception as error:  # noqa: BLE001 (the one place: a defect in one step must not end the night)
            following = Leave(f"a defect in batchrunner during the {call}, please report it: {error!r}")
        self._apply(fingerprint, following)

    def _apply(self, fingerprint: str, following: Next) -> None:
        """Turn what should follow into queues and slots."""
        if isinstance(following, Stop):
            self.stop(following.reason)
            following = following.then
        handler = self._HANDLERS[type(following)]
        handler(self, fingerprint, following)

    def _submit_again(self, fingerprint: str, following: Submit) -> None:
        self._scheduler.release(fingerprint)
        not_before = self._parts.clock.monotonic() + following.wait_s
        self._scheduler.add(fingerprint, self._order[fingerprint], not_before)

    def _look_again(self, fingerprint: str, following: Look) -> None:
        if following.over:
            self._scheduler.release(fingerprint)
        now = self._parts.clock.monotonic()
        self._follow(fingerprint, None if following.wait_s is None else now + following.wait_s)

    def _fetch(self, fingerprint: str, following: Fetch) -> None:
        # The service is done with it, so it is in flight no longer, however long the download takes.
        self._scheduler.release(fingerprint)
        heapq.heappush(self._downloads, (expires_at(following.url), fingerprint, following.url))

    def _doubt(self, fingerprint: str, _: Doubt) -> None:
        # Its slot stays taken: it may well be in flight.
        now = self._parts.clock.monotonic()
        self._doubts[fingerprint] = now + self._policy.doubt_s
        self._review_wait_s = self._policy.review_s
        self._review_at = now + self._review_wait_s
        minutes = self._policy.doubt_s / 60
        self._steps.notice(
            fingerprint, f"searched for in the service's log; its slot stays taken meanwhile, {minutes:.0f} min at most"
        )

    def _end(self, fingerprint: str, _: End) -> None:
        self._scheduler.release(fingerprint)
        self._followed.discard(fingerprint)

    def _leave(self, fingerprint: str, following: Leave) -> None:
        if self._steps.records[fingerprint].state is State.PENDING:
            self._scheduler.release(fingerprint)  # nothing was sent
        self._followed.discard(fingerprint)
        self._steps.notice(fingerprint, following.why)

    _HANDLERS: dict[type, Callable[..., None]] = {  # noqa: RUF012 (a table, never changed)
        Submit: _submit_again,
        Look: _look_again,
        Fetch: _fetch,
        Doubt: _doubt,
        End: _end,
        Leave: _leave,
    }

    def _follow(self, fingerprint: str, due: float | None = None) -> None:
        """Poll this generation: at `due` (monotonic, s), or an interval from now."""
        self._followed.add(fingerprint)
        if due is None:
            self._poller.after_a_look(fingerprint, self._parts.clock.monotonic())
        else:
            self._poller.at(fingerprint, due)

    async def _review(self) -> None:
        """Settle what evidence can settle, and free the slots of doubts so old that nothing can be in flight."""
        try:
            adopted = await self._steps.review(sorted(self._doubts))
        except LocalFault as fault:
            self.stop(fault.message)
            return
        now = self._parts.clock.monotonic()
        for fingerprint in adopted:
            del self._doubts[fingerprint]
            self._scheduler.occupy(fingerprint)
            self._follow(fingerprint, now)
        for fingerprint, until in self._doubts.items():
            if until <= now:
                self._scheduler.release(fingerprint)
        if self._doubts:
            self._review_at = now + self._review_wait_s
            self._review_wait_s = min(2 * self._review_wait_s, self._policy.review_cap_s)
