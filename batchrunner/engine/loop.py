"""The loop that drives a batch. The only place where tasks are born.

One street: admit, journal the intent, POST, journal the id, poll until it ends, download, journal the result. What may
start is decided synchronously, in `_start_what_may_go`; then the loop sleeps until a task has ended or something is
due. A task is one step (`batchrunner.engine.steps`): it makes one call and never waits for its next turn, so no task
sleeps for a job, and what follows a step is a value that `_apply` turns into queues and slots.

Rule: `except Exception` stands only at the job border, where it becomes a notice.
"""

import asyncio
import heapq
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any

from batchrunner.engine.calls import CallHealth
from batchrunner.engine.in_doubt import InDoubtJobs, longest_s
from batchrunner.engine.job_queue import Pace, Scheduler
from batchrunner.engine.polling.poller import Poller
from batchrunner.engine.ports import Dependencies, Policy
from batchrunner.engine.run_deadline import RunDeadline
from batchrunner.engine.steps import Download, Finish, HoldInDoubt, LeaveInFlight, Next, PollAgain, Steps, Submit
from batchrunner.errors import LocalFault
from batchrunner.events import Stopping
from batchrunner.formatting import count_text, length_text
from batchrunner.job import State
from batchrunner.plan.admission import AdmissionAction, AdmissionDecision
from batchrunner.plan.duration_estimate import Kind, kind_of
from batchrunner.transfer.link_expiry import expires_at

SLOT_POLLS = 3  # intervals: a submission in doubt holds its slot for no less, as durations are known only that well


