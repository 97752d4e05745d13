"""The poll step: read the state of a generation once."""

from batchrunner.engine.backoff import Backoff
from batchrunner.engine.confirmation import TERMINAL, unnamed
from batchrunner.engine.outcomes import (
    Download,
    LeaveInFlight,
    NextStep,
    PollAgain,
    Submit,
    after_failed_poll,
    may_generate_again,
)
from batchrunner.engine.steps.context import StepContext, fail_generation, retry_wait_s
from batchrunner.errors import CallError, Problem
from batchrunner.job import Move, Record
from batchrunner.providers.base import GenerationStatus, Phase

_REUSED_GRACE_S = 60.0  # for a generation whose clip is gone where another batch delivered it


async def poll(context: StepContext, fingerprint: str, breaker_generation: int) -> NextStep:
    """Poll a generation and store what the reply shows. Raises LocalFault if the disk refuses."""
    record = context.records[fingerprint]
    assert record.generation_id is not None
    try:
        reply = context.deps.provider.status(record.generation_id, record.job.input_urls)
        status = await context.calls.call("poll", fingerprint, breaker_generation, reply)
    except CallError as error:
        return await _failed_poll(context, fingerprint, record.generation_id, error)
    history = context.polls.of(fingerprint)
    history.answered()
    is_over = history.confirmation.take(status)
    is_new = status.phase is Phase.COMPLETED and is_over and record.last.completed_at is None
    record = _observed(context, record, status, is_new=is_new)
    _notice_unexpected(context, fingerprint, status)
    if status.phase not in TERMINAL:
        return await _unfinished(context, fingerprint, record, status.phase)
    if not is_over:
        return PollAgain(min(context.policy.confirm_s, context.policy.poll_interval_s))
    if status.phase is Phase.FAILED:
        return await _failed(context, fingerprint, status.error)
    return await _completed(context, fingerprint, status)


def _observed(context: StepContext, record: Record, status: GenerationStatus, *, is_new: bool) -> Record:
    """Take in a reply about a generation, and return its record. is_new: it was not known to be complete."""
    last = record.last
    record = record.with_attempt(
        polls=last.polls + 1,
        credits=last.credits if status.credits is None else status.credits,
        completed_at=context.times.completed(record) if is_new else last.completed_at,
    )
    context.records.update(record)
    if is_new:
        context.deps.account.slot_freed(record)
    return record


def _notice_unexpected(context: StepContext, fingerprint: str, status: GenerationStatus) -> None:
    if not status.known:
        message = f"an unknown status, taken for pending: {status.status_text!r}"
        context.records.notice(fingerprint, message, once=True)
    if status.notice:
        context.records.notice(fingerprint, status.notice, once=True)


async def _failed_poll(context: StepContext, fingerprint: str, generation_id: str, error: CallError) -> NextStep:
    now, own_failures = context.deps.clock.monotonic(), context.calls.failures("poll", fingerprint)
    history = context.polls.of(fingerprint)
    history.failed(error, now, own_failures)
    last, policy = context.records[fingerprint].last, context.policy
    if last.is_reused and last.completed_at is not None:
        # It was delivered before, so it is not too new to be visible.
        policy = policy._replace(not_found_grace_s=min(_REUSED_GRACE_S, policy.not_found_grace_s))
    decision = after_failed_poll(error, history, now, policy, generation_id, own_failures)
    if isinstance(decision, Problem):
        return await fail_generation(context, fingerprint, decision)
    if isinstance(decision, Backoff):
        return PollAgain(retry_wait_s(context, "poll", fingerprint, error, decision))
    return decision


async def _failed(context: StepContext, fingerprint: str, problem: Problem | None) -> NextStep:
    """Store that the service reported a failure. Return what follows: another generation if the policy allows one."""
    confirmation = context.polls.of(fingerprint).confirmation
    may_pay = confirmation.may_pay()
    confirmation.reset()
    next_step = await fail_generation(context, fingerprint, problem if may_pay else unnamed(problem))
    record = context.records[fingerprint]
    if may_pay and context.records.ids(fingerprint) and may_generate_again(record, problem, context.policy):
        await context.records.move(fingerprint, Move.RETRY)
        return Submit()
    return next_step


async def _completed(context: StepContext, fingerprint: str, status: GenerationStatus) -> NextStep:
    if status.result_url is not None:
        return Download(status.result_url)
    history = context.polls.of(fingerprint)
    history.without_link += 1
    if history.without_link <= context.policy.linkless_polls:
        return PollAgain(over=True)
    return await fail_generation(context, fingerprint, status.error)


async def _unfinished(context: StepContext, fingerprint: str, record: Record, phase: Phase) -> NextStep:
    context.times.unfinished(fingerprint)
    if phase is not Phase.GENERATING:
        return PollAgain()
    if record.last.generating_at is None:
        await context.records.generating(record.with_attempt(generating_at=context.deps.clock.now()))
    generating_s = context.polls.of(fingerprint).generating_s(context.deps.clock.monotonic())
    if generating_s > context.policy.job_timeout_s:
        return LeaveInFlight(f"still generating after {generating_s:.0f} s; the next run polls it again")
    return PollAgain()
