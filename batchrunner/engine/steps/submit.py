"""The submit step: journal the intent, submit the job, journal the outcome.

The engine has admitted the job, taken its slot and reserved its price before this step starts (`engine.admitter`). A
submission in doubt is never repeated here: the ways out are evidence (`steps.reconcile`) and the user.
"""

from dataclasses import replace

from batchrunner.engine.backoff import SUBMISSIONS
from batchrunner.engine.outcomes import (
    AfterRefusal,
    Finish,
    HoldInDoubt,
    NextStep,
    PollAgain,
    Submit,
    after_refusal,
    is_own_fault,
    refused_for_good,
)
from batchrunner.engine.steps.claim import claim
from batchrunner.engine.steps.context import StepContext, forget_generation, retry_wait_s
from batchrunner.errors import AccountFault, CallError, NetworkFault
from batchrunner.job import Move
from batchrunner.plan.resume import IN_DOUBT_HINT

PREPARE_AGAIN_S = 60.0


async def submit(context: StepContext, fingerprint: str, price: float | None, breaker_generation: int) -> NextStep:
    """Submit an admitted job. price: the reserved one, in credits. Raises LocalFault if the disk refuses.

    The sequence: prepare the inputs, claim the job for the account, store the intent, make the call, store the outcome.
    A process that is killed while it prepares inputs leaves nothing in doubt.
    """
    record = context.records[fingerprint]
    job = record.job
    try:
        await context.deps.inputs.prepare(job, context.is_stopped)
    except NetworkFault as error:
        if not context.is_stopped():
            message = f"{error.message}; it is tried again in {PREPARE_AGAIN_S:.0f} s"
            context.records.notice(fingerprint, message, once=True)
        return Submit(PREPARE_AGAIN_S)
    if context.is_stopped():  # meanwhile
        return Submit()
    request_id = f"{context.run_id}.{job.key}.{len(record.attempts) + 1}"
    if (next_step := await claim(context, fingerprint, request_id, price)) is not None:
        return next_step
    forget_generation(context, fingerprint)
    await context.records.begin_submit(fingerprint, request_id, price)
    try:
        reply = context.deps.provider.submit(job, request_id)
        accepted = await context.calls.call("submit", fingerprint, breaker_generation, reply)
    except CallError as error:
        return await not_accepted(context, fingerprint, error)
    context.times.accepted(fingerprint)
    await context.records.accept(
        fingerprint,
        Move.ACCEPT,
        accepted.generation_id,
        accepted.credits,
        retry_for_s=context.policy.record_retry_s,
    )
    if accepted.notice:
        context.records.notice(fingerprint, accepted.notice, once=True)
    return PollAgain()


async def not_accepted(context: StepContext, fingerprint: str, error: CallError) -> NextStep:
    """Store that a submission was refused or is in doubt, and return what follows."""
    records = context.records
    if error.in_doubt:
        await records.move(fingerprint, Move.DOUBT, error=replace(error.problem, hint=IN_DOUBT_HINT))
        return HoldInDoubt()
    await records.move(fingerprint, Move.REFUSE, error=error.problem, ended_at=context.deps.clock.now())
    own_fault = isinstance(error, AccountFault) and _is_own_fault(context, fingerprint, error)
    action = after_refusal(error, own_fault=own_fault)
    if action is AfterRefusal.STOP_BATCH:
        raise error
    if action is AfterRefusal.LAST:
        return Submit(last=True)
    if action is AfterRefusal.BACK_OFF:
        wait_s = retry_wait_s(context, "submit", fingerprint, error, SUBMISSIONS)
        if wait_s is not None:
            return Submit(wait_s)
    await records.move(fingerprint, Move.GIVE_UP, error=refused_for_good(error))
    return Finish()


def _is_own_fault(context: StepContext, fingerprint: str, error: AccountFault) -> bool:
    refusals = context.calls.failures("submit", fingerprint)
    set_back = context.queue.set_back
    refused_as_often = sum(context.calls.failures("submit", other) >= refusals for other in set_back)
    return is_own_fault(error, refusals, context.queue.waiting - refused_as_often)
