"""What the steps of one run share, and what several of them do.

Rules: a step stores a record before it does anything that follows from it. A step decides about one job; the engine
decides when the next step runs, and in which slot.
"""

from collections.abc import Callable
from dataclasses import dataclass

from batchrunner.engine import backoff
from batchrunner.engine.calls import CallHealth
from batchrunner.engine.generation_times import GenerationTimes
from batchrunner.engine.job_queue import JobQueue
from batchrunner.engine.job_records import JobRecords
from batchrunner.engine.outcomes import Finish, HoldInDoubt, NextStep
from batchrunner.engine.policy import Policy
from batchrunner.engine.poll_history import PollHistories
from batchrunner.engine.ports import Dependencies
from batchrunner.errors import CallError, Problem
from batchrunner.events import CallFailed
from batchrunner.job import Job, Move, State
from batchrunner.plan.resume import fail


@dataclass(frozen=True, slots=True)
class StepContext:
    """What the steps of one run share.

    price: what a job is expected to cost, in credits; None if unknown. is_stopped: whether nothing more is submitted.
    """

    deps: Dependencies
    policy: Policy
    run_id: str
    records: JobRecords
    calls: CallHealth
    queue: JobQueue
    times: GenerationTimes
    polls: PollHistories
    price: Callable[[Job], float | None]
    is_stopped: Callable[[], bool] = lambda: False


def forget_generation(context: StepContext, fingerprint: str) -> None:
    """Forget what is known of a job's generation, so that it does not count against the next one."""
    context.times.submitting(fingerprint)
    context.polls.forget(fingerprint)


def retry_wait_s(
    context: StepContext, call: str, fingerprint: str, error: CallError, policy: backoff.Backoff
) -> float | None:
    """Return the seconds until a failed call is repeated, and announce them; None to give up."""
    deps, failures = context.deps, context.calls.failures(call, fingerprint)
    wait_s = backoff.wait_s(policy, failures, error, deps.rng)
    if wait_s is not None and context.calls.is_closed(call):  # while the breaker is open the failure is no news
        now, ids = deps.clock.now(), context.records.ids(fingerprint)
        deps.announce(CallFailed(now, ids, call, error.problem, wait_s, failures, policy.tries))
    return wait_s


async def fail_generation(context: StepContext, fingerprint: str, problem: Problem | None) -> NextStep:
    """Store that a generation failed, or that its job is in doubt where the journal may lack a later attempt."""
    before = context.records[fingerprint]
    record = fail(before, problem, context.run_id, context.deps.clock.now(), context.price(before.job))
    if record.state is State.FAILED:
        await context.records.store(Move.FAIL, record)
        return Finish()
    forget_generation(context, fingerprint)
    await context.records.store(Move.DOUBT, record, attempts=2)
    return HoldInDoubt()
