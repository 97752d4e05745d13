"""Where each job of a run is between two steps: it waits for its next call, or is done.

It waits for a submission, a poll, a download, a delivery to the bucket, or a search.

A step returns what follows (`batchrunner.engine.outcomes.NextStep`), and `JobFlow.apply` puts the job where it belongs.
Nothing here starts a call.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from batchrunner.account.base import Hold, Reuse
from batchrunner.engine.admitter import Admitter
from batchrunner.engine.chunks import in_chunks
from batchrunner.engine.delivery_queue import DeliveryQueue
from batchrunner.engine.download_queue import DownloadQueue
from batchrunner.engine.in_doubt import InDoubtJobs
from batchrunner.engine.order_switch import OrderSwitch
from batchrunner.engine.outcomes import (
    CopyToBucket,
    Download,
    Finish,
    HoldForBatch,
    HoldInDoubt,
    LeaveInFlight,
    NextStep,
    PollAgain,
    Submit,
    WaitForAccount,
)
from batchrunner.engine.polling.duration_model import expected_in
from batchrunner.engine.polling.poller import Poller
from batchrunner.engine.shared_work import BUDGET_WAIT_S, WAIT_S, SharedWork
from batchrunner.engine.slot_times import slot_times
from batchrunner.engine.steps.context import StepContext
from batchrunner.engine.steps.reconcile import Settled
from batchrunner.events import Noticed
from batchrunner.job import Record, State
from batchrunner.plan.admission import Admission, TimeLeft
from batchrunner.plan.duration_estimate import ENOUGH
from batchrunner.plan.resume import may_have_later


class JobFlow:
    """The places of all jobs.

    admitter: jobs to submit, from `StepContext.queue`. poller: generations to poll. downloads: clips to download.
    deliveries: clips to copy to the bucket. in_doubt: submissions to search for. shared: jobs that other batches of the
    account have. failed: how many jobs failed by their own fault in this run.
    """

    def __init__(self, context: StepContext, admission: Admission) -> None:
        deps, policy = context.deps, context.policy
        self._context = context
        self._records = context.records
        self._queue = context.queue
        self._clock = deps.clock
        self._followed: set[str] = set()  # in flight, and not left for the next run
        records, expected, reliable = (
            context.records.view,
            expected_in(deps.durations),
            expected_in(deps.durations, ENOUGH),
        )
        slots = policy.concurrency
        switch = OrderSwitch(context.queue, records, admission, expected, slots, self._notify, reliable)
        self.admitter = Admitter(context.queue, records, admission, deps.lacks_space, switch)
        self.poller = Poller(policy.poll_interval_s, deps.rng, deps.durations)
        self.downloads = DownloadQueue()
        self.deliveries = DeliveryQueue()
        self.in_doubt = InDoubtJobs(policy.reconcile_s, policy.reconcile_cap_s, policy.settle_s)
        self.shared = SharedWork()
        self.failed = 0

    @property
    def follows_any(self) -> bool:
        """Whether this run polls or downloads any generation."""
        return bool(self._followed)

    async def begin(
        self, order: Sequence[str], priorities: Mapping[str, int] | None = None, left: TimeLeft | None = None
    ) -> None:
        """Put every job where its record says that it is. order: fingerprints by priority, then as in the manifest.

        priorities: to submit the longest first within equal priority, the priorities that are not 0; otherwise None.
        left: until the end of the run, None without one.
        """
        known = {fingerprint for fingerprint, _ in self.shared.reuses} | set(self.shared.held_jobs)
        places = {fingerprint: place for place, fingerprint in enumerate(order)}
        pending = [name for name in places if self._records[name].state is State.PENDING and name not in known]
        self.admitter.begin(places)
        if priorities is not None:
            async for chunk in in_chunks(pending):
                self.admitter.count(chunk)
            self.admitter.choose_order(priorities, left)
        async for chunk in in_chunks(pending):
            self.admitter.add(chunk)
        now, wall = self._clock.monotonic(), self._clock.now()
        open_states = State.IN_FLIGHT, State.IN_DOUBT
        waiting = [name for name, record in self._records.view.items() if record.state in open_states]
        async for chunk in in_chunks(waiting):
            self._take_up([name for name in chunk if name not in self.deliveries], now, wall)

    def _take_up(self, fingerprints: Iterable[str], now: float, wall: float) -> None:
        """Go on with jobs that were in flight or in doubt at the start. now: monotonic, s. wall: wall time, s."""
        for fingerprint in fingerprints:
            record = self._records[fingerprint]
            if record.state is State.IN_FLIGHT:
                if record.last.completed_at is None:
                    self._queue.occupy(fingerprint)
                self.follow(fingerprint, 0.0)
            elif record.state is State.IN_DOUBT:
                # The wall clock may have been set back since: the submission is not younger than a new one.
                self.in_doubt.found(fingerprint, now - max(0.0, wall - record.last.submitted_at), now)
                self._queue.occupy(fingerprint, in_doubt=True)

    def apply(self, fingerprint: str, next_step: NextStep) -> None:
        """Put a job where it belongs after a step."""
        match next_step:
            case Submit(wait_s, last):
                self._submit_again(fingerprint, wait_s, last=last)
            case PollAgain(wait_s, over):
                self._poll_again(fingerprint, wait_s, over=over)
            case Download(url):
                self._download(fingerprint, url)
            case CopyToBucket(wait_s):
                self.deliver(fingerprint, wait_s)
            case HoldInDoubt():
                self._hold_in_doubt(fingerprint)
            case Finish():
                self._finish(self._records[fingerprint])
            case WaitForAccount() | HoldForBatch():
                self._wait_for_others(fingerprint, next_step)
            case LeaveInFlight(why):
                self._leave_in_flight(fingerprint, why)

    def _poll_again(self, fingerprint: str, wait_s: float | None, *, over: bool) -> None:
        if over:
            self._queue.release(fingerprint)
        self.follow(fingerprint, wait_s)

    def follow(self, fingerprint: str, wait_s: float | None = None) -> None:
        """Poll this generation in `wait_s` seconds, or when it is likely to be complete (None)."""
        if self._context.calls.has_given_up("poll"):
            self._followed.discard(fingerprint)
            return
        now = self._clock.monotonic()
        if wait_s is None:
            self.poller.after_poll(self._records[fingerprint], now, first=fingerprint not in self._followed)
        else:
            self.poller.at(fingerprint, now + wait_s)
        self._followed.add(fingerprint)

    def deliver(self, fingerprint: str, wait_s: float = 0.0) -> None:
        """Copy this clip, which is in the run directory, to the bucket in `wait_s` seconds."""
        self._queue.release(fingerprint)
        if self._context.calls.has_given_up("deliver"):
            self._followed.discard(fingerprint)
            return
        self.deliveries.add(fingerprint, self._clock.monotonic() + wait_s)
        self._followed.add(fingerprint)

    def leave(self, call: str) -> None:
        """Leave the jobs that wait for a call of this kind to the next run."""
        if call == "poll":
            self._followed.difference_update(self.poller.clear())
        if call == "download":
            self._followed.difference_update(self.downloads.clear())
            self.shared.reuses.clear()
        if call == "deliver":
            self._followed.difference_update(self.deliveries.clear())

    def settle(self, settled: Settled) -> None:
        """Go on with submissions that are no longer in doubt."""
        for fingerprint in settled.adopted:
            self._queue.occupy(fingerprint)
            self.follow(fingerprint, 0.0)
        for fingerprint in (*settled.freed, *settled.disproved):
            self.admitter.requeue(fingerprint)

    def settle_shared(self, found: Mapping[str, Reuse | Hold | None]) -> None:
        """Go on with jobs that other batches have no longer in flight or in doubt."""
        for fingerprint, answer in found.items():
            if not isinstance(answer, Hold):
                self.shared.held_jobs.pop(fingerprint, None)
            if isinstance(answer, Reuse):
                self.shared.reuses.append((fingerprint, answer))
            elif answer is None:
                self.admitter.requeue(fingerprint)

    def release_slots(self, now: float) -> None:
        """Release the slots of submissions in doubt that have held theirs for long enough."""
        if not self.in_doubt:
            return
        for fingerprint in self.in_doubt.over(now, self._slot_times()):
            self._queue.release(fingerprint)
            self._context.deps.account.slot_freed(self._records[fingerprint])

    def next_release_at(self) -> float | None:
        """Return when `release_slots` will release the next slot, as far as is known now (monotonic, s)."""
        return self.in_doubt.next_over(self._slot_times()) if self.in_doubt else None

    def holds_any(self, fingerprints: Iterable[str]) -> bool:
        """Return whether any of these jobs holds a slot."""
        return any(map(self._queue.holds, fingerprints))

    def _slot_times(self) -> Callable[[str], float]:
        return slot_times(self._records.view, self._followed, self._context.times, self._context.policy)

    def _leave_in_flight(self, fingerprint: str, why: str) -> None:
        if self._records[fingerprint].state is State.PENDING:
            self._queue.release(fingerprint)  # nothing was sent
        self._followed.discard(fingerprint)
        self._records.notice(fingerprint, why)

    def _wait_for_others(self, fingerprint: str, step: WaitForAccount | HoldForBatch) -> None:
        """Nothing was sent: the account's limits or another batch stand against it."""
        now = self._clock.monotonic()
        if isinstance(step, HoldForBatch):
            self._queue.release(fingerprint)
            self.shared.hold(fingerprint, now)
            return
        self.admitter.requeue(fingerprint)
        wait_s = BUDGET_WAIT_S if step.budget else WAIT_S if step.wait_s is None else max(WAIT_S, step.wait_s)
        if self.shared.block(step.why, now + wait_s, budget=step.budget, orphans=step.orphans):
            message = f"submissions wait: {step.why}"
            self._context.deps.announce(Noticed(self._clock.now(), (), message))
        if step.budget:
            self.admitter.account_budget_reached(step.budget)

    def _notify(self, message: str) -> None:
        self._context.deps.announce(Noticed(self._clock.now(), (), message, routine=True))

    def _submit_again(self, fingerprint: str, wait_s: float, *, last: bool) -> None:
        self._followed.discard(fingerprint)
        if last:
            self.admitter.requeue_last(fingerprint)
        else:
            self.admitter.requeue(fingerprint, self._clock.monotonic() + wait_s)

    def _download(self, fingerprint: str, url: str) -> None:
        # The service has ended the generation, so its slot is free, however long the download takes.
        self._queue.release(fingerprint)
        if self._context.calls.has_given_up("download"):
            self._followed.discard(fingerprint)
        else:
            self.downloads.add(fingerprint, url)

    def _hold_in_doubt(self, fingerprint: str) -> None:
        # Its slot stays taken, because the job may be in flight.
        self._followed.discard(fingerprint)
        now = self._clock.monotonic()
        self.in_doubt.add(fingerprint, now, now)
        self._queue.occupy(fingerprint, in_doubt=True)
        most = f"{self._context.policy.doubt_s / 60:.0f} min at most"
        self._records.notice(fingerprint, f"searched for in the service's log; its slot stays taken meanwhile, {most}")

    def _finish(self, record: Record) -> None:
        self._queue.release(record.job.fingerprint)
        self._followed.discard(record.job.fingerprint)
        if may_have_later(record):
            self.in_doubt.search_for_later(self._clock.monotonic())
        if record.state is State.FAILED and record.error is not None and record.error.fault == "job":
            self.failed += 1
