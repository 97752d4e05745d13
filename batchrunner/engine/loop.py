"""The loop that drives a batch. It is the only module of the engine that creates tasks.

The path of a job: admit it, journal the intent, submit it, journal the generation id, poll until the generation ends,
download the clip, journal the result. `Engine._start_calls` decides synchronously what may start. Then the loop sleeps
until a task ends or a moment is due. A task is one step (`batchrunner.engine.steps`): it makes one call and never waits
for its next turn, so no task sleeps for a job. A step returns what follows, and `JobFlow.apply` puts the job there.

Owners: `JobRecords` of the records, `CallHealth` of the circuit breakers and the working cap, `JobFlow` of the places
where jobs wait. The engine asks them what may start now.
Rule: `except Exception` stands only at the job border, which turns a defect into a notice.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from batchrunner.account.base import Hold, Reuse
from batchrunner.engine.calls import CallHealth
from batchrunner.engine.generation_times import GenerationTimes
from batchrunner.engine.job_flow import JobFlow
from batchrunner.engine.job_queue import JobQueue
from batchrunner.engine.job_records import JobRecords
from batchrunner.engine.limits import Pace
from batchrunner.engine.outcomes import LeaveInFlight, NextStep
from batchrunner.engine.policy import Policy
from batchrunner.engine.poll_history import PollHistories
from batchrunner.engine.ports import Dependencies
from batchrunner.engine.run_deadline import RunDeadline
from batchrunner.engine.shutdown import Shutdown
from batchrunner.engine.steps import claim, deliver, poll, prepare, submit
from batchrunner.engine.steps.context import StepContext
from batchrunner.engine.steps.reconcile import Reconciler
from batchrunner.errors import LocalFault
from batchrunner.events import Stopping
from batchrunner.formatting import count_text
from batchrunner.job import Result
from batchrunner.plan.admission import Admission
from batchrunner.plan.endings import NO_REASON, StopReason, stop_for

_NOTHING: Mapping[str, Reuse | Hold] = MappingProxyType({})
_LOST_EVERY_S = 0.25  # between two questions whether anything can still be stored
_UNSEEN_S = 60.0  # and three poll intervals: a generation that was not polled for longer is not learned from


class Engine:
    """One run of one batch. Jobs in flight are followed whether or not the manifest still names them."""

    def __init__(
        self, deps: Dependencies, policy: Policy, run_id: str, records: JobRecords, admission: Admission
    ) -> None:
        self._deps = deps
        self._policy = policy
        self._records = records
        self._queue = JobQueue(policy.concurrency)
        self._calls = CallHealth(deps, policy, lambda: self._queue.in_flight)
        unseen_s = 3 * policy.poll_interval_s + _UNSEEN_S
        context = StepContext(
            deps=deps,
            policy=policy,
            run_id=run_id,
            records=records,
            calls=self._calls,
            queue=self._queue,
            times=GenerationTimes(deps.clock, admission.forecast, deps.durations, unseen_s),
            polls=PollHistories(),
            price=lambda job: admission.prices.estimate(job).credits,
            is_stopped=lambda: bool(self.stopped),
        )
        self._context = context
        self._flow = JobFlow(context, admission)
        self._reconciler = Reconciler(context)
        own = None if policy.calls_per_s is None else Pace(policy.calls_per_s)
        self._paces = [pace for pace in (own, deps.pace) if pace is not None]
        self._run_deadline = RunDeadline(0.0)
        self._lost_asked_at = float("-inf")  # monotonic, s
        self._shutdown = Shutdown()
        self._tasks: dict[_Active, asyncio.Task[None]] = {}
        self._running: defaultdict[str, int] = defaultdict(int)  # tasks by kind of call
        self._wake = asyncio.Event()
        self._prepared = ""  # the job whose submission was prepared last

    @property
    def stopped(self) -> StopReason:
        """Why nothing more is submitted; NO_REASON while submissions go on."""
        return self._shutdown.reason

    async def run(
        self,
        order: Sequence[str],
        shared: Mapping[str, Reuse | Hold] = _NOTHING,
        priorities: Mapping[str, int] | None = None,
    ) -> None:
        """Drive every job to its end, or until stopped. order: fingerprints by priority, then as in the manifest.

        shared: what other batches of the account have for jobs of this one, by fingerprint. priorities: to submit the
        longest jobs first within equal priority, the priorities that are not 0; None to keep `order`.
        Raises LocalFault.
        """
        policy, now = self._policy, self._deps.clock.monotonic()
        for fingerprint, answer in shared.items():
            if isinstance(answer, Hold):
                await claim.hold(self._context, fingerprint, answer)
        self._flow.shared.begin(shared, now)
        self._run_deadline = RunDeadline(now, policy.deadline_at, policy.max_runtime_s, policy.deadline)
        await self._flow.begin(order, priorities, self._run_deadline.left(now, self._deps.clock.now()))
        await self._drive()

    async def follow_again(self, fingerprints: Iterable[str]) -> None:
        """After `run`: follow generations whose clip is missing, to their end or until stopped."""
        for fingerprint in fingerprints:
            if fingerprint not in self._flow.deliveries:
                self._flow.follow(fingerprint, 0.0)
        await self._drive()

    async def settle(self, found: Mapping[str, Result | None]) -> None:
        """Take in what the run directory shows: a result for each clip that is there, None for one that is missing.

        Raises LocalFault.
        """
        for fingerprint in await deliver.settle(self._context, found):
            self._flow.deliver(fingerprint)

    def stop(self, reason: StopReason) -> None:
        """Submit nothing more, and finish what is paid for."""
        if self._shutdown.stop(reason):
            self._deps.announce(Stopping(self._deps.clock.now(), str(reason), reason.kind))
        self._wake.set()

    def close(self, reason: StopReason) -> None:
        """Submit and poll nothing more. Running submissions end, and downloads get a limited time.

        A second call ends the run at once. The journal then holds what is interrupted as it is.
        """
        self._shutdown.signal()
        self._close(reason)

    def _close(self, reason: StopReason) -> None:
        self._shutdown.close(self._deps.clock.monotonic() + self._policy.closing_grace_s)
        self.stop(reason)

    async def _drive(self) -> None:
        while True:
            self._wake.clear()
            now = self._deps.clock.monotonic()
            self._check_time(now)
            self._start_calls(now)
            if self._finished():
                break
            await self._deps.clock.wait(self._wake, self._next_moment(now))
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()  # of those that were cancelled before they began
        self._running.clear()

    # Time

    def _end(self, now: float) -> tuple[float, StopReason] | None:
        """Return when this run has to end (monotonic, s) and why, or None."""
        return self._run_deadline.end(now, self._deps.clock.now())

    def _check_time(self, now: float) -> None:
        """Close when the time is over, and give up calls whose breaker stayed open for too long."""
        end = self._end(now)
        if end is not None and now >= end[0] and not self._shutdown.closing:
            self._close(end[1])
        if not self._shutdown.closing and now - self._lost_asked_at >= _LOST_EVERY_S:
            self._lost_asked_at = now
            if lost := self._deps.lost():
                self._close(lost)
        self._flow.release_slots(now)
        for call, until in self._calls.patience_ends().items():
            if now >= until:
                self._give_up(call)

    def _give_up(self, call: str) -> None:
        """Make no more calls of this kind, and leave the jobs that wait for one to the next run."""
        self.stop(self._calls.give_up(call))
        self._flow.leave(call)

    def _next_moment(self, now: float) -> float | None:
        """Return when the loop has to run again even if no task ends (monotonic, s)."""
        if self._shutdown.closing_until is not None:
            return None if now >= self._shutdown.closing_until else self._shutdown.closing_until
        moments: list[float | None] = [*self._calls.patience_ends().values()]
        if not self._running["reconcile"]:
            moments.append(self._flow.in_doubt.reconcile_at)
        moments.append(self._flow.next_release_at())
        if (end := self._end(now)) is not None:
            moments.append(end[0])
        moments.append(self._call_at("poll", self._flow.poller.next_due, now))
        if self._flow.downloads:
            moments.append(self._call_at("download", now, now))
        moments.append(self._call_at("deliver", self._flow.deliveries.next_due, now))
        if not self.stopped and not self._flow.admitter.held_back:
            due = self._queue.next_at(now, self._calls.cap)
            due = due if due is None else max(due, self._flow.shared.blocked_until or due)
            moments.append(self._call_at("submit", due, now))
        if not self._running["survey"]:
            moments.append(self._flow.shared.recheck_at)
        return min((moment for moment in moments if moment is not None), default=None)

    def _call_at(self, call: str, due: float | None, now: float) -> float | None:
        """Return when a call that is due at `due` may start; None if it has to wait until a task ends."""
        if due is None:
            return None
        allowed_at = self._calls.next_call_at(call, now, self._running[call])
        if allowed_at is None:
            return None
        moment = max(due, allowed_at)
        if call not in {"download", "deliver"}:
            for pace in self._paces:
                moment = max(moment, pace.next_at(now))
        return moment

    def _may_call(self, call: str, now: float) -> bool:
        moment = self._call_at(call, now, now)
        return moment is not None and moment <= now

    # The end

    def _finished(self) -> bool:
        until = self._shutdown.closing_until
        if until is not None:
            transfers = self._running["download"] or self._running["deliver"]
            in_time = transfers and self._deps.clock.monotonic() < until
            return self._shutdown.aborted or not (self._running["submit"] or in_time)
        if self._tasks or self._flow.follows_any or self._flow.shared.reuses or self._awaits_log():
            return False
        if not self.stopped and (reason := self._obstacle()):
            self.stop(reason)
        return bool(self.stopped) or not self._queue.waiting

    def _awaits_log(self) -> bool:
        """Return whether a search that is still to come can show that a submission in doubt was not accepted."""
        if self.stopped or not self._flow.in_doubt.unsearched:
            return False
        return self._deps.provider.capabilities.lists_on_acceptance and self._reconciler.log_offered

    def _obstacle(self) -> StopReason:
        """Return why this run does not submit all jobs, when nothing of it is in flight; NO_REASON if it does."""
        if self._flow.admitter.held_back:
            return self._flow.admitter.held_back
        if self._flow.shared.budget and self._queue.waiting:
            return StopReason(self._flow.shared.budget, self._flow.shared.blocked_by)
        # Slots of submissions in doubt become free in time. Those of generations left for the next run do not.
        full = self._queue.waiting and self._queue.is_full(self._calls.cap)
        if full and not self._flow.holds_any(self._flow.in_doubt):
            return StopReason("job_timeout", "every slot is held by a generation that was left for the next run")
        return NO_REASON if self._queue.waiting else self._flow.admitter.skip_reason()

    # Starting calls

    def _start_calls(self, now: float) -> None:
        """Start every call that may start now. Downloads and polls, which are paid for, go before submissions."""
        if self._shutdown.closing:
            return
        while self._flow.downloads and self._may_call("download", now):
            fingerprint, url = self._flow.downloads.pop()
            self._start("download", fingerprint, partial(deliver.download, self._context, fingerprint, url))
        while self._flow.shared.reuses and self._may_call("download", now):
            fingerprint, answer = self._flow.shared.reuses.popleft()
            self._start("download", fingerprint, partial(claim.reuse, self._context, fingerprint, answer))
        while self._may_call("deliver", now) and (clip := self._flow.deliveries.pop(now)) is not None:
            self._start("deliver", clip, partial(deliver.copy_to_bucket, self._context, clip))
        while self._may_call("poll", now) and (due := self._flow.poller.pop(now)) is not None:
            self._count_call(now)
            self._start("poll", due, partial(poll.poll, self._context, due))
        self._start_submissions(now)
        self._prepare_next(now)
        self._start_shared(now)
        if not self._running["reconcile"] and self._flow.in_doubt.start_reconcile(now, at_the_end=self._finished()):
            self._start_work("reconcile", self._reconcile())

    def _start_shared(self, now: float) -> None:
        """Ask again about jobs that other batches have, and poll generations that hold slots and have no process."""
        shared = self._flow.shared
        if not self._running["survey"] and shared.start_recheck(now, at_the_end=self._finished()):
            self._start_work("survey", self._survey())
        if not self._running["orphans"] and not self.stopped:
            orphans = shared.start_orphans(now, self._policy.poll_interval_s)
            if orphans:
                self._start_work("orphans", claim.poll_orphans(self._context, shared, orphans))

    def _start_submissions(self, now: float) -> None:
        self._flow.admitter.begin_round()
        if self._queue.is_full(self._calls.cap):
            return
        left = self._run_deadline.left(now, self._deps.clock.now())
        undelivered = len(self._flow.downloads) + self._running["download"]
        while not self.stopped and not self._flow.shared.is_blocked(now) and self._may_call("submit", now):
            if self._calls.wants_probe():
                self._start_probe(now)
                break
            admitted = self._flow.admitter.next(now, self._calls.cap, left, undelivered)
            if admitted is None:
                break
            self._flow.in_doubt.submitted()
            self._flow.shared.unblock()
            self._count_call(now)
            self._start("submit", admitted.fingerprint, partial(submit.submit, self._context, *admitted))

    def _prepare_next(self, now: float) -> None:
        """Get the next submission ready while every slot is taken: uploads, links and encoded inputs."""
        if self.stopped or self._running["prepare"] or not self._queue.is_full(self._calls.cap):
            return
        upcoming = self._queue.upcoming(now)
        if upcoming is None or upcoming == self._prepared or not self._calls.is_closed("submit"):
            return
        self._prepared = upcoming
        if (work := prepare.prepare(self._context, upcoming)) is not None:
            self._start_work("prepare", work)

    def _start_probe(self, now: float) -> None:
        """Make a free call instead of a submission, if a job could be submitted now."""
        due = self._queue.next_at(now, self._calls.cap)
        if due is not None and due <= now:
            self._count_call(now)
            breaker_generation = self._calls.enter("submit")
            self._start_work("probe", self._calls.probe(breaker_generation, self._deps.provider.ping()))

    def _start(self, call: str, fingerprint: str, step: Callable[[int], Awaitable[NextStep]]) -> None:
        breaker_generation = self._calls.enter(call)
        active = _Active(call, fingerprint, self._ended)
        self._create_task(active, self._border(active, breaker_generation, step(breaker_generation)))

    def _start_work(self, call: str, work: Awaitable[None]) -> None:
        """Start work that is no step of a job."""
        active = _Active(call, "", self._ended)
        self._create_task(active, self._work(active, work))

    def _count_call(self, now: float) -> None:
        for pace in self._paces:
            pace.take(now)

    def _create_task(self, active: "_Active", coroutine: Coroutine[Any, Any, None]) -> None:
        self._tasks[active] = asyncio.get_running_loop().create_task(coroutine)
        self._running[active.call] += 1

    def _ended(self, active: "_Active", defect: Exception | None) -> None:
        """Take in that a task ends now. defect: what ended it outside of a job border."""
        del self._tasks[active]
        self._running[active.call] -= 1
        if defect is not None:
            self.stop(StopReason("defect", _defect(active.call, defect)))
        self._wake.set()

    async def _work(self, active: "_Active", work: Awaitable[None]) -> None:
        with active:
            await work

    # After a step

    async def _border(self, active: "_Active", breaker_generation: int, step: Awaitable[NextStep]) -> None:
        """The job border: a failure inside a step concerns this job, or stops the batch with a message."""
        next_step: NextStep
        with active:
            try:
                next_step = await step
            except LocalFault as fault:
                self.stop(self._deps.lost() or stop_for(fault))
                next_step = LeaveInFlight(fault.message)
            except Exception as error:  # noqa: BLE001 (the one place: a defect in one step must not end the run)
                next_step = LeaveInFlight(_defect(active.call, error))
            self._go_on(active.call, active.fingerprint, breaker_generation, next_step)

    def _go_on(self, call: str, fingerprint: str, breaker_generation: int, next_step: NextStep) -> None:
        """Put a job where it belongs after a step."""
        self._calls.leave(call, breaker_generation)  # if the step ended before its call was made
        if call == "submit":
            self._flow.admitter.release(fingerprint)  # likewise for its reserved price
        elif call == "poll":
            self._flow.poller.observe(self._records[fingerprint], self._deps.clock.monotonic())
        if call == "submit" and self._calls.is_closed("submit"):
            self._queue.restore()
        self._flow.apply(fingerprint, next_step)
        most = self._policy.most_failures
        if most is not None and self._flow.failed >= most:
            message = f"stop_after_failures reached: {count_text(self._flow.failed, 'job')} failed"
            self.stop(StopReason("stop_after_failures", message))

    async def _survey(self) -> None:
        """Ask again about jobs that other batches have, and go on with those that they have no longer."""
        try:
            self._flow.settle_shared(await claim.survey_again(self._context, self._flow.shared))
        except LocalFault as fault:
            self.stop(stop_for(fault))

    async def _reconcile(self) -> None:
        """Search for the submissions in doubt, and go on with those that the log settles."""
        try:
            settled = await self._reconciler.reconcile(self._flow.in_doubt)
        except LocalFault as fault:
            self.stop(stop_for(fault))
            return
        now = self._deps.clock.monotonic()
        has_all = self._flow.in_doubt.reconcile_at is None  # otherwise one was added after the search had begun
        is_new = any(not self._flow.in_doubt.is_earlier(fingerprint) for fingerprint in settled.adopted)
        over = [*settled.adopted, *settled.freed, *settled.disproved]
        self._flow.in_doubt.reconciled(over, now, searched=settled.searched)
        self._flow.settle(settled)
        if is_new:
            self._calls.settled(accepted=True)
        elif settled.disproved:
            self._calls.settled(accepted=False)
        elif settled.searched and has_all:
            self._calls.searched()


class _Active:
    """A task while it runs. It reports its own end: a callback of the task would cost another turn of the loop.

    call: the kind of call that it makes. fingerprint: of its job; "" for work that is no step of a job. ended: is
    called with this object and the defect that ended the task, or None.
    """

    def __init__(self, call: str, fingerprint: str, ended: Callable[["_Active", Exception | None], None]) -> None:
        self.call = call
        self.fingerprint = fingerprint
        self._on_end = ended

    def __enter__(self) -> None:
        """The task runs."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        defect = error if isinstance(error, Exception) else None
        self._on_end(self, defect)
        return defect is not None  # it is reported


def _defect(call: str, error: BaseException) -> str:
    return f"a defect in batchrunner during the {call}, please report it: {error!r}"