class Engine:
    """One run of one batch.

    steps: what is done to a job; its records are brought up to date. stopped: why no more is submitted, in words;
    "" while nothing stands against it. Jobs in flight are followed whether or not the manifest still names them.
    """

    def __init__(
        self, deps: Dependencies, policy: Policy, steps: Steps, scheduler: Scheduler, health: CallHealth
    ) -> None:
        self.stopped = ""
        self._deps = deps
        self._policy = policy
        self._steps = steps
        self._scheduler = scheduler
        self._health = health
        self._pace = Pace(policy.calls_per_s)
        self._bounds = {"submit": policy.submissions, "poll": policy.polls, "download": policy.downloads}
        self._skipped: Counter[str] = Counter()  # jobs that this run will not submit, by reason
        self._held_back = ""  # why the next job waits for what is in flight
        self._failed = 0  # jobs, by their own fault
        self._run_deadline = RunDeadline(0.0)
        self._poller = Poller(policy.poll_interval_s, deps.rng, deps.durations)
        self._downloads: list[tuple[float, str, str]] = []  # heap: (link's expiry, fingerprint, url)
        self._order: dict[str, int] = {}
        self._followed: set[str] = set()  # in flight, and not left for the next run
        self._in_doubt = InDoubtJobs(policy.reconcile_s, policy.reconcile_cap_s, policy.settle_s)
        self._tasks: dict[asyncio.Task[None], str] = {}  # and what each is doing
        self._running: Counter[str] = Counter()
        self._wake = asyncio.Event()
        self._closing_until: float | None = None
        self._signalled = self._abort = False

    async def run(self, order: Sequence[str]) -> None:
        """Drive every job to its end, or until stopped. order: fingerprints in the order of submission."""
        policy, now = self._policy, self._deps.clock.monotonic()
        self._run_deadline = RunDeadline(now, policy.deadline_at, policy.max_runtime_s, policy.deadline)
        self._take_places(order)
        await self._drive()

    async def follow_again(self, fingerprints: Iterable[str]) -> None:
        """After `run`: follow generations whose clip was lost, to their end or until stopped."""
        for fingerprint in fingerprints:
            self._follow(fingerprint, 0.0)
        await self._drive()

    async def _drive(self) -> None:
        while True:
            self._wake.clear()
            self._keep_time()
            self._start_what_may_go()
            if self._finished():
                break
            await self._deps.clock.wait(self._wake, self._next_moment())
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self, reason: str) -> None:
        """Submit nothing more; finish what is paid for."""
        if not self.stopped:
            self.stopped = reason
            self._deps.announce(Stopping(self._deps.clock.now(), reason))
        self._wake.set()

    def close(self, reason: str) -> None:
        """Submit and poll nothing more; let submissions in the air end, and downloads for a bounded time.

        Called again: end at once. Whatever is cut off then is in the journal as it stands.
        """
        self._abort, self._signalled = self._signalled, True
        self._close(reason)

    def _close(self, reason: str) -> None:
        if self._closing_until is None:
            self._closing_until = self._deps.clock.monotonic() + self._policy.closing_grace_s
        self.stop(reason)

    # Time

    def _end_of_time(self) -> tuple[float, str] | None:
        """When this run has to be over (monotonic, s), and why."""
        return self._run_deadline.end(self._deps.clock.monotonic(), self._deps.clock.now())

    def _keep_time(self) -> None:
        """Close when the time is over, and stop waiting for a gate that stays closed."""
        now = self._deps.clock.monotonic()
        end = self._end_of_time()
        if end is not None and now >= end[0] and self._closing_until is None:
            self._close(f"{end[1]}; run again to continue")
        if self._closing_until is None and (lost := self._deps.lost()):
            self._close(lost)
        for fingerprint in self._in_doubt.over(now, self._slot_s()):
            self._scheduler.release(fingerprint)
        for call, until in self._health.patience(self._policy).items():
            if now >= until:
                self._give_up(call)

    def _slot_s(self) -> Callable[[str], float]:
        """How long a submission in doubt holds its slot, as far as is known now: as long as generations take."""
        known: dict[Kind, float] = {}

        def slot_s(fingerprint: str) -> float:
            job = self._steps.records[fingerprint].job
            kind = kind_of(job)
            if kind not in known:
                running_s = self._running_s(kind)
                least_s = SLOT_POLLS * self._policy.poll_interval_s
                known[kind] = longest_s(self._steps.times.known_s(job), running_s, least_s, self._policy.doubt_s)
            return known[kind]

        return slot_s

    def _running_s(self, kind: Kind) -> list[float]:
        """How long the generations of one kind have been running that are not complete, seconds."""
        running = (self._steps.records[fingerprint] for fingerprint in self._followed)
        return [
            self._steps.times.age_s(record)
            for record in running
            if record.state is State.IN_FLIGHT and record.last.completed_at is None and kind_of(record.job) == kind
        ]

    def _give_up(self, call: str) -> None:
        """Make no more calls of this kind: what waits for one is left for the next run."""
        self._health.given_up.add(call)
        breaker = self._health.breakers[call]
        waited = length_text(self._deps.clock.monotonic() - (breaker.since or 0.0))
        lasting = self._health.is_lasting(call)
        self.stop(f"{breaker.reason}; {'' if lasting else f'waited {waited} for it: '}run again to continue")
        if call == "poll":
            self._followed.difference_update(self._poller.clear())
        if call == "download":
            self._followed.difference_update(fingerprint for _, fingerprint, _ in self._downloads)
            self._downloads.clear()

    # What may go

    def _take_places(self, order: Sequence[str]) -> None:
        self._order = {fingerprint: place for place, fingerprint in enumerate(order)}
        now, wall = self._deps.clock.monotonic(), self._deps.clock.now()
        for fingerprint, place in self._order.items():
            if self._steps.records[fingerprint].state is State.PENDING:
                self._scheduler.add(fingerprint, place)
        for fingerprint, record in self._steps.records.items():
            if record.state is State.IN_FLIGHT:
                if record.last.completed_at is None:
                    self._scheduler.occupy(fingerprint)
                self._follow(fingerprint, 0.0)
            elif record.state is State.IN_DOUBT:
                # The wall clock may have been set back since: it is never younger than a fresh one.
                self._in_doubt.found(fingerprint, now - max(0.0, wall - record.last.submitted_at), now)
                self._scheduler.occupy(fingerprint, in_doubt=True)

    def _finished(self) -> bool:
        if self._closing_until is not None:
            grace_over = self._deps.clock.monotonic() >= self._closing_until
            return self._abort or not (self._running["submit"] or (self._running["download"] and not grace_over))
        if self._tasks or self._followed or self._waits_for_the_log():
            return False
        if not self.stopped and (reason := self._obstacle()):
            self.stop(reason)
        return bool(self.stopped) or not self._scheduler.waiting

    def _waits_for_the_log(self) -> bool:
        """Whether a search that is still to come can tell that a submission in doubt was not accepted."""
        listed = self._deps.provider.capabilities.lists_on_acceptance and self._steps.log_offered
        return listed and not self.stopped and self._in_doubt.unsearched

    def _obstacle(self) -> str:
        """Why jobs are left that this run will not submit, once nothing of it is in flight; "" where there are none."""
        if self._held_back:
            return self._held_back
        # Slots of doubts come free in time; those of generations left for the next run do not.
        if self._scheduler.waiting and self._scheduler.full and not any(map(self._scheduler.holds, self._in_doubt)):
            return "every slot is held by a generation that was left for the next run"
        if self._scheduler.waiting or not self._skipped:
            return ""
        return "; ".join(f"{count_text(jobs, 'job')} not submitted: {why}" for why, jobs in self._skipped.items())

    def _next_moment(self) -> float | None:
        """When the loop has to look again even if nothing ends (monotonic, s)."""
        if self._closing_until is not None:
            return None if self._deps.clock.monotonic() >= self._closing_until else self._closing_until
        now = self._deps.clock.monotonic()
        moments = [self._in_doubt.reconcile_at] if not self._running["review"] else []
        if (over_at := self._in_doubt.next_over(self._slot_s())) is not None:
            moments.append(over_at)
        moments += self._health.patience(self._policy).values()
        if (end := self._end_of_time()) is not None:
            moments.append(end[0])
        moments.append(self._moment("poll", self._poller.next_due, now))
        if self._downloads:
            moments.append(self._moment("download", now, now))
        if not self.stopped and not self._held_back:
            moments.append(self._moment("submit", self._scheduler.next_at(now), now))
        return min((moment for moment in moments if moment is not None), default=None)

    def _moment(self, call: str, due: float | None, now: float) -> float | None:
        """When the next call of this kind may start, given when there is one to make; None: when a task has ended."""
        breaker, most = self._health.breakers[call], self._bounds[call]
        opens_at, most = breaker.opens_at(now), most if breaker.room is None else min(most, breaker.room)
        if due is None or opens_at is None or self._running[call] >= most:
            return None
        return max(due, opens_at, now if call == "download" else self._pace.next_at(now))

    def _may_call(self, call: str, now: float) -> bool:
        moment = self._moment(call, now, now)
        return moment is not None and moment <= now

    def _start_what_may_go(self) -> None:
        """Downloads and polls of what is paid for come before new submissions."""
        if self._closing_until is not None:
            return
        now = self._deps.clock.monotonic()
        while self._downloads and self._may_call("download", now):
            _, fingerprint, url = heapq.heappop(self._downloads)  # the link nearest to its end goes first
            self._spawn("download", fingerprint, partial(self._steps.download, fingerprint, url))
        while self._may_call("poll", now) and (due := self._poller.pop(now)) is not None:
            self._pace.take(now)
            self._spawn("poll", due, partial(self._steps.poll, due))
        self._start_submissions(now)
        if not self._running["review"] and self._in_doubt.start_reconcile(now, at_the_end=self._finished()):
            self._task("review", self._reconcile())

    def _start_submissions(self, now: float) -> None:
        breaker = self._health.breakers["submit"]
        self._held_back = ""
        while not self.stopped and self._may_call("submit", now):
            if breaker.wants_probe:
                due = self._scheduler.next_at(now)
                if due is not None and due <= now:
                    self._pace.take(now)
                    self._task("look", self._health.probe(breaker.enter(), self._deps.provider.ping()))
                break
            fingerprint = self._admitted(now)
            if fingerprint is None:
                break
            self._in_doubt.submitted()
            self._pace.take(now)
            self._spawn("submit", fingerprint, partial(self._steps.submit, fingerprint))

    def _admitted(self, now: float) -> str | None:
        """The next job that money, time and disk allow, its slot taken and its price held; None where there is none."""
        end = self._end_of_time()
        left_s = None if end is None else end[0] - now
        while (fingerprint := self._scheduler.next(now)) is not None:
            bought = self._scheduler.in_flight + len(self._downloads) + self._running["download"]  # and not stored
            lack = self._deps.lacks_space(bought)
            decide = self._steps.admission.decide
            decision = (
                AdmissionDecision(AdmissionAction.WAIT, lack)
                if lack
                else decide(self._steps.records[fingerprint], left_s)
            )
            if decision.action is AdmissionAction.GO:
                return fingerprint
            self._scheduler.release(fingerprint)
            if decision.action is AdmissionAction.WAIT:
                self._scheduler.add(fingerprint, self._order[fingerprint])
                self._held_back = decision.why
                return None
            self._skipped[decision.why] += 1
        return None

    # Tasks

    def _spawn(self, call: str, fingerprint: str, step: Callable[[int], Awaitable[Next]]) -> None:
        breaker_generation = self._health.breakers[call].enter()
        self._task(call, self._border(call, fingerprint, breaker_generation, step(breaker_generation)))

    def _task(self, call: str, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks[task] = call
        self._running[call] += 1
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        call = self._tasks.pop(task)
        self._running[call] -= 1
        if not task.cancelled() and (error := task.exception()) is not None:  # what no job border was around
            self.stop(f"a defect in batchrunner during the {call}, please report it: {error!r}")
        self._wake.set()

    async def _border(self, call: str, fingerprint: str, breaker_generation: int, step: Awaitable[Next]) -> None:
        """The job border: whatever goes wrong in a step concerns this job, or stops the batch with words."""
        following: Next
        try:
            following = await step
        except LocalFault as fault:
            self.stop(fault.message)
            following = LeaveInFlight(fault.message)
        except Exception as error:  # noqa: BLE001 (the one place: a defect in one step must not end the night)
            following = LeaveInFlight(f"a defect in batchrunner during the {call}, please report it: {error!r}")
        self._health.breakers[call].left(breaker_generation)  # where the step ended before its call was made
        self._steps.admission.ledger.update(self._steps.records[fingerprint])  # the same for what was held for it
        self._poller.observe(self._steps.records[fingerprint], self._deps.clock.monotonic())
        if call == "submit" and self._health.breakers[call].open:
            self._scheduler.restore()
        self._HANDLERS[type(following)](self, fingerprint, following)

    def _submit_again(self, fingerprint: str, following: Submit) -> None:
        self._scheduler.release(fingerprint)
        self._followed.discard(fingerprint)
        order = self._order[fingerprint]
        if following.last:
            self._scheduler.add_last(fingerprint, order)
        else:
            self._scheduler.add(fingerprint, order, self._deps.clock.monotonic() + following.wait_s)

    def _look_again(self, fingerprint: str, following: PollAgain) -> None:
        if following.over:
            self._scheduler.release(fingerprint)
        self._follow(fingerprint, following.wait_s)

    def _fetch(self, fingerprint: str, following: Download) -> None:
        # The service is done with it, so it is in flight no longer, however long the download takes.
        self._scheduler.release(fingerprint)
        if "download" in self._health.given_up:
            self._followed.discard(fingerprint)
            return
        heapq.heappush(self._downloads, (expires_at(following.url), fingerprint, following.url))

    def _doubt(self, fingerprint: str, _: HoldInDoubt) -> None:
        # Its slot stays taken: it may well be in flight.
        self._followed.discard(fingerprint)
        now = self._deps.clock.monotonic()
        self._in_doubt.add(fingerprint, now, now)
        self._scheduler.occupy(fingerprint, in_doubt=True)
        most = f"{self._policy.doubt_s / 60:.0f} min at most"
        self._steps.notice(fingerprint, f"searched for in the service's log; its slot stays taken meanwhile, {most}")

    def _end(self, fingerprint: str, _: Finish) -> None:
        self._scheduler.release(fingerprint)
        self._followed.discard(fingerprint)
        record, most = self._steps.records[fingerprint], self._policy.most_failures
        self._failed += record.state is State.FAILED and record.error is not None and record.error.fault == "job"
        if most is not None and self._failed >= most:
            self.stop(f"{count_text(self._failed, 'job')} failed by their own fault, which is as many as may")

    def _leave(self, fingerprint: str, following: LeaveInFlight) -> None:
        if self._steps.records[fingerprint].state is State.PENDING:
            self._scheduler.release(fingerprint)  # nothing was sent
        self._followed.discard(fingerprint)
        self._steps.notice(fingerprint, following.why)

    _HANDLERS: dict[type, Callable[..., None]] = {  # noqa: RUF012 (a table, never changed)
        Submit: _submit_again,
        PollAgain: _look_again,
        Download: _fetch,
        HoldInDoubt: _doubt,
        Finish: _end,
        LeaveInFlight: _leave,
    }

    def _follow(self, fingerprint: str, wait_s: float | None = None) -> None:
        """Poll this generation in so many seconds, or when it is likely to be complete."""
        if "poll" in self._health.given_up:
            self._followed.discard(fingerprint)
            return
        now = self._deps.clock.monotonic()
        if wait_s is None:
            self._poller.after_poll(self._steps.records[fingerprint], now, first=fingerprint not in self._followed)
        else:
            self._poller.at(fingerprint, now + wait_s)
        self._followed.add(fingerprint)

    async def _reconcile(self) -> None:
        """Search for the submissions in doubt, and go on with those that the log settles."""
        try:
            settled = await self._steps.reconcile(self._in_doubt)
        except LocalFault as fault:
            self.stop(fault.message)
            return
        now = self._deps.clock.monotonic()
        has_all = self._in_doubt.reconcile_at is None  # or one came after the search had begun
        fresh = any(not self._in_doubt.is_earlier(fingerprint) for fingerprint in settled.adopted)
        self._in_doubt.reconciled([*settled.adopted, *settled.freed, *settled.disproved], now)
        for fingerprint in settled.adopted:
            self._scheduler.occupy(fingerprint)
            self._follow(fingerprint, 0.0)
        for fingerprint in (*settled.freed, *settled.disproved):
            self._scheduler.release(fingerprint)
            self._scheduler.add(fingerprint, self._order[fingerprint])
        if fresh:
            await self._health.settled(accepted=True)
        elif settled.disproved:
            await self._health.settled(accepted=False)
        elif settled.searched and has_all:
            await self._health.searched()
