"""The steps that concern other batches of the account: claim a job, take over paid work, hold a job, poll orphans."""

from dataclasses import replace
from typing import TYPE_CHECKING

from batchrunner.account.base import Granted, Hold, OverBudget, Reuse, Wait
from batchrunner.engine.outcomes import HoldForBatch, NextStep, PollAgain, WaitForAccount
from batchrunner.engine.steps.context import StepContext, forget_generation
from batchrunner.engine.steps.deliver import keep
from batchrunner.errors import CallError
from batchrunner.job import REUSED, Move, State

if TYPE_CHECKING:
    from batchrunner.engine.shared_work import SharedWork


async def claim(context: StepContext, fingerprint: str, request_id: str, price: float | None) -> NextStep | None:
    """Claim a job for a submission. Return None where it is granted, else what follows. Raises LocalFault.

    price: in credits; None if unknown.
    """
    answer = await context.deps.account.claim(context.records[fingerprint], request_id, price)
    match answer:
        case Granted():
            return None
        case Wait(why, until, orphans):
            wait_s = None if until is None else until - context.deps.clock.now()
            return WaitForAccount(why, wait_s, orphans=orphans)
        case OverBudget(kind, why):
            return WaitForAccount(why, budget=kind)
        case Hold():
            return await hold(context, fingerprint, answer)
        case Reuse():
            return await reuse(context, fingerprint, answer)


async def hold(context: StepContext, fingerprint: str, answer: Hold) -> NextStep:
    """Store why a job is held. Raises LocalFault."""
    record = replace(context.records[fingerprint], error=answer.problem)
    if record != context.records[fingerprint]:
        await context.records.annotate(record)
    return HoldForBatch()


async def reuse(context: StepContext, fingerprint: str, answer: Reuse, _breaker_generation: int = 0) -> NextStep:
    """Take over a generation of another batch: deliver a copy of its clip, or poll it. Raises LocalFault."""
    records, deps = context.records, context.deps
    record = records[fingerprint]
    if record.state is not State.PENDING:
        return PollAgain(0.0)
    forget_generation(context, fingerprint)
    number = len(record.attempts) + 1
    await records.move(
        fingerprint,
        Move.REUSE,
        request_id=f"{REUSED}{answer.source.batch_id}.{record.job.key}.{number}",
        submitted_at=deps.clock.now(),
        generation_id=answer.generation_id,
        completed_at=None if answer.in_flight else deps.clock.now(),
        credits=0.0,
        estimate=0.0,
    )
    records.notice(fingerprint, answer.how)
    copy = await deps.copies.copy(record.job.key, answer.clips) if answer.clips else None
    if copy is None:
        return PollAgain(0.0, over=not answer.in_flight)
    return await keep(context, fingerprint, copy)


async def survey_again(context: StepContext, shared: "SharedWork") -> dict[str, Reuse | Hold | None]:
    """Ask again what other batches have for the jobs that are held; None for nothing. Raises LocalFault."""
    names = list(shared)
    found = await context.deps.account.survey([context.records[name] for name in names])
    for name in names:
        answer = found.get(name)
        if isinstance(answer, Hold):
            await hold(context, name, answer)
        elif answer is None:
            await context.records.annotate(replace(context.records[name], error=None))
    return {name: found.get(name) for name in names}


async def poll_orphans(context: StepContext, shared: "SharedWork", generation_ids: tuple[str, ...]) -> None:
    """Poll generations that no process polls, and report those that have ended: their slots are free."""
    for generation_id in generation_ids:
        try:
            status = await context.deps.provider.status(generation_id)
            is_over = shared.ended(generation_id, status)
        except CallError as error:
            is_over = error.kind == "unknown_generation" and shared.denied(generation_id)
        if is_over:
            context.deps.account.generation_ended(generation_id)
            shared.unblock()
